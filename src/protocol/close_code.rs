//! Close codes (contract section 8).

/// The reason why the server closes a socket. Codes from 1000 to 1013 are those of RFC 6455; codes 44xx are Switchboard's
/// and follow HTTP status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// 1001: the server is going away, or an agent was replaced. Reconnect with jitter.
    GoingAway,
    /// 1002: the peer violated RFC 6455.
    Protocol,
    /// 1003: a binary frame where only text is supported.
    Unsupported,
    /// 1007: text that is not UTF-8.
    InvalidPayload,
    /// 1009: a frame or message over `limits.frame_bytes`.
    TooBig,
    /// 1011: the server failed.
    ServerError,
    /// 1013: the server is overloaded; the client may try again later.
    TryAgainLater,
    /// 4400: `limits.bad_frames` in a row.
    TooManyBadFrames,
    /// 4401: the token expired or was revoked. Reconnect with a new one.
    Unauthorized,
    /// 4403: the user is disabled, or no longer a member of the room.
    Forbidden,
    /// 4408: nothing was received for `sessions.silence_secs`.
    Silent,
    /// 4409: replaced by a newer socket of the same device.
    Replaced,
    /// 4413: a slow consumer; its backlog exceeded `limits.outbound_bytes`.
    SlowConsumer,
    /// 4429: the peer exceeded `limits.frames_per_second`.
    RateLimited,
}

impl CloseCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::InvalidPayload => 1007,
            Self::TooBig => 1009,
            Self::ServerError => 1011,
            Self::TryAgainLater => 1013,
            Self::TooManyBadFrames => 4400,
            Self::Unauthorized => 4401,
            Self::Forbidden => 4403,
            Self::Silent => 4408,
            Self::Replaced => 4409,
            Self::SlowConsumer => 4413,
            Self::RateLimited => 4429,
        }
    }

    /// The reason text of the close frame; at most 123 bytes (RFC 6455, section 5.5).
    pub fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "going away",
            Self::Protocol => "protocol error",
            Self::Unsupported => "binary frames are not supported",
            Self::InvalidPayload => "text is not valid UTF-8",
            Self::TooBig => "message over limits.frame_bytes",
            Self::ServerError => "server error",
            Self::TryAgainLater => "overloaded, try again later",
            Self::TooManyBadFrames => "too many bad frames in a row (limits.bad_frames)",
            Self::Unauthorized => "token expired or revoked",
            Self::Forbidden => "no longer allowed",
            Self::Silent => "no heartbeat (sessions.silence_secs)",
            Self::Replaced => "replaced by a newer connection",
            Self::SlowConsumer => "slow consumer (limits.outbound_bytes)",
            Self::RateLimited => "rate limit overrun (limits.frames_per_second)",
        }
    }
}

/// Whether a peer may put this number into a close frame (RFC 6455, section 7.4).
pub fn is_valid_from_peer(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

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
