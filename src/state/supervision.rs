//! Watches the actors and the background loops. When one of them ends, the process logs its name and exits with
//! [`EXIT_CODE`], so that the service manager restarts it.
//!
//! A panic ends only the task in which it happens. Other tasks of the thread continue, and messages to the ended actor are
//! lost silently, so the broker would look healthy and do half of its work. A single actor cannot be restarted, since its
//! state is lost; a restart of the process restores state from the database and is tested with every kill.
//!
//! To watch another actor or loop, use [`Supervision::watch_actor`] or [`Supervision::watched`].

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::Recipient;

use crate::actors::{HealthCheck, panic_if_asked};

/// `EX_SOFTWARE` of sysexits.h: an internal software error.
pub const EXIT_CODE: i32 = 70;

/// Period of the check.
const PERIOD: Duration = Duration::from_millis(200);

/// See the module. Clones share their state.
#[derive(Clone, Default)]
pub(crate) struct Supervision(Arc<Watched>);

#[derive(Default)]
struct Watched {
    actors: Mutex<Vec<(&'static str, Recipient<HealthCheck>)>>,
    /// the reason why the process has to end
    verdict: Mutex<Option<String>>,
    stopping: AtomicBool,
}

impl fmt::Debug for Supervision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervision").field("stopping", &self.0.stopping).finish_non_exhaustive()
    }
}

/// Reports the end of a loop when it is dropped: on return, on cancellation and on panic.
struct Ending {
    supervision: Supervision,
    name: &'static str,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.supervision.fail(format!("the {} has ended", self.name));
    }
}

impl Supervision {
    pub(crate) fn watch_actor(&self, name: &'static str, actor: Recipient<HealthCheck>) {
        self.actors().push((name, actor));
    }

    fn actors(&self) -> MutexGuard<'_, Vec<(&'static str, Recipient<HealthCheck>)>> {
        self.0.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pings all actors. Returns the name of the first that does not answer in time.
    pub(crate) async fn unresponsive(&self, patience: Duration) -> Option<&'static str> {
        let asked: Vec<_> = self.actors().iter().map(|(name, actor)| (*name, actor.send(HealthCheck))).collect();
        let answers =
            asked.into_iter().map(async |(name, answer)| match tokio::time::timeout(patience, answer).await {
                Ok(Ok(())) => None,
                _ => Some(name),
            });
        futures_util::future::join_all(answers).await.into_iter().flatten().next()
    }

    /// Wraps a loop: if it ends before the broker stops, the process ends.
    pub(crate) fn watched<T, F: Future<Output = T>>(
        &self,
        name: &'static str,
        work: F,
    ) -> impl Future<Output = ()> + use<T, F> {
        let ending = Ending { supervision: self.clone(), name };
        async move {
            let _ending = ending;
            panic_if_asked(name);
            work.await;
        }
    }

    /// Makes the process end for this reason. Later reasons are ignored.
    pub(crate) fn fail(&self, why: String) {
        self.0.verdict.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// The reason why the process has to end, if there is one.
    pub(crate) fn verdict(&self) -> Option<String> {
        if self.0.stopping.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(verdict) = &*self.0.verdict.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(verdict.clone());
        }
        let actors = self.actors();
        let dead = actors.iter().find(|(_, actor)| !actor.connected());
        dead.map(|(name, _)| format!("the {name} has ended"))
    }

    /// Stops watching: from now on actors and loops may end.
    pub(crate) fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Starts a thread that ends the process as soon as there is a reason. The thread is independent of those it watches.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub(crate) fn start(&self) -> std::io::Result<()> {
        let supervision = self.clone();
        let watch = move || {
            while !supervision.0.stopping.load(Ordering::Relaxed) {
                if let Some(why) = supervision.verdict() {
                    tracing::error!(exit_code = EXIT_CODE, "{why}: this process cannot continue and exits");
                    std::process::exit(EXIT_CODE);
                }
                std::thread::sleep(PERIOD);
            }
        };
        std::thread::Builder::new().name("supervision".to_owned()).spawn(watch).map(drop)
    }
}

