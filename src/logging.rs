//! The log: lines on stderr, through a filter that can be changed while the program runs.
//!
//! `settings/log_filter.rs` says what a filter is.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::settings::{Log, LogFormat, NoFilter, log_filter as parse};

/// Longest time that other levels than those of the settings may last for, if one is given.
pub const MOST_SECONDS: u32 = 86_400;

/// The log of this process.
struct Running {
    filter: reload::Handle<Targets, Registry>,
    levels: Mutex<Levels>,
}

/// The levels in effect.
#[derive(Debug, Clone, Default)]
struct Levels {
    /// those of the settings
    configured: String,
    /// others, until they end
    instead: Option<String>,
    /// counts the changes, so that the end of an earlier one does not end a later one
    change: u64,
}

static RUNNING: OnceLock<Running> = OnceLock::new();

/// What is logged now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// The levels in effect.
    pub level: String,
    /// Those of the settings.
    pub configured: String,
}

/// Starts logging. `RUST_LOG` counts before `log.level`.
///
/// # Errors
/// The levels are none.
pub fn start(log: &Log) -> Result<(), NoFilter> {
    let given = of_environment();
    let configured = given.as_deref().unwrap_or(&log.level);
    let source = if given.is_some() { "RUST_LOG" } else { "`log.level`" };
    let filter = parse(configured).map_err(|error| error.of(source))?;
    let (filter, handle) = reload::Layer::new(filter);
    // no messages about failed writes: they would panic if stderr is closed
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    let levels = Levels { configured: configured.to_owned(), ..Levels::default() };
    // `init` panics at a second start
    let _ = RUNNING.set(Running { filter: handle, levels: Mutex::new(levels) });
    Ok(())
}

fn of_environment() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|given| !given.is_empty())
}

/// The levels of the settings have changed. Those that are in effect for a time stay until its end.
///
/// # Errors
/// The text is no filter; nothing changes.
pub fn configure(log: &Log) -> Result<(), NoFilter> {
    if of_environment().is_some() {
        return Ok(());
    }
    parse(&log.level)?;
    change(|levels| levels.configured = log.level.clone())
}

/// Logs by other levels than those of the settings, for so long; without end if no time is given.
///
/// # Errors
/// The text is no filter; nothing changes.
pub fn set(level: &str, time: Option<Duration>) -> Result<(), NoFilter> {
    parse(level)?;
    let mut number = 0;
    change(|levels| {
        levels.instead = Some(level.to_owned());
        levels.change += 1;
        number = levels.change;
    })?;
    if let Some(time) = time {
        actix::spawn(async move {
            tokio::time::sleep(time).await;
            let is_ended = change(|levels| {
                if levels.change == number {
                    levels.instead = None;
                }
            });
            debug_assert!(is_ended.is_ok(), "the levels of the settings were read before");
        });
    }
    Ok(())
}

/// Logs by the levels of the settings again.
pub fn reset() {
    let is_reset = change(|levels| {
        levels.instead = None;
        levels.change += 1;
    });
    debug_assert!(is_reset.is_ok(), "the levels of the settings were read before");
}

/// What is logged now.
pub fn current() -> Current {
    let Some(running) = RUNNING.get() else { return Current::default() };
    let levels = running.levels.lock().unwrap_or_else(PoisonError::into_inner);
    let level = levels.instead.as_ref().unwrap_or(&levels.configured).clone();
    Current { level, configured: levels.configured.clone() }
}

/// Changes the levels, and logs by them.
fn change(change: impl FnOnce(&mut Levels)) -> Result<(), NoFilter> {
    let Some(running) = RUNNING.get() else { return Ok(()) };
    let mut levels = running.levels.lock().unwrap_or_else(PoisonError::into_inner);
    let before = levels.clone();
    change(&mut levels);
    let level = levels.instead.as_ref().unwrap_or(&levels.configured);
    if level != before.instead.as_ref().unwrap_or(&before.configured) {
        // fails only if the subscriber is gone, which lives as long as the process
        let _ = running.filter.reload(parse(level)?);
        tracing::info!(level, "the log level has changed");
    }
    Ok(())
}
