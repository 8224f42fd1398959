//! How much of an answer an audit has looked at, and what it would have found.
//!
//! The probabilities are those of a draw that nobody could foresee, with each cheat placed where it
//! is found least ([`crate::rates`]). They hold for one answer; a server that cheats in many
//! answers is found sooner. Of a stage that has not opened all that was drawn nothing is claimed:
//! it may have opened what is right and kept the rest back.

use core::fmt;

use crate::draw::Stratum;
use crate::rates::{self, Cheat, Detects};

/// The coverage of one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageCoverage {
    /// The number of layers of the stage.
    pub layers: u32,
    /// Layers of which cells were checked.
    pub layers_checked: u32,
    /// The number of cells of the stage.
    pub cells_total: u64,
    /// The number of cells that were checked.
    pub cells_checked: u64,
    /// The strata from which its cells were drawn.
    pub strata: Vec<Stratum>,
    /// Whether everything that was drawn of this stage was opened and checked.
    pub is_complete: bool,
}

/// The coverage of an audit: what it has checked, and what there was to check.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Coverage {
    /// Per stage, in the order of the ring.
    pub stages: Vec<StageCoverage>,
    /// Tokens that the head chose, and the overflow it ended with if it did.
    pub head_total: u64,
    /// The stratum from which the head's cells were drawn, once they are.
    pub head: Option<Stratum>,
    /// The number of head cells that were checked.
    pub head_checked: u64,
    /// Whether the last one was among them.
    pub last_checked: bool,
    /// Positions whose embedding was checked.
    pub embeddings_checked: u64,
    /// The number of positions of the session.
    pub embeddings_total: u64,
    /// Matrix products that were checked.
    pub products_checked: u64,
}

impl Coverage {
    /// Returns the number of cells of all stages that were checked.
    #[must_use]
    pub fn cells_checked(&self) -> u64 {
        self.stages.iter().map(|stage| stage.cells_checked).sum()
    }

    /// Returns the number of cells of all stages.
    #[must_use]
    pub fn cells_total(&self) -> u64 {
        self.stages.iter().map(|stage| stage.cells_total).sum()
    }

    /// Returns whether all cells of all layers and of the head, and all embeddings, were checked.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cells_checked() == self.cells_total()
            && self.head_checked == self.head_total
            && self.embeddings_checked == self.embeddings_total
    }

    /// Returns the logarithm to base 2, rounded up, of a bound on the probability that any wrong
    /// product passed: each of `n` passes with probability 1/(2^61 - 1).
    #[must_use]
    pub const fn error_bound_log2(&self) -> i32 {
        let above = self.products_checked.saturating_add(1);
        let ceil_log2 = u64::BITS.saturating_sub(above.saturating_sub(1).leading_zeros());
        ceil_log2.cast_signed().saturating_sub(61)
    }

    /// Returns for each way to cheat the probability, from 0 to 1, that the audit would have found
    /// it: the least over all stages and the head.
    #[must_use]
    pub fn detects(&self) -> Vec<Detects> {
        let least = |cheat| {
            let stages = self.stages.iter().map(|stage| stage.detects(cheat));
            stages
                .fold(self.head_detects(cheat), |least, one| if one < least { one } else { least })
        };
        let detects = |cheat| Detects { cheat, probability: least(cheat) };
        Cheat::ALL.into_iter().map(detects).collect()
    }

    /// Returns how surely a way to cheat at the head, which is server 1's, would have been found.
    fn head_detects(&self, cheat: Cheat) -> f64 {
        match (&self.head, self.stages.first()) {
            (Some(head), Some(first)) if first.is_complete => rates::of_head(head, cheat),
            _ => 0.0,
        }
    }
}

impl StageCoverage {
    /// Returns the probability, from 0 to 1, that a way to cheat in this stage's cells would have
    /// been found: 0 if a cell that was drawn of the stage was not opened, 1 if the way is not open
    /// to it.
    #[must_use]
    pub fn detects(&self, cheat: Cheat) -> f64 {
        let is_open = rates::is_open_to(&self.strata, cheat);
        if self.is_complete || !is_open { rates::of_stage(&self.strata, cheat) } else { 0.0 }
    }
}

