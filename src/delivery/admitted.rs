//! What a session still has to handle of what its peer sent.

use std::cell::Cell;

use crate::protocol::close_code::CloseCode;

/// What the guard has admitted and the session has not handled yet. Shared by the two.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    frames: Cell<u32>,
    /// how to close when all of it is handled; nothing more is admitted
    refused: Cell<Option<CloseCode>>,
}

impl Admitted {
    /// A frame has been admitted.
    pub(crate) fn admit(&self) {
        self.frames.set(self.frames.get() + 1);
    }

    /// Nothing more is admitted. Answers whether all is handled already.
    pub(crate) fn refuse(&self, code: CloseCode) -> bool {
        self.refused.set(Some(code));
        self.frames.get() == 0
    }

    /// Whether nothing more is admitted.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refused.get().is_some()
    }

    /// A frame has been handled. Answers how to close if it was the last one before one that was refused.
    pub(crate) fn handled(&self) -> Option<CloseCode> {
        self.frames.set(self.frames.get().saturating_sub(1));
        self.refused.get().filter(|_| self.frames.get() == 0)
    }
}
