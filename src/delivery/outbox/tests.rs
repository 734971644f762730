use chrono::Utc;
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;

/// An open outbox and the peer of its socket.
async fn open() -> (Rc<Outbox>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = listener.accept().await.unwrap().0.into_std().unwrap();
    let limits = OutboxLimits { bytes: 1000, send_timeout: Duration::ZERO };
    let outbox = Outbox::new(SessionHandle::new(0, 0, Utc::now()), Rc::new(socket.into()), limits, Dialect::Device);
    outbox.head_out();
    actix::spawn(tick::run());
    (outbox, peer)
}

/// Reads until the connection ends.
async fn read(mut peer: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), peer.read_to_end(&mut bytes)).await.unwrap().unwrap();
    bytes
}

/// Reserves bytes for a frame, as another thread does before it hands the frame over.
fn reserve(outbox: &Outbox, text: &str) -> Bytes {
    let frame = wire::text(&[text.as_bytes()]);
    assert!(outbox.handle().reserve(frame.len(), 1000));
    frame
}

#[actix_web::test]
async fn frames_that_were_handed_over_before_the_close_go_out_before_the_close_frame() {
    let close = wire::close(CloseCode::Replaced);
    for peer_begins in [false, true] {
        let (outbox, peer) = open().await;
        outbox.text(&[b"queued"]);
        let (first, second) = (reserve(&outbox, "first"), reserve(&outbox, "second"));
        if peer_begins {
            outbox.peer_closed(&close, 1000);
        } else {
            outbox.close(CloseCode::Replaced);
        }
        assert!(!outbox.handle().is_open() && !outbox.handle().reserve(1, 0), "it takes nothing more");
        outbox.send_reserved(first.clone());
        // the tick ends between the two: the first frame is written, and the connection stays open
        outbox.flush(&mut Vec::new());
        outbox.send_reserved(second.clone());
        outbox.peer_closed(&[], 1005);
        assert_eq!(read(peer).await, [wire::text(&[b"queued"]), first, second, close.clone()].concat());
    }
}

#[actix_web::test]
async fn the_end_of_a_slow_consumer_waits_for_nothing() {
    let (outbox, peer) = open().await;
    let late = reserve(&outbox, "late");
    outbox.text(&[b"backlog"]);
    assert!(!outbox.text(&[&[b'x'; 1000]]));
    outbox.send_reserved(late);
    outbox.overrun();
    outbox.peer_closed(&[], 1005);
    assert_eq!(read(peer).await, wire::close(CloseCode::SlowConsumer));
    assert_eq!(outbox.handle().queued(), 0);
}

#[actix_web::test]
async fn a_session_that_is_cut_takes_nothing_that_comes_late() {
    let (outbox, peer) = open().await;
    let late = reserve(&outbox, "late");
    outbox.close(CloseCode::Replaced);
    outbox.finish();
    outbox.send_reserved(late);
    assert_eq!(read(peer).await, b"");
    assert_eq!(outbox.handle().queued(), 0);
}

#[actix_web::test]
async fn a_publication_comes_after_the_direct_message_that_was_queued_before_it_in_the_same_tick() {
    let (outbox, peer) = open().await;
    let close = wire::close(CloseCode::Replaced);
    outbox.text(&[b"direct"]);
    outbox.send_shared(&wire::text(&[b"publication"]), 1);
    outbox.peer_closed(&close, 1000);
    outbox.flush(&mut Vec::new());
    assert_eq!(read(peer).await, [wire::text(&[b"direct"]), wire::text(&[b"publication"]), close].concat());
}
