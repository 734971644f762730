//! The context of an actor: like actix's own, and it counts the messages that wait and measures how long the actor works.

use std::{
    fmt,
    pin::Pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Instant,
};

use actix::{
    Actor, ActorContext, ActorFuture, ActorState, Addr, ArbiterHandle, AsyncContext, Handler, Message, SpawnHandle,
    dev::{
        AsyncContextParts, ContextFut, ContextParts, Envelope, EnvelopeProxy, Mailbox, MessageResponse, OneshotSender,
        ToEnvelope, channel,
    },
};
use prometheus::{Histogram, IntCounter};

use super::{
    METRICS, Metrics,
    labels::{self, Label},
};

/// Messages that the mailbox takes before senders wait, until the actor sets it.
const CAPACITY: usize = 16;

/// An actor with a [`Context`].
pub trait Measured: Actor<Context = Context<Self>> {
    /// Its name in the metrics.
    const NAME: labels::Actor;
}

/// What is measured of an actor. Aligned, since senders on all threads write to one.
#[repr(align(128))]
struct Measures {
    sent: AtomicU64,
    handled: IntCounter,
    busy: Histogram,
}

/// By the name of the actor.
static MEASURES: LazyLock<Vec<Measures>> = LazyLock::new(|| {
    let measures = |actor: &labels::Actor| Measures {
        sent: AtomicU64::new(0),
        handled: METRICS.actor_messages_total.with_label_values(&[actor.as_str()]),
        busy: METRICS.actor_busy_seconds.with_label_values(&[actor.as_str()]),
    };
    labels::Actor::ALL.iter().map(measures).collect()
});

/// Sets the gauges of the mailboxes.
pub fn read_mailboxes(metrics: &Metrics) {
    for (actor, measures) in labels::Actor::ALL.iter().zip(&*MEASURES) {
        // first, so that no message counts as handled that was not counted as sent
        let handled = measures.handled.get();
        let waiting = measures.sent.load(Ordering::Relaxed).saturating_sub(handled);
        metrics.actor_mailbox_messages.with_label_values(&[actor.as_str()]).set(waiting as i64);
    }
}

/// See the module.
pub struct Context<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
}

impl<A: Actor<Context = Self>> fmt::Debug for Context<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl<A: Measured> Context<A> {
    /// Starts an actor on the thread of an arbiter.
    pub fn start_in_arbiter(arbiter: &ArbiterHandle, create: impl FnOnce(&mut Self) -> A + Send + 'static) -> Addr<A> {
        let (sender, receiver) = channel::channel(CAPACITY);
        arbiter.spawn_fn(move || Self::run(Mailbox::new(receiver), create));
        Addr::new(sender)
    }

    /// Starts an actor on this thread.
    pub fn start(actor: A) -> Addr<A> {
        let (sender, receiver) = channel::channel(CAPACITY);
        Self::run(Mailbox::new(receiver), |_| actor);
        Addr::new(sender)
    }

    fn run(mailbox: Mailbox<A>, create: impl FnOnce(&mut Self) -> A) {
        let mut context = Self { parts: ContextParts::new(mailbox.sender_producer()) };
        let actor = create(&mut context);
        let future = Box::pin(ContextFut::new(context, actor, mailbox));
        actix::spawn(Timed { future, measures: &MEASURES[A::NAME as usize] });
    }

    /// Sets how many messages the mailbox takes before senders wait.
    pub fn set_mailbox_capacity(&mut self, capacity: usize) {
        self.parts.set_mailbox_capacity(capacity);
    }
}

/// An actor that runs.
struct Timed<A: Measured> {
    future: Pin<Box<ContextFut<A, Context<A>>>>,
    measures: &'static Measures,
}

impl<A: Measured> Future for Timed<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<()> {
        let began = Instant::now();
        let polled = self.future.as_mut().poll(context);
        self.measures.busy.observe(began.elapsed().as_secs_f64());
        polled
    }
}

impl<A: Actor<Context = Self>> ActorContext for Context<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for Context<A> {
    fn address(&self) -> Addr<A> {
        self.parts.address()
    }

    fn spawn<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) -> SpawnHandle {
        self.parts.spawn(future)
    }

    fn wait<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for Context<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

impl<A, M> ToEnvelope<A, M> for Context<A>
where
    A: Measured + Handler<M>,
    M: Message<Result: Send> + Send + 'static,
{
    fn pack(message: M, answer: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        let measures = &MEASURES[A::NAME as usize];
        measures.sent.fetch_add(1, Ordering::Relaxed);
        Envelope::with_proxy(Box::new(Counted { message: Some(message), answer, measures }))
    }
}

/// A message in a mailbox.
struct Counted<M: Message> {
    message: Option<M>,
    answer: Option<OneshotSender<M::Result>>,
    measures: &'static Measures,
}

impl<A, M> EnvelopeProxy<A> for Counted<M>
where
    A: Measured + Handler<M>,
    M: Message<Result: Send> + Send + 'static,
{
    fn handle(&mut self, actor: &mut A, context: &mut A::Context) {
        let answer = self.answer.take();
        // whoever asked does not wait any more
        if answer.as_ref().is_some_and(|answer| answer.is_closed()) {
            return;
        }
        if let Some(message) = self.message.take() {
            actor.handle(message, context).handle(context, answer);
        }
    }
}

impl<M: Message> Drop for Counted<M> {
    fn drop(&mut self) {
        self.measures.handled.inc();
    }
}
