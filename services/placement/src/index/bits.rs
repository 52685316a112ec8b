//! Sets of small numbers.

#[derive(Clone, Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    pub fn set(&mut self, n: u32) {
        let word = n as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (n % 64);
    }

    pub fn clear(&mut self, n: u32) {
        if let Some(word) = self.0.get_mut(n as usize / 64) {
            *word &= !(1 << (n % 64));
        }
    }

    pub fn add(&mut self, other: &Bits) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    pub fn keep(&mut self, other: &Bits) {
        self.0.truncate(other.0.len());
        for (word, kept) in self.0.iter_mut().zip(&other.0) {
            *word &= kept;
        }
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(at as u32 * 64 + bit)
            })
        })
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bits(of: &BTreeSet<u32>) -> Bits {
        let mut bits = Bits::default();
        of.iter().for_each(|n| bits.set(*n));
        bits
    }

    proptest! {
        #[test]
        fn they_are_sets(a: BTreeSet<u16>, b: BTreeSet<u16>) {
            let widen = |s: &BTreeSet<u16>| s.iter().map(|n| u32::from(*n)).collect::<BTreeSet<u32>>();
            let (a, b) = (widen(&a), widen(&b));
            let of = |bits: &Bits| bits.iter().collect::<Vec<_>>();
            let (mut sum, mut common, mut less) = (bits(&a), bits(&a), bits(&a));
            sum.add(&bits(&b));
            common.keep(&bits(&b));
            b.iter().for_each(|n| less.clear(*n));
            prop_assert_eq!(of(&sum), a.union(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(of(&common), a.intersection(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(of(&less), a.difference(&b).copied().collect::<Vec<_>>());
            prop_assert!(b.iter().all(|n| !less.iter().any(|left| left == *n)));
        }
    }
}
