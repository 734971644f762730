//! Reading and withdrawing acknowledged messages: senders and recipients see theirs, operators all.

use std::collections::HashMap;

use super::{MessageError, Messages};
use crate::{
    domain::{
        accounts::Account,
        ids::{ClientId, DeliveryId},
        messages::{MessageRecord, Party, Priority},
    },
    store::{MessageFilter, QueueSummary},
};

/// A message as a client sees it.
#[derive(Debug)]
pub struct MessageView {
    pub message: MessageRecord,
    /// What the recipient gets, a JSON object: for its sender and its recipient.
    pub object: Option<String>,
}

impl Messages {
    /// A message.
    ///
    /// # Errors
    /// There is none, or not for this client; or the database failed.
    pub async fn view(&self, id: DeliveryId, viewer: &Account) -> Result<MessageView, MessageError> {
        let message = self.find(id, viewer).await?;
        self.views(vec![message], viewer, usize::MAX).await?.pop().ok_or(MessageError::NotFound)
    }

    /// Those of the messages that a filter admits which the client may see, newest first, with objects of at most `bytes` bytes,
    /// but at least one; and the id before which there may be more.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(
        &self,
        filter: MessageFilter,
        viewer: &Account,
        bytes: usize,
    ) -> Result<(Vec<MessageView>, Option<DeliveryId>), MessageError> {
        let of = (!viewer.is_active_operator()).then(|| party(viewer));
        let (messages, mut more) = self.store.messages(&MessageFilter { of, ..filter }).await?;
        let count = messages.len();
        let views = self.views(messages, viewer, bytes).await?;
        if views.len() < count {
            more = views.last().map(|view| view.message.id);
        }
        Ok((views, more))
    }

    /// The newest message with this `msgid` that the client may see.
    ///
    /// # Errors
    /// There is none, or the database failed.
    pub async fn with_msgid(&self, msgid: &str, viewer: &Account) -> Result<MessageRecord, MessageError> {
        let of = (!viewer.is_active_operator()).then(|| party(viewer));
        // PostgreSQL refuses to search for NUL
        let found = if msgid.contains('\0') { None } else { self.store.message_with_msgid(msgid, of).await? };
        found.ok_or(MessageError::NotFound)
    }

    /// What waits for a device, behind a message of this priority and id: at most `limit` messages, with objects of at most
    /// `bytes` bytes, but at least one, if the viewer is the device; and whether there are more.
    ///
    /// # Errors
    /// The database failed.
    pub async fn queue(
        &self,
        device: ClientId,
        viewer: &Account,
        after: Option<(Priority, DeliveryId)>,
        limit: u64,
        bytes: usize,
    ) -> Result<(QueueSummary, Vec<MessageView>, bool), MessageError> {
        let mut queue = self.store.queue_of(device, after, limit + 1).await?;
        let mut messages = std::mem::take(&mut queue.messages);
        let count = messages.len();
        messages.truncate(limit as usize);
        let views = self.views(messages, viewer, bytes).await?;
        let more = views.len() < count;
        Ok((queue, views, more))
    }

    /// Withdraws a message, unless it has ended. Returns it as it is then.
    ///
    /// # Errors
    /// There is none, or the client did not send it and is no operator; or the database failed.
    pub async fn withdraw(&self, id: DeliveryId, by: &Account) -> Result<MessageView, MessageError> {
        let message = self.find(id, by).await?;
        if message.from != party(by) && !by.is_active_operator() {
            return Err(MessageError::NotTheSender);
        }
        if message.ended_at.is_none() {
            self.cancel(id, message.to.client).await?;
            tracing::info!(message = %id, by = %by.id, "message withdrawn");
        }
        self.view(id, by).await
    }

    async fn find(&self, id: DeliveryId, viewer: &Account) -> Result<MessageRecord, MessageError> {
        let message = self.store.message(id).await?.ok_or(MessageError::NotFound)?;
        let is_visible = viewer.is_active_operator() || is_party(viewer, &message);
        if is_visible { Ok(message) } else { Err(MessageError::NotFound) }
    }

    /// With the objects that the viewer may see, as many messages as fit.
    async fn views(
        &self,
        messages: Vec<MessageRecord>,
        viewer: &Account,
        bytes: usize,
    ) -> Result<Vec<MessageView>, MessageError> {
        let own: Vec<_> = messages.iter().filter(|message| is_party(viewer, message)).cloned().collect();
        let mut objects: HashMap<_, _> = self.store.message_objects(&own, bytes).await?;
        let mut views = Vec::with_capacity(messages.len());
        for message in messages {
            let object = objects.remove(&message.id);
            if object.is_none() && is_party(viewer, &message) {
                // there was no room for it, or it was deleted meanwhile
                break;
            }
            views.push(MessageView { message, object });
        }
        Ok(views)
    }
}

fn party(account: &Account) -> Party {
    Party { client: account.id, incarnation: account.incarnation() }
}

fn is_party(account: &Account, message: &MessageRecord) -> bool {
    let party = party(account);
    message.from == party || message.to == party
}
