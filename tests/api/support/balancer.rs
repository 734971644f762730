//! A balancer in front of the nodes of a broker.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::JoinHandle,
};

/// What runs all balancers, on a thread of its own, since tests wait for commands that use one.
static RUNTIME: LazyLock<Handle> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
});

/// The next of two nodes. The sequence is that of Thue and Morse: any two, or four, in a row go to both, so that neither each
/// second nor each third connection of a test is always for the same node.
pub fn choose<'a, T>(nodes: &'a [T], taken: &AtomicUsize) -> &'a T {
    &nodes[taken.fetch_add(1, Ordering::Relaxed).count_ones() as usize % nodes.len()]
}

/// Passes each connection on to a node. Each request comes with a connection of its own. It ends with the value; its
/// connections end with their nodes.
pub struct Balancer {
    /// Host and port.
    pub address: String,
    accepting: JoinHandle<()>,
}

impl Balancer {
    /// Listens at an address, for nodes at others.
    pub async fn start(address: &str, nodes: Vec<&str>) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let nodes: Vec<_> = nodes.into_iter().map(str::to_owned).collect();
        let accepting = RUNTIME.spawn(async move {
            let (listener, taken) = (TcpListener::from_std(listener).unwrap(), AtomicUsize::new(0));
            while let Ok((client, _)) = listener.accept().await {
                let node = choose(&nodes, &taken).clone();
                tokio::spawn(async move { drop(pass_on(client, node).await) });
            }
        });
        Self { address, accepting }
    }

    /// Stops listening.
    pub async fn stop(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass_on(mut client: TcpStream, node: String) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        // what begins differently is no HTTP, but TLS for example
        if !head[0].is_ascii_uppercase() || head.windows(4).any(|part| part == b"\r\n\r\n") {
            break;
        }
    }
    let mut node = TcpStream::connect(node).await?;
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    node.write_all(&alone(head)).await?;
    copy_bidirectional(&mut client, &mut node).await.map(drop)
}

/// The beginning of a connection. A request asks for the end of the connection after the answer, so that the next one goes to
/// another node perhaps.
fn alone(mut head: Vec<u8>) -> Vec<u8> {
    let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") else { return head };
    let is_upgrade = head[..end].to_ascii_lowercase().windows(10).any(|part| part == b"\r\nupgrade:");
    if !is_upgrade {
        head.splice(end..end, *b"\r\nConnection: close");
    }
    head
}
