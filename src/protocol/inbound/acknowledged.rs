//! Acknowledged messages and the answers to them (contract section 11).

use std::{borrow::Cow, time::Duration};

use serde_json::value::RawValue;

use super::{
    BadMessage, Frame, as_text, frames,
    message::{check_from, msgid, shape},
};
use crate::{
    domain::{
        ids::ClientId,
        messages::{Answer, MAX_TTL_SECS, Priority},
    },
    protocol::{frames::DeclaredFrame, outbound::excerpt},
};

/// How a message is to be delivered that asks for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// How long it may wait, if the sender says so.
    pub ttl: Option<Duration>,
    /// How urgent it is.
    pub priority: Priority,
}

/// Whether a direct message asks for an acknowledgement.
pub fn is_acknowledged(frame: &Frame<'_>) -> bool {
    frame.acknowledge.is_some_and(|acknowledge| acknowledge.get() == "true")
}

/// Reads how a message is to be delivered for which [`is_acknowledged`] holds.
///
/// # Errors
/// A field is of the wrong kind or out of range, or one that only the broker sets.
pub fn delivery(frame: &Frame<'_>) -> Result<Delivery, BadMessage> {
    storable_msgid(frame)?;
    let ttl = not_null(frame.ttl).map(|ttl| {
        let secs = ttl.get().parse().ok().filter(|secs| (1..=MAX_TTL_SECS).contains(secs));
        let secs = secs.ok_or_else(|| shape(&format!("ttl: expected a whole number from 1 to {MAX_TTL_SECS}")));
        secs.map(|secs| Duration::from_secs(secs.into()))
    });
    let priority = not_null(frame.priority)
        .map(|priority| as_text(priority).ok_or_else(|| shape("priority: expected a text")))
        .transpose()?;
    if frame.redelivered.is_some() {
        return Err(shape("reserved field `redelivered`"));
    }
    Ok(Delivery { ttl: ttl.transpose()?, priority: priority.as_deref().map(Priority::of_word).unwrap_or_default() })
}

/// A recipient's answer to a message.
#[derive(Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The message's id.
    pub msgid: Cow<'a, str>,
    /// Whose message it is, if that is given.
    pub sender: Option<ClientId>,
    /// The answer.
    pub answer: Answer,
}

/// Whether the frame is an answer to a message: its `type` is `ack`, and it has neither recipient nor content.
pub fn is_ack(frame: &Frame<'_>) -> bool {
    // existing clients send all fields of a message, with null for those that are not set
    let others = [frame.to, frame.topic_id, frame.message, frame.content];
    others.into_iter().all(|field| not_null(field).is_none()) && frame.kind().as_deref() == frames::Ack::TYPE
}

/// Reads an answer for which [`is_ack`] holds.
///
/// # Errors
/// A field is missing, duplicate or of the wrong kind, or `from` is given and is not `recipient`.
pub fn ack<'a>(frame: &Frame<'a>, recipient: ClientId) -> Result<Ack<'a>, BadMessage> {
    if let Some(key) = &frame.duplicate {
        return Err(shape(&format!("duplicate field `{}`", excerpt(key))));
    }
    let msgid = storable_msgid(frame)?;
    if let Some(from) = not_null(frame.from) {
        check_from(from, recipient)?;
    }
    let sender = not_null(frame.sender).map(|sender| {
        as_text(sender).and_then(|sender| ClientId::parse(&sender)).ok_or_else(|| shape("sender: expected a UUID"))
    });
    let status = not_null(frame.status).map(|status| as_text(status).unwrap_or(Cow::Borrowed(status.get())));
    Ok(Ack { msgid, sender: sender.transpose()?, answer: Answer::of_status(status.as_deref()) })
}

fn storable_msgid<'a>(frame: &Frame<'a>) -> Result<Cow<'a, str>, BadMessage> {
    let msgid = msgid(frame)?;
    // PostgreSQL can't store it, nor search for it
    if msgid.contains('\0') { Err(shape("msgid: must not contain NUL characters")) } else { Ok(msgid) }
}

fn not_null(field: Option<&RawValue>) -> Option<&RawValue> {
    field.filter(|field| field.get() != "null")
}
