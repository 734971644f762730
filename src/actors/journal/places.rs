//! The memory for changes that wait to be written.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::{StoreError, patience};

/// The most kilobytes that may wait, of each kind of changes.
const KILOBYTES: usize = 16 * 1024;

/// The place of a change, which is free again when this is dropped.
pub type Place = OwnedSemaphorePermit;

/// Places for changes of one kind. Clones share them.
#[derive(Clone)]
pub struct Places(Arc<Semaphore>);

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Places").field(&self.0.available_permits()).finish()
    }
}

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KILOBYTES)))
    }
}

impl Places {
    /// A place for a change of so many bytes, if there is one now.
    pub fn try_take(&self, bytes: usize) -> Option<Place> {
        self.0.clone().try_acquire_many_owned(kilobytes(bytes)).ok()
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// There is none before the deadline of the request.
    pub async fn take(&self, bytes: usize) -> Result<Place, StoreError> {
        match patience::wait(self.0.clone().acquire_many_owned(kilobytes(bytes))).await {
            Ok(Ok(place)) => Ok(place),
            // out of patience; the semaphore is never closed
            _ => Err(StoreError::late()),
        }
    }
}

fn kilobytes(bytes: usize) -> u32 {
    (bytes / 1024 + 1).min(KILOBYTES) as u32
}
