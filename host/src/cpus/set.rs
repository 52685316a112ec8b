//! Sets of processors as texts: `2-17,^8,20`.

use std::collections::BTreeSet;

use base::{Error, Result};

/// More than any machine has, and all that the kernel's call for affinity takes.
const MOST: u32 = 1024;

/// Numbers and ranges; what begins with `^` is taken out, wherever it stands. Errors name `what`.
pub fn parse(text: &str, what: &str) -> Result<BTreeSet<u32>> {
    let bad = |part: &str| Error::invalid(format!("`{what}`: `{part}` is neither a processor nor a range of them"));
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n < MOST);
    let (mut all, mut out) = (BTreeSet::new(), BTreeSet::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (into, range) = part.strip_prefix('^').map_or((&mut all, part), |rest| (&mut out, rest));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => into.extend(first..=last),
            _ => return Err(bad(part)),
        }
    }
    Ok(&all - &out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ranges_and_exceptions() {
        let set = |text: &str| parse(text, "x").map(|set| set.into_iter().collect::<Vec<_>>()).map_err(|e| e.message().to_string());
        assert_eq!(set("").unwrap(), Vec::<u32>::new());
        assert_eq!(set("2-5,^3, 9").unwrap(), [2, 4, 5, 9]);
        assert_eq!(set("^4-5,0-6").unwrap(), [0, 1, 2, 3, 6]);
        for bad in ["a", "3-1", "1-", "-1", "^", "1024", "1 2"] {
            assert!(set(bad).unwrap_err().starts_with("`x`: "), "{bad}");
        }
    }
}
