//! The handle of the MessageManager: sends, answers, withdraws and reads messages.

mod direct;
mod reads;

use std::{fmt, sync::Arc, time::Duration};

use actix::{Actor, Addr, ArbiterHandle, Handler, Message, Recipient, dev::SendError, dev::ToEnvelope};
use tokio::sync::oneshot;

pub use self::reads::MessageView;
use super::{
    MessageError, MessageManager,
    messages::{AnswerMessage, Failed, MarkSettled, SendMessage, Sender, Withdraw},
};
use crate::{
    actors::{
        directory::Directory,
        journal::{Perform, Place, Places},
    },
    clock::Clock,
    cluster::Backplane,
    delivery::{Mark, Relays, SessionHandle},
    domain::{
        ids::{ClientId, DeliveryId},
        messages::{
            Answer, MAX_UNACKNOWLEDGED, Party,
            change::{Accepted, MessageChange, NewMessage},
        },
    },
    protocol::outbound,
    settings::Settings,
    store::{Store, StoreError, patience},
};

/// What the MessageManager and its handle use.
pub struct Dependencies {
    pub directory: Arc<Directory>,
    pub relays: Arc<Relays>,
    pub backplane: Arc<dyn Backplane>,
    pub store: Store,
    pub journal: Recipient<Perform<MessageChange>>,
    pub clock: Clock,
}

/// Clones are handles of the same MessageManager.
#[derive(Clone)]
pub struct Messages {
    manager: Addr<MessageManager>,
    directory: Arc<Directory>,
    relays: Arc<Relays>,
    backplane: Arc<dyn Backplane>,
    store: Store,
    places: Places,
    /// `messages.ttl_secs`
    ttl: Duration,
}

/// A message or an answer of a session that has to wait until there is room.
#[derive(Debug)]
pub enum Unsent {
    Message(NewMessage, Option<Place>),
    Answer(AnswerFrom, Option<Place>),
}

impl Unsent {
    /// The sender's id of the message.
    pub fn msgid(&self) -> &str {
        match self {
            Self::Message(message, _) => &message.msgid,
            Self::Answer(answer, _) => &answer.msgid,
        }
    }
}

/// A recipient's answer to a message.
#[derive(Debug)]
pub struct AnswerFrom {
    pub from: Party,
    pub msgid: String,
    /// Whose message it is, if that is given.
    pub sender: Option<ClientId>,
    pub answer: Answer,
}

/// Why the MessageManager does not take something.
#[derive(Debug)]
pub enum NotSent {
    /// Its mailbox or the queue of the Journal is full, or it is refused.
    NotNow(Box<Unsent>),
    /// The MessageManager has stopped.
    Stopped,
}

