//! When a device tries to connect again after an error (contract section 8).

use std::time::Duration;

use crate::client::{ClientError, Unreachable};

/// The first pause; each further one doubles, up to `LONGEST`.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// The shortest pause after close code 4429.
const AFTER_OVERRUN: Duration = Duration::from_secs(10);

/// The longest `Retry-After` that is followed; longer ones are cut to this.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Computes pauses, which grow with each failed attempt.
#[derive(Debug)]
pub(super) struct Reconnect {
    pause: Duration,
    was_connected: bool,
    waits_for_start: bool,
}

impl Reconnect {
    /// `waits_for_start`: whether to wait for a broker that has not been reached yet.
    pub(super) fn new(waits_for_start: bool) -> Self {
        Self { pause: FIRST, was_connected: false, waits_for_start }
    }

    /// Records that there was a connection. One longer than a minute resets the pause.
    pub(super) fn was_connected(&mut self, lasted: Duration) {
        self.was_connected = true;
        if lasted > LONGEST {
            self.pause = FIRST;
        }
    }

    /// The pause after an error; `None` if another attempt would fail in the same way. `random`, from 0 to 1, spreads the
    /// attempts of devices that lost their broker at the same moment.
    pub(super) fn pause_after(&mut self, error: &ClientError, random: f64) -> Option<Duration> {
        let least = match error {
            ClientError::Closed { code, .. } => match code {
                1000 | 1002 | 1003 | 1007 | 1009 | 4400 | 4403 | 4409 => return None,
                4429 => AFTER_OVERRUN,
                _ => Duration::ZERO,
            },
            ClientError::Refused { status, code, retry_after, .. } => {
                if !status.is_server_error() && !matches!(status.as_u16(), 408 | 425 | 429) {
                    return None;
                }
                // a broker's refusal has a code; without one, a proxy answered whose broker is away, or there is no broker
                let is_broker_away = !code.is_empty() || matches!(status.as_u16(), 408 | 429 | 502..=504);
                if !self.was_connected && !is_broker_away {
                    return None;
                }
                let was_asked_to_wait = matches!(status.as_u16(), 429 | 503) && retry_after.is_some();
                if !self.was_connected && !self.waits_for_start && !was_asked_to_wait {
                    return None;
                }
                retry_after.unwrap_or_default().min(LONGEST_ASKED)
            }
            ClientError::Unreachable { cause, .. } => {
                // such an error may be temporary, but at the first attempt it is more likely a wrong argument
                let is_mistake = matches!(cause, Unreachable::Certificate | Unreachable::Tls | Unreachable::NotHttp);
                if !self.was_connected && (is_mistake || !self.waits_for_start) {
                    return None;
                }
                Duration::ZERO
            }
            // of a running device, since a full disk may get space again
            ClientError::State(_) => {
                if !self.was_connected {
                    return None;
                }
                Duration::ZERO
            }
            ClientError::Broken(_) | ClientError::WebSocket(_) | ClientError::Silent => {
                if !self.was_connected && !self.waits_for_start {
                    return None;
                }
                Duration::ZERO
            }
            ClientError::Url(_)
            | ClientError::Token
            | ClientError::AnotherDevice { .. }
            | ClientError::Tls(_)
            | ClientError::NotJson(_) => return None,
        };
        let pause = self.pause.mul_f64(0.5 + random);
        self.pause = (self.pause * 2).min(LONGEST);
        // never before the end of `Retry-After`
        Some(if pause < least { least + pause } else { pause })
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    fn closed(code: u16) -> ClientError {
        ClientError::Closed { code, reason: String::new() }
    }

    fn refused(status: u16, retry_after: Option<u64>) -> ClientError {
        ClientError::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            code: String::new(),
            detail: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn unreachable(cause: Unreachable) -> ClientError {
        ClientError::Unreachable { cause, url: String::new(), reason: String::new() }
    }

    fn agent() -> Reconnect {
        Reconnect::new(true)
    }

    #[test]
    fn the_close_code_says_whether_to_come_back() {
        for code in [1000, 1002, 1003, 1007, 1009, 4400, 4403, 4409] {
            assert_eq!(agent().pause_after(&closed(code), 0.5), None, "{code}");
        }
        for code in [1001, 1005, 1006, 1011, 1013, 4401, 4408, 4413, 4429] {
            assert!(agent().pause_after(&closed(code), 0.5).is_some(), "{code}");
        }
        assert!(agent().pause_after(&closed(4429), 0.0).unwrap() >= AFTER_OVERRUN);
    }

    #[test]
    fn a_broker_that_asks_for_a_pause_gets_it() {
        for status in [429, 503] {
            for mut reconnect in [agent(), Reconnect::new(false)] {
                let pause = reconnect.pause_after(&refused(status, Some(7)), 0.0).unwrap();
                assert!(pause > Duration::from_secs(7), "{pause:?}");
            }
        }
        let pause = agent().pause_after(&refused(503, Some(u64::MAX)), 1.0).unwrap();
        assert!(pause <= LONGEST_ASKED + LONGEST * 2, "{pause:?}");
        for status in [301, 400, 401, 403, 404, 409, 422] {
            assert_eq!(agent().pause_after(&refused(status, Some(1)), 0.5), None, "{status}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_minute_and_begin_anew_after_a_connection_that_lasted() {
        let mut reconnect = agent();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(reconnect.pause_after(&closed(1006), 0.5).unwrap().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        reconnect.was_connected(Duration::from_secs(1));
        assert_eq!(reconnect.pause_after(&closed(1006), 0.5).unwrap(), LONGEST);
        reconnect.was_connected(LONGEST * 2);
        assert_eq!(reconnect.pause_after(&closed(1006), 0.5).unwrap(), FIRST);
        let spread = [0.0, 1.0].map(|random| agent().pause_after(&closed(1001), random).unwrap());
        assert!(spread[1] >= spread[0] + FIRST, "{spread:?}");
    }

    #[test]
    fn a_state_that_can_not_be_stored_ends_a_start_and_delays_a_running_device() {
        let error = ClientError::State(String::new());
        assert_eq!(agent().pause_after(&error, 0.5), None);
        let mut running = agent();
        running.was_connected(FIRST);
        assert!(running.pause_after(&error, 0.5).is_some());
    }

    #[test]
    fn before_the_first_connection_a_mistake_is_told_at_once() {
        for cause in [Unreachable::Certificate, Unreachable::Tls, Unreachable::NotHttp] {
            assert_eq!(agent().pause_after(&unreachable(cause), 0.5), None);
            let mut later = agent();
            later.was_connected(FIRST);
            assert!(later.pause_after(&unreachable(cause), 0.5).is_some());
        }
        for cause in [Unreachable::Refused, Unreachable::Lookup, Unreachable::Timeout, Unreachable::Other] {
            assert!(agent().pause_after(&unreachable(cause), 0.5).is_some());
            // an interactive client does not wait for a broker that cannot be reached
            assert_eq!(Reconnect::new(false).pause_after(&unreachable(cause), 0.5), None);
        }
        assert_eq!(Reconnect::new(false).pause_after(&refused(502, None), 0.5), None);
        // neither the status of a proxy whose broker is away nor an answer of a broker
        for status in [500, 501, 505] {
            assert_eq!(agent().pause_after(&refused(status, None), 0.5), None, "{status}");
            let mut later = agent();
            later.was_connected(FIRST);
            assert!(later.pause_after(&refused(status, None), 0.5).is_some(), "{status}");
        }
        for status in [502, 503, 504] {
            assert!(agent().pause_after(&refused(status, None), 0.5).is_some(), "{status}");
        }
    }
}