/// Returns a probability in percent with up to two decimals, never rounded up to certainty.
fn percent(probability: f64) -> String {
    if probability >= 1.0 {
        return "100 %".to_owned();
    }
    let shown = if probability > 0.9999 { 0.9999 } else { probability };
    format!("{:.2} %", shown * 100.0)
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} cells, {} of {} tokens of the answer and {} of {} embeddings recomputed",
            self.cells_checked(),
            self.cells_total(),
            self.head_checked,
            self.head_total,
            self.embeddings_checked,
            self.embeddings_total,
        )?;
        let (products, bound) = (self.products_checked, self.error_bound_log2());
        writeln!(
            f,
            "{products} matrix products checked; a wrong one passed with less than 2^{bound}"
        )?;
        for Detects { cheat, probability } in self.detects() {
            writeln!(f, "  {} would have been found with {}", cheat, percent(probability))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Part, Sample};

    fn stage(chosen: u64) -> StageCoverage {
        let samples = vec![Sample { of: 10, chosen }];
        let stratum = |layer| Stratum {
            layer,
            part: Part::Answer,
            cells: 10,
            certain: 0,
            samples: samples.clone(),
        };
        StageCoverage {
            layers: 2,
            layers_checked: 2,
            cells_total: 20,
            cells_checked: 2 * chosen,
            strata: vec![stratum(1), stratum(2)],
            is_complete: true,
        }
    }

    fn coverage(stages: Vec<StageCoverage>) -> Coverage {
        let samples = vec![Sample { of: 4, chosen: 1 }];
        let head = Stratum { layer: 3, part: Part::Answer, cells: 6, certain: 2, samples };
        Coverage { stages, head: Some(head), ..Coverage::default() }
    }

    fn of(coverage: &Coverage, cheat: Cheat) -> f64 {
        coverage.detects().iter().find(|detects| detects.cheat == cheat).unwrap().probability
    }

    #[test]
    fn detection_is_that_of_the_weakest_stage() {
        let coverage = coverage(vec![stage(2), stage(1)]);
        assert!((of(&coverage, Cheat::OneCell) - 0.1).abs() < 1e-12);
        assert_eq!(of(&coverage, Cheat::OneLayer), 1.0);
        assert_eq!(of(&coverage, Cheat::OneToken), 0.25);
        assert_eq!(of(&coverage, Cheat::LastToken), 1.0);
    }

    #[test]
    fn nothing_is_claimed_of_a_stage_that_has_kept_something_back() {
        let withholds = StageCoverage { is_complete: false, ..stage(2) };
        let second = coverage(vec![stage(2), withholds.clone()]);
        for cheat in [Cheat::Everywhere, Cheat::Quarter, Cheat::OneLayer, Cheat::OneCell] {
            assert_eq!(of(&second, cheat), 0.0, "{cheat:?}");
            assert!(second.stages.iter().any(|stage| stage.detects(cheat) > 0.0), "{cheat:?}");
        }
        // Server 1 holds the head.
        assert_eq!(of(&second, Cheat::LastToken), 1.0);
        let first = coverage(vec![withholds, stage(2)]);
        assert!(Cheat::ALL.iter().all(|&cheat| of(&first, cheat) == 0.0), "{first}");
        assert!(Coverage::default().detects().iter().all(|detects| detects.probability == 0.0));
    }

    #[test]
    fn the_error_bound_is_never_below_the_sum_of_all_products_errors() {
        let bound = |products_checked| {
            Coverage { products_checked, ..Coverage::default() }.error_bound_log2()
        };
        // n / (2^61 - 1) <= 2^bound, in integers.
        for n in [1, 2, 3, 4, 7, 8, 1000, 1 << 20, (1 << 20) + 1] {
            let shift = u32::try_from(bound(n) + 61).unwrap();
            assert!(u128::from(n) << 61 <= ((1_u128 << 61) - 1) << shift, "{n}");
            let below = shift - 1;
            assert!(u128::from(n) << 61 > ((1_u128 << 61) - 1) << below, "{n} is not tight");
        }
        assert_eq!(bound(0), -61);
    }

    #[test]
    fn nothing_short_of_everything_is_called_certain() {
        assert_eq!(percent(0.999_999_9), "99.99 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.4), "40.00 %");
    }
}
