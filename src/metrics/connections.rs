//! Open connections and how they end.

use super::{
    METRICS,
    labels::{ClosedBy, Dialect, Label},
};

/// Counts a connection as open, from the answer to its handshake until it is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    dialect: Dialect,
    is_open: bool,
}

impl OpenConnection {
    /// A connection whose handshake is not answered yet.
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, is_open: false }
    }

    /// The handshake is accepted.
    pub fn opened(&mut self) {
        METRICS.connections_opened_total.with_label_values(&[self.dialect.as_str()]).inc();
        METRICS.connections.with_label_values(&[self.dialect.as_str()]).inc();
        self.is_open = true;
    }

    /// It speaks another protocol from now on, since its client has authenticated.
    pub fn moved_to(&mut self, dialect: Dialect) {
        if self.is_open {
            METRICS.connections.with_label_values(&[self.dialect.as_str()]).dec();
            METRICS.connections.with_label_values(&[dialect.as_str()]).inc();
        }
        self.dialect = dialect;
    }

    /// It has ended: who has closed it, with which code. A handshake that was refused is no connection.
    pub fn ended(&self, by: ClosedBy, code: u16) {
        if !self.is_open {
            return;
        }
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
        if self.is_open {
            METRICS.connections.with_label_values(&[self.dialect.as_str()]).dec();
        }
    }
}
