//! Which experts a row goes to, and with which weights: a function of its router logits.
//!
//! The choice is an order of f32 numbers, the weights a softmax over integers as in attention, so
//! both are as exact as the logits, and a row's choice does not depend on other rows.

use crate::attend::{self, Score};
use crate::feed_forward::Rule;
use crate::flags::Flags;
use crate::num::{self, Overflow};

/// The experts of every row of a batch.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Choice {
    used: usize,
    /// Row after row, increasing in each.
    experts: Vec<u32>,
    weights: Vec<f32>,
}

/// The rows of a batch that go to one expert.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Group {
    /// The index of the expert in its layer.
    pub expert: u32,
    /// Indexes of rows, increasing.
    pub rows: Vec<usize>,
    /// The expert's weight in each of them.
    pub weights: Vec<f32>,
}

impl Choice {
    /// Chooses for every row of `logits`, `experts` numbers each. A row in which one of them is too
    /// large is flagged; its logits count as zeros.
    #[must_use]
    pub fn new(rule: Rule, experts: usize, logits: &[f32], flags: &mut Flags) -> Self {
        let mut choice = Self { used: rule.used as usize, ..Self::default() };
        for (row, logits) in logits.chunks_exact(experts.max(1)).enumerate() {
            let scores = logits.iter().map(|&logit| attend::split(logit * num::LOG2_E));
            match scores.collect::<Result<Vec<Score>, Overflow>>() {
                Ok(scores) => choice.push(&choose(rule, logits, &scores)),
                Err(Overflow) => {
                    flags.set(row);
                    choice.push(&choose(rule, &vec![0.0; experts], &vec![Score::ZERO; experts]));
                }
            }
        }
        choice
    }

    /// Appends a row: pairs of expert and weight, in increasing order of experts.
    fn push(&mut self, chosen: &[(u32, f32)]) {
        self.experts.extend(chosen.iter().map(|(expert, _)| expert));
        self.weights.extend(chosen.iter().map(|(_, weight)| weight));
    }

    /// Returns the experts of a row, in increasing order.
    #[must_use]
    pub fn of_row(&self, row: usize) -> &[u32] {
        let start = row * self.used;
        &self.experts[start..start + self.used]
    }

    /// Returns the rows that go to an expert, each with the expert's place among those of the row.
    pub fn rows_of(&self, expert: u32) -> impl Iterator<Item = (usize, usize)> {
        let all = self.experts.iter().enumerate();
        all.filter(move |(_, chosen)| **chosen == expert)
            .map(|(at, _)| (at / self.used, at % self.used))
    }

    /// Returns the rows of each of `experts` experts that has any, in increasing order of experts.
    #[must_use]
    pub fn groups(&self, experts: usize) -> Vec<Group> {
        let mut groups = vec![Group::default(); experts];
        for (at, (&expert, &weight)) in self.experts.iter().zip(&self.weights).enumerate() {
            let group = &mut groups[expert as usize];
            group.expert = expert;
            group.rows.push(at / self.used);
            group.weights.push(weight);
        }
        groups.retain(|group| !group.rows.is_empty());
        groups
    }
}

/// The chosen experts of a row with their weights, in increasing order of experts. `scores` are
/// those of its `logits`.
fn choose(rule: Rule, logits: &[f32], scores: &[Score]) -> Vec<(u32, f32)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // Stable: of equal logits (-0 and +0 are) the lower index comes first.
    order.sort_by(|&a, &b| {
        // default: scores are numbers, so their logits have an order
        logits[b].partial_cmp(&logits[a]).unwrap_or(core::cmp::Ordering::Equal)
    });
    let top = order.first().map_or(0, |&best| scores[best].n);
    let weight = |&expert: &usize| attend::denominator_weight(scores[expert], top);
    let all: i64 = order.iter().map(|expert| i64::from(weight(expert))).sum();
    order.truncate(rule.used as usize);
    let chosen: i64 = order.iter().map(|expert| i64::from(weight(expert))).sum();
    let total = if rule.normalise { chosen } else { all };
    order.sort_unstable();
    let share = |expert: &usize| weight(expert) as f32 / total as f32;
    order.iter().map(|expert| (*expert as u32, share(expert))).collect()
}

#[cfg(test)]
mod tests {
    use core::f32::consts::LN_2;

    use super::*;
    use crate::state::State;

    fn choice(rule: Rule, experts: usize, logits: &[f32]) -> (Choice, Vec<bool>) {
        let rows = logits.len() / experts;
        let mut flags = Flags::of(&State::zeros(rows, 1));
        let choice = Choice::new(rule, experts, logits, &mut flags);
        (choice, (0..rows).map(|row| flags.get(row)).collect())
    }

    #[test]
    fn the_largest_logits_are_chosen_and_of_equal_ones_the_lowest_index() {
        let rule = Rule { used: 2, normalise: true };
        let rows = [1.0, 3.0, 2.0, 3.0, -0.0, 0.0, -1.0, 0.0, -5.0, -5.0, -5.0, -4.0];
        let (choice, flags) = choice(rule, 4, &rows);
        let chosen: Vec<&[u32]> = (0..3).map(|row| choice.of_row(row)).collect();
        assert_eq!(chosen, [&[1, 3][..], &[0, 1], &[0, 3]]);
        assert_eq!(flags, [false; 3]);
        let groups = choice.groups(4);
        let rows: Vec<(u32, &[usize])> =
            groups.iter().map(|g| (g.expert, g.rows.as_slice())).collect();
        assert_eq!(rows, [(0, &[1, 2][..]), (1, &[0, 1]), (3, &[0, 2])]);
        assert_eq!(groups[0].weights[0], 0.5);
        assert_eq!(choice.rows_of(3).collect::<Vec<_>>(), [(0, 1), (2, 1)]);
    }

    #[test]
    fn weights_are_shares_of_the_chosen_or_of_all() {
        // Logarithms of 2, 1, 4 and 1.
        let logits = [LN_2, 0.0, 2.0 * LN_2, 0.0];
        for (normalise, total) in [(true, 6.0), (false, 8.0)] {
            let (choice, _) = choice(Rule { used: 2, normalise }, 4, &logits);
            let weights: Vec<f32> = choice.groups(4).iter().map(|g| g.weights[0]).collect();
            for (weight, share) in weights.iter().zip([2.0, 4.0]) {
                assert!((weight - share / total).abs() < 1e-6, "{weight}");
            }
        }
    }

    #[test]
    fn a_logit_that_is_too_large_flags_its_row_which_counts_as_zeros() {
        let rule = Rule { used: 1, normalise: false };
        for bad in [f32::NAN, f32::INFINITY, 1e6, -1e6] {
            let (choice, flags) = choice(rule, 2, &[bad, 1.0, 0.0, 1.0]);
            assert_eq!(flags, [true, false], "{bad}");
            assert_eq!((choice.of_row(0), choice.of_row(1)), (&[0][..], &[1][..]));
            assert_eq!(choice.groups(2)[0].weights, [0.5]);
        }
    }

    #[test]
    fn experts_far_below_the_best_have_no_weight() {
        let (choice, _) = choice(Rule { used: 2, normalise: true }, 2, &[0.0, -40.0]);
        let weights: Vec<f32> = choice.groups(2).iter().map(|g| g.weights[0]).collect();
        assert_eq!(weights, [1.0, 0.0]);
    }
}
