//! Who looks on at a forward pass, and the copies that a device makes for the onlooker.
//!
//! A [`Probe`] is shown numbers in the host's memory. On a device of its own they get there by
//! copies that the pass starts where the numbers are computed and waits for when all its layers are
//! under way, so that looking on never makes the device wait for the host within a layer.

use crate::experts::Choice;
use crate::names::ProductName;
use crate::ops::{Copied, Host, Place};
use crate::state::State;

/// One row of a batch: a position of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Session slot and absolute position.
    pub place: Place,
    /// Whether the model's last layer must give a state for the head here.
    pub feeds_head: bool,
}

/// The intermediates that a probe looks at. Nothing else is copied for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sees {
    /// Whether [`Probe::sums`] is called; if not, products may fuse away their sums.
    pub sums: bool,
    /// Whether [`Probe::kv`] is called.
    pub kv: bool,
    /// Whether [`Probe::middle`] is called.
    pub middle: bool,
    /// Whether [`Probe::state`] is called.
    pub state: bool,
}

impl Sees {
    /// The probe looks at nothing.
    pub const NOTHING: Self = Self { sums: false, kv: false, middle: false, state: false };
    /// The probe looks at everything.
    pub const ALL: Self = Self { sums: true, kv: true, middle: true, state: true };
}

/// Is shown the named intermediates of a forward pass: those of one kind in order. `()` looks at
/// nothing.
///
/// A pass over a device of its own shows them when its last layer is under way, and one on the
/// host's processor as it comes to them; [`Probe::choice`] is shown at once by both.
pub trait Probe {
    /// The intermediates that this probe looks at.
    const SEES: Sees = Sees::ALL;

    /// Shows the exact sums of a product, one row per entry of `rows`, row after row. Experts come
    /// in increasing order, each with the rows that chose it, in the order of the batch.
    fn sums(&mut self, _layer: u32, _name: ProductName, _rows: &[Row], _sums: &[i64]) {}

    /// Shows the canonical KV rows that have been appended for `rows`, one after the other.
    fn kv(&mut self, _layer: u32, _rows: &[Row], _kv: &[u8]) {}

    /// Shows which experts the router of a layer has chosen, before the first of them is
    /// multiplied.
    fn choice(&mut self, _layer: u32, _choice: &Choice) {}

    /// Shows the state between attention and feed-forward part.
    fn middle(&mut self, _layer: u32, _rows: &[Row], _state: &State) {}

    /// Shows the state after the layer; in the last layer only of rows that feed the head.
    fn state(&mut self, _layer: u32, _rows: &[Row], _state: &State) {}
}

impl Probe for () {
    const SEES: Sees = Sees::NOTHING;
}

/// A probe, with the copies for it that a device is still making.
pub(crate) struct Watch<'a, D: Host, P> {
    device: &'a D,
    pub(crate) probe: &'a mut P,
    under_way: Vec<UnderWay<D>>,
}

/// A copy that is under way, and what it is of.
struct UnderWay<D: Host> {
    layer: u32,
    rows: Vec<Row>,
    what: What<D>,
}

enum What<D: Host> {
    Sums(ProductName, D::Ticket<Vec<i64>>),
    Kv(D::Ticket<Vec<u8>>),
    Middle(D::Ticket<State>),
    State(D::Ticket<State>),
}

impl<'a, D: Host, P: Probe> Watch<'a, D, P> {
    /// Looks on for `probe` at what is computed on `device`.
    pub(crate) const fn new(device: &'a D, probe: &'a mut P) -> Self {
        Self { device, probe, under_way: Vec::new() }
    }

    pub(crate) fn sums(&mut self, layer: u32, name: ProductName, rows: &[Row], sums: &D::Sums) {
        match self.device.take_sums(sums) {
            Copied::Here(sums) => self.probe.sums(layer, name, rows, &sums),
            Copied::UnderWay(ticket) => self.later(layer, rows, What::Sums(name, ticket)),
        }
    }

    /// Shows the KV rows that have just been appended for `rows`; `index` is the layer's index in
    /// the caches.
    pub(crate) fn kv(&mut self, layer: u32, index: usize, rows: &[Row], caches: &[&mut D::Kv]) {
        if !P::SEES.kv {
            return;
        }
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        match self.device.take_kv(caches, index, &places) {
            Copied::Here(kv) => self.probe.kv(layer, rows, &kv),
            Copied::UnderWay(ticket) => self.later(layer, rows, What::Kv(ticket)),
        }
    }

    pub(crate) fn middle(&mut self, layer: u32, rows: &[Row], state: &D::State) {
        if !P::SEES.middle {
            return;
        }
        match self.device.take_state(state) {
            Copied::Here(state) => self.probe.middle(layer, rows, &state),
            Copied::UnderWay(ticket) => self.later(layer, rows, What::Middle(ticket)),
        }
    }

    pub(crate) fn state(&mut self, layer: u32, rows: &[Row], state: &D::State) {
        if !P::SEES.state {
            return;
        }
        match self.device.take_state(state) {
            Copied::Here(state) => self.probe.state(layer, rows, &state),
            Copied::UnderWay(ticket) => self.later(layer, rows, What::State(ticket)),
        }
    }

    fn later(&mut self, layer: u32, rows: &[Row], what: What<D>) {
        self.under_way.push(UnderWay { layer, rows: rows.to_vec(), what });
    }

    /// Waits for the copies that are under way, in the order in which they were started, and shows
    /// them.
    ///
    /// # Errors
    /// The device has failed.
    pub(crate) fn finish(self) -> Result<(), D::Error> {
        let Self { device, probe, under_way } = self;
        for UnderWay { layer, rows, what } in under_way {
            match what {
                What::Sums(name, ticket) => {
                    probe.sums(layer, name, &rows, &device.wait(ticket)?);
                }
                What::Kv(ticket) => probe.kv(layer, &rows, &device.wait(ticket)?),
                What::Middle(ticket) => probe.middle(layer, &rows, &device.wait(ticket)?),
                What::State(ticket) => probe.state(layer, &rows, &device.wait(ticket)?),
            }
        }
        Ok(())
    }
}
