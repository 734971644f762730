//! Limits the number of connections, and closes idle ones.
//!
//! The framework can only stop accepting, and then `/healthz` hangs as well. So all connections are accepted. Those beyond the
//! limit get an error, but may query the server's health. Each worker keeps few of them that have sent no request yet; a new
//! one takes the place of the oldest. Once a second each worker closes its connections that have been idle for a while, or
//! sooner when few places are left.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    net::{IpAddr, Shutdown},
    rc::{Rc, Weak},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{
    HttpRequest,
    dev::{Extensions, ServiceRequest},
};
use slab::Slab;
use socket2::{SockRef, Socket};

use super::stream::{Pace, PacedStream};
use crate::{
    delivery::tick,
    domain::{admission::Capacity, network},
    http::errors::ApiError,
    metrics::METRICS,
    session::ConnectionSocket,
    settings::LiveSettings,
};

/// Seconds without a request after which a connection is closed. The framework's own timer does not run any more once
/// the first byte of another request has come.
const IDLE_SECS: u32 = 15;

/// The same while places are scarce.
const SCARCE_IDLE_SECS: u32 = 2;

/// What a connection gets that is closed before it has sent a request.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// All connections, shared by all threads.
#[derive(Debug)]
pub struct Connections {
    capacity: Capacity,
    served: AtomicUsize,
    /// for `limits.connections_per_address`, and the trusted proxies, which have no such limit
    settings: LiveSettings,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection; kept by the framework as long as it is open.
pub struct Connection(Rc<Inner>);

struct Inner {
    socket: Rc<Socket>,
    refusal: Option<Refusal>,
    pace: Rc<Pace>,
    idle_since: Cell<u32>,
    /// later ones have greater numbers
    number: u64,
    key: usize,
    _place: Option<Place>,
    _of_address: Option<OfAddress>,
}

/// A connection that is being closed: its socket could not be duplicated.
struct Closed;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Full,
    Address,
}

/// A place among the connections that are served.
struct Place(Arc<Connections>);

impl Drop for Place {
    fn drop(&mut self) {
        METRICS.http_connections.dec();
        self.0.served.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection for its address until it is dropped.
struct OfAddress {
    connections: Arc<Connections>,
    address: IpAddr,
}

impl Drop for OfAddress {
    fn drop(&mut self) {
        let mut addresses = self.connections.addresses();
        if let Some(count) = addresses.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&self.address);
            }
        }
    }
}

thread_local! {
    /// this worker's connections
    static OPEN: RefCell<Slab<Weak<Inner>>> = const { RefCell::new(Slab::new()) };
    static ACCEPTED: Cell<u64> = const { Cell::new(0) };
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("pace", &self.0.pace).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        OPEN.with_borrow_mut(|open| open.try_remove(self.key));
    }
}

impl Connections {
    /// With no connection yet.
    pub fn new(capacity: Capacity, settings: LiveSettings) -> Arc<Self> {
        Arc::new(Self { capacity, served: AtomicUsize::new(0), settings, addresses: Mutex::default() })
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a connection that has been accepted. Called on its worker's thread.
    pub(crate) fn accepted(self: &Arc<Self>, stream: &PacedStream, data: &mut Extensions) {
        let socket = SockRef::from(stream.tcp());
        let socket = match socket.try_clone() {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot duplicate a socket, connection closed");
                refuse(&socket);
                data.insert(Closed);
                return;
            }
        };
        let mut refusal = None;
        let of_address = stream.tcp().peer_addr().ok().and_then(|peer| self.count_address(peer.ip()));
        if of_address.as_ref().is_some_and(|(_, count)| *count > self.settings.load().limits.connections_per_address) {
            refusal = Some(Refusal::Address);
        }
        let place = if refusal.is_none() { self.place() } else { None };
        if place.is_none() {
            refusal.get_or_insert(Refusal::Full);
        }
        let connection = OPEN.with_borrow_mut(|open| {
            let entry = open.vacant_entry();
            let connection = Rc::new(Inner {
                socket: socket.clone(),
                refusal,
                pace: stream.pace(),
                idle_since: Cell::new(tick::clock()),
                number: ACCEPTED.replace(ACCEPTED.get() + 1),
                key: entry.key(),
                _place: place,
                _of_address: of_address.map(|(counted, _)| counted),
            });
            entry.insert(Rc::downgrade(&connection));
            connection
        });
        data.insert(Connection(connection));
        data.insert(ConnectionSocket::new(socket));
        if refusal.is_some() {
            make_room_among_refused(self.capacity.spare_per_worker());
        }
    }

    /// A place for one more connection, if one is free.
    fn place(self: &Arc<Self>) -> Option<Place> {
        METRICS.http_connections.inc();
        let place = Place(self.clone());
        (self.served.fetch_add(1, Ordering::Relaxed) < self.capacity.served()).then_some(place)
    }

    /// Counts a connection for its address, if that is limited. Returns the number of its connections.
    fn count_address(self: &Arc<Self>, peer: IpAddr) -> Option<(OfAddress, usize)> {
        let settings = self.settings.load();
        if settings.limits.connections_per_address == 0 {
            return None;
        }
        let peer = peer.to_canonical();
        if settings.http.trusted_proxies.iter().any(|proxy| proxy.contains(peer)) {
            return None;
        }
        let address = network::limit_key(peer);
        let mut addresses = self.addresses();
        let count = addresses.entry(address).or_default();
        *count += 1;
        Some((OfAddress { connections: self.clone(), address }, *count))
    }

