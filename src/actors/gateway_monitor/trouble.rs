//! What keeps the broker from probing as it should. It says nothing of the gateways, but whoever runs the broker should know:
//! one warning when it begins, and a detail in `/readyz` for as long as it lasts.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{board::Board, probe::Unable};
use crate::domain::ids::GatewayId;

/// See the module.
pub(super) struct Trouble {
    /// those whose last probe could not be made
    not_probed: HashSet<GatewayId>,
    /// why not
    unable: Option<Unable>,
    /// a probe came a whole period late
    late: bool,
    period: Duration,
    board: Arc<Board>,
}

impl Trouble {
    pub(super) fn new(period: Duration, board: Arc<Board>) -> Self {
        Self { not_probed: HashSet::new(), unable: None, late: false, period, board }
    }

    /// A probe begins so late. More gateways than can be probed in a period are probed less often.
    pub(super) fn delayed(&mut self, delay: Duration) {
        let late = if self.late { delay > self.period / 2 } else { delay > self.period };
        if late != self.late {
            self.late = late;
            if late {
                let delay_secs = delay.as_secs();
                tracing::warn!(delay_secs, "gateways are probed less often than probes.period_secs says");
            }
            self.tell();
        }
    }

    /// A probe of a gateway could not be made.
    pub(super) fn not_probed(&mut self, id: GatewayId, unable: Unable) {
        let is_new = self.not_probed.insert(id);
        let before = self.unable.replace(unable.clone());
        // once for all of them, until all are probed again
        if before.is_none() {
            tracing::warn!(gateway = %id, "a gateway is not probed: {unable}");
        }
        if is_new || before != self.unable {
            self.tell();
        }
    }

    /// A gateway has been probed, or is there no more.
    pub(super) fn probed(&mut self, id: GatewayId) {
        if !self.not_probed.remove(&id) {
            return;
        }
        if self.not_probed.is_empty() {
            self.unable = None;
            tracing::info!("all gateways are probed again");
        }
        self.tell();
    }

    fn tell(&self) {
        let mut trouble = Vec::new();
        if let Some(unable) = &self.unable {
            trouble.push(format!("not probed: {} ({unable})", self.not_probed.len()));
        }
        if self.late {
            trouble.push(
                "probed less often than probes.period_secs says: there are too many that do not answer".to_owned(),
            );
        }
        self.board.set_trouble((!trouble.is_empty()).then(|| trouble.join("; ")));
    }
}
