//! The public dialect (contract section 7): `/ws` of nobody. Ping, echo, and in-band authentication.

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};

use super::{Dialect, Session, handshake::join};
use crate::{
    error::ApiError,
    protocol::{
        close_code::CloseCode,
        inbound::{Frame, NotAFrame, as_text},
        outbound::{self, About},
    },
};

impl Session {
    pub(super) fn on_public_text(&mut self, text: &str, context: &mut <Self as Actor>::Context) {
        match Frame::parse(text) {
            Ok(frame) if frame.unacceptable.is_some() => {
                return frame.unacceptable.map_or((), |why| self.unacceptable(why, &frame));
            }
            Ok(frame) => match frame.kind().filter(|_| !frame.is_message()).as_deref() {
                Some("ping") => self.send(&outbound::chat_pong()),
                Some("auth") => self.on_public_auth(&frame, context),
                _ => self.send(&outbound::echo(text)),
            },
            Err(NotAFrame::NotAnObject) => self.send(&outbound::echo(text)),
            Err(NotAFrame::InvalidJson) => {
                return self.bad_frame("invalid_json", "Invalid JSON format", About::default());
            }
        }
        self.bad_frames = 0;
    }

    /// Makes it a chat socket; a bad token ends it.
    fn on_public_auth(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let token = frame.token.and_then(as_text).unwrap_or_default().into_owned();
        let (broker, outbox) = (self.broker.clone(), self.outbox.clone());
        let join = async move {
            let identity = broker.accounts.authenticate(&token).await?;
            let limit = broker.settings.limits.connections_per_identity;
            // before the greeting: a client that was greeted believes it is in
            if limit > 0 && broker.directory.session_count(identity.account.id) >= limit {
                return Err(ApiError::TooMany { limit: "limits.connections_per_identity", retry_after: 1 });
            }
            join(&broker, &outbox, Dialect::Chat, identity).await
        };
        context.wait(join.into_actor(self).map(|result, session, _| match result {
            Ok(expires_at) => session.adopt(Dialect::Chat, expires_at),
            Err(error) => {
                error.log();
                session.error(error.code(), &error.to_string(), About::default());
                session.outbox.close(match error {
                    ApiError::InactiveUser => CloseCode::Forbidden,
                    ApiError::TooMany { .. } | ApiError::DatabaseUnavailable => CloseCode::TryAgainLater,
                    ApiError::Internal(_) => CloseCode::ServerError,
                    _ => CloseCode::Unauthorized,
                });
            }
        }));
    }
}
