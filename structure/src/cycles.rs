//! Modules that import each other, directly or indirectly.

use std::collections::{BTreeMap, BTreeSet};

/// The sets of nodes that reach each other, each sorted, in order of their first node. A single node is not a cycle.
///
/// A set is found by what its first node reaches and is reached from: quadratic at worst, which does not matter for the few
/// hundred modules of a crate.
#[must_use]
pub fn cycles<N: Ord + Clone>(edges: &BTreeSet<(N, N)>) -> Vec<BTreeSet<N>> {
    let forward = adjacency(edges.iter().map(|(from, to)| (from, to)));
    let backward = adjacency(edges.iter().map(|(from, to)| (to, from)));
    let mut found: Vec<BTreeSet<N>> = Vec::new();
    for node in forward.keys() {
        if found.iter().any(|cycle| cycle.contains(*node)) {
            continue;
        }
        let cycle: BTreeSet<N> = reachable(&forward, node).intersection(&reachable(&backward, node)).cloned().collect();
        if cycle.len() > 1 {
            found.push(cycle);
        }
    }
    found
}

type Adjacency<'a, N> = BTreeMap<&'a N, BTreeSet<&'a N>>;

fn adjacency<'a, N: Ord>(edges: impl Iterator<Item = (&'a N, &'a N)>) -> Adjacency<'a, N> {
    let mut map: Adjacency<'a, N> = BTreeMap::new();
    for (from, to) in edges {
        map.entry(from).or_default().insert(to);
    }
    map
}

/// `start` and all that its edges lead to.
fn reachable<N: Ord + Clone>(edges: &Adjacency<'_, N>, start: &N) -> BTreeSet<N> {
    let mut seen = BTreeSet::from([start.clone()]);
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        for next in edges.get(node).into_iter().flatten() {
            if seen.insert((*next).clone()) {
                open.push(next);
            }
        }
    }
    seen
}