/// Writes panics to the log instead of stderr.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        tracing::error!(place, thread, "panic: {}", panic.payload_as_str().unwrap_or("no reason given"));
    }));
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Arbiter, Context, Handler, Message};

    use super::*;

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Panic;

    struct Fragile;

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    impl Handler<Panic> for Fragile {
        type Result = ();

        fn handle(&mut self, _: Panic, _: &mut Self::Context) {
            panic!("as asked");
        }
    }

    impl Handler<HealthCheck> for Fragile {
        type Result = ();

        fn handle(&mut self, _: HealthCheck, _: &mut Self::Context) {}
    }

    #[actix_web::test]
    async fn an_actor_that_panics_is_noticed_and_its_neighbour_is_not_blamed() {
        let supervision = Supervision::default();
        let arbiter = Arbiter::new();
        let fragile = Fragile::start_in_arbiter(&arbiter.handle(), |_| Fragile);
        let neighbour = Fragile::start_in_arbiter(&arbiter.handle(), |_| Fragile);
        supervision.watch_actor("neighbour", neighbour.clone().recipient());
        supervision.watch_actor("fragile actor", fragile.clone().recipient());
        assert_eq!(supervision.verdict(), None);
        fragile.send(Panic).await.unwrap_err();
        while fragile.connected() {
            tokio::task::yield_now().await;
        }
        assert_eq!(supervision.verdict().as_deref(), Some("the fragile actor has ended"));
        assert_eq!(supervision.unresponsive(Duration::from_secs(60)).await, Some("fragile actor"));
        neighbour.send(HealthCheck).await.expect("the thread goes on without the one that panicked");
        arbiter.stop();
    }

    /// Answers when the other end of the channel is dropped.
    struct Held(std::sync::mpsc::Receiver<()>);

    impl Actor for Held {
        type Context = Context<Self>;
    }

    impl Handler<HealthCheck> for Held {
        type Result = ();

        fn handle(&mut self, _: HealthCheck, _: &mut Self::Context) {
            assert!(self.0.recv().is_err());
        }
    }

    #[actix_web::test]
    async fn an_actor_that_lives_and_does_not_answer_is_named_until_it_answers_again() {
        let supervision = Supervision::default();
        let (arbiter, busy) = (Arbiter::new(), Arbiter::new());
        let neighbour = Fragile::start_in_arbiter(&arbiter.handle(), |_| Fragile);
        let (release, held) = std::sync::mpsc::channel();
        let held = Held::start_in_arbiter(&busy.handle(), |_| Held(held));
        supervision.watch_actor("held actor", held.recipient());
        assert_eq!(supervision.unresponsive(Duration::ZERO).await, Some("held actor"));
        supervision.watch_actor("neighbour", neighbour.recipient());
        assert_eq!(supervision.verdict(), None, "it may answer later");
        drop(release);
        assert_eq!(supervision.unresponsive(Duration::from_secs(60)).await, None);
        arbiter.stop();
        busy.stop();
    }

    #[actix_web::test]
    async fn a_loop_that_panics_or_ends_is_noticed_unless_the_broker_stops() {
        let supervision = Supervision::default();
        supervision.watched("short loop", async {}).await;
        assert_eq!(supervision.verdict().as_deref(), Some("the short loop has ended"));

        let supervision = Supervision::default();
        let work = supervision.watched("fragile loop", async { panic!("as asked") });
        actix_web::rt::spawn(work).await.unwrap_err();
        assert_eq!(supervision.verdict().as_deref(), Some("the fragile loop has ended"));

        let supervision = Supervision::default();
        supervision.stop();
        supervision.watched("loop", async {}).await;
        assert_eq!(supervision.verdict(), None);
    }
}
