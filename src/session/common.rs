//! Frames that all dialects with JSON objects have in common: command replies, pings, and new tokens for a live socket.

use actix::{Actor, ActorFutureExt, AsyncContext, WrapFuture};

use super::{Dialect, Session};
use crate::protocol::{
    chat,
    error_code::ErrorCode,
    frames::DeclaredFrame,
    inbound::{Frame, NotAFrame, as_text, frames},
    json::Unacceptable,
    outbound::{self, About},
};

/// The frame is handled completely.
pub(super) struct Handled;

impl Session {
    /// Parses a frame, and handles it if all dialects handle it in the same way.
    ///
    /// # Errors
    /// The frame is handled.
    pub(super) fn common<'a>(
        &mut self,
        text: &'a str,
        context: &mut <Self as Actor>::Context,
    ) -> Result<Frame<'a>, Handled> {
        let frame = Frame::parse(text).map_err(|error| {
            match error {
                NotAFrame::InvalidJson => {
                    self.bad_frame(ErrorCode::InvalidJson, "Invalid JSON format", About::default());
                }
                NotAFrame::NotAnObject => {
                    self.bad_frame(
                        ErrorCode::InvalidMessage,
                        "Invalid message format: expected a JSON object",
                        About::default(),
                    );
                }
            }
            Handled
        })?;
        if frame.is_command_reply() {
            // never answered, since existing clients would answer the answer (contract section 6, loop hazard)
            self.on_command_reply(&frame, context);
            return Err(Handled);
        }
        if let Some(why) = frame.unacceptable {
            self.unacceptable(why, &frame);
            return Err(Handled);
        }
        if frame.is_message() {
            return Ok(frame);
        }
        match frame.kind().as_deref() {
            frames::Ping::TYPE => self.send(&match self.dialect {
                Dialect::Device | Dialect::Agent => outbound::pong(self.now()),
                _ => chat::pong(self.now()),
            }),
            frames::ClientPong::TYPE => {}
            frames::Auth::TYPE => self.on_auth(&frame, context),
            frames::Progress::TYPE if frame.command_id.is_some() => self.on_progress(&frame, context),
            // in the other dialects the type is unknown
            frames::Progress::TYPE if matches!(self.dialect, Dialect::Device | Dialect::Agent) => {
                self.bad_frame(
                    ErrorCode::InvalidMessage,
                    "Invalid message format: missing field `command_id`",
                    About::default(),
                );
                return Err(Handled);
            }
            _ => return Ok(frame),
        }
        self.bad_frames = 0;
        Err(Handled)
    }

    /// Refuses JSON that no dialect accepts.
    pub(super) fn unacceptable(&mut self, why: Unacceptable, frame: &Frame<'_>) {
        let (msgid, topic_id) = (frame.msgid(), frame.topic_id(self.broker.settings.load().limits.topic_id_chars));
        let about = About { msgid: msgid.as_deref(), topic_id: topic_id.as_deref(), room_id: None };
        let what = if topic_id.is_some() { "Invalid topic message format" } else { "Invalid message format" };
        self.bad_frame(ErrorCode::InvalidMessage, &format!("{what}: {why}"), about);
    }

    /// A new token for the same identity (contract section 3).
    fn on_auth(&mut self, frame: &Frame<'_>, context: &mut <Self as Actor>::Context) {
        let Some(token) = frame.token.and_then(as_text) else {
            self.error(ErrorCode::InvalidMessage, "Invalid message format: missing field `token`", About::default());
            return;
        };
        let Some(own) = self.client() else { return };
        let (token, broker, handle) = (token.into_owned(), self.broker.clone(), self.outbox.handle().clone());
        let renew = async move {
            let identity = broker.accounts.authenticate(&token).await?;
            if identity.account.id != own {
                return Ok(None);
            }
            let expires_at = identity.expires_at;
            let before = handle.exchange(identity.clone());
            if let Err(error) = broker.accounts.confirm(&identity).await {
                if let Some(before) = before {
                    handle.exchange(before);
                }
                return Err(error);
            }
            Ok(Some(expires_at))
        };
        context.wait(renew.into_actor(self).map(move |result, session, _| match result {
            Ok(Some(expires_at)) => {
                session.set_expiry(expires_at);
                session.send(&outbound::authenticated(own, expires_at));
            }
            Ok(None) => {
                let text = "Token belongs to another client, nothing has changed";
                session.error(ErrorCode::Forbidden, text, About::default());
            }
            Err(error) => session.refuse_identity(&error, error.told()),
        }));
    }
}
