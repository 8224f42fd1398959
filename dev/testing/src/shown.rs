//! Everything that a forward pass shows, kept for comparing one backend with another.

use lockstep_exact::experts::Choice;
use lockstep_exact::forward::{Probe, Row, Sees};
use lockstep_exact::names::ProductName;
use lockstep_exact::state::State;

pub use lockstep_verify::column::{Columns, Keep, Recorder};

/// Everything that a pass shows, each kind in its order.
#[derive(Debug, Default, PartialEq)]
pub struct Everything {
    /// The exact sums of each product, with its layer and name.
    pub sums: Vec<(u32, ProductName, Vec<Row>, Vec<i64>)>,
    /// The canonical KV rows that each layer appended.
    pub kv: Vec<(u32, Vec<Row>, Vec<u8>)>,
    /// The choice of experts of each layer that has any.
    pub choices: Vec<(u32, Choice)>,
    /// The states between attention and feed-forward part.
    pub middles: Vec<(u32, Vec<Row>, State)>,
    /// The states after each layer of the pass.
    pub states: Vec<(u32, Vec<Row>, State)>,
}

impl Everything {
    /// Returns how often it was shown something by way of a ticket.
    #[must_use]
    pub fn shown(&self) -> usize {
        self.sums.len() + self.kv.len() + self.middles.len() + self.states.len()
    }
}

impl Probe for Everything {
    fn sums(&mut self, layer: u32, name: ProductName, rows: &[Row], sums: &[i64]) {
        self.sums.push((layer, name, rows.to_vec(), sums.to_vec()));
    }

    fn kv(&mut self, layer: u32, rows: &[Row], kv: &[u8]) {
        self.kv.push((layer, rows.to_vec(), kv.to_vec()));
    }

    fn choice(&mut self, layer: u32, choice: &Choice) {
        self.choices.push((layer, choice.clone()));
    }

    fn middle(&mut self, layer: u32, rows: &[Row], state: &State) {
        self.middles.push((layer, rows.to_vec(), state.clone()));
    }

    fn state(&mut self, layer: u32, rows: &[Row], state: &State) {
        self.states.push((layer, rows.to_vec(), state.clone()));
    }
}

/// The part of a pass that a server commits to: KV rows, and states after layers.
#[derive(Debug, Default, PartialEq)]
pub struct Committed(pub Everything);

impl Probe for Committed {
    const SEES: Sees = Sees { kv: true, state: true, ..Sees::NOTHING };

    fn kv(&mut self, layer: u32, rows: &[Row], kv: &[u8]) {
        self.0.kv(layer, rows, kv);
    }

    fn state(&mut self, layer: u32, rows: &[Row], state: &State) {
        self.0.state(layer, rows, state);
    }
}
