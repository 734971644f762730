//! When pings and heartbeats of a session are due, and when it is closed for silence or an expired token.

use std::cell::Cell;

/// Periods in seconds (section `[sessions]` of the settings).
#[derive(Debug, Clone, Copy)]
pub struct Periods {
    /// Time between pings.
    pub ping: u32,
    /// Time without any data from the peer after which the session is closed.
    pub silence: u32,
    /// Time between heartbeat frames, for sessions that get them.
    pub heartbeat: u32,
}

/// The times of one session, in seconds of the worker's clock, except for the token's expiry.
#[derive(Debug)]
pub struct Liveness {
    heard: Cell<u32>,
    pinged: Cell<u32>,
    /// the last heartbeat; `None` for sessions without heartbeats
    heartbeat: Cell<Option<u32>>,
    /// when the token expires, in seconds since 1970; `None` if the session outlives its token
    expires_at: Cell<Option<i64>>,
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Send the frames that are due; both may be false.
    Keepalive {
        /// A ping is due.
        ping: bool,
        /// A heartbeat is due.
        heartbeat: bool,
    },
    /// Close: the peer has been silent for too long.
    Silent,
    /// Close: the token has expired.
    Expired,
}

impl Liveness {
    /// A session that starts now.
    pub fn new(now: u32) -> Self {
        Self { heard: Cell::new(now), pinged: Cell::new(now), heartbeat: Cell::new(None), expires_at: Cell::new(None) }
    }

    /// Records that data came from the peer.
    pub fn heard(&self, now: u32) {
        self.heard.set(now);
    }

    /// Starts heartbeats; the first is due after one period.
    pub fn start_heartbeat(&self, now: u32) {
        self.heartbeat.set(Some(now));
    }

    /// Sets the time at which the session ends, in seconds since 1970; `None`: never.
    pub fn expire_at(&self, unix: Option<i64>) {
        self.expires_at.set(unix);
    }

    /// Returns the frames that are due and counts them as sent, or the reason to close the session.
    pub fn check(&self, now: u32, unix: i64, periods: Periods) -> Due {
        if self.expires_at.get().is_some_and(|at| at <= unix) {
            return Due::Expired;
        }
        if now.saturating_sub(self.heard.get()) >= periods.silence {
            return Due::Silent;
        }
        let ping = now.saturating_sub(self.pinged.get()) >= periods.ping;
        if ping {
            self.pinged.set(now);
        }
        let heartbeat = self.heartbeat.get().is_some_and(|last| now.saturating_sub(last) >= periods.heartbeat);
        if heartbeat {
            self.heartbeat.set(Some(now));
        }
        Due::Keepalive { ping, heartbeat }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIODS: Periods = Periods { ping: 25, silence: 60, heartbeat: 30 };

    #[test]
    fn a_quiet_peer_is_pinged_and_a_silent_one_given_up() {
        let session = Liveness::new(0);
        let mut pings = Vec::new();
        for now in 0..60 {
            if session.check(now, 0, PERIODS) == (Due::Keepalive { ping: true, heartbeat: false }) {
                pings.push(now);
            }
        }
        assert_eq!(pings, [25, 50]);
        assert_eq!(session.check(60, 0, PERIODS), Due::Silent);
        session.heard(60);
        assert_eq!(session.check(119, 0, PERIODS), Due::Keepalive { ping: true, heartbeat: false });
    }

    #[test]
    fn heartbeats_go_to_those_who_get_them() {
        let session = Liveness::new(0);
        session.start_heartbeat(10);
        assert_eq!(session.check(39, 0, PERIODS), Due::Keepalive { ping: true, heartbeat: false });
        assert_eq!(session.check(40, 0, PERIODS), Due::Keepalive { ping: false, heartbeat: true });
        assert_eq!(session.check(41, 0, PERIODS), Due::Keepalive { ping: false, heartbeat: false });
    }

    #[test]
    fn a_session_ends_with_its_token_and_a_new_token_extends_it() {
        let session = Liveness::new(0);
        session.expire_at(Some(1000));
        assert_ne!(session.check(1, 999, PERIODS), Due::Expired);
        assert_eq!(session.check(1, 1000, PERIODS), Due::Expired);
        session.expire_at(Some(2000));
        assert_ne!(session.check(1, 1000, PERIODS), Due::Expired);
    }
}
