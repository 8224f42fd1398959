//! Pair merging: the strongest rule that applies anywhere is applied, the leftmost place first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::Merge;

/// Merge rules by the pair they apply to.
#[derive(Debug)]
pub(super) struct Merges {
    by_pair: HashMap<(u32, u32), Rule>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    rank: usize,
    result: u32,
}

/// A symbol of the piece being merged, in a doubly linked list over the piece's places.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    /// `None` once it was merged into its left neighbour.
    id: Option<u32>,
    left: Option<usize>,
    right: Option<usize>,
}

/// A place where a rule applied when it was found: ordered by rank, then by place.
type Candidate = Reverse<(usize, usize, u32, u32)>;

impl Merges {
    pub(super) fn new(merges: &[Merge]) -> Self {
        let rules = merges
            .iter()
            .enumerate()
            .map(|(rank, merge)| ((merge.left, merge.right), Rule { rank, result: merge.result }));
        Self { by_pair: rules.collect() }
    }

    /// Merges one piece's symbols and appends what remains to `out`. O(n log n).
    pub(super) fn apply(&self, piece: Vec<u32>, out: &mut Vec<u32>) {
        let last = piece.len().saturating_sub(1);
        let link = |(at, id): (usize, u32)| Symbol {
            id: Some(id),
            left: at.checked_sub(1),
            right: (at < last).then_some(at + 1),
        };
        let mut symbols: Vec<Symbol> = piece.into_iter().enumerate().map(link).collect();
        let mut candidates: BinaryHeap<Candidate> =
            (0..last).filter_map(|at| self.candidate(&symbols, at)).collect();
        while let Some(Reverse((_, at, left, right))) = candidates.pop() {
            self.merge_at(&mut symbols, at, (left, right), &mut candidates);
        }
        out.extend(symbols.into_iter().filter_map(|symbol| symbol.id));
    }

    /// The rule that applies to the symbol at `at` and its right neighbour.
    fn candidate(&self, symbols: &[Symbol], at: usize) -> Option<Candidate> {
        let symbol = symbols.get(at)?;
        let (left, right) = (symbol.id?, symbols.get(symbol.right?)?.id?);
        let rule = self.by_pair.get(&(left, right))?;
        Some(Reverse((rule.rank, at, left, right)))
    }

    /// Merges the pair at `at` if it is still the one the candidate was found for.
    fn merge_at(
        &self,
        symbols: &mut [Symbol],
        at: usize,
        pair: (u32, u32),
        candidates: &mut BinaryHeap<Candidate>,
    ) {
        let still = self.candidate(symbols, at).is_some_and(|Reverse((_, _, l, r))| (l, r) == pair);
        let Some(rule) = self.by_pair.get(&pair).filter(|_| still) else { return };
        let Some(&Symbol { left, right: Some(gone), .. }) = symbols.get(at) else { return };
        let beyond = symbols.get_mut(gone).and_then(|symbol| {
            symbol.id = None;
            symbol.right
        });
        if let Some(symbol) = symbols.get_mut(at) {
            symbol.id = Some(rule.result);
            symbol.right = beyond;
        }
        if let Some(symbol) = beyond.and_then(|beyond| symbols.get_mut(beyond)) {
            symbol.left = Some(at);
        }
        candidates.extend(left.and_then(|left| self.candidate(symbols, left)));
        candidates.extend(self.candidate(symbols, at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(rules: &[(u32, u32, u32)], piece: &[u32]) -> Vec<u32> {
        let rules: Vec<Merge> =
            rules.iter().map(|&(left, right, result)| Merge { left, right, result }).collect();
        let mut out = Vec::new();
        Merges::new(&rules).apply(piece.to_vec(), &mut out);
        out
    }

    #[test]
    fn the_strongest_rule_goes_first_and_then_the_leftmost_place() {
        // 1 1 -> 2 leaves the odd symbol at the end.
        assert_eq!(merged(&[(1, 1, 2)], &[1, 1, 1, 1, 1]), [2, 2, 1]);
        // 2 3 -> 5 outranks 1 2 -> 4, although 1 2 stands first.
        assert_eq!(merged(&[(2, 3, 5), (1, 2, 4)], &[1, 2, 3]), [1, 5]);
        assert_eq!(merged(&[(1, 2, 4), (2, 3, 5)], &[1, 2, 3]), [4, 3]);
    }

    #[test]
    fn results_merge_on_and_stale_candidates_are_passed_over() {
        let rules = [(1, 2, 12), (12, 3, 123), (3, 4, 34)];
        assert_eq!(merged(&rules, &[1, 2, 3, 4]), [123, 4]);
        assert_eq!(merged(&rules, &[]), [0_u32; 0]);
        assert_eq!(merged(&rules, &[4]), [4]);
    }
}
