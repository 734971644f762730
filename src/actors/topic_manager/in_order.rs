//! The order of publications to topics with a history, if several nodes share the database: each node delivers them to its
//! subscribers in the order of their offsets, and reads from the history what does not come.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use actix::{ActorFutureExt, AsyncContext, Handler, ResponseFuture, WrapFuture};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    TopicManager,
    messages::{AwaitOffset, TopicDeleted},
    publishing::with_offset,
};
use crate::{
    actors::journal::{Journaling, Unanswered},
    delivery::SessionHandle,
    domain::{
        ids::TopicId,
        line::{HeldBytes, Line, Next},
        topics::history::{HistoryPart, Kept},
    },
    metrics::Context,
    protocol::wire,
    store::StoreError,
};

/// How long a publication may be late before it is looked for in the history.
const LATE: Duration = Duration::from_millis(50);

/// The period in which topics with subscribers here are compared with the database, since the last publication may be missing.
const PERIOD: Duration = Duration::from_secs(5);

/// Most publications, and bytes, that are read at once.
const PART: (u64, usize) = (100, 1024 * 1024);

/// A topic with subscribers here.
pub(super) struct OrderedTopic {
    line: Line<Infallible, Stored>,
    /// the number of the topic's history; not known before its first publication
    history: i64,
    /// since when the topic is deleted: what still comes of it is late
    over_since: Option<Instant>,
    /// the first publication, if subscribers by a pattern may have been owed earlier ones that come still later
    began_with: Option<i64>,
    /// what is missing is being read, or will be
    is_reading: bool,
    unanswered: Unanswered,
    /// those who wait until the publications up to an offset are delivered
    waiting: Vec<(i64, oneshot::Sender<()>)>,
}

/// A publication in a history.
struct Stored {
    offset: i64,
    frame: Bytes,
    /// the session that published it gets no copy
    sender: Option<SessionHandle>,
}

impl TopicManager {
    /// Delivers a publication to the subscribers at this node, in the order of offsets if it has one. Returns their number.
    pub(super) fn hand_out(
        &mut self,
        topic: &TopicId,
        sender: Option<&SessionHandle>,
        kept: Option<Kept>,
        frame: &Bytes,
        context: &mut Context<Self>,
    ) -> usize {
        let Some(Kept { history, offset }) = kept.filter(|_| self.backplane.is_shared()) else {
            return self.distribute(topic, sender, kept.map(|kept| kept.offset), frame);
        };
        let Some(audience) = self.subscriptions.audience(topic) else {
            self.ordered.remove(topic);
            return 0;
        };
        let reached = audience.connected.saturating_sub(usize::from(sender.is_some()));
        let held = &self.held;
        let ordered = self.ordered.entry(topic.clone()).or_insert_with(|| OrderedTopic::of(history, held));
        if ordered.history < history {
            // a new topic of this name: who subscribes to it by a pattern gets all of it
            *ordered = OrderedTopic::behind(Kept { history, offset: 0 }, held);
        } else if ordered.history > history || ordered.over_since.is_some() {
            return 0;
        }
        if ordered.began_with.is_some_and(|first| offset < first) {
            // rather late than never
            return self.distribute(topic, sender, Some(offset), frame);
        }
        let stored = Stored { offset, frame: frame.clone(), sender: sender.cloned() };
        ordered.line.put_elsewhere(offset, stored, frame.len());
        if ordered.line.last().is_some() {
            self.go_on(topic, context);
        } else if !ordered.is_reading {
            // those before it may be on their way
            ordered.is_reading = true;
            let topic = topic.clone();
            context.run_later(LATE, move |topics, context| {
                // it may be another one by now
                if let Some(ordered) = topics.ordered.get_mut(&topic).filter(|ordered| ordered.line.last().is_none()) {
                    ordered.is_reading = false;
                    ordered.line.begin_with_first();
                    ordered.began_with = ordered.line.last().map(|last| last + 1);
                    topics.go_on(&topic, context);
                }
            });
        }
        reached
    }

