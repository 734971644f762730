//! RFC 6455 framing of the server's frames, which are neither masked nor fragmented.

use bytes::{BufMut, Bytes, BytesMut};

use super::close_code::CloseCode;

/// Frame types (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A text frame.
    Text = 1,
    /// A binary frame.
    Binary = 2,
    /// A frame that begins or answers the close handshake.
    Close = 8,
    /// A ping.
    Ping = 9,
    /// A pong.
    Pong = 10,
}

/// The length on the wire of a frame with `payload` bytes of payload.
pub fn frame_len(payload: usize) -> usize {
    payload
        + match payload {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        }
}

/// Appends the head of a frame with `payload` bytes of payload.
pub fn put_head(buffer: &mut impl BufMut, opcode: Opcode, payload: usize) {
    buffer.put_u8(0x80 | opcode as u8);
    match payload {
        0..126 => buffer.put_u8(payload as u8),
        126..65_536 => {
            buffer.put_u8(126);
            buffer.put_u16(payload as u16);
        }
        _ => {
            buffer.put_u8(127);
            buffer.put_u64(payload as u64);
        }
    }
}

/// Appends a frame whose payload is the concatenation of `parts`.
pub fn put_frame(buffer: &mut impl BufMut, opcode: Opcode, parts: &[&[u8]]) {
    put_head(buffer, opcode, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        buffer.put_slice(part);
    }
}

/// A complete text frame, which can be shared between sessions.
pub fn text(parts: &[&[u8]]) -> Bytes {
    let payload = parts.iter().map(|part| part.len()).sum();
    let mut buffer = BytesMut::with_capacity(frame_len(payload));
    put_frame(&mut buffer, Opcode::Text, parts);
    buffer.freeze()
}

/// The payload of a complete frame that this module has made.
pub fn payload(frame: &Bytes) -> Bytes {
    let head = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.slice(head.min(frame.len())..)
}

/// A close frame with the code and its reason text.
pub fn close(code: CloseCode) -> Bytes {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, Opcode::Close, &[&code.code().to_be_bytes(), code.reason().as_bytes()]);
    buffer.freeze()
}

/// A close frame without a reason, as the answer to a close frame with this code.
pub fn close_echo(code: u16) -> Bytes {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, Opcode::Close, &[&code.to_be_bytes()]);
    buffer.freeze()
}

/// A close frame without a code, as the answer to a close frame without a code.
pub fn empty_close() -> Bytes {
    let mut buffer = BytesMut::new();
    put_frame(&mut buffer, Opcode::Close, &[]);
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_takes_the_shortest_form() {
        for (payload, head) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = text(&[&vec![b'x'; payload]]);
            assert_eq!(frame.len(), payload + head);
            assert_eq!(frame.len(), frame_len(payload));
            assert_eq!(frame[0], 0x81);
            assert_eq!(super::payload(&frame), vec![b'x'; payload]);
        }
    }

    #[test]
    fn every_close_reason_fits_a_control_frame() {
        for code in [CloseCode::TooManyBadFrames, CloseCode::SlowConsumer, CloseCode::RateLimited, CloseCode::Silent] {
            assert!(close(code).len() <= 127);
        }
    }
}
