//! The candidates of one tree, one after the other: a search in depth that goes back from what cannot become one.

use std::collections::{HashMap, HashSet};

use super::plan::Plan;

pub struct Combinations<'a> {
    plan: &'a Plan<'a>,
    /// The numbers of wants, those with the least choice first.
    order: Vec<usize>,
    /// By want.
    choices: Vec<Vec<u32>>,
    /// Of the wants in order, as far as they are served: by whom.
    picked: Vec<u32>,
    /// Of those and the next: which choice is tried next.
    next: Vec<usize>,
    /// Whether a candidate was found from there.
    fruitful: Vec<bool>,
    /// What is taken of a provider's class by those that are served.
    taken: HashMap<(u32, u32), u64>,
    /// States from which no candidate was found.
    dead: HashSet<Vec<u64>>,
}

impl<'a> Combinations<'a> {
    /// `None` when it is plain that there are none.
    pub fn new(plan: &'a Plan<'a>, choices: Vec<Vec<u32>>) -> Option<Combinations<'a>> {
        let mut order: Vec<usize> = (0..choices.len()).collect();
        order.sort_by_key(|want| choices[*want].len());
        let (dead, taken) = (HashSet::new(), HashMap::new());
        let it = Combinations { plan, order, choices, picked: Vec::new(), next: vec![0], fruitful: vec![false], taken, dead };
        (it.is_enough() && (!plan.search.isolate || it.is_matched())).then_some(it)
    }

    /// Whether all that could serve have as much left of each class as is wanted in all.
    fn is_enough(&self) -> bool {
        if self.choices.len() == 1 {
            return true;
        }
        let mut wanted: HashMap<u32, (u64, HashSet<u32>)> = HashMap::new();
        for (want, choices) in self.plan.wants.iter().zip(&self.choices) {
            for (class, amount) in &want.resources {
                let (sum, from) = wanted.entry(*class).or_default();
                *sum += amount;
                from.extend(choices);
            }
        }
        let free = |class: u32, number: u32| self.plan.index.node(number).stock(class).map_or(0, |s| s.free());
        wanted.iter().all(|(class, (sum, from))| from.iter().map(|n| free(*class, *n)).fold(0, u64::saturating_add) >= *sum)
    }

    /// Whether the groups with suffixes can have a provider each: a matching, by augmenting paths.
    fn is_matched(&self) -> bool {
        let wants = (0..self.choices.len()).filter(|want| self.is_suffixed(*want));
        let mut held: HashMap<u32, usize> = HashMap::new();
        wants.into_iter().all(|want| self.augment(want, &mut held, &mut HashSet::new()))
    }

    fn augment(&self, want: usize, held: &mut HashMap<u32, usize>, seen: &mut HashSet<u32>) -> bool {
        for number in &self.choices[want] {
            if seen.insert(*number) && held.get(number).copied().is_none_or(|other| self.augment(other, held, seen)) {
                held.insert(*number, want);
                return true;
            }
        }
        false
    }

    fn is_suffixed(&self, want: usize) -> bool {
        self.plan.terms[self.plan.wants[want].group].suffixed
    }

    /// Goes to the next candidate; false when there is none left.
    pub fn advance(&mut self) -> bool {
        if self.picked.len() == self.order.len() {
            self.give_back();
        }
        while let Some(at) = self.next.last_mut() {
            let depth = self.picked.len();
            let want = self.order[depth];
            let Some(number) = self.choices[want].get(*at).copied() else {
                self.leave();
                continue;
            };
            *at += 1;
            if !self.fits(want, number) {
                continue;
            }
            self.take(want, number);
            if depth + 1 == self.order.len() {
                self.fruitful.iter_mut().for_each(|found| *found = true);
                return true;
            }
            if !self.dead.is_empty() && self.dead.contains(&self.state()) {
                self.give_back();
                continue;
            }
            self.next.push(0);
            self.fruitful.push(false);
        }
        false
    }

    /// Of each want, as the search has them, the provider.
    pub fn picks(&self) -> Box<[u32]> {
        let mut picks = vec![0; self.order.len()];
        for (want, number) in self.order.iter().zip(&self.picked) {
            picks[*want] = *number;
        }
        picks.into()
    }

    /// All choices here were tried: back to the want before.
    fn leave(&mut self) {
        self.next.pop();
        if self.fruitful.pop() == Some(false) && !self.picked.is_empty() {
            self.dead.insert(self.state());
        }
        if !self.picked.is_empty() {
            self.give_back();
        }
    }

    fn take(&mut self, want: usize, number: u32) {
        for (class, amount) in &self.plan.wants[want].resources {
            *self.taken.entry((number, *class)).or_default() += amount;
        }
        self.picked.push(number);
    }

    fn give_back(&mut self) {
        let Some(number) = self.picked.pop() else { return };
        for (class, amount) in &self.plan.wants[self.order[self.picked.len()]].resources {
            let key = (number, *class);
            match self.taken.get_mut(&key) {
                Some(sum) if *sum > *amount => *sum -= amount,
                _ => drop(self.taken.remove(&key)),
            }
        }
    }

    /// Wants that are served, with their providers.
    fn served(&self) -> impl Iterator<Item = (usize, u32)> {
        self.order.iter().copied().zip(self.picked.iter().copied())
    }

    /// Whether a provider may serve a want beside what is served already.
    fn fits(&self, want: usize, number: u32) -> bool {
        let (plan, node) = (self.plan, self.plan.index.node(number));
        let room = |(class, amount): &(u32, u64)| {
            let sum = self.taken.get(&(number, *class)).map_or(*amount, |taken| taken + amount);
            node.stock(*class).is_some_and(|s| sum <= s.free() && sum <= u64::from(s.max_unit))
        };
        let alone = || !plan.search.isolate || !self.is_suffixed(want) || !self.served().any(|(w, n)| n == number && self.is_suffixed(w));
        let flat = || {
            let other = |n: u32| n != number && plan.index.node(n).root == node.root;
            !plan.search.flat || !self.served().any(|(_, n)| other(n))
        };
        plan.wants[want].resources.iter().all(room) && alone() && flat() && self.traits_fit(want, number) && self.subtrees_fit(want, number)
    }

    /// What the group without a suffix requires, its providers have together.
    fn traits_fit(&self, want: usize, number: u32) -> bool {
        let group = self.plan.wants[want].group;
        let terms = &self.plan.terms[group];
        let of_group = |want: &usize| self.plan.wants[*want].group == group;
        if terms.suffixed || terms.required.is_empty() || self.order[self.picked.len() + 1..].iter().any(of_group) {
            return true;
        }
        let mut providers: Vec<u32> = self.served().filter(|(w, _)| of_group(w)).map(|(_, n)| n).collect();
        providers.push(number);
        terms.required.iter().all(|any| providers.iter().any(|n| any.iter().any(|t| self.plan.index.node(*n).has_trait(*t))))
    }

    fn subtrees_fit(&self, want: usize, number: u32) -> bool {
        let index = self.plan.index;
        let group = self.plan.wants[want].group;
        self.plan.subtrees.iter().filter(|groups| groups.contains(&group)).all(|groups| {
            let in_it = |want: usize| groups.contains(&self.plan.wants[want].group);
            let mut providers: Vec<u32> = self.served().filter(|(w, _)| in_it(*w)).map(|(_, n)| n).collect();
            providers.push(number);
            if self.order[self.picked.len() + 1..].iter().any(|w| in_it(*w)) {
                return providers.iter().all(|n| index.node(*n).root == index.node(number).root);
            }
            providers.iter().any(|top| providers.iter().all(|n| self.is_below(*n, *top)))
        })
    }

    /// Whether `number` is `top` or lies below it.
    fn is_below(&self, number: u32, top: u32) -> bool {
        let mut at = Some(number);
        while let Some(here) = at {
            if here == top {
                return true;
            }
            at = self.plan.index.node(here).parent;
        }
        false
    }

    /// All that decides what may still come.
    fn state(&self) -> Vec<u64> {
        let (plan, depth) = (self.plan, self.picked.len());
        let left = &self.order[depth..];
        let asked = |class: &u32| left.iter().any(|w| plan.wants[*w].resources.iter().any(|(c, _)| c == class));
        let mut sums: Vec<[u64; 3]> =
            self.taken.iter().filter(|((_, class), _)| asked(class)).map(|((n, c), sum)| [u64::from(*n), u64::from(*c), *sum]).collect();
        sums.sort_unstable();
        let mut state = vec![depth as u64, sums.len() as u64];
        state.extend(sums.into_iter().flatten());
        let mut add = |of: &dyn Fn(usize) -> bool| {
            let mut numbers: Vec<u64> = self.served().filter(|(w, _)| of(*w)).map(|(_, n)| u64::from(n)).collect();
            numbers.sort_unstable();
            numbers.dedup();
            state.push(numbers.len() as u64);
            state.extend(numbers);
        };
        if plan.search.flat {
            add(&|_| true);
        }
        if plan.search.isolate {
            add(&|want| self.is_suffixed(want));
        }
        let open = |groups: &[usize]| left.iter().any(|w| groups.contains(&plan.wants[*w].group));
        for (group, terms) in plan.terms.iter().enumerate() {
            if !terms.suffixed && !terms.required.is_empty() && open(&[group]) {
                add(&|want| plan.wants[want].group == group);
            }
        }
        for groups in plan.subtrees.iter().filter(|groups| open(groups)) {
            add(&|want| groups.contains(&plan.wants[want].group));
        }
        state
    }
}