    /// Somebody subscribes to a topic with this newest publication.
    pub(super) fn begin_behind(&mut self, topic: &TopicId, newest: Kept) {
        let line =
            self.ordered.get(topic).filter(|ordered| ordered.history >= newest.history && ordered.over_since.is_none());
        let has_line = line.is_some() && self.subscriptions.audience(topic).is_some();
        if self.backplane.is_shared() && !has_line {
            self.ordered.insert(topic.clone(), OrderedTopic::behind(newest, &self.held));
        }
    }

    /// A topic is deleted.
    pub(super) fn history_is_over(&mut self, topic: &TopicId) {
        if let Some(ordered) = self.ordered.get_mut(topic) {
            let over_since = Some(Instant::now());
            *ordered = OrderedTopic { over_since, ..OrderedTopic::of(ordered.history, &self.held) };
        }
    }

    /// Delivers everything whose turn it is.
    fn go_on(&mut self, topic: &TopicId, context: &mut Context<Self>) {
        while let Some(Next::Elsewhere(stored)) =
            self.ordered.get_mut(topic).and_then(|ordered| ordered.line.take_next())
        {
            self.distribute(topic, stored.sender.as_ref(), Some(stored.offset), &stored.frame);
        }
        let Some(ordered) = self.ordered.get_mut(topic) else { return };
        let Some(last) = ordered.line.last() else { return };
        ordered.waiting.retain(|(offset, _)| *offset > last);
        if ordered.line.has_gap() {
            self.read_later(topic, last + 1, LATE, context);
        }
    }

    /// Compares all topics with a history and subscribers here with the database, in a period.
    pub(super) fn look_for_missed_regularly(&self, context: &mut Context<Self>) {
        if self.backplane.is_shared() {
            context.run_interval(PERIOD, Self::look_for_missed);
        }
    }

    /// The same now.
    pub(super) fn look_for_missed(&mut self, context: &mut Context<Self>) {
        self.ordered.retain(|topic, _| self.subscriptions.audience(topic).is_some());
        let known =
            self.ordered.iter().filter(|(_, ordered)| ordered.line.last().is_some() || ordered.over_since.is_some());
        let known: Vec<_> = known.map(|(topic, ordered)| (topic.clone(), ordered.history)).collect();
        if known.is_empty() {
            return;
        }
        let store = self.store.clone();
        let newest = async move {
            let topics: Vec<_> = known.iter().map(|(topic, _)| topic.clone()).collect();
            let newest = store.newest_kept(&topics).await;
            (known, newest)
        };
        context.spawn(newest.into_actor(self).map(|(asked, newest), topics, context| {
            // else it is tried again after the period
            let Ok(newest) = newest else { return };
            for (topic, history) in asked {
                topics.compare(&topic, history, newest.get(&topic).copied(), context);
            }
        }));
    }

    /// The database has this newest publication of a topic that had a history with this number; no topic if it is deleted.
    fn compare(&mut self, topic: &TopicId, history: i64, newest: Option<Option<Kept>>, context: &mut Context<Self>) {
        let Some(ordered) = self.ordered.get(topic).filter(|ordered| ordered.history == history) else { return };
        let over_since = ordered.over_since;
        match newest {
            Some(Some(newest)) if newest.history == history => self.read_later(topic, newest.offset, LATE, context),
            // it has no history any more
            Some(None) => drop(self.ordered.remove(topic)),
            // it was deleted at another node
            None => match over_since {
                None => self.handle(TopicDeleted(topic.clone()), context),
                Some(since) if since.elapsed() > PERIOD => drop(self.ordered.remove(topic)),
                Some(_) => {}
            },
            Some(Some(newest)) => {
                if over_since.is_none() {
                    self.handle(TopicDeleted(topic.clone()), context);
                }
                if self.subscriptions.audience(topic).is_some() {
                    let begins = Kept { history: newest.history, offset: 0 };
                    self.ordered.insert(topic.clone(), OrderedTopic::behind(begins, &self.held));
                    self.read_later(topic, newest.offset, LATE, context);
                }
            }
        }
    }

