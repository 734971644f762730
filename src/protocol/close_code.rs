//! Close codes (contract section 8).

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        /// The reason why the server closes a socket. Codes from 1000 to 1013 are those of RFC 6455; codes 44xx are
        /// Switchboard's and follow HTTP status codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CloseCode {
            $($(#[$doc])* $name,)*
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
        }
    };
}

codes! {
    /// The server is going away, or an agent was replaced. Reconnect with jitter.
    GoingAway = 1001, "going away";
    /// The peer violated RFC 6455.
    Protocol = 1002, "protocol error";
    /// A binary frame where only text is supported.
    Unsupported = 1003, "binary frames are not supported";
    /// Text that is not UTF-8.
    InvalidPayload = 1007, "text is not valid UTF-8";
    /// A frame or message over `limits.frame_bytes`.
    TooBig = 1009, "message over limits.frame_bytes";
    /// The server failed.
    ServerError = 1011, "server error";
    /// The server is overloaded; the client may try again later.
    TryAgainLater = 1013, "overloaded, try again later";
    /// Too many bad frames in a row (`limits.bad_frames`).
    TooManyBadFrames = 4400, "too many bad frames in a row (limits.bad_frames)";
    /// The token expired or was revoked. Reconnect with a new one.
    Unauthorized = 4401, "token expired or revoked";
    /// The user is disabled, or no longer a member of the room.
    Forbidden = 4403, "no longer allowed";
    /// Nothing was received for `sessions.silence_secs`.
    Silent = 4408, "no heartbeat (sessions.silence_secs)";
    /// Replaced by a newer socket of the same device.
    Replaced = 4409, "replaced by a newer connection";
    /// A slow consumer; its backlog exceeded `limits.outbound_bytes`.
    SlowConsumer = 4413, "slow consumer (limits.outbound_bytes)";
    /// The peer exceeded `limits.frames_per_second`.
    RateLimited = 4429, "rate limit overrun (limits.frames_per_second)";
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
        let documented: Vec<u16> = rows.filter_map(|row| row.split_whitespace().nth(1)?.parse().ok()).collect();
        let sent: Vec<_> = CloseCode::ALL.iter().map(|code| code.code()).collect();
        assert_eq!(documented, sent);
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
