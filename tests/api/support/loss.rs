//! A way to the broker on which answers and frames get lost.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::Broker;

/// A proxy that, when told so, cuts the connection instead of passing on an answer to `POST /register`, or a client's text frame.
pub struct LossyProxy {
    pub url: String,
    to_lose: Arc<ToLose>,
}

#[derive(Default)]
struct ToLose {
    answer: AtomicBool,
    frame: AtomicBool,
}

impl LossyProxy {
    /// Starts it; it loses nothing.
    pub async fn start(broker: &Broker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let to_lose = Arc::<ToLose>::default();
        let (broker, lose) = (broker.url.trim_start_matches("http://").to_owned(), to_lose.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (broker, lose) = (broker.clone(), lose.clone());
                tokio::spawn(async move { forward(client, TcpStream::connect(broker).await.unwrap(), &lose).await });
            }
        });
        Self { url, to_lose }
    }

    /// Loses the next answer.
    pub fn lose_next(&self) {
        self.to_lose.answer.store(true, Ordering::SeqCst);
    }

    /// Whether that answer has been lost.
    pub fn has_lost(&self) -> bool {
        !self.to_lose.answer.load(Ordering::SeqCst)
    }

    /// Loses the next text frame of a client.
    pub fn lose_next_frame(&self) {
        self.to_lose.frame.store(true, Ordering::SeqCst);
    }
}

async fn forward(mut client: TcpStream, mut broker: TcpStream, to_lose: &ToLose) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_broker, mut to_broker) = broker.split();
    let (mut request, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_lost = false;
    loop {
        tokio::select! {
            read = from_client.read(&mut request) => {
                let Ok(1..) = read else { return };
                let request = &request[..read.unwrap()];
                is_lost = request.starts_with(b"POST /register ") && to_lose.answer.swap(false, Ordering::SeqCst);
                // a complete text
                if request[0] == 0x81 && to_lose.frame.swap(false, Ordering::SeqCst) {
                    return;
                }
                if to_broker.write_all(request).await.is_err() {
                    return;
                }
            }
            read = from_broker.read(&mut answer) => {
                let Ok(1..) = read else { return };
                if is_lost || to_client.write_all(&answer[..read.unwrap()]).await.is_err() {
                    return;
                }
            }
        }
    }
}