    /// Reads what is missing of a topic, if the publications up to this one have not come after a time.
    fn read_later(&mut self, topic: &TopicId, up_to: i64, wait: Duration, context: &mut Context<Self>) {
        let is_behind = |ordered: &&mut OrderedTopic| ordered.line.last().is_some_and(|last| last < up_to);
        let ordered = self.ordered.get_mut(topic).filter(|ordered| !ordered.is_reading).filter(is_behind);
        let Some(ordered) = ordered else { return };
        ordered.is_reading = true;
        let topic = topic.clone();
        context.run_later(wait, move |topics, context| {
            let Some(ordered) = topics.ordered.get_mut(&topic) else { return };
            let Some(last) = ordered.line.last().filter(|last| *last < up_to) else {
                ordered.is_reading = false;
                return topics.go_on(&topic, context);
            };
            ordered.line.reads();
            let (store, name, (most, bytes)) = (topics.store.clone(), topic.clone(), PART);
            let part = async move { store.topic_history(name.as_str(), last, most, bytes).await };
            context.spawn(part.into_actor(topics).map(move |part, topics, context| {
                topics.has_read(&topic, (last, up_to), part, context);
            }));
        });
    }

    fn has_read(
        &mut self,
        topic: &TopicId,
        (asked, up_to): (i64, i64),
        part: Result<Option<HistoryPart>, StoreError>,
        context: &mut Context<Self>,
    ) {
        let batch = self.queue().batch_under_way();
        let Some(ordered) = self.ordered.get_mut(topic) else { return };
        ordered.is_reading = false;
        let Some(last) = ordered.line.last() else { return };
        let Ok(part) = part else { return self.read_later(topic, up_to, PERIOD, context) };
        // another topic of this name is found when they are compared
        let Some(part) = part.filter(|part| part.history == ordered.history) else { return };
        if part.first_offset > last + 1 {
            // the history has given up what was before
            ordered.line.skip_to(part.first_offset);
        }
        let newest = part.entries.last().map_or(asked, |entry| entry.offset);
        let answered = ordered.unanswered.read(newest, batch);
        for entry in part.entries.into_iter().filter(|entry| entry.offset > last && entry.offset <= answered) {
            let offset = entry.offset;
            let frame = with_offset(&wire::text(&[entry.message.as_bytes()]), offset);
            // unless it has come meanwhile
            let bytes = frame.len();
            ordered.line.put_elsewhere(offset, Stored { offset, frame, sender: None }, bytes);
        }
        self.go_on(topic, context);
        if newest > asked {
            // at once, unless something is awaited
            let wait = if answered < newest { LATE } else { Duration::ZERO };
            self.read_later(topic, up_to, wait, context);
        }
    }
}

impl OrderedTopic {
    fn of(history: i64, held: &HeldBytes) -> Self {
        Self {
            line: Line::new(held),
            history,
            over_since: None,
            began_with: None,
            is_reading: false,
            unanswered: Unanswered::default(),
            waiting: Vec::new(),
        }
    }

    /// What comes after this publication.
    fn behind(newest: Kept, held: &HeldBytes) -> Self {
        let mut ordered = Self::of(newest.history, held);
        ordered.line.begin_behind(newest.offset);
        ordered
    }
}

impl Handler<AwaitOffset> for TopicManager {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, AwaitOffset { topic, offset }: AwaitOffset, context: &mut Self::Context) -> Self::Result {
        let is_behind = |ordered: &&mut OrderedTopic| ordered.line.last().is_some_and(|last| last < offset);
        let Some(ordered) = self.ordered.get_mut(&topic).filter(is_behind) else {
            return Box::pin(std::future::ready(()));
        };
        let (waiting, delivered) = oneshot::channel();
        ordered.waiting.push((offset, waiting));
        self.read_later(&topic, offset, LATE, context);
        // completes with an error, since the sender is dropped
        Box::pin(async { drop(delivered.await) })
    }
}
