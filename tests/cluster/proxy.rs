//! A proxy between a node and Redis that can be cut, held up, or led to another server.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::api::support::own_address;

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections are closed, and new ones refused.
    Cut,
    /// Connections stay open, and nothing passes.
    Held,
}

/// Where the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    server: SocketAddr,
    way: Way,
}

/// Listens for a node, and passes its bytes on.
pub struct Proxy {
    address: SocketAddr,
    route: Arc<watch::Sender<Route>>,
}

impl Proxy {
    /// In front of a server.
    pub async fn of(server: SocketAddr) -> Self {
        let address = own_address();
        let listener = TcpListener::bind(address).await.unwrap();
        let route = Arc::new(watch::Sender::new(Route { server, way: Way::Open }));
        let of_connections = route.clone();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(pass_on(client, of_connections.subscribe()));
            }
        });
        Self { address, route }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn set(&self, way: Way) {
        self.route.send_modify(|route| route.way = way);
    }

    /// Leads new connections to this server, and closes those to another one.
    pub fn lead_to(&self, server: SocketAddr) {
        self.route.send_modify(|route| route.server = server);
    }
}

async fn pass_on(mut client: TcpStream, mut route: watch::Receiver<Route>) {
    let began = *route.borrow_and_update();
    if began.way == Way::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(began.server).await else { return };
    let (mut there, mut back) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let now = *route.borrow_and_update();
        if now.way == Way::Cut || now.server != began.server {
            return;
        }
        let is_open = now.way == Way::Open;
        let written = tokio::select! {
            _ = route.changed() => continue,
            read = client.read(&mut there), if is_open => match read {
                Ok(read) if read > 0 => server.write_all(&there[..read]).await,
                _ => return,
            },
            read = server.read(&mut back), if is_open => match read {
                Ok(read) if read > 0 => client.write_all(&back[..read]).await,
                _ => return,
            },
        };
        if written.is_err() {
            return;
        }
    }
}
