//! A byte stream of watch events, cut at its line ends.

/// Longest frame accepted unless told otherwise, in bytes. etcd refuses objects beyond 1.5 MB; escaping and types that
/// live elsewhere get an order of magnitude more.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;

/// Capacity that an empty buffer keeps; what a rare large event needed beyond it is given back.
const KEPT_CAPACITY: usize = 256 * 1024;

/// A frame was longer than the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a watch event is longer than {limit} bytes and was skipped; its object is stale until the next list")]
pub struct FrameError {
    /// The limit in bytes.
    pub limit: usize,
}

/// Cuts a stream that arrives in chunks of any size into lines.
///
/// A line that grows beyond the limit is reported once and skipped up to its end, so one hostile object neither fills
/// the memory nor ends the stream.
#[derive(Debug)]
pub struct FrameSplitter {
    buffer: Vec<u8>,
    /// Bytes before this offset were handed out.
    consumed: usize,
    /// Bytes before this offset hold no line end that was not handed out.
    scanned: usize,
    limit: usize,
    skipping: bool,
}

impl Default for FrameSplitter {
    fn default() -> Self {
        Self::new(MAX_FRAME)
    }
}

impl FrameSplitter {
    /// A splitter that refuses frames of more than `limit` bytes, the line end not counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), consumed: 0, scanned: 0, limit, skipping: false }
    }

    /// Adds what arrived. Call [`Self::next_frame`] until it gives `None` before adding more.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.consumed.min(self.buffer.len()));
        self.scanned = self.scanned.saturating_sub(self.consumed);
        self.consumed = 0;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(KEPT_CAPACITY);
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// The next complete line, without its end; blank lines are left out. `None`: more bytes are needed.
    ///
    /// # Errors
    /// A frame beyond the limit; the splitter goes on with the frame after it.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        loop {
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unscanned) else {
                self.scanned = self.buffer.len();
                return self.check_unfinished().map(|()| None);
            };
            let (from, to) = (self.consumed, self.scanned + found);
            self.consumed = to + 1;
            self.scanned = to + 1;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if to - from > self.limit {
                return Err(FrameError { limit: self.limit });
            }
            if !self.buffer.get(from..to).unwrap_or_default().trim_ascii().is_empty() {
                return Ok(self.buffer.get(from..to));
            }
        }
    }

    /// Bytes of an unfinished frame; more than 0 when a stream ended in the middle of an event.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.buffer.len() - self.consumed
    }

    /// The stream has ended: what came after the last line end, if there is anything.
    #[must_use]
    pub fn finish(&mut self) -> Option<&[u8]> {
        let rest = self.buffer.get(self.consumed..).unwrap_or_default();
        self.consumed = self.buffer.len();
        self.scanned = self.buffer.len();
        Some(rest.trim_ascii()).filter(|rest| !self.skipping && !rest.is_empty())
    }

    fn check_unfinished(&mut self) -> Result<(), FrameError> {
        if self.skipping {
            self.consumed = self.buffer.len();
            return Ok(());
        }
        if self.unfinished() <= self.limit {
            return Ok(());
        }
        self.consumed = self.buffer.len();
        self.skipping = true;
        Err(FrameError { limit: self.limit })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(splitter: &mut FrameSplitter) -> Vec<Result<String, FrameError>> {
        let mut seen = Vec::new();
        loop {
            match splitter.next_frame() {
                Ok(None) => return seen,
                Ok(Some(frame)) => seen.push(Ok(String::from_utf8(frame.to_vec()).unwrap())),
                Err(error) => seen.push(Err(error)),
            }
        }
    }

    #[test]
    fn an_unfinished_frame_waits_for_its_end() {
        let mut splitter = FrameSplitter::default();
        splitter.push(b"{\"a\":1}\n{\"b\"");
        assert_eq!(frames(&mut splitter), [Ok("{\"a\":1}".to_owned())]);
        assert_eq!(splitter.unfinished(), 4);
        splitter.push(b":2}\n");
        assert_eq!(frames(&mut splitter), [Ok("{\"b\":2}".to_owned())]);
        assert_eq!(splitter.unfinished(), 0);
        splitter.push(b" {\"c\"");
        assert_eq!(frames(&mut splitter), []);
        assert_eq!(splitter.finish(), Some(&b"{\"c\""[..]));
        assert_eq!(splitter.finish(), None);
        assert_eq!(splitter.unfinished(), 0);
    }

    #[test]
    fn a_frame_beyond_the_limit_costs_neither_memory_nor_the_frames_after_it() {
        let mut splitter = FrameSplitter::new(8);
        splitter.push(b"12345678\n123456789\nnext\n");
        let too_long = || Err(FrameError { limit: 8 });
        assert_eq!(frames(&mut splitter), [Ok("12345678".to_owned()), too_long(), Ok("next".to_owned())]);

        splitter.push(b"123456789");
        assert_eq!(frames(&mut splitter), [too_long()]);
        for _ in 0..1000 {
            splitter.push(b"and so on without an end");
            assert_eq!(frames(&mut splitter), []);
            assert!(splitter.buffer.len() < 64, "skipped bytes are kept");
        }
        splitter.push(b"\nback\n");
        assert_eq!(frames(&mut splitter), [Ok("back".to_owned())]);
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_how_the_stream_is_cut(
            lines in prop::collection::vec("[a-z{}\": \r]{0,40}", 0..12),
            cuts in prop::collection::vec(1_usize..30, 1..40),
        ) {
            let limit = 32;
            let stream: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
            let expected: Vec<_> = lines
                .iter()
                .filter(|line| line.len() > limit || !line.trim().is_empty())
                .map(|line| if line.len() > limit { Err(FrameError { limit }) } else { Ok(line.clone()) })
                .collect();

            let mut splitter = FrameSplitter::new(limit);
            let mut seen = Vec::new();
            let mut rest = stream.as_bytes();
            for cut in cuts.iter().cycle() {
                let (chunk, behind) = rest.split_at((*cut).min(rest.len()));
                splitter.push(chunk);
                seen.extend(frames(&mut splitter));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(splitter.unfinished(), 0);
        }
    }
}
