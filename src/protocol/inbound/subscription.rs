//! Frames that begin and end subscriptions (contract section 12).

use std::borrow::Cow;

use super::{
    BadMessage, Frame,
    message::{check_from, shape, topic_id},
};
use crate::{domain::ids::ClientId, protocol::outbound::excerpt};

/// A request for a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The topic's id.
    pub topic: Cow<'a, str>,
    /// Whether the client wants to be subscribed, or no longer.
    pub wanted: bool,
}

/// Whether the frame is about a subscription: its `type` is `subscribe` or `unsubscribe`, and it has neither recipient nor
/// content. Messages to topics may have any `type`, but always have a content.
pub fn is_subscription(frame: &Frame<'_>) -> bool {
    let has_content = frame.content.is_some_and(|content| content.get() != "null");
    !has_content && frame.to.is_none() && frame.message.is_none() && wanted(frame).is_some()
}

fn wanted(frame: &Frame<'_>) -> Option<bool> {
    match frame.kind().as_deref() {
        Some("subscribe") => Some(true),
        Some("unsubscribe") => Some(false),
        _ => None,
    }
}

/// Reads a request for which [`is_subscription`] holds. `most` is the most characters of a topic id
/// (`limits.topic_id_chars`; 0: any).
///
/// # Errors
/// A field is missing, duplicate or of the wrong kind, or `from` is not `sender`.
pub fn subscription<'a>(frame: &Frame<'a>, sender: ClientId, most: usize) -> Result<Subscription<'a>, BadMessage> {
    if let Some(key) = &frame.duplicate {
        return Err(shape(&format!("duplicate field `{}`", excerpt(key))));
    }
    let topic = topic_id(frame, most)?;
    if let Some(from) = frame.from.filter(|from| from.get() != "null") {
        check_from(from, sender)?;
    }
    Ok(Subscription { topic, wanted: wanted(frame) == Some(true) })
}
