//! A message that a client sends over HTTP: a JSON object that its recipients get as it is sent, with all its fields. A missing
//! `from` or `msgid` is added.

use uuid::Uuid;

use super::body::{Checked, Fields};
use crate::{
    domain::ids::ClientId,
    http::errors::ApiError,
    protocol::{
        inbound::{Frame, MSGID_CHARS},
        json::behind_brace,
        outbound::excerpt,
    },
};

/// An object as it was sent.
#[derive(Debug)]
pub(super) struct SentObject {
    pub(super) msgid: Option<String>,
    pub(super) from: Option<ClientId>,
    /// As the client spelled it.
    pub(super) text: String,
}

impl SentObject {
    /// Reads the fields that all messages have: `msgid`, `from` and `content`.
    pub(super) fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        // null would be there twice once the field is added
        let msgid = if fields.has("msgid") { fields.text("msgid", 0..=MSGID_CHARS).map(Some) } else { Ok(None) };
        let from = if fields.has("from") { fields.uuid("from").map(Some) } else { Ok(None) };
        let content = fields.not_null("content");
        let text = fields.json_text();
        let most = fields.limits.frame_bytes;
        if most > 0 && text.len() > most {
            let msg = format!("Value error, the object is over {most} bytes (limits.frame_bytes)");
            return Err(fields.fault_of_all("value_error", msg));
        }
        if let Some(key) = Frame::parse(text).ok().and_then(|frame| frame.duplicate) {
            let msg = format!("Value error, duplicate field `{}`", excerpt(&key));
            return Err(fields.fault_of_all("value_error", msg));
        }
        content?;
        Ok(Self { msgid: msgid?, from: from?, text: text.to_owned() })
    }

    /// The `msgid`, and the object as recipients get it.
    ///
    /// # Errors
    /// `from` is not the sender.
    pub(super) fn complete(self, sender: ClientId) -> Result<(String, String), ApiError> {
        let Self { msgid, from, text } = self;
        if from.is_some_and(|from| from != sender) {
            return Err(ApiError::Forbidden("Sender UUID does not match authenticated client"));
        }
        if let (Some(_), Some(msgid)) = (from, &msgid) {
            return Ok((msgid.clone(), text));
        }
        let new_msgid = msgid.is_none().then(|| Uuid::new_v4().to_string());
        // the object has fields, so that a comma follows
        let from = if from.is_none() { format!(r#""from":"{sender}","#) } else { String::new() };
        let added = new_msgid.as_ref().map(|msgid| format!(r#""msgid":"{msgid}","#)).unwrap_or_default();
        let object = format!("{{{from}{added}{}", behind_brace(&text));
        Ok((msgid.or(new_msgid).unwrap_or_default(), object))
    }
}
