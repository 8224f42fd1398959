//! What a draw finds: for each way to cheat, the probability of being caught when the cheat is
//! placed where it is found least.
//!
//! In a stratum of n cells with independent draws of q cells each, w wrong cells that are not
//! certain to be opened are missed with probability Π C(n - w, q) / C(n, q). Strata are drawn
//! independently, so a placement is missed with the product over its strata. One more wrong cell in
//! a stratum with w multiplies that by Π (n - w - q) / (n - w), which falls with w: therefore the
//! placement that is missed most is found by putting one cell after the other where it costs least.
//!
//! A probability is that of the draw alone; the error of the products
//! ([`crate::coverage::Coverage::error_bound_log2`]) is not in it.

use core::fmt;

use crate::draw::{Part, Stratum};

/// A way to cheat, for which rates of detection are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// A stage computes none of its cells as it must (another model, other weights).
    Everywhere,
    /// A stage gets a quarter of its cells wrong: those that are looked at least.
    Quarter,
    /// A stage gets one layer always wrong (skips it, say).
    OneLayer,
    /// A stage gets one layer wrong all through the prompt, or all through the answer, and is
    /// honest elsewhere.
    OneLayerInPart,
    /// A stage gets one cell wrong: one that is looked at least.
    OneCell,
    /// Server 1 embeds other tokens than the client's, all but the last one.
    AnotherPrompt,
    /// Server 1 embeds one other token in the prompt.
    OnePromptToken,
    /// The head chooses another first token.
    FirstToken,
    /// The head chooses another last token.
    LastToken,
    /// The head chooses another token, once: one that is looked at least.
    OneToken,
}

impl Cheat {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::Everywhere,
        Self::Quarter,
        Self::OneLayer,
        Self::OneLayerInPart,
        Self::OneCell,
        Self::AnotherPrompt,
        Self::OnePromptToken,
        Self::FirstToken,
        Self::LastToken,
        Self::OneToken,
    ];

    /// Returns the name by which scripts know the way to cheat; it does not change.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "everything",
            Self::Quarter => "quarter-of-cells",
            Self::OneLayer => "one-layer",
            Self::OneLayerInPart => "one-layer-in-prompt-or-answer",
            Self::OneCell => "one-cell",
            Self::AnotherPrompt => "another-prompt",
            Self::OnePromptToken => "one-prompt-token",
            Self::FirstToken => "first-token",
            Self::LastToken => "last-token",
            Self::OneToken => "one-token",
        }
    }
}

impl fmt::Display for Cheat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Everywhere => "a server that computes everything wrong",
            Self::Quarter => "a server that gets a quarter of its cells wrong",
            Self::OneLayer => "a server that always gets one layer wrong",
            Self::OneLayerInPart => "the same, in the prompt or the answer only",
            Self::OneCell => "a server that gets one cell wrong",
            Self::AnotherPrompt => "a server that embeds another prompt",
            Self::OnePromptToken => "a server that embeds one other prompt token",
            Self::FirstToken => "a head that chooses another first token",
            Self::LastToken => "a head that chooses another last token",
            Self::OneToken => "a head that chooses another token, once",
        })
    }
}

/// The rate at which an audit finds a way to cheat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detects {
    /// The way to cheat that the rate is for.
    pub cheat: Cheat,
    /// The probability, at the stage and in the place where it is smallest.
    pub probability: f64,
}

/// Returns the probability, from 0 to 1, that a draw of a stage's cells finds a way for that stage
/// to cheat in its cells; 1 for the ways that are not open to it.
#[must_use]
pub fn of_stage(strata: &[Stratum], cheat: Cheat) -> f64 {
    let total: u64 = strata.iter().map(|stratum| stratum.cells).sum();
    match cheat {
        Cheat::Everywhere => certain_if(strata.iter().any(Stratum::is_opened) || total == 0),
        Cheat::Quarter => worst_placement(strata, total.div_ceil(4)),
        Cheat::OneLayer => certain_if(strata.iter().all(|stratum| {
            let mut of_layer = strata.iter().filter(|other| other.layer == stratum.layer);
            of_layer.any(Stratum::is_opened)
        })),
        Cheat::OneLayerInPart => {
            certain_if(strata.iter().all(|stratum| stratum.cells == 0 || stratum.is_opened()))
        }
        Cheat::OneCell => worst_placement(strata, total.min(1)),
        Cheat::AnotherPrompt => of_prompt(strata, |stratum| stratum.cells.saturating_sub(1).max(1)),
        Cheat::OnePromptToken => of_prompt(strata, |_| 1),
        Cheat::FirstToken | Cheat::LastToken | Cheat::OneToken => 1.0,
    }
}