impl NotSent {
    fn not_now(unsent: Unsent) -> Self {
        Self::NotNow(Box::new(unsent))
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl Messages {
    /// Starts the MessageManager.
    pub fn start(arbiter: &ArbiterHandle, with: Dependencies, settings: &Settings) -> Self {
        let (directory, relays) = (with.directory.clone(), with.relays.clone());
        let (backplane, store) = (with.backplane.clone(), with.store.clone());
        // what is on its way is named in each query for more
        let window = match settings.limits.unacknowledged_per_device {
            0 => MAX_UNACKNOWLEDGED,
            window => window,
        };
        let manager = MessageManager::new(with, window);
        let manager = MessageManager::start_in_arbiter(arbiter, |_| manager);
        let ttl = Duration::from_secs(settings.messages.ttl_secs.into());
        Self { manager, directory, relays, backplane, store, places: Places::default(), ttl }
    }

    /// How long a message may wait if its sender does not say.
    pub fn usual_ttl(&self) -> Duration {
        self.ttl
    }

    /// Passes on a message or an answer of a session, unless it has to wait. The session gets the receipt, or the state of the
    /// message.
    ///
    /// # Errors
    /// Nothing is sent.
    pub fn send(&self, unsent: Unsent, session: &SessionHandle) -> Result<(), NotSent> {
        match unsent {
            Unsent::Message(message, place) => {
                let Some(place) = place.or_else(|| self.try_place(&message)) else {
                    return Err(NotSent::not_now(Unsent::Message(message, None)));
                };
                let send = SendMessage { message, sender: Sender::Session(session.clone()), place };
                self.manager.try_send(send).map_err(|error| match error {
                    SendError::Full(SendMessage { message, place, .. }) => {
                        NotSent::not_now(Unsent::Message(message, Some(place)))
                    }
                    SendError::Closed(_) => NotSent::Stopped,
                })
            }
            Unsent::Answer(answer, place) => {
                let Some(place) = place.or_else(|| self.places.try_take(0)) else {
                    return Err(NotSent::not_now(Unsent::Answer(answer, None)));
                };
                let AnswerFrom { from, msgid, sender, answer } = answer;
                let answer = AnswerMessage { from, session: session.clone(), msgid, sender, answer, place };
                self.manager.try_send(answer).map_err(|error| match error {
                    SendError::Full(AnswerMessage { from, msgid, sender, answer, place, .. }) => {
                        NotSent::not_now(Unsent::Answer(AnswerFrom { from, msgid, sender, answer }, Some(place)))
                    }
                    SendError::Closed(_) => NotSent::Stopped,
                })
            }
        }
    }

    /// Passes it on as soon as there is room.
    ///
    /// # Errors
    /// There is no room for too long, the sender has reached a limit, or the MessageManager has stopped. The session has the
    /// receipts of its earlier messages by then.
    pub async fn send_later(&self, unsent: Unsent, session: &SessionHandle) -> Result<(), MessageError> {
        let place = match &unsent {
            Unsent::Message(_, Some(_)) | Unsent::Answer(_, Some(_)) => Ok(None),
            Unsent::Message(message, None) => self.place(message).await.map(Some),
            Unsent::Answer(_, None) => self.places.take(0).await.map(Some).map_err(MessageError::from),
        };
        let place = match place {
            Ok(place) => place,
            Err(error) => {
                self.settled(session.clone()).await;
                return Err(error);
            }
        };
        match unsent {
            Unsent::Message(message, own) => {
                let Some(place) = own.or(place) else { return Err(StoreError::late().into()) };
                let send = SendMessage { message, sender: Sender::Session(session.clone()), place };
                Ok(self.manager.send(send).await?)
            }
            Unsent::Answer(answer, own) => {
                let Some(place) = own.or(place) else { return Err(StoreError::late().into()) };
                let AnswerFrom { from, msgid, sender, answer } = answer;
                let answer = AnswerMessage { from, session: session.clone(), msgid, sender, answer, place };
                Ok(self.manager.send(answer).await?)
            }
        }
    }

    /// Sends an acknowledged message for a request. Returns when it is stored.
    ///
    /// # Errors
    /// It is refused, or the database failed.
    pub async fn send_over_http(&self, message: NewMessage) -> Result<Accepted, MessageError> {
        let place = self.place(&message).await?;
        let (answer, stored) = oneshot::channel();
        let send = SendMessage { message, sender: Sender::Http(answer), place };
        let stored = async {
            self.manager.send(send).await?;
            stored.await.unwrap_or_else(|_| Err(StoreError::lost().into()))
        };
        patience::wait(stored).await.unwrap_or_else(|_| Err(StoreError::late().into()))
    }

    fn try_place(&self, message: &NewMessage) -> Option<Place> {
        let bytes = message.object.len();
        if bytes + outbound::REDELIVERED.len() > self.relays.longest_text() {
            return None;
        }
        let place = self.places.try_take(bytes)?;
        self.store.charge_stored(message.from.client, bytes).is_ok().then_some(place)
    }

    async fn place(&self, message: &NewMessage) -> Result<Place, MessageError> {
        let bytes = message.object.len();
        // it would make its recipient a slow consumer again and again
        let longest = self.relays.longest_text().saturating_sub(outbound::REDELIVERED.len());
        if bytes > longest {
            return Err(MessageError::TooLarge(longest));
        }
        self.store.charge_stored(message.from.client, bytes)?;
        Ok(self.places.take(bytes).await?)
    }

    /// Waits until a session has the receipts of its earlier messages, and their recipients have those that go at once.
    pub async fn settled(&self, session: SessionHandle) {
        let (mark, passed) = Mark::new();
        if self.manager.send(MarkSettled { session, mark }).await.is_ok() {
            // completes with an error, since the sender is dropped
            let _ = passed.await;
        }
    }

    /// Withdraws a message, if it has not ended.
    async fn cancel(&self, id: DeliveryId, to: ClientId) -> Result<(), MessageError> {
        match patience::wait(self.manager.send(Withdraw { id, to })).await {
            Ok(ended) => ended?.map(drop).map_err(Into::into),
            Err(_) => Err(StoreError::late().into()),
        }
    }

    /// Tells the senders of messages that have failed since their recipient was deleted.
    ///
    /// # Errors
    /// The database failed; the senders are told when they connect.
    pub async fn recipient_deleted(&self, recipient: ClientId) -> Result<(), StoreError> {
        let failed = self.store.failed_of_recipient(recipient).await?;
        if !failed.is_empty() {
            self.manager.do_send(Failed(failed));
        }
        Ok(())
    }

    /// For actors that send the MessageManager this message themselves.
    pub(crate) fn recipient<M>(&self) -> Recipient<M>
    where
        M: Message<Result: Send> + Send + 'static,
        MessageManager: Handler<M>,
        <MessageManager as Actor>::Context: ToEnvelope<MessageManager, M>,
    {
        self.manager.clone().recipient()
    }
}
