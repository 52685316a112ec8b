use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::model::{Candidate, candidates};
use super::*;
use crate::claims::{Inventory, Stock};
use crate::index::{News, Provider};

const CLASSES: [&str; 3] = ["VCPU", "DISK_GB", "VGPU"];
const TRAITS: [&str; 4] = ["CUSTOM_A", "CUSTOM_B", "CUSTOM_C", "MISC_SHARES_VIA_AGGREGATE"];

fn uuid(n: usize) -> String {
    format!("00000000-0000-4000-8000-{n:012x}")
}

fn aggregates() -> Vec<String> {
    (100..103).map(uuid).collect()
}

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(|s| s.to_string()).collect()
}

fn stock(class: &str) -> impl Strategy<Value = Stock> + use<> {
    let class = class.to_string();
    (1..9u64, 0..3u64, 1..3u64, 1..9u64, 1..3u64, select(vec![0.5, 1.0, 1.5, 4.0]), 0..6u64).prop_map(
        move |(total, reserved, min_unit, max_unit, step_size, allocation_ratio, used)| {
            let class = class.clone();
            Stock {
                inventory: Inventory { class, total, reserved: reserved.min(total), min_unit, max_unit, step_size, allocation_ratio },
                used,
            }
        },
    )
}

type Parts = (usize, bool, Vec<&'static str>, Vec<String>, Vec<Stock>);

fn forest() -> impl Strategy<Value = Vec<Provider>> {
    let all = (stock(CLASSES[0]), stock(CLASSES[1]), stock(CLASSES[2])).prop_map(|(a, b, c)| vec![a, b, c]);
    let stock = all.prop_flat_map(|all| subsequence(all, 0..=3));
    let one = (0..8usize, prop::bool::weighted(0.6), subsequence(TRAITS.to_vec(), 0..=4), subsequence(aggregates(), 0..=2), stock);
    vec(one, 1..8).prop_map(|parts: Vec<Parts>| {
        let mut forest: Vec<Provider> = Vec::new();
        for (number, (above, nested, traits, aggregates, stock)) in parts.into_iter().enumerate() {
            let parent = (nested && number > 0).then(|| &forest[above % number]);
            let root = parent.map_or_else(|| uuid(number), |p| p.root.clone());
            let parent = parent.map(|p| p.uuid.clone());
            forest.push(Provider { uuid: uuid(number), parent, root, traits: names(&traits), aggregates, stock });
        }
        forest
    })
}

fn traits() -> impl Strategy<Value = Traits> {
    let any = subsequence(TRAITS[..3].to_vec(), 1..=2).prop_map(|any| names(&any));
    (vec(any, 0..2), subsequence(TRAITS.to_vec(), 0..=1), prop::bool::weighted(0.3))
        .prop_map(|(required, forbidden, some)| if some { Traits { required, forbidden: names(&forbidden) } } else { Traits::default() })
}

fn members() -> impl Strategy<Value = Members> {
    (vec(subsequence(aggregates(), 1..=2), 0..2), subsequence(aggregates(), 0..=1), prop::bool::weighted(0.3))
        .prop_map(|(any_of, none_of, some)| if some { Members { any_of, none_of } } else { Members::default() })
}

fn group(suffix: &'static str) -> impl Strategy<Value = Group> {
    let resources = (subsequence(CLASSES.to_vec(), 1..=3), vec(1..4u64, 3));
    let resources = resources.prop_map(|(classes, amounts)| classes.iter().map(|c| c.to_string()).zip(amounts).collect::<Vec<_>>());
    let in_tree = prop::option::weighted(0.1, (0..8usize).prop_map(uuid));
    (resources, traits(), members(), in_tree, prop::bool::weighted(0.15)).prop_map(move |(resources, traits, members, in_tree, bare)| {
        let resources = if bare && !suffix.is_empty() { Vec::new() } else { resources };
        Group { suffix: suffix.into(), resources, traits, members, in_tree }
    })
}

fn search() -> impl Strategy<Value = Search> {
    let groups = (group(""), group("_a"), group("_b"), group("_c")).prop_map(|(none, a, b, c)| vec![none, a, b, c]);
    let groups = groups.prop_flat_map(|all| subsequence(all, 1..=4));
    (groups, any::<bool>(), traits(), subsequence(vec!["_a", "_b", "_c"], 2..=3), prop::bool::weighted(0.4), prop::bool::weighted(0.15))
        .prop_map(|(groups, isolate, root, subtree, nested, flat)| {
            let there: Vec<String> = names(&subtree).into_iter().filter(|s| groups.iter().any(|g| g.suffix == *s)).collect();
            let subtrees = if nested && !there.is_empty() { vec![there] } else { Vec::new() };
            // Clients that do not know trees do not know groups without resources either.
            let flat = flat && groups.iter().all(|g| !g.resources.is_empty());
            Search { groups, isolate, root, subtrees, flat, ..Search::default() }
        })
}

fn index(forest: &[Provider]) -> Index {
    let mut index = Index::default();
    index.apply(News { version: 1, all: true, providers: forest.to_vec(), gone: Vec::new() });
    index
}

fn told(index: &Index, search: &Search, found: &Found) -> Vec<Candidate> {
    let one = |picks: &[u32]| {
        let mut candidate = Candidate::default();
        for (want, number) in found.wants.iter().zip(picks.iter()) {
            let uuid = index.node(*number).uuid.to_string();
            candidate.mappings.entry(search.groups[want.group].suffix.clone()).or_default().insert(uuid.clone());
            for (class, amount) in &want.resources {
                *candidate.amounts.entry((uuid.clone(), index.class_name(*class).into())).or_default() += amount;
            }
        }
        candidate
    };
    found.candidates.iter().map(|picks| one(picks)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_search_finds_what_trying_everything_finds(forest in forest(), search in search(), limit in 1..5usize, seed in any::<u64>()) {
        let index = index(&forest);
        let all = candidates(&forest, &search);
        for order in [Order::DepthFirst, Order::BreadthFirst, Order::Random(seed)] {
            let search = Search { order, ..search.clone() };
            let found = told(&index, &search, &find(&index, &search));
            prop_assert_eq!(found.iter().cloned().collect::<BTreeSet<_>>(), all.clone());
            prop_assert_eq!(found.len(), all.len(), "one twice");
            let search = Search { limit: Some(limit), ..search };
            let some = told(&index, &search, &find(&index, &search));
            prop_assert_eq!(&some[..], &found[..limit.min(all.len())]);
        }
    }
}

fn plain(number: usize, root: usize, class: &str, total: u64) -> Provider {
    let parent = (number != root).then(|| uuid(root));
    let stock = if total == 0 { Vec::new() } else { vec![Stock { inventory: Inventory::of(class, total, 1.0), used: 0 }] };
    Provider { uuid: uuid(number), parent, root: uuid(root), traits: Vec::new(), aggregates: Vec::new(), stock }
}

fn ask(suffix: String, class: &str, amount: u64) -> Group {
    Group { suffix, resources: vec![(class.into(), amount)], ..Group::default() }
}

/// Requests that would be refused, or never answered, if all combinations were tried.
#[test]
fn wide_trees_do_not_take_long() {
    let wide: Vec<Provider> = std::iter::once(plain(0, 0, "VCPU", 8)).chain((1..=64).map(|n| plain(n, 0, "VGPU", 1))).collect();
    let groups = |n: usize| (0..n).map(|n| ask(format!("_{n}"), "VGPU", 1)).collect::<Vec<_>>();
    let index = index(&wide);
    let begun = Instant::now();
    for isolate in [false, true] {
        let search = Search { groups: groups(20), isolate, limit: Some(1000), ..Search::default() };
        assert_eq!(find(&index, &search).candidates.len(), 1000);
        // One more than there are.
        let search = Search { groups: groups(65), isolate, limit: Some(1), ..Search::default() };
        assert_eq!(find(&index, &search).candidates.len(), 0);
    }
    // Enough in all, and yet no device has room for two: only seen by trying.
    let odd: Vec<Provider> = std::iter::once(plain(0, 0, "VCPU", 8)).chain((1..=12).map(|n| plain(n, 0, "VGPU", 3))).collect();
    let pairs = (0..13).map(|n| ask(format!("_{n}"), "VGPU", 2)).collect();
    let search = Search { groups: pairs, limit: Some(1), ..Search::default() };
    assert_eq!(find(&self::index(&odd), &search).candidates.len(), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// Of many trees, those that cannot serve cost next to nothing.
#[test]
fn the_last_tree_with_room_is_found() {
    let forest: Vec<Provider> = (0..20_000).map(|n| plain(n, n, "VCPU", if n == 19_999 { 64 } else { 1 })).collect();
    let index = index(&forest);
    let search = Search { groups: vec![ask(String::new(), "VCPU", 2)], ..Search::default() };
    assert_eq!(find(&index, &search).candidates.len(), 1);
    let plan = plan::Plan::new(&index, &search).unwrap();
    assert_eq!(plan.trees().iter().count(), 1, "others are not even looked at");
}

/// What is said in the decision about the index.
#[test]
fn a_provider_takes_a_few_hundred_bytes() {
    let one = |n: usize| {
        let stock = ["VCPU", "MEMORY_MB", "DISK_GB"].map(|class| Stock { inventory: Inventory::of(class, 64, 16.0), used: 0 });
        Provider { stock: stock.to_vec(), traits: names(&TRAITS), aggregates: aggregates(), ..plain(n, n, "VCPU", 0) }
    };
    let (providers, bytes) = index(&(0..10_000).map(one).collect::<Vec<_>>()).size();
    println!("{} bytes each", bytes / providers);
    assert!(providers == 10_000 && bytes / providers < 512, "{bytes}");
}
