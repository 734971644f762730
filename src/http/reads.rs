//! How many reads of one identity, or of one address without credentials, are answered at the same time: a client that asks
//! for large pages all the time must not take all connections of the database, nor the memory that pages are built in.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{domain::ids::ClientId, error::ApiError};

/// How long a read waits for another one of the same reader to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lists that are read whole at the same time, by all readers together: each takes several times its size while it is built.
const WHOLE_LISTS: usize = 2;

/// By whom reads and answers are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Reader {
    Client(ClientId),
    Address(Option<IpAddr>),
}

/// The reads that are being answered, by reader.
#[derive(Debug)]
pub struct Reads {
    /// `limits.reads_per_identity`; 0 is no limit
    share: usize,
    readers: Mutex<HashMap<Reader, Arc<Semaphore>>>,
    /// lists that are read whole
    whole: Semaphore,
}

/// A read that is being answered. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Read {
    reads: Arc<Reads>,
    reader: Reader,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reads {
    /// So many at a time for each reader.
    pub fn new(share: usize) -> Arc<Self> {
        Arc::new(Self { share, readers: Mutex::default(), whole: Semaphore::new(WHOLE_LISTS) })
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<Reader, Arc<Semaphore>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a read, after others of the same reader if it has as many as it may. None: there is no limit.
    ///
    /// # Errors
    /// None of them has ended in time.
    pub(crate) async fn begin(self: &Arc<Self>, reader: Reader) -> Result<Option<Read>, ApiError> {
        if self.share == 0 {
            return Ok(None);
        }
        let semaphore =
            self.readers().entry(reader.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.share))).clone();
        // whatever becomes of the wait, a reader without reads is forgotten
        let mut read = Read { reads: self.clone(), reader, permit: None };
        match tokio::time::timeout(PATIENCE, semaphore.acquire_owned()).await {
            Ok(Ok(permit)) => {
                read.permit = Some(permit);
                Ok(Some(read))
            }
            _ => Err(ApiError::TooMany { limit: "limits.reads_per_identity", retry_after: 1 }),
        }
    }
}

impl Reads {
    /// Begins to read a whole list, after others. It ends when this is dropped.
    ///
    /// # Errors
    /// None of them has ended in time.
    pub(crate) async fn begin_whole_list(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        match tokio::time::timeout(PATIENCE, self.whole.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
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

    #[tokio::test]
    async fn a_reader_has_its_share_and_is_forgotten_when_its_reads_have_ended() {
        let reads = Reads::new(2);
        let (one, other) = (Reader::Client(ClientId::random()), Reader::Address(None));
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
    async fn a_share_of_zero_is_no_limit() {
        let reads = Reads::new(0);
        for _ in 0..100 {
            assert!(reads.begin(Reader::Address(None)).await.unwrap().is_none());
        }
    }
}
