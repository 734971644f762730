//! The public dialect (contract section 7): `/ws` without credentials. Ping, echo and authentication.

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};

use super::{Dialect, JoinError, Session, handshake::join};
use crate::protocol::{
    chat,
    error_code::ErrorCode,
    frames::DeclaredFrame,
    inbound::{Frame, NotAFrame, as_text, frames},
    outbound::{self, About},
};

impl Session {
    pub(super) fn on_public_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        let frame = match Frame::parse(text) {
            Ok(frame) => Some(frame),
            Err(NotAFrame::NotAnObject) => None,
            Err(NotAFrame::InvalidJson) => {
                return self.bad_frame(ErrorCode::InvalidJson, "Invalid JSON format", About::default());
            }
        };
        if let Some((frame, why)) = frame.as_ref().and_then(|frame| Some((frame, frame.unacceptable?))) {
            return self.unacceptable(why, frame);
        }
        self.bad_frames = 0;
        let frame = frame.filter(|frame| !frame.is_message());
        let Some(frame) = frame else { return self.send(&outbound::echo(text)) };
        match frame.kind().as_deref() {
            frames::Ping::TYPE => self.send(&chat::pong(self.now())),
            frames::Auth::TYPE => self.on_public_auth(&frame, context),
            _ => self.send(&outbound::echo(text)),
        }
    }

    /// Turns the session into a chat session; a bad token closes it.
    fn on_public_auth(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let token = frame.token.and_then(as_text).unwrap_or_default().into_owned();
        let (broker, outbox) = (self.broker.clone(), self.outbox.clone());
        let join = async move {
            let identity = broker.accounts.authenticate(&token).await.map_err(JoinError::from)?;
            // checked before the greeting, which tells the client that it has joined
            broker.clients.check_count(identity.account.id).map_err(JoinError::from)?;
            join(&broker, &outbox, Dialect::Chat, identity).await
        };
        context.wait(join.into_actor(self).map(|result, session, _| match result {
            Ok(expires_at) => session.adopt(Dialect::Chat, expires_at),
            Err(error) => {
                session.refuse_identity(&error, error.told());
                session.outbox.close(error.close_code());
            }
        }));
    }
}
