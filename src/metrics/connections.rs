//! Open connections and how they end.

use super::{
    METRICS,
    labels::{ClosedBy, Dialect, Label},
};

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Dialect);

impl OpenConnection {
    /// A connection is opened.
    pub fn new(dialect: Dialect) -> Self {
        METRICS.connections_opened_total.with_label_values(&[dialect.as_str()]).inc();
        METRICS.connections.with_label_values(&[dialect.as_str()]).inc();
        Self(dialect)
    }

    /// It speaks another protocol from now on, since its client has authenticated.
    pub fn moved_to(&mut self, dialect: Dialect) {
        METRICS.connections.with_label_values(&[self.0.as_str()]).dec();
        METRICS.connections.with_label_values(&[dialect.as_str()]).inc();
        self.0 = dialect;
    }

    /// It has ended: who has closed it, with which code.
    pub fn ended(&self, by: ClosedBy, code: u16) {
        let known = match (by, code) {
            // clients may send thousands of codes
            (ClosedBy::Client, ..1000 | 1015..) => "other".to_owned(),
            _ => code.to_string(),
        };
        METRICS.connections_closed_total.with_label_values(&[by.as_str(), &known]).inc();
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        METRICS.connections.with_label_values(&[self.0.as_str()]).dec();
    }
}