    /// Most connections that one of `workers` workers may hold.
    pub fn most_per_worker(&self, workers: usize) -> usize {
        self.capacity.most_per_worker(workers)
    }

    /// Whether connections should make room for others as soon as they are idle.
    pub fn are_scarce(&self) -> bool {
        self.capacity.is_scarce(self.served.load(Ordering::Relaxed))
    }

    /// Closes this worker's idle connections, once a second, for ever.
    pub async fn close_idle(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let most = if self.are_scarce() { SCARCE_IDLE_SECS } else { IDLE_SECS };
            let now = tick::clock();
            for connection in of_this_worker() {
                // the session of a WebSocket closes it
                let idle = connection.pace.requests() == 0 && !connection.pace.is_upgraded();
                if idle && now.saturating_sub(connection.idle_since.get()) > most {
                    connection.shut_down();
                }
            }
        }
    }
}

fn of_this_worker() -> Vec<Rc<Inner>> {
    OPEN.with_borrow(|open| open.iter().filter_map(|(_, connection)| connection.upgrade()).collect())
}

/// Closes the oldest connections beyond the limit that have sent no request: a new one may query the server's health.
fn make_room_among_refused(most: usize) {
    let mut refused: Vec<_> =
        of_this_worker().into_iter().filter(|one| one.refusal.is_some() && one.pace.requests() == 0).collect();
    if refused.len() > most {
        refused.sort_by_key(|one| one.number);
        refused.iter().take(refused.len() - most).for_each(|one| refuse(&one.socket));
    }
}

fn refuse(socket: &Socket) {
    // an error does not matter: the peer may be gone, or take nothing
    let _ = socket.send(FULL);
    let _ = socket.shutdown(Shutdown::Both);
}

impl Inner {
    fn shut_down(&self) {
        // fails when the peer is gone already
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Resets the connection and drops the buffers of both directions. A peer that is blocked in writing would otherwise notice
    /// a minute later.
    fn reset(&self) {
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.shut_down();
    }
}

/// A request in progress. Its connection is not idle until this is dropped.
pub struct Busy(Rc<Inner>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle_since.set(tick::clock());
        self.0.pace.end();
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        self.0.pace.begin();
        Self(self.0.clone())
    }
}

impl Busy {
    /// Its connection becomes a WebSocket.
    pub(super) fn upgraded(&self) {
        self.0.pace.upgrade();
    }

    /// Whether its connection is one that is not served.
    pub(super) fn is_refused(&self) -> bool {
        self.0.refusal.is_some()
    }

    /// Resets its connection.
    pub(super) fn reset(&self) {
        self.0.reset();
    }
}

/// Resets the connection of a long answer.
pub(super) struct Cutter(Option<Rc<Inner>>);

impl Cutter {
    /// For a request's connection.
    pub(super) fn of(request: &HttpRequest) -> Self {
        Self(request.conn_data::<Connection>().map(|connection| connection.0.clone()))
    }

    /// Resets the connection.
    pub(super) fn cut(&self) {
        self.0.iter().for_each(|connection| connection.reset());
    }
}

/// What decides when more is read of a request's connection.
pub(super) fn pace(request: &HttpRequest) -> Option<Rc<Pace>> {
    request.conn_data::<Connection>().map(|connection| connection.0.pace.clone())
}

/// Marks the request's connection as busy until the result is dropped.
///
/// # Errors
/// The connection is one that is not served.
pub(super) fn begin(request: &ServiceRequest) -> Result<Option<Busy>, ApiError> {
    let Some(Connection(connection)) = request.conn_data::<Connection>() else {
        // a closed connection may have sent a request before
        let is_closed = request.conn_data::<Closed>().is_some();
        return if is_closed { Err(ApiError::AtLimit("limits.connections")) } else { Ok(None) };
    };
    let about_health = matches!(request.path().trim_end_matches('/'), "/healthz" | "/readyz");
    match connection.refusal {
        Some(Refusal::Full) if !about_health => return Err(ApiError::AtLimit("limits.connections")),
        Some(Refusal::Address) if !about_health => {
            return Err(ApiError::too_many("limits.connections_per_address", 10));
        }
        _ => {}
    }
    connection.pace.begin();
    Ok(Some(Busy(connection.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::built_in;

    #[test]
    fn connections_of_one_64_are_counted_together_and_those_of_proxies_not_at_all() {
        let mut settings = built_in();
        settings.limits.connections_per_address = 3;
        settings.http.trusted_proxies = vec!["2001:db8:0:9::/64".parse().unwrap()];
        let connections = Connections::new(Capacity::of(1000, 0, 0, 1), settings.into());
        let count = |address: &str| connections.count_address(address.parse().unwrap());
        let number = |counted: &Option<(OfAddress, usize)>| counted.as_ref().map(|(_, number)| *number);
        let (first, second) = (count("2001:db8:0:1::1"), count("2001:db8:0:1:ffff::2"));
        assert_eq!((number(&first), number(&second)), (Some(1), Some(2)));
        assert_eq!(number(&count("2001:db8:0:2::1")), Some(1));
        assert_eq!(number(&count("192.0.2.1")), Some(1));
        assert_eq!(number(&count("2001:db8:0:9::1")), None);
        drop(first);
        assert_eq!(number(&count("2001:db8:0:1::3")), Some(2));
        drop(second);
        assert!(connections.addresses().is_empty());
    }
}
