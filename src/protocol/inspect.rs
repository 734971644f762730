//! Reads frame heads in the incoming stream before payloads are buffered, so that limits apply to the *declared* length.

/// The head of a frame (RFC 6455, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whether it is the last frame of its message.
    pub fin: bool,
    /// The opcode, from 0 to 15.
    pub opcode: u8,
    /// The declared length of the payload in bytes.
    pub len: u64,
    /// The position of the head in the current chunk; 0 if it began in an earlier chunk.
    pub offset: usize,
}

impl Head {
    /// Whether it is a close, ping or pong frame.
    pub fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }

    /// Whether it is a close frame.
    pub fn is_close(&self) -> bool {
        self.opcode == 0x8
    }
}

/// Finds the frame heads in a stream of bytes that arrives in chunks of any size.
#[derive(Debug, Default)]
pub struct Inspector {
    head: [u8; 14],
    have: usize,
    /// bytes of the current payload that are still to come
    payload: u64,
}

impl Inspector {
    /// Returns the next head that is completed in `chunk` after `position`, and advances `position` behind it. Returns
    /// `None` at the end of the chunk.
    pub fn next(&mut self, chunk: &[u8], position: &mut usize) -> Option<Head> {
        let passed = self.payload.min((chunk.len() - *position) as u64);
        self.payload -= passed;
        *position += passed as usize;
        let offset = position.saturating_sub(self.have);
        while self.have < self.wanted() {
            self.head[self.have] = *chunk.get(*position)?;
            self.have += 1;
            *position += 1;
        }
        let len = match self.head[1] & 0x7f {
            126 => u16::from_be_bytes([self.head[2], self.head[3]]).into(),
            127 => self.head[2..10].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
            short => short.into(),
        };
        let head = Head { fin: self.head[0] & 0x80 != 0, opcode: self.head[0] & 0xf, len, offset };
        self.have = 0;
        self.payload = len;
        Some(head)
    }

    /// The length of the head, as far as the bytes read so far tell.
    fn wanted(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        let extended = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extended + mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, 0x89);
        frame
    }

    fn heads(stream: &[u8], chunk: usize) -> Vec<(bool, u8, u64)> {
        let mut inspector = Inspector::default();
        let mut heads = Vec::new();
        for chunk in stream.chunks(chunk) {
            let mut position = 0;
            while let Some(head) = inspector.next(chunk, &mut position) {
                heads.push((head.fin, head.opcode, head.len));
            }
        }
        heads
    }

    #[test]
    fn heads_are_found_however_the_stream_is_cut() {
        let stream =
            [masked(0x81, 5), masked(0x01, 0), masked(0x89, 125), masked(0x80, 300), masked(0x82, 70_000)].concat();
        let expected = [(true, 1, 5), (false, 1, 0), (true, 9, 125), (true, 0, 300), (true, 2, 70_000)];
        for chunk in [1, 2, 3, 7, 64, 1000, stream.len()] {
            assert_eq!(heads(&stream, chunk), expected, "in chunks of {chunk}");
        }
    }

    #[test]
    fn a_huge_declared_length_is_known_from_the_head_alone() {
        let head = [0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 9, 9, 9, 9];
        assert_eq!(heads(&head, 14), [(true, 1, 1 << 40)]);
        let most = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9, 9, 9, 9];
        assert_eq!(heads(&most, 14), [(true, 1, u64::MAX)]);
    }

    #[test]
    fn the_offset_says_what_came_before_the_head_in_this_chunk() {
        let stream = [masked(0x81, 5), masked(0x81, 6)].concat();
        let mut inspector = Inspector::default();
        let mut position = 0;
        assert_eq!(inspector.next(&stream, &mut position).unwrap().offset, 0);
        assert_eq!(inspector.next(&stream, &mut position).unwrap().offset, 11);
        assert_eq!(inspector.next(&stream, &mut position), None);
    }
}
