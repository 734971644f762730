//! The log: lines on stderr, through a filter that can be changed while the program runs.
//!
//! The filter is given as `log.level`: a level, or levels of modules. A bare level applies to the broker; libraries log only warnings
//! then, since their other lines are too many.

use std::{
    io::IsTerminal,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tracing::Level;
use tracing_subscriber::{
    Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::settings::{Log, LogFormat};

/// Longest time that other levels than those of the settings may last for, if one is given.
pub const MOST_SECONDS: u32 = 86_400;

/// A text that is no filter.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct NoFilter(String);

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
    let filter = parse(configured).map_err(|NoFilter(why)| NoFilter(format!("bad value for {source}: {why}")))?;
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

/// Checks levels.
///
/// # Errors
/// The text is no filter.
pub fn check(level: &str) -> Result<(), NoFilter> {
    parse(level).map(|_| ())
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

/// Reads a filter.
fn parse(given: &str) -> Result<Targets, NoFilter> {
    let is_bare = !given.contains(['=', ',']);
    if is_bare && !given.eq_ignore_ascii_case("off") && given.parse::<Level>().is_err() {
        return Err(NoFilter(format!("\"{given}\" is no level: off, error, warn, info, debug, trace")));
    }
    // the framework logs malformed requests and frames as errors, although only the client is at fault; sessions log bad
    // frames themselves
    let is_verbose = given.parse().is_ok_and(|level: Level| level >= Level::DEBUG);
    let others = if is_verbose { "warn,actix_http::ws=off" } else { "warn,actix_http::ws=off,actix_http::h1=off" };
    let directives = if is_bare { format!("{others},switchboard={given}") } else { given.to_owned() };
    // `Targets` would take these for names of modules or levels of its own
    let is_strange = |part: &str| {
        part.is_empty()
            || part.starts_with('=')
            || part.ends_with('=')
            || part.contains(|c: char| c.is_whitespace() || "[]{}".contains(c))
    };
    if let Some(part) = directives.split(',').find(|part| is_strange(part)) {
        return Err(NoFilter(format!(
            "\"{part}\" is neither a level nor MODULE=LEVEL; write for instance warn,switchboard::http=debug, without spaces"
        )));
    }
    directives.parse().map_err(|error| NoFilter(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_that_of_the_broker_and_libraries_log_warnings() {
        let filter = parse("info").unwrap();
        assert!(filter.would_enable("switchboard::http", &Level::INFO));
        assert!(!filter.would_enable("switchboard::http", &Level::DEBUG));
        assert!(filter.would_enable("sqlx", &Level::WARN) && !filter.would_enable("sqlx", &Level::INFO));
        assert!(!filter.would_enable("actix_http::h1", &Level::ERROR));
        assert!(parse("debug").unwrap().would_enable("actix_http::h1", &Level::ERROR));
        assert!(!parse("OFF").unwrap().would_enable("switchboard", &Level::ERROR));
    }

    #[test]
    fn modules_have_levels_of_their_own() {
        let filter = parse("warn,switchboard::http=debug").unwrap();
        assert!(filter.would_enable("switchboard::http::routes", &Level::DEBUG));
        assert!(!filter.would_enable("switchboard::session", &Level::INFO));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_part_that_is_wrong() {
        for (bad, named) in [("loud", "loud"), ("", ""), ("warn, info", " info"), ("a=", "a="), ("warn,,info", "")] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{named}\"")), "{bad}: {error}");
        }
        assert!(parse("switchboard=loud").is_err());
    }
}
