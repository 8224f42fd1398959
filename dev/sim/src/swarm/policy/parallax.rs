//! Parallax's two phases. The first builds pipelines greedily: a pipeline grows by the largest
//! machine, until the smallest that completes it is found; in each the layers are shared out by
//! speed, up to each memory (water-filling). The second takes the pipelines in turn.

use std::cmp::Reverse;
use std::ops::Range;

use super::super::machines::{LAYERS, Machine};

/// How often the interval of the water level is halved.
const HALVINGS: u32 = 40;

/// Places machines in pipelines; those that no pipeline needs serve nothing.
pub(super) fn place(machines: &[Machine]) -> Vec<Range<u32>> {
    let mut spans = vec![0..0; machines.len()];
    let mut free: Vec<usize> = (0..machines.len()).collect();
    free.sort_by_key(|at| (Reverse(machines[*at].most_layers), *at));
    while let Some(pipeline) = next_pipeline(machines, &mut free) {
        let mut first = 0;
        for (machine, layers) in pipeline.iter().zip(shares(machines, &pipeline)) {
            spans[*machine] = first..first + layers;
            first += layers;
        }
    }
    spans
}

/// Takes the machines of the next pipeline, if what is free can hold all layers.
fn next_pipeline(machines: &[Machine], free: &mut Vec<usize>) -> Option<Vec<usize>> {
    let room: u32 = free.iter().map(|at| machines[*at].most_layers).sum();
    if room < LAYERS {
        return None;
    }
    let (mut pipeline, mut missing) = (Vec::new(), LAYERS);
    while missing > 0 {
        // They are in the order of their memory: the last that is large enough completes it.
        let completes = free.iter().rposition(|at| machines[*at].most_layers >= missing);
        let machine = free.remove(completes.unwrap_or(0));
        missing = missing.saturating_sub(machines[machine].most_layers);
        pipeline.push(machine);
    }
    Some(pipeline)
}

/// Shares out the layers of a pipeline: in proportion to speed, at most what memory holds, at least
/// one.
fn shares(machines: &[Machine], pipeline: &[usize]) -> Vec<u32> {
    let most = |at: &usize| f64::from(machines[*at].most_layers);
    let at_level = |level: f64| -> Vec<f64> {
        let share = |at: &usize| (level * machines[*at].layers_per_s()).min(most(at));
        pipeline.iter().map(share).collect()
    };
    let (mut low, mut high) = (0.0, f64::from(LAYERS));
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        let sum: f64 = at_level(middle).iter().sum();
        if sum < f64::from(LAYERS) { low = middle } else { high = middle }
    }
    let exact = at_level(high);
    let mut shares: Vec<u32> = exact.iter().map(|share| (*share as u32).max(1)).collect();
    while shares.iter().sum::<u32>() > LAYERS {
        if let Some(share) = shares.iter_mut().max() {
            *share -= 1;
        }
    }
    while shares.iter().sum::<u32>() < LAYERS {
        let lacks = |at: &usize| exact[*at] - f64::from(shares[*at]);
        let has_room = |at: &usize| shares[*at] < machines[pipeline[*at]].most_layers;
        let candidates = (0..shares.len()).filter(has_room);
        let Some(at) = candidates.max_by(|one, other| lacks(one).total_cmp(&lacks(other))) else {
            break;
        };
        shares[at] += 1;
    }
    shares
}
