//! Limits the concurrent reads of one identity, or of one address without credentials: a client that keeps requesting large
//! pages must not take all connections of the database, nor the memory for building pages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{
    admission::Requester,
    paging::{PAGE_BYTES, WHOLE_BYTES},
};
use crate::{http::errors::ApiError, settings::LiveSettings, store::patience};

/// How long a read waits for others to end: first for those of the same reader, then for lists that are being built. After
/// both waits a request still has enough time for the database.
const PATIENCE: Duration = Duration::from_millis(500);

/// Most bytes of lists that are built at the same time, for all readers together. Rows, values and JSON of a list take up to
/// eight times its size.
const BUILDING_BYTES: usize = WHOLE_BYTES;

/// The reads that are being answered, by reader.
#[derive(Debug)]
pub struct Reads {
    /// for `limits.reads_per_identity`
    settings: LiveSettings,
    readers: Mutex<HashMap<Requester, Arc<Semaphore>>>,
    /// a permit for each [`PAGE_BYTES`]
    building: Semaphore,
}

/// A read that is being answered. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Read {
    reads: Arc<Reads>,
    reader: Requester,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reads {
    /// With the limit of concurrent reads for each reader that the settings have when its first one begins.
    pub fn new(settings: LiveSettings) -> Arc<Self> {
        Arc::new(Self { settings, readers: Mutex::default(), building: Semaphore::new(BUILDING_BYTES / PAGE_BYTES) })
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<Requester, Arc<Semaphore>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read, after others of the same reader if it has reached its limit. `None` if there is no limit.
    ///
    /// # Errors
    /// None of the others has ended in time.
    pub(crate) async fn begin(self: &Arc<Self>, reader: Requester) -> Result<Option<Read>, ApiError> {
        let share = self.settings.load().limits.reads_per_identity;
        if share == 0 {
            return Ok(None);
        }
        let semaphore = self.readers().entry(reader.clone()).or_insert_with(|| Arc::new(Semaphore::new(share))).clone();
        // dropped also if the wait ends early, so that a reader without reads is forgotten
        let mut read = Read { reads: self.clone(), reader, permit: None };
        // counted as a wait for the database, since the others may wait for it
        match patience::wait(timeout(PATIENCE, semaphore.acquire_owned())).await {
            Ok(Ok(Ok(permit))) => {
                read.permit = Some(permit);
                Ok(Some(read))
            }
            _ => Err(ApiError::too_many("limits.reads_per_identity", 1)),
        }
    }
}

impl Reads {
    /// Begins to build a list of at most `bytes`, after others. It ends when the result is dropped.
    ///
    /// # Errors
    /// Too few of the others have ended in time.
    pub(crate) async fn begin_list(&self, bytes: usize) -> Result<SemaphorePermit<'_>, ApiError> {
        let pages = bytes.min(BUILDING_BYTES).div_ceil(PAGE_BYTES) as u32;
        match patience::wait(timeout(PATIENCE, self.building.acquire_many(pages))).await {
            Ok(Ok(Ok(permit))) => Ok(permit),
            _ => Err(ApiError::AtLimit("limits.response_bytes")),
        }
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.permit = None;
        let mut readers = self.reads.readers();
        // nobody else holds it or waits for it
        if readers.get(&self.reader).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            readers.remove(&self.reader);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{domain::ids::ClientId, settings::built_in, store::patience::Patience};

    fn reads(share: usize) -> Arc<Reads> {
        let mut settings = built_in();
        settings.limits.reads_per_identity = share;
        Reads::new(settings.into())
    }

    #[tokio::test]
    async fn a_reader_has_its_share_and_is_forgotten_when_its_reads_have_ended() {
        let reads = reads(2);
        let (one, other) = (Requester::Client(ClientId::random()), Requester::Address(None));
        let first = reads.begin(one.clone()).await.unwrap();
        let second = reads.begin(one.clone()).await.unwrap();
        let mut third = Box::pin(reads.begin(one.clone()));
        assert!((&mut third).now_or_never().is_none());
        let others = reads.begin(other).await.unwrap();
        drop(first);
        let third = third.await.unwrap();
        drop((second, third, others));
        assert!(reads.readers().is_empty());
    }

    #[tokio::test]
    async fn lists_are_built_in_turn_and_whole_ones_count_as_their_pages() {
        let reads = reads(1);
        let pages = [reads.begin_list(PAGE_BYTES).await.unwrap(), reads.begin_list(PAGE_BYTES).await.unwrap()];
        let mut whole = Box::pin(reads.begin_list(WHOLE_BYTES));
        assert!((&mut whole).now_or_never().is_none());
        drop(pages);
        let whole = whole.await.unwrap();
        assert!(reads.begin_list(PAGE_BYTES).now_or_never().is_none());
        drop(whole);
        drop(reads.begin_list(PAGE_BYTES).await.unwrap());
    }

    #[tokio::test]
    async fn a_turn_that_takes_too_long_is_not_the_databases_fault() {
        let reads = reads(1);
        let _first = reads.begin(Requester::Address(None)).await.unwrap();
        let _whole = reads.begin_list(WHOLE_BYTES).await.unwrap();
        let impatient = || Patience::new(Duration::from_millis(10));
        let refused = impatient().during(reads.begin(Requester::Address(None))).await.unwrap_err();
        assert_eq!(refused.code(), "too_many_requests");
        let refused = impatient().during(reads.begin_list(PAGE_BYTES)).await.unwrap_err();
        assert_eq!(refused.code(), "at_limit");
        // both turns, and then there is time left for the database
        Patience::new(4 * PATIENCE)
            .during(async {
                reads.begin(Requester::Address(None)).await.unwrap_err();
                reads.begin_list(PAGE_BYTES).await.unwrap_err();
                patience::wait(async {}).await.unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn a_share_of_zero_is_no_limit() {
        let reads = reads(0);
        for _ in 0..100 {
            assert!(reads.begin(Requester::Address(None)).await.unwrap().is_none());
        }
    }
}
