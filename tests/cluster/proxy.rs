//! A proxy between a node and Redis that can be cut or held up.

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

/// Listens for a node, and passes its bytes on.
pub struct Proxy {
    address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
}

impl Proxy {
    /// In front of a server.
    pub async fn of(server: SocketAddr) -> Self {
        let address = own_address();
        let listener = TcpListener::bind(address).await.unwrap();
        let way = Arc::new(watch::Sender::new(Way::Open));
        let of_connections = way.clone();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                tokio::spawn(pass_on(client, server, of_connections.subscribe()));
            }
        });
        Self { address, way }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn pass_on(mut client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    if *way.borrow_and_update() == Way::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut there, mut back) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let now = *way.borrow_and_update();
        if now == Way::Cut {
            return;
        }
        let is_open = now == Way::Open;
        let written = tokio::select! {
            _ = way.changed() => continue,
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
