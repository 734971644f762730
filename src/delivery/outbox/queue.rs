//! What waits for a socket, in order.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use socket2::Socket;

/// Largest piece that is gathered for one write, and largest chunk that frames are collected in.
const GATHER: usize = 64 * 1024;

enum Chunk {
    /// frames of this session alone
    Own(Vec<u8>),
    /// frames that others get, too
    Shared(Bytes),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

#[derive(Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    /// bytes of the first chunk that are written
    written: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes().len()).sum::<usize>() - self.written
    }

    /// Adds a frame of so many bytes, which `put` writes.
    pub(super) fn append(&mut self, len: usize, put: impl FnOnce(&mut Vec<u8>)) {
        match self.chunks.back_mut() {
            Some(Chunk::Own(buffer)) if buffer.len() + len <= GATHER => put(buffer),
            _ => {
                let mut buffer = Vec::with_capacity(len);
                put(&mut buffer);
                self.chunks.push_back(Chunk::Own(buffer));
            }
        }
    }

    /// Adds frames that others get, too.
    pub(super) fn append_shared(&mut self, frames: Bytes) {
        self.chunks.push_back(Chunk::Shared(frames));
    }

    /// Takes the first chunk out, if it is no larger than that.
    pub(super) fn take_first(&mut self, most: usize) -> Option<Vec<u8>> {
        let first = match self.chunks.front_mut() {
            Some(Chunk::Own(bytes)) if bytes.len() <= most => std::mem::take(bytes),
            _ => return None,
        };
        self.chunks.pop_front();
        Some(first)
    }

    /// Drops what waits, except for a chunk that may be partly out: its end is a frame's end. Answers how many bytes.
    pub(super) fn drop_unwritten(&mut self) -> usize {
        let keep = usize::from(self.written > 0 || matches!(self.chunks.front(), Some(Chunk::Shared(_))));
        self.chunks.drain(keep..).map(|chunk| chunk.bytes().len()).sum()
    }

    /// Writes until the kernel takes no more, and tells each time how much it took. True: nothing is left.
    pub(super) fn write(&mut self, socket: &Socket, scratch: &mut Vec<u8>, took: impl Fn(usize)) -> io::Result<bool> {
        while let Some(first) = self.chunks.front() {
            let first = &first.bytes()[self.written..];
            let piece = if self.chunks.len() == 1 || first.len() >= GATHER {
                first
            } else {
                scratch.clear();
                scratch.extend_from_slice(first);
                for chunk in self.chunks.iter().skip(1) {
                    if scratch.len() + chunk.bytes().len() > GATHER {
                        break;
                    }
                    scratch.extend_from_slice(chunk.bytes());
                }
                scratch.as_slice()
            };
            match socket.send(piece) {
                Ok(taken) => {
                    let all = taken == piece.len();
                    took(taken);
                    self.consume(taken);
                    if !all {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        // idle sessions keep no memory for their queue
        self.chunks = VecDeque::new();
        Ok(true)
    }

    fn consume(&mut self, mut taken: usize) {
        while let Some(first) = self.chunks.front() {
            let rest = first.bytes().len() - self.written;
            if taken < rest {
                self.written += taken;
                return;
            }
            taken -= rest;
            self.written = 0;
            self.chunks.pop_front();
        }
    }
}
