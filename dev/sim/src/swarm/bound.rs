//! The most tokens per second that placed machines can give: the maximum flow of their work to the
//! layers that they hold.
//!
//! This is the simulator's own computation, which shares nothing with the router that is measured
//! against it. Because spans are ranges, a rate can be had exactly if the machines whose spans end
//! first serve each layer first; the largest such rate is found by halving an interval.

use std::ops::Range;

use super::machines::{LAYERS, weight};

/// How often the interval is halved: to a part of 2^-40.
const HALVINGS: u32 = 40;

/// Returns the bound in tokens per second for machines of these works (layers per second) and
/// spans.
#[must_use]
pub(crate) fn max_flow(machines: &[(f64, Range<u32>)]) -> f64 {
    let all: f64 = machines.iter().map(|(work, _)| work).sum();
    let (mut least, mut most) = (0.0, all);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(least, most);
        if can_give(machines, middle) {
            least = middle;
        } else {
            most = middle;
        }
    }
    least
}

/// Returns the bound of any placement: all work, spread evenly over all layers.
#[must_use]
pub(crate) fn of_any_placement(works: impl Iterator<Item = f64>) -> f64 {
    works.sum::<f64>() / (0..LAYERS).map(weight).sum::<f64>()
}

/// Whether every layer can be served at this rate.
fn can_give(machines: &[(f64, Range<u32>)], rate: f64) -> bool {
    let mut by_first: Vec<&(f64, Range<u32>)> = machines.iter().collect();
    by_first.sort_by_key(|(_, span)| span.start);
    let mut next = by_first.into_iter().peekable();
    // The work that is left of those that hold the layer, by the ends of their spans.
    let mut left = vec![0.0; LAYERS as usize + 1];
    for layer in 0..LAYERS {
        while let Some((work, span)) = next.next_if(|(_, span)| span.start <= layer) {
            left[span.end.min(LAYERS) as usize] += work;
        }
        let mut wanted = rate * weight(layer);
        for work in left.iter_mut().skip(layer as usize + 1) {
            let given = work.min(wanted);
            *work -= given;
            wanted -= given;
        }
        if wanted > rate * 1e-9 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < expected * 1e-6 + 1e-9, "{got} is not {expected}");
    }

    #[test]
    fn the_bound_is_that_of_the_tightest_layers() {
        let all: f64 = (0..LAYERS).map(weight).sum();
        near(max_flow(&[(all, 0..LAYERS)]), 1.0);
        near(max_flow(&[(all, 0..LAYERS), (all, 0..LAYERS)]), 2.0);
        // Two halves: the weaker one counts.
        let half: f64 = (0..16).map(weight).sum();
        near(max_flow(&[(2.0 * half, 0..16), (16.0, 16..LAYERS)]), 1.0);
        // One that holds both helps the weaker half only.
        near(max_flow(&[(2.0 * half, 0..16), (16.0, 16..LAYERS), (16.0, 0..LAYERS)]), 2.0);
        near(max_flow(&[(100.0, 0..31)]), 0.0);
        near(of_any_placement([all, all].into_iter()), 2.0);
    }
}
