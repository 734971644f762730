//! The chat dialect (contract section 7): `/ws/auth`, and a public socket that has authenticated.

use actix::Actor;

use super::Session;
use crate::{
    auth::accounts::{Account, Holder},
    protocol::outbound::{self, About},
};

/// The first frame.
pub(super) fn greeting(account: &Account) -> String {
    let user_id = match &account.holder {
        Holder::User { id, .. } => Some(*id),
        Holder::Device { .. } => None,
    };
    outbound::connection_established(user_id, account.name(), uuid::Uuid::new_v4(), account.id)
}

impl Session {
    pub(super) fn on_chat_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        let Ok(frame) = self.common(text, context) else { return };
        // no type means message
        let kind = frame.kind().unwrap_or_else(|| "message".into());
        self.bad_frame("unknown_type", &format!("Unknown message type: {kind}"), About::default());
    }
}
