//! A search in the numbers of the index, and who of a tree could serve which want.

use super::{Search, Want};
use crate::filter::{Members, Traits};
use crate::index::{Bits, Index, Node};

/// A group's conditions in numbers.
#[derive(Default)]
pub struct Terms {
    pub suffixed: bool,
    /// Of each list at least one.
    pub required: Vec<Vec<u32>>,
    forbidden: Vec<u32>,
    any_of: Vec<Vec<u32>>,
    none_of: Vec<u32>,
    tree: Option<u32>,
}

impl Terms {
    /// `None` when a required trait is nowhere, or a required aggregate has nobody.
    fn new(index: &Index, traits: &Traits, members: &Members) -> Option<Terms> {
        let some = |lists: &[Vec<String>], number: &dyn Fn(&str) -> Option<u32>| -> Option<Vec<Vec<u32>>> {
            let known = |list: &Vec<String>| list.iter().filter_map(|name| number(name)).collect::<Vec<_>>();
            lists.iter().map(|list| Some(known(list)).filter(|known| !known.is_empty())).collect()
        };
        let (name, uuid) = (|name: &str| index.trait_number(name), |uuid: &str| index.aggregate(uuid));
        Some(Terms {
            required: some(&traits.required, &name)?,
            forbidden: traits.forbidden.iter().filter_map(|t| name(t)).collect(),
            any_of: some(&members.any_of, &uuid)?,
            none_of: members.none_of.iter().filter_map(|a| uuid(a)).collect(),
            ..Terms::default()
        })
    }

    fn has_required(&self, node: &Node) -> bool {
        self.required.iter().all(|any| any.iter().any(|t| node.has_trait(*t)))
    }
    fn has_forbidden(&self, node: &Node) -> bool {
        self.forbidden.iter().any(|t| node.has_trait(*t))
    }
    fn is_member(&self, node: &Node) -> bool {
        self.any_of.iter().all(|any| any.iter().any(|a| node.is_in(*a)))
    }
    fn is_barred(&self, node: &Node) -> bool {
        self.none_of.iter().any(|a| node.is_in(*a))
    }
}

pub struct Plan<'a> {
    pub index: &'a Index,
    pub search: &'a Search,
    pub wants: Vec<Want>,
    /// By group.
    pub terms: Vec<Terms>,
    root: Terms,
    /// Groups, by number, whose providers must lie below one of them.
    pub subtrees: Vec<Vec<usize>>,
}

impl<'a> Plan<'a> {
    /// `None` when nothing in the index can serve.
    pub fn new(index: &'a Index, search: &'a Search) -> Option<Plan<'a>> {
        let (mut wants, mut terms) = (Vec::new(), Vec::new());
        for (number, group) in search.groups.iter().enumerate() {
            let mut of = Terms::new(index, &group.traits, &group.members)?;
            of.suffixed = !group.suffix.is_empty();
            if let Some(uuid) = &group.in_tree {
                of.tree = Some(index.node(index.number(uuid)?).root);
            }
            let resources = group.resources.iter().map(|(class, amount)| Some((index.class(class)?, *amount)));
            let resources: Vec<(u32, u64)> = resources.collect::<Option<_>>()?;
            if of.suffixed {
                wants.push(Want { group: number, resources });
            } else {
                wants.extend(resources.into_iter().map(|one| Want { group: number, resources: vec![one] }));
            }
            terms.push(of);
        }
        let group = |suffix: &String| search.groups.iter().position(|g| g.suffix == *suffix);
        let subtrees = search.subtrees.iter().map(|of| of.iter().filter_map(group).collect()).collect();
        let root = Terms::new(index, &search.root, &Members::default())?;
        Some(Plan { index, search, wants, terms, root, subtrees })
    }

    /// The roots of trees that may serve: none that can is missing.
    pub fn trees(&self) -> Bits {
        let index = self.index;
        let shared = |fits: &dyn Fn(&Node) -> bool| index.sharing().iter().any(|n| fits(index.node(*n)));
        let bearers = |any: &[u32]| {
            let mut trees = Bits::default();
            any.iter().for_each(|t| trees.add(index.with_trait(*t)));
            trees
        };
        let mut trees = index.roots().clone();
        for (class, amount) in self.wants.iter().flat_map(|want| &want.resources) {
            if !shared(&|node| node.fits(*class, *amount)) {
                trees.keep(&index.with_room(*class, *amount));
            }
        }
        for any in &self.root.required {
            trees.keep(&bearers(any));
        }
        for terms in &self.terms {
            for any in &terms.required {
                if !shared(&|node| any.iter().any(|t| node.has_trait(*t))) {
                    trees.keep(&bearers(any));
                }
            }
            for any in &terms.any_of {
                if !shared(&|node| any.iter().any(|a| node.is_in(*a))) {
                    let mut around = Bits::default();
                    let members = any.iter().flat_map(|a| index.members(*a));
                    members.for_each(|n| around.set(index.node(*n).root));
                    trees.keep(&around);
                }
            }
            if let Some(root) = terms.tree {
                if !shared(&|node| node.root == root) {
                    let mut only = Bits::default();
                    only.set(root);
                    trees.keep(&only);
                }
            }
        }
        trees
    }

    /// For each want the providers that could serve it in the tree of `root`; `None` when there is a want that nobody could.
    pub fn choices(&self, root: u32) -> Option<Vec<Vec<u32>>> {
        let anchor = self.index.node(root);
        if !self.root.has_required(anchor) || self.root.has_forbidden(anchor) {
            return None;
        }
        let guests = self.guests(root);
        let mut choices = Vec::with_capacity(self.wants.len());
        for want in &self.wants {
            let of: Vec<u32> = anchor.members.iter().chain(&guests).copied().filter(|n| self.serves(want, root, *n)).collect();
            if of.is_empty() {
                return None;
            }
            choices.push(of);
        }
        Some(choices)
    }

    /// Whether a provider could serve a want in the tree of `root`.
    pub fn serves(&self, want: &Want, root: u32, number: u32) -> bool {
        let (terms, anchor, node) = (&self.terms[want.group], self.index.node(root), self.index.node(number));
        let guest = node.root != root;
        let member = match (terms.suffixed, guest) {
            (true, _) => terms.has_required(node) && terms.is_member(node) && !terms.is_barred(node),
            // An aggregate of the root holds for its tree.
            (false, false) => (terms.is_member(node) || terms.is_member(anchor)) && !terms.is_barred(node) && !terms.is_barred(anchor),
            (false, true) => terms.is_member(node) && !terms.is_barred(node) && !terms.is_barred(anchor),
        };
        let tree = terms.tree.is_none_or(|tree| node.root == tree && (terms.suffixed || !guest));
        want.resources.iter().all(|(class, amount)| node.fits(*class, *amount)) && member && tree && !terms.has_forbidden(node)
    }

    /// Providers of other trees that share with somebody of this one.
    fn guests(&self, root: u32) -> Vec<u32> {
        let index = self.index;
        let tree = &index.node(root).members;
        let shares = |number: &u32| {
            let node = index.node(*number);
            node.root != root && tree.iter().any(|member| node.aggregates.iter().any(|a| index.node(*member).is_in(*a)))
        };
        index.sharing().iter().copied().filter(shares).collect()
    }
}
