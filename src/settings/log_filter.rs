//! The filter of the log: a level, or levels of modules. A bare level applies to the broker; libraries log only warnings then, since
//! their other lines are too many.

use tracing::Level;
use tracing_subscriber::filter::Targets;

/// A text that is no filter.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("{0}")]
pub struct NoFilter(String);

impl NoFilter {
    /// The same with the place of the text.
    pub fn of(self, source: &str) -> Self {
        Self(format!("bad value for {source}: {}", self.0))
    }
}

/// Reads a filter.
///
/// # Errors
/// What is wrong with it.
pub fn log_filter(given: &str) -> Result<Targets, NoFilter> {
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
        let filter = log_filter("info").unwrap();
        assert!(filter.would_enable("switchboard::http", &Level::INFO));
        assert!(!filter.would_enable("switchboard::http", &Level::DEBUG));
        assert!(filter.would_enable("sqlx", &Level::WARN) && !filter.would_enable("sqlx", &Level::INFO));
        assert!(!filter.would_enable("actix_http::h1", &Level::ERROR));
        assert!(log_filter("debug").unwrap().would_enable("actix_http::h1", &Level::ERROR));
        assert!(!log_filter("OFF").unwrap().would_enable("switchboard", &Level::ERROR));
    }

    #[test]
    fn modules_have_levels_of_their_own() {
        let filter = log_filter("warn,switchboard::http=debug").unwrap();
        assert!(filter.would_enable("switchboard::http::routes", &Level::DEBUG));
        assert!(!filter.would_enable("switchboard::session", &Level::INFO));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_part_that_is_wrong() {
        for (bad, named) in [("loud", "loud"), ("", ""), ("warn, info", " info"), ("a=", "a="), ("warn,,info", "")] {
            let error = log_filter(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{named}\"")), "{bad}: {error}");
        }
        assert!(log_filter("switchboard=loud").is_err());
    }
}
