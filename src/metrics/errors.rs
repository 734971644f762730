//! Error frames.

use chrono::{DateTime, Utc};

use super::METRICS;
use crate::protocol::{
    error_code::ErrorCode,
    outbound::{self, About},
};

/// An error frame that is sent, and counted.
pub fn error_frame(code: ErrorCode, text: &str, about: About<'_>, now: DateTime<Utc>) -> String {
    METRICS.error_frames_total.with_label_values(&[code.as_str()]).inc();
    outbound::error(code, text, about, now)
}