/// Returns whether a stage can cheat in this way in its own cells: only server 1 embeds the prompt,
/// and tokens are the head's.
#[must_use]
pub fn is_open_to(strata: &[Stratum], cheat: Cheat) -> bool {
    match cheat {
        Cheat::Everywhere
        | Cheat::Quarter
        | Cheat::OneLayer
        | Cheat::OneLayerInPart
        | Cheat::OneCell => true,
        Cheat::AnotherPrompt | Cheat::OnePromptToken => {
            strata.iter().any(|stratum| stratum.layer == 0)
        }
        Cheat::FirstToken | Cheat::LastToken | Cheat::OneToken => false,
    }
}

/// Returns the probability, from 0 to 1, that a draw of the head's cells finds another token; 1 for
/// ways to cheat elsewhere.
#[must_use]
pub fn of_head(head: &Stratum, cheat: Cheat) -> f64 {
    match cheat {
        Cheat::FirstToken | Cheat::LastToken => certain_if(head.cells == 0 || head.certain > 0),
        Cheat::OneToken => worst_placement(core::slice::from_ref(head), head.cells.min(1)),
        Cheat::Everywhere
        | Cheat::Quarter
        | Cheat::OneLayer
        | Cheat::OneLayerInPart
        | Cheat::OneCell
        | Cheat::AnotherPrompt
        | Cheat::OnePromptToken => 1.0,
    }
}

/// Returns how surely wrong cells of layer 0 in the prompt are found, of which `wrong` gives the
/// number.
fn of_prompt(strata: &[Stratum], wrong: impl Fn(&Stratum) -> u64) -> f64 {
    let inputs = strata.iter().filter(|stratum| stratum.layer == 0 && stratum.part == Part::Prompt);
    let each =
        inputs.map(|stratum| worst_placement(core::slice::from_ref(stratum), wrong(stratum)));
    // Where no prompt was drawn from, none can be another one.
    each.fold(1.0, |least, one| if one < least { one } else { least })
}

/// Returns the probability, from 0 to 1, that `wrong` wrong cells are found where they are found
/// least; 1 if there are more than can hide from the draw.
#[must_use]
pub fn worst_placement(strata: &[Stratum], wrong: u64) -> f64 {
    // Strata that are drawn alike, each kind with how many there are and the wrong cells of each.
    let mut kinds: Vec<(&Stratum, u64, u64)> = Vec::new();
    for stratum in strata {
        let alike = kinds.iter_mut().find(|(kind, ..)| kind.is_drawn_as(stratum));
        match alike {
            Some((_, count, _)) => *count = count.saturating_add(1),
            None => kinds.push((stratum, 1, 0)),
        }
    }
    let (mut missed, mut left) = (1.0, wrong);
    while left > 0 {
        let room = kinds.iter_mut().filter(|(kind, _, placed)| *placed < kind.hidden());
        let with = room.map(|kind| (kind.0.missed_with_one_more(kind.2), kind));
        let Some((factor, (_, count, placed))) = with.max_by(|(a, _), (b, _)| a.total_cmp(b))
        else {
            return 1.0;
        };
        let now = left.min(*count);
        missed *= power(factor, now);
        left = left.saturating_sub(now);
        *placed = placed.saturating_add(1);
    }
    1.0 - missed
}

impl Stratum {
    /// Returns whether any cell is opened.
    fn is_opened(&self) -> bool {
        self.certain > 0 || !self.samples.is_empty()
    }

