//! Counts the received frames that a session has not handled yet.

use std::cell::Cell;

use crate::protocol::close_code::CloseCode;

/// Frames that the inbound guard has admitted and the session has not handled yet. Guard and session share it.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    frames: Cell<u32>,
    /// set when no more frames are admitted: the code to close with once all admitted frames are handled
    refused: Cell<Option<CloseCode>>,
}

impl Admitted {
    /// Counts an admitted frame.
    pub(crate) fn admit(&self) {
        self.frames.set(self.frames.get() + 1);
    }

    /// Stops admission. Returns whether all admitted frames have been handled.
    pub(crate) fn refuse(&self, code: CloseCode) -> bool {
        self.refused.set(Some(code));
        self.frames.get() == 0
    }

    /// Whether admission has stopped.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refused.get().is_some()
    }

    /// Counts a handled frame. Returns the close code if admission has stopped and this was the last admitted frame.
    pub(crate) fn handled(&self) -> Option<CloseCode> {
        self.frames.set(self.frames.get().saturating_sub(1));
        self.refused.get().filter(|_| self.frames.get() == 0)
    }
}
