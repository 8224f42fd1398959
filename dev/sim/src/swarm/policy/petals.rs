//! Petals' rule: each server takes as many blocks as it has memory for, at the window with the
//! lexicographically smallest sorted throughputs; every now and then one moves, if the bottleneck
//! becomes better by a third. Clients go from block to block and draw servers by their throughput,
//! each to the end of its span.

use std::ops::Range;

use lockstep_testing::numbers::Numbers;

use super::super::machines::{LAYERS, Machine};
use super::super::service::Stage;
use super::draw;
use super::supply::Supply;

/// The least part of the new bottleneck that the old one may be for nobody to move.
const BALANCE_QUALITY: f64 = 0.75;
/// How often everybody thinks about moving.
const ROUNDS: usize = 4;

/// A server's throughput: what it gives if every request uses all of its blocks.
fn throughput(machine: &Machine) -> f64 {
    machine.layers_per_s() / f64::from(machine.most_layers)
}

/// Lets the machines join one after the other, and then move.
pub(super) fn place(machines: &[Machine]) -> Vec<Range<u32>> {
    let mut blocks = Supply::default();
    let mut spans: Vec<Range<u32>> = Vec::new();
    for machine in machines {
        let span = blocks.weakest(machine.most_layers);
        blocks.add(&span, throughput(machine));
        spans.push(span);
    }
    for _ in 0..ROUNDS {
        for (machine, span) in machines.iter().zip(&mut spans) {
            let before = blocks.least();
            blocks.add(span, -throughput(machine));
            let leaves_a_hole = before > 1e-9 && blocks.least() <= 1e-9;
            let other = blocks.weakest(machine.most_layers);
            blocks.add(&other, throughput(machine));
            if leaves_a_hole || before / blocks.least() > BALANCE_QUALITY {
                blocks.add(&other, -throughput(machine));
                blocks.add(span, throughput(machine));
            } else {
                *span = other;
            }
        }
    }
    spans
}

/// A router that draws each server of a ring.
pub(crate) struct DrawRouter {
    /// The machines that hold each block, with their spans' ends and throughputs.
    holders: Vec<Vec<(usize, u32, f64)>>,
    numbers: Numbers,
}

impl DrawRouter {
    pub(super) fn new(
        machines: &[Machine],
        spans: &[Range<u32>],
        usable: &[bool],
        seed: u64,
    ) -> Self {
        let mut holders = vec![Vec::new(); LAYERS as usize];
        for (at, (machine, span)) in machines.iter().zip(spans).enumerate() {
            for block in span.clone().filter(|_| usable[at]) {
                holders[block as usize].push((at, span.end, throughput(machine)));
            }
        }
        Self { holders, numbers: Numbers::new(seed) }
    }

    pub(super) fn next(&mut self, has_room: impl Fn(usize) -> bool) -> Option<Vec<Stage>> {
        let (mut ring, mut first): (Vec<Stage>, u32) = (Vec::new(), 0);
        while first < LAYERS {
            // The head is where block 0 is: nobody else can be the first.
            let holders = self.holders.get(first as usize)?;
            let weight = |(machine, _, throughput): &(usize, u32, f64)| {
                let is_new = ring.iter().all(|stage| stage.machine != *machine);
                if is_new && has_room(*machine) { *throughput } else { 0.0 }
            };
            let weights: Vec<f64> = holders.iter().map(weight).collect();
            let at = draw(&mut self.numbers, &weights)?;
            let (machine, end, _) = *holders.get(at)?;
            ring.push(Stage { machine, first, end });
            first = end;
        }
        Some(ring)
    }
}
