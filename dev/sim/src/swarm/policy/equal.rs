//! Equally many layers for every machine: as few stages as the smallest memory allows.

use std::ops::Range;

use super::super::machines::{LAYERS, Machine};

/// Places machine `i` at stage `i` modulo the number of stages.
pub(super) fn place(machines: &[Machine]) -> Vec<Range<u32>> {
    let smallest = machines.iter().map(|machine| machine.most_layers).min().unwrap_or(1);
    let stages = LAYERS.div_ceil(smallest.max(1));
    let span = |at: usize| {
        let stage = at as u32 % stages;
        LAYERS * stage / stages..LAYERS * (stage + 1) / stages
    };
    (0..machines.len()).map(span).collect()
}
