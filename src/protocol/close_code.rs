//! Close codes (contract section 8).

macro_rules! codes {
    ($($name:ident = $code:literal, $reason:literal, $because:literal, reconnect: $reconnect:literal;)*) => {
        /// The reason why the server closes a socket. Codes from 1000 to 1013 are those of RFC 6455; codes 44xx are
        /// Switchboard's and follow HTTP status codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CloseCode {
            $(#[doc = $because] $name,)*
        }

        impl CloseCode {
            /// All codes, in the order of the README's table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub fn code(self) -> u16 {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// The reason text of the close frame; at most 123 bytes (RFC 6455, section 5.5).
            pub fn reason(self) -> &'static str {
                match self {
                    $(Self::$name => $reason,)*
                }
            }

            /// Because of what the server closes a socket with it, as the README and `/asyncapi.json` say it.
            pub fn because(self) -> &'static str {
                match self {
                    $(Self::$name => $because,)*
                }
            }

            /// Whether the client should reconnect, as the README and `/asyncapi.json` say it.
            pub fn reconnect(self) -> &'static str {
                match self {
                    $(Self::$name => $reconnect,)*
                }
            }
        }
    };
}

codes! {
    GoingAway = 1001, "going away", "the server is going away (or a user's socket on `/ws` was replaced by a newer one)", reconnect: "yes, a little later";
    Protocol = 1002, "protocol error", "invalid WebSocket frame", reconnect: "no";
    Unsupported = 1003, "binary frames are not supported", "binary frame", reconnect: "no";
    InvalidPayload = 1007, "text is not valid UTF-8", "text that is not UTF-8", reconnect: "no";
    TooBig = 1009, "message over limits.frame_bytes", "frame too large", reconnect: "no";
    ServerError = 1011, "server error", "server error", reconnect: "yes";
    TryAgainLater = 1013, "overloaded, try again later", "server overloaded", reconnect: "yes";
    TooManyBadFrames = 4400, "too many bad frames in a row (limits.bad_frames)", "too many bad frames", reconnect: "after fixing the client";
    Unauthorized = 4401, "token expired or revoked", "token expired or revoked", reconnect: "with a new token";
    Forbidden = 4403, "no longer allowed", "no longer allowed: the user is disabled, or no longer a member of the room", reconnect: "no";
    Silent = 4408, "no heartbeat (sessions.silence_secs)", "silent for too long", reconnect: "yes";
    Replaced = 4409, "replaced by a newer connection", "the same device connected again", reconnect: "no";
    SlowConsumer = 4413, "slow consumer (limits.outbound_bytes)", "reads too slowly", reconnect: "yes";
    RateLimited = 4429, "rate limit overrun (limits.frames_per_second)", "too many frames", reconnect: "after a pause";
}

impl CloseCode {
    /// The key of the limit that the client has exceeded, if it is one.
    pub fn limit(self) -> Option<&'static str> {
        match self {
            Self::TooBig => Some("limits.frame_bytes"),
            Self::TooManyBadFrames => Some("limits.bad_frames"),
            Self::SlowConsumer => Some("limits.outbound_bytes"),
            Self::RateLimited => Some("limits.frames_per_second"),
            _ => None,
        }
    }
}

/// Stands for a close frame without a code (RFC 6455, section 7.1.5).
pub const NO_CODE: u16 = 1005;

/// Whether a peer may put this number into a close frame (RFC 6455, section 7.4).
pub fn is_valid_from_peer(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_codes_in_a_table() {
        let readme = include_str!("../../README.md");
        let (_, table) =
            readme.split_once("| closed with | because | reconnect? |\n| --- | --- | --- |\n").expect("the table");
        let rows = table.lines().take_while(|line| line.starts_with("| "));
        let documented: Vec<_> = rows.collect();
        let sent = CloseCode::ALL.iter();
        let sent = sent.map(|code| format!("| {} | {} | {} |", code.code(), code.because(), code.reconnect()));
        assert_eq!(documented, sent.collect::<Vec<_>>());
    }

    #[test]
    fn reserved_and_unknown_codes_are_no_codes_for_peers() {
        for bad in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535] {
            assert!(!is_valid_from_peer(bad), "{bad}");
        }
        for good in [1000, 1003, 1007, 1011, 3000, 4999] {
            assert!(is_valid_from_peer(good), "{good}");
        }
    }
}
