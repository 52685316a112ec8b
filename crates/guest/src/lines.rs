//! One object a line, out of bytes that nobody has checked.

use crate::message::LONGEST;

/// Cuts lines out of a stream. What is longer than any message is thrown away up to its newline, so memory is bounded.
#[derive(Debug)]
pub struct Lines {
    part: Vec<u8>,
    skipping: bool,
    longest: usize,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::of(LONGEST)
    }
}

impl Lines {
    /// Those of another length.
    pub fn of(longest: usize) -> Lines {
        Lines { part: Vec::new(), skipping: false, longest }
    }

    /// Takes the bytes up to and with the next newline, and gives that line if it is one; the rest of the bytes is left.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Vec<u8>> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            self.keep(line);
            *bytes = rest;
            let (line, skipped) = (std::mem::take(&mut self.part), std::mem::take(&mut self.skipping));
            if !skipped && line.iter().any(|b| !b.is_ascii_whitespace()) {
                return Some(line);
            }
        }
        self.keep(bytes);
        *bytes = &[];
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipping || self.part.len() + bytes.len() > self.longest {
            self.skipping = true;
            self.part.clear();
        } else {
            self.part.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, mut bytes: &[u8]) -> Vec<String> {
        std::iter::from_fn(|| lines.next(&mut bytes)).map(|l| String::from_utf8_lossy(&l).into_owned()).collect()
    }

    #[test]
    fn pieces_become_lines_and_empty_ones_are_nothing() {
        let mut lines = Lines::default();
        assert_eq!(all(&mut lines, b"\n\nab"), [""; 0]);
        assert_eq!(all(&mut lines, b"c\n \r\nd\n\ne"), ["abc", "d"]);
        assert_eq!(all(&mut lines, b"\n"), ["e"]);
    }

    #[test]
    fn what_is_too_long_is_lost_up_to_its_newline_only() {
        let mut lines = Lines::default();
        for _ in 0..2 {
            assert_eq!(all(&mut lines, &[b'x'; 700]), [""; 0]);
        }
        assert!(lines.part.capacity() <= 2 * LONGEST, "{}", lines.part.capacity());
        assert_eq!(all(&mut lines, b"xx\nnext\n"), ["next"]);
        let exact = "y".repeat(LONGEST);
        assert_eq!(all(&mut lines, format!("{exact}\n{exact}z\nok\n").as_bytes()), [exact, "ok".to_string()]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_leave_the_next_line_whole(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4000),
            piece in 1usize..500,
        ) {
            let mut lines = Lines::default();
            for piece in bytes.chunks(piece) {
                all(&mut lines, piece);
                proptest::prop_assert!(lines.part.len() <= LONGEST);
            }
            let last = all(&mut lines, b"\nwhole\n").pop();
            proptest::prop_assert_eq!(last.as_deref(), Some("whole"));
        }
    }
}
