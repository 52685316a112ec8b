//! Lists in another order.

/// The state of a generator of numbers (SplitMix64): good enough to spread load, and nothing to keep secrets with.
pub struct Shuffle(pub u64);

impl Shuffle {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Every order is as likely as any other.
    pub fn mix<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            // The high half of the product: a number below the count.
            let at = (u128::from(self.next()) * (last as u128 + 1)) >> 64;
            list.swap(last, at as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Shuffle;

    #[test]
    fn every_order_comes_about_as_often() {
        let mut shuffle = Shuffle(1);
        let mut seen: BTreeMap<[u8; 3], u32> = BTreeMap::new();
        for _ in 0..6_000 {
            let mut list = [1, 2, 3];
            shuffle.mix(&mut list);
            *seen.entry(list).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|times| (800..1_200).contains(times)), "{seen:?}");
    }
}
