//! How much of an answer an audit has looked at, and what it would have found.
//!
//! The probabilities are those of a draw that nobody could foresee. They hold for one answer; a
//! server that cheats in many answers is found sooner.

use core::fmt;

use crate::draw::Drawn;

/// What was checked at one stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageCoverage {
    /// Layers of the stage.
    pub layers: u32,
    /// Layers of which cells were checked.
    pub layers_checked: u32,
    /// Cells of the stage.
    pub cells_total: u64,
    /// Cells that were checked.
    pub cells_checked: u64,
    /// Layers and cells of the random draw: of those checked, the ones that nobody could foresee.
    pub drawn: Drawn,
}

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// A stage computes none of its cells as it must (another model, other weights).
    Everywhere,
    /// A stage gets a random quarter of its cells wrong.
    Quarter,
    /// A stage gets one layer always wrong (skips it, say).
    OneLayer,
    /// A stage gets one cell wrong.
    OneCell,
    /// The head chooses another last token.
    LastToken,
    /// The head chooses another token, once.
    OneToken,
}

impl fmt::Display for Cheat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everywhere => "a server that computes everything wrong",
            Self::Quarter => "a server that gets a quarter of its cells wrong",
            Self::OneLayer => "a server that always gets one layer wrong",
            Self::OneCell => "a server that gets one cell wrong",
            Self::LastToken => "a head that chooses another last token",
            Self::OneToken => "a head that chooses another token, once",
        })
    }
}

/// How surely an audit finds a way to cheat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detects {
    /// The way to cheat.
    pub cheat: Cheat,
    /// The probability, for the stage at which it is smallest. The error of the products
    /// ([`Coverage::error_bound_log2`]) is not in it.
    pub probability: f64,
}

/// What an audit has checked.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Coverage {
    /// Per stage, in the order of the ring.
    pub stages: Vec<StageCoverage>,
    /// Tokens that the head chose, and the overflow it ended with if it did.
    pub head_total: u64,
    /// Those that were checked.
    pub head_checked: u64,
    /// Whether the last one was among them.
    pub last_checked: bool,
    /// Positions whose embedding was checked.
    pub embeddings_checked: u64,
    /// Positions of the session.
    pub embeddings_total: u64,
    /// Matrix products that were checked.
    pub products_checked: u64,
}

impl Coverage {
    /// Cells of all stages that were checked.
    #[must_use]
    pub fn cells_checked(&self) -> u64 {
        self.stages.iter().map(|stage| stage.cells_checked).sum()
    }

    /// Cells of all stages.
    #[must_use]
    pub fn cells_total(&self) -> u64 {
        self.stages.iter().map(|stage| stage.cells_total).sum()
    }

    /// Whether everything was checked.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cells_checked() == self.cells_total()
            && self.head_checked == self.head_total
            && self.embeddings_checked == self.embeddings_total
    }

    /// The logarithm to base 2, rounded up, of a bound on the probability that any wrong product
    /// passed: each of `n` passes with probability 1/(2^61 - 1).
    #[must_use]
    pub const fn error_bound_log2(&self) -> i32 {
        let above = self.products_checked.saturating_add(1);
        let ceil_log2 = u64::BITS.saturating_sub(above.saturating_sub(1).leading_zeros());
        ceil_log2.cast_signed().saturating_sub(61)
    }

    /// How surely each way to cheat would have been found.
    #[must_use]
    pub fn detects(&self) -> Vec<Detects> {
        let at_stages = [Cheat::Everywhere, Cheat::Quarter, Cheat::OneLayer, Cheat::OneCell];
        let worst = |cheat| {
            let each = self.stages.iter().map(|stage| stage.detects(cheat));
            each.min_by(f64::total_cmp).unwrap_or(0.0)
        };
        let mut all: Vec<Detects> = at_stages
            .into_iter()
            .map(|cheat| Detects { cheat, probability: worst(cheat) })
            .collect();
        let last = if self.last_checked { 1.0 } else { 0.0 };
        all.push(Detects { cheat: Cheat::LastToken, probability: last });
        let any = share(self.head_checked, self.head_total);
        all.push(Detects { cheat: Cheat::OneToken, probability: any });
        all
    }
}

impl StageCoverage {
    /// How surely a way to cheat at this stage would have been found.
    #[must_use]
    pub fn detects(&self, cheat: Cheat) -> f64 {
        let layers = self.layers_checked.min(self.drawn.layers);
        let cells = self.cells_checked.min(self.drawn.cells);
        match cheat {
            Cheat::Everywhere => share(self.cells_checked.min(1), 1),
            // One wrong cell is found if all are looked at.
            Cheat::Quarter if self.cells_checked == self.cells_total => 1.0,
            Cheat::Quarter => 1.0 - power(0.75, cells),
            Cheat::OneLayer => share(layers.into(), self.layers.into()),
            Cheat::OneCell => share(cells, self.cells_total),
            Cheat::LastToken | Cheat::OneToken => 0.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

/// Percent with up to two decimals, never rounded up to certainty.
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

    fn stage(layers_checked: u32, cells_checked: u64) -> StageCoverage {
        let drawn = Drawn { layers: layers_checked, cells: cells_checked };
        StageCoverage { layers: 10, layers_checked, cells_total: 1000, cells_checked, drawn }
    }

    #[test]
    fn detection_is_that_of_the_weakest_stage() {
        let stages = vec![stage(4, 16), stage(10, 1000)];
        let coverage = Coverage { stages, ..Coverage::default() };
        let of = |cheat| coverage.detects().iter().find(|d| d.cheat == cheat).unwrap().probability;
        assert!(of(Cheat::Quarter) > 0.9899 && of(Cheat::Quarter) < 0.99);
        assert_eq!(of(Cheat::OneLayer), 0.4);
        assert_eq!(of(Cheat::OneCell), 0.016);
        assert_eq!(of(Cheat::Everywhere), 1.0);
        assert_eq!(of(Cheat::LastToken), 0.0);
    }

    #[test]
    fn what_could_be_foreseen_does_not_count() {
        let drawn = Drawn { layers: 4, cells: 16 };
        let stage = StageCoverage { drawn, ..stage(5, 20) };
        assert_eq!(stage.detects(Cheat::OneLayer), 0.4);
        assert_eq!(stage.detects(Cheat::OneCell), 0.016);
        // Where openings are missing, what was drawn and not opened does not count either.
        let drawn = Drawn { layers: 4, cells: 16 };
        let stage = StageCoverage { drawn, layers_checked: 1, cells_checked: 4, ..stage };
        assert_eq!(stage.detects(Cheat::OneLayer), 0.1);
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