    fn is_drawn_as(&self, other: &Self) -> bool {
        let of = |stratum: &Self| (stratum.cells, stratum.certain);
        of(self) == of(other) && self.samples == other.samples
    }

    /// Returns the factor by which one more wrong cell, beside `wrong` that are hidden, multiplies
    /// the probability that none is drawn.
    fn missed_with_one_more(&self, wrong: u64) -> f64 {
        let missed = self.samples.iter().map(|sample| {
            let left = sample.of.saturating_sub(wrong);
            share(left.saturating_sub(sample.chosen), left)
        });
        missed.product()
    }
}

fn certain_if(is_certain: bool) -> f64 {
    if is_certain { 1.0 } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Sample;

    fn stratum(layer: u32, cells: u64, certain: u64, samples: &[(u64, u64)]) -> Stratum {
        let samples = samples.iter().map(|&(of, chosen)| Sample { of, chosen }).collect();
        Stratum { layer, part: Part::Prompt, cells, certain, samples }
    }

    /// C(n - w, q) / C(n, q), term by term.
    fn missed(n: u64, w: u64, q: u64) -> f64 {
        (0..q).map(|at| share((n - w).saturating_sub(at), n - at)).product()
    }

    /// The smallest probability over all placements, tried one by one.
    fn least(strata: &[Stratum], wrong: u64) -> f64 {
        let Some((first, rest)) = strata.split_first() else {
            return if wrong == 0 { 0.0 } else { 1.0 };
        };
        let here = |w: u64| -> f64 {
            first.samples.iter().map(|sample| missed(sample.of, w, sample.chosen)).product()
        };
        let placements =
            (0..=wrong.min(first.hidden())).map(|w| 1.0 - here(w) * (1.0 - least(rest, wrong - w)));
        placements.min_by(f64::total_cmp).unwrap_or(1.0)
    }

    #[test]
    fn no_placement_is_found_less_than_the_one_that_is_said_to_be() {
        let many = [
            vec![stratum(0, 9, 9, &[]), stratum(0, 4, 0, &[(4, 1)]), stratum(1, 9, 0, &[(9, 2)])],
            vec![
                stratum(1, 7, 0, &[(7, 1)]),
                stratum(1, 3, 0, &[(3, 1)]),
                stratum(2, 7, 0, &[(7, 1)]),
            ],
            vec![stratum(1, 6, 1, &[(6, 2), (5, 2)]), stratum(1, 8, 0, &[(8, 3)])],
            vec![stratum(1, 5, 5, &[]), stratum(2, 4, 0, &[])],
        ];
        for strata in &many {
            let total: u64 = strata.iter().map(|stratum| stratum.cells).sum();
            for wrong in 0..=total {
                let (said, least) = (worst_placement(strata, wrong), least(strata, wrong));
                assert!((said - least).abs() < 1e-12, "{wrong} of {strata:?}: {said}, {least}");
            }
        }
    }

    #[test]
    fn what_is_not_opened_is_not_found() {
        let strata = [stratum(0, 9, 9, &[]), stratum(1, 9, 0, &[])];
        for cheat in [Cheat::OneLayer, Cheat::OneLayerInPart, Cheat::OneCell, Cheat::Quarter] {
            assert_eq!(of_stage(&strata, cheat), 0.0, "{cheat:?}");
        }
        assert_eq!(of_stage(&strata, Cheat::Everywhere), 1.0);
        assert_eq!(of_stage(&strata, Cheat::OnePromptToken), 1.0);
        assert_eq!(of_stage(&strata[1..], Cheat::Everywhere), 0.0);
        let head = stratum(2, 6, 0, &[]);
        for cheat in [Cheat::FirstToken, Cheat::LastToken, Cheat::OneToken] {
            assert_eq!(of_head(&head, cheat), 0.0, "{cheat:?}");
        }
    }

    #[test]
    fn names_are_told_apart() {
        let mut names: Vec<&str> = Cheat::ALL.iter().map(|cheat| cheat.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Cheat::ALL.len());
    }
}
