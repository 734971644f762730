//! The frames that wait for a socket, in order.

use std::{collections::VecDeque, io};

use bytes::Bytes;
use socket2::Socket;

/// Largest buffer for one write, and largest chunk in which frames are collected.
const GATHER: usize = 64 * 1024;

enum Chunk {
    /// frames for this session only
    Own(Vec<u8>),
    /// frames that are shared with other sessions
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
    /// number of bytes of the first chunk that are written already
    written: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The number of bytes that are not written yet.
    pub(super) fn len(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes().len()).sum::<usize>() - self.written
    }

    /// Adds a frame of `len` bytes, which `put` appends to the buffer.
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

    /// Adds frames that are shared with other sessions, without a copy.
    pub(super) fn append_shared(&mut self, frames: Bytes) {
        self.chunks.push_back(Chunk::Shared(frames));
    }

    /// Removes and returns the first chunk, if it is not shared and has at most `most` bytes.
    pub(super) fn take_first(&mut self, most: usize) -> Option<Vec<u8>> {
        let first = match self.chunks.front_mut() {
            Some(Chunk::Own(bytes)) if bytes.len() <= most => std::mem::take(bytes),
            _ => return None,
        };
        self.chunks.pop_front();
        Some(first)
    }

    /// Drops the queue, except for the first chunk if it may be partly written: a chunk ends at the end of a frame. Returns
    /// the number of dropped bytes.
    pub(super) fn drop_unwritten(&mut self) -> usize {
        let keep = usize::from(self.written > 0 || matches!(self.chunks.front(), Some(Chunk::Shared(_))));
        self.chunks.drain(keep..).map(|chunk| chunk.bytes().len()).sum()
    }

    /// Writes until the kernel takes no more, and calls `took` with the number of bytes after each write. Returns true if
    /// the queue is empty.
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
        // frees the queue's memory, so that idle sessions hold none
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
