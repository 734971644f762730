//! Where a request ends in the bytes that a client sends.

/// Bytes that the parser gets at a time.
const MAX_BYTES: usize = 16 * 1024;

/// Bytes that are kept of a line until it ends: more than a line that declares a length has.
const MAX_LINE: usize = 64;

/// Finds the end of a request in the bytes that are given to the parser.
///
/// It need not be exact: the parser alone decides what a request is. Where this is wrong, the parser has to ask for more of
/// a body, or gets the next request together with the end of this one.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// all of the request has been given, or as much of it as can be told
    is_closed: bool,
    /// bytes given since the window was opened
    given: usize,
    /// the beginning of the line that has begun, at most [`MAX_LINE`] bytes of it
    begun: Vec<u8>,
    /// a line has been given since the last empty one
    after_line: bool,
    /// what is given next is the body of a request that does not declare its length
    in_body: bool,
    /// as the lines of the head declare it
    length: usize,
    /// bytes of the declared body that are still to be given
    body: usize,
}

impl Window {
    pub(super) fn is_open(&self) -> bool {
        !self.is_closed && self.given < MAX_BYTES
    }

    pub(super) fn open_for_request(&mut self) {
        (self.is_closed, self.given, self.in_body) = (false, 0, false);
    }

    pub(super) fn open_for_body(&mut self) {
        (self.is_closed, self.given, self.in_body) = (false, 0, self.body == 0);
    }

    /// The length of the part that the parser may have now of bytes that come next. It counts as given.
    pub(super) fn give(&mut self, next: &[u8]) -> usize {
        let next = &next[..next.len().min(MAX_BYTES - self.given)];
        let given = if self.body > 0 { self.give_body(next) } else { self.give_lines(next) };
        self.given += given;
        given
    }

    fn give_body(&mut self, next: &[u8]) -> usize {
        let given = next.len().min(self.body);
        self.body -= given;
        self.is_closed = self.body == 0;
        given
    }

    fn give_lines(&mut self, next: &[u8]) -> usize {
        let mut begin = 0;
        for end in memchr::memchr_iter(b'\n', next) {
            let rest = &next[begin..end];
            begin = end + 1;
            let joined;
            let line = if self.begun.is_empty() {
                rest
            } else {
                self.begin_line(rest);
                joined = std::mem::take(&mut self.begun);
                &joined
            };
            if !matches!(line, b"" | b"\r") {
                self.after_line = true;
                if !self.in_body {
                    self.length = content_length(line).unwrap_or(self.length);
                }
            } else if std::mem::take(&mut self.after_line) {
                self.body = std::mem::take(&mut self.length);
                if self.body > 0 {
                    return begin + self.give_body(&next[begin..]);
                }
                self.is_closed = true;
                return begin;
            }
        }
        self.begin_line(&next[begin..]);
        next.len()
    }

    fn begin_line(&mut self, part: &[u8]) {
        let room = MAX_LINE - self.begun.len();
        self.begun.extend_from_slice(&part[..part.len().min(room)]);
    }
}

/// The length that a line of a head declares for the body.
fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    if line.len() >= MAX_LINE {
        return None;
    }
    let value = line.get(NAME.len()..).filter(|_| line[..NAME.len()].eq_ignore_ascii_case(NAME))?;
    str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of the bytes that the parser gets, one request each. They arrive in chunks.
    fn requests(chunks: &[&str]) -> Vec<String> {
        let (mut window, mut given) = (Window::default(), vec![String::new()]);
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                if window.is_closed {
                    given.push(String::new());
                }
                if window.is_closed || window.body == 0 {
                    window.open_for_request();
                } else {
                    window.open_for_body();
                }
                let (part, later) = rest.split_at(window.give(rest.as_bytes()));
                given.last_mut().unwrap().push_str(part);
                rest = later;
            }
        }
        assert!(window.is_closed);
        given
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: broker\r\n\r\n";
    const POST: &str = "POST / HTTP/1.1\r\ncontent-LENGTH: 9\r\nHost: broker\r\n\r\n\r\n\r\n\n\nabc";

    #[test]
    fn a_request_ends_with_its_head_or_after_the_body_that_it_declares() {
        for request in [GET, POST, "GET / HTTP/1.1\n\n", "GET / HTTP/1.1\n\r\n", "\r\n\n\r\nGET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(requests(&[&request.repeat(3)]), [request; 3]);
        }
    }

    #[test]
    fn the_end_of_a_request_is_found_wherever_its_bytes_are_split() {
        let all = [GET, POST, GET];
        let bytes = all.concat();
        for split in 0..=bytes.len() {
            let (first, second) = bytes.split_at(split);
            assert_eq!(requests(&[first, second]), all, "split at {split}");
        }
        let bytes: Vec<_> = bytes.chars().map(String::from).collect();
        assert_eq!(requests(&bytes.iter().map(String::as_str).collect::<Vec<_>>()), all);
    }

    #[test]
    fn a_line_that_is_cut_short_declares_no_length() {
        let (mut window, line) = (Window::default(), format!("Content-Length: {:0>60}\r\n\r\n", 123_456));
        for byte in line.as_bytes() {
            assert_eq!(window.give(&[*byte]), 1);
        }
        assert!(window.is_closed && window.body == 0);
    }

    #[test]
    fn a_body_of_unknown_length_is_given_up_to_an_empty_line_whatever_its_lines_say() {
        let mut window = Window::default();
        let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(window.give(head), head.len());
        assert!(!window.is_open());
        window.open_for_body();
        let body = b"16\r\nContent-Length: 1000\r\n\r\n";
        assert_eq!(window.give(&[body, GET.as_bytes()].concat()), body.len());
        assert!(!window.is_open());
    }

    #[test]
    fn a_large_body_is_given_in_pieces() {
        let mut window = Window::default();
        let head = b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n";
        let request = [head, [b'\n'; 40_000].as_slice(), GET.as_bytes()].concat();
        assert_eq!(window.give(&request), MAX_BYTES);
        let mut given = MAX_BYTES;
        while !window.is_closed {
            assert!(!window.is_open());
            window.open_for_body();
            given += window.give(&request[given..]);
        }
        assert_eq!(given, request.len() - GET.len());
    }
}
