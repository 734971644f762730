//! The agent dialect (contract section 6): a user's socket on `/ws`. It gets no greeting, but periodic heartbeats.

use actix::Actor;

use super::Session;
use crate::protocol::{
    error_code::ErrorCode,
    outbound::{About, excerpt},
};

impl Session {
    pub(super) fn on_agent_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        let Ok(frame) = self.common(text, context) else { return };
        let (msgid, topic_id) = (frame.msgid(), frame.topic_id(self.broker.settings.load().limits.topic_id_chars));
        let about = About { msgid: msgid.as_deref(), topic_id: topic_id.as_deref(), room_id: None };
        if !frame.is_message() && frame.kind.is_none() {
            return self.bad_frame(ErrorCode::InvalidMessage, "Invalid message format: missing field `type`", about);
        }
        let kind = frame.kind().unwrap_or("message".into());
        self.bad_frame(ErrorCode::UnknownType, &format!("Unknown message type: {}", excerpt(&kind)), about);
    }
}
