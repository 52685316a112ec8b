//! Names as small numbers.

use std::collections::HashMap;
use std::hash::Hash;

/// Each key has a number from 0 on, in the order of first use; none is ever given up.
#[derive(Clone, Debug)]
pub struct Names<K> {
    numbers: HashMap<K, u32>,
    keys: Vec<K>,
}

impl<K> Default for Names<K> {
    fn default() -> Self {
        Names { numbers: HashMap::new(), keys: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash> Names<K> {
    pub fn number(&mut self, key: &K) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = self.keys.len() as u32;
        self.keys.push(key.clone());
        self.numbers.insert(key.clone(), number);
        number
    }

    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.numbers.get(key).copied()
    }

    pub fn key(&self, number: u32) -> &K {
        &self.keys[number as usize]
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }
}
