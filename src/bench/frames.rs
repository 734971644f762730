//! RFC 6455 framing for clients: writes masked frames, parses the heads of the server's frames.

pub(super) use crate::protocol::wire::Opcode;

/// The head of a frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The opcode; 0 is a continuation.
    pub opcode: u8,
    /// Length of the head in bytes.
    pub len: usize,
    /// Length of the payload in bytes.
    pub payload: usize,
}

/// The head at the beginning of the bytes. `None` if it is incomplete.
#[inline]
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (len, payload) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, usize::from(short)),
    };
    Some(Head { opcode: first & 0x0f, len, payload })
}

/// Appends a frame, masked with a new random key.
pub(super) fn put_masked(buffer: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let key: [u8; 4] = rand::random();
    buffer.push(0x80 | opcode as u8);
    match payload.len() {
        len @ 0..126 => buffer.push(0x80 | len as u8),
        len @ 126..65_536 => {
            buffer.push(0x80 | 126);
            buffer.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            buffer.push(0x80 | 127);
            buffer.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    buffer.extend_from_slice(&key);
    let begin = buffer.len();
    buffer.extend_from_slice(payload);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut words = buffer[begin..].chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(bytes) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_frame_unmasks_to_its_payload() {
        for len in [0, 1, 7, 8, 125, 126, 1_003, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut frame = vec![0xff];
            put_masked(&mut frame, Opcode::Text, &payload);
            let found = head(&frame[1..]).unwrap();
            assert_eq!((found.opcode, found.payload), (1, len));
            let key = &frame[1 + found.len..][..4];
            let body = frame[1 + found.len + 4..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
            assert!(body.eq(payload));
        }
    }

    #[test]
    fn a_head_that_is_cut_short_is_none() {
        assert_eq!(head(&[]), None);
        assert_eq!(head(&[0x81]), None);
        assert_eq!(head(&[0x81, 126, 1]), None);
        assert_eq!(head(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0]), None);
        assert_eq!(head(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]), Some(Head { opcode: 2, len: 10, payload: 65_536 }));
    }
}
