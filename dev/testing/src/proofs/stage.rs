//! One stage: it computes its layers, keeps its columns, and signs a mark for every frame.

use std::ops::Range;

use lockstep_exact::Digest;
use lockstep_exact::forward::{Row, Scratch, forward};
use lockstep_exact::kv::{ReadKv as _, ReferenceKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::Place;
use lockstep_exact::reference::Reference;
use lockstep_exact::state::State;
use lockstep_exact::weights::LayerWeights;
use lockstep_verify::archive::Archive;
use lockstep_verify::column::Columns;
use lockstep_verify::sign::Signature;
use lockstep_verify::statement::{Mark, Run, Takeover};

use super::misdeed::{Misdeed, Slip, aim, slip, told};
use super::node;
use crate::lie::{Lie, Script};

pub(super) struct Stage {
    /// Whose lies it tells, and whose key it has.
    pub(super) place: usize,
    /// The place in the ring.
    pub(super) at: usize,
    /// The positions after which it handed its place over.
    pub(super) end: Option<u32>,
    pub(super) is_lost: bool,
    /// The states that came in, frame by frame.
    pub(super) inputs: Vec<State>,
    /// The marks as the next stage got them.
    pub(super) passed: Vec<Mark>,
    /// Who took over from the stage before.
    pub(super) takeovers: Vec<Takeover>,
    pub(super) span: Range<u32>,
    pub(super) weights: Vec<LayerWeights<Packed>>,
    pub(super) caches: Vec<ReferenceKv>,
    pub(super) prompt_len: u32,
    pub(super) archive: Archive,
    pub(super) columns: Columns,
    pub(super) run: Run,
    /// The chain of its marks as the client sees them.
    pub(super) chain: Digest,
    /// The chain of its marks as the next stage sees them: another one if it signs two.
    pub(super) passed_chain: Digest,
    /// The marks that it got.
    pub(super) received: Vec<Mark>,
    pub(super) last_row: Option<State>,
}

impl Stage {
    /// Signs the next mark as the client sees it.
    pub(super) fn mark(
        &mut self,
        position: u32,
        count: u32,
        input: Digest,
        output: Digest,
    ) -> Mark {
        let mark = Mark {
            first: self.span.start,
            end: self.span.end,
            epoch: 0,
            position,
            count,
            chain_before: self.chain,
            input,
            output,
            signature: Signature::NONE,
        };
        self.chain = mark.chain_after();
        mark.signed(self.run.id(), &node(self.place))
    }

    /// Computes a frame; gives what goes out, and the mark as the client and as the next stage see
    /// it. `input` is what server 1 marks as its own.
    pub(super) fn compute(
        &mut self,
        lies: &[Misdeed],
        position: u32,
        count: u32,
        mut state: State,
        input: Option<Digest>,
    ) -> (State, Mark, Mark) {
        let input = input.unwrap_or_else(|| self.receive(lies, position, &mut state));
        let state = self.forward(lies, position, count, state);
        let bytes = state.to_bytes();
        let output = if bytes.is_empty() { Digest::ZERO } else { Digest::of(&bytes) };
        let frame = position..position + count;
        let two = aim(lies, Lie::TwoMarks).is_some_and(|aim| frame.contains(&aim.position));
        let mut told = output;
        told.0[0] ^= u8::from(two);
        let told = self.mark(position, count, input, told);
        let passed = Mark { chain_before: self.passed_chain, output, ..told };
        self.passed_chain = passed.chain_after();
        let passed = passed.signed(self.run.id(), &node(self.place));
        self.passed.push(passed);
        (state, told, passed)
    }

    /// Keeps a state that came in; gives what the stage marks as its input.
    fn receive(&mut self, lies: &[Misdeed], position: u32, state: &mut State) -> Digest {
        let mut bytes = state.to_bytes();
        let mut input = Digest::of(&bytes);
        for lie in lies {
            let Misdeed::Slip(Slip::OtherInput(at)) = *lie else { continue };
            if let Some(row) = row_of(position, at, state) {
                flip_bit(&mut bytes, row, state);
                *state = State::parse(state.width(), &bytes).unwrap();
            }
        }
        self.archive.states(&bytes);
        self.inputs.push(state.clone());
        let mut committed = bytes;
        for lie in lies {
            let Misdeed::Slip(Slip::ReceivedColumn(at)) = *lie else { continue };
            if let Some(row) = row_of(position, at, state) {
                flip_bit(&mut committed, row, state);
            }
        }
        self.columns.receive(&committed);
        if aim(lies, Lie::OtherMarkInput).is_some() || lies.contains(&slip(Slip::MarkInputShown)) {
            input.0[0] ^= 1;
        }
        input
    }

    /// The span's forward pass, layer by layer, with lies told between.
    fn forward(&mut self, lies: &[Misdeed], first: u32, count: u32, mut state: State) -> State {
        let first_head = self.prompt_len - 1;
        let row = |position: u32| Row {
            place: Place { slot: 0, position: position as usize },
            feeds_head: position >= first_head,
        };
        let rows: Vec<Row> = (first..first + count).map(row).collect();
        for index in 0..self.weights.len() {
            let (weights, cache) = (&self.weights[index..=index], &mut self.caches[index]);
            let layer = weights[0].layer;
            let before = state.clone();
            let (scratch, caches) = (&mut Scratch::default(), &mut [&mut *cache]);
            let Ok(out) = forward(&Reference, weights, &rows, caches, state, scratch, &mut ());
            state = out;
            let dropped = before.rows() - state.rows();
            let kept: Vec<usize> = (dropped..before.rows()).collect();
            let leaving = first + u32::try_from(dropped).unwrap();
            self.lie_in_states(lies, layer, leaving, &before.select(&kept), &mut state);
            let mut committed = state.clone();
            for lie in lies {
                if let Misdeed::Slip(Slip::SentColumn(of, at)) = *lie
                    && of == layer
                    && let Some(row) = row_of(leaving, at, &state)
                {
                    let mut bytes = state.to_bytes();
                    flip_bit(&mut bytes, row, &state);
                    committed = State::parse(state.width(), &bytes).unwrap();
                }
            }
            self.record(lies, index, first..first + count, &committed);
        }
        state
    }

    /// Appends to the columns of a layer.
    fn record(&mut self, lies: &[Misdeed], index: usize, positions: Range<u32>, state: &State) {
        let (layer, cache) = (self.weights[index].layer, &mut self.caches[index]);
        let columns = &mut self.columns.layers[index];
        for position in positions {
            let at = position as usize;
            let mut bytes = Vec::new();
            if lies.contains(&told(Lie::WrongKv, layer, position)) {
                let mut row = cache.row(0, at).clone();
                row.key_codes[1] ^= 1;
                cache.put(0, at, row);
            }
            cache.read_row(0, at, &mut bytes);
            if lies.contains(&slip(Slip::KvRowCommitted(layer, position))) {
                bytes[1] ^= 1;
            }
            columns.kv.append(&bytes);
        }
        columns.states.append(&state.to_bytes());
    }

    fn lie_in_states(
        &mut self,
        lies: &[Misdeed],
        layer: u32,
        first: u32,
        before: &State,
        state: &mut State,
    ) {
        let here = |misdeed: &Misdeed| match misdeed {
            Misdeed::Lie(Script { lie, aim }) if aim.layer == layer => Some((*lie, aim.position)),
            Misdeed::Lie(_) | Misdeed::Slip(_) => None,
        };
        for (lie, position) in lies.iter().filter_map(here) {
            match lie {
                Lie::FlippedBit => {
                    if let Some(row) = row_of(first, position, state) {
                        let mut bytes = state.to_bytes();
                        flip_bit(&mut bytes, row, state);
                        *state = State::parse(state.width(), &bytes).unwrap();
                    }
                }
                Lie::OldState => {
                    if let Some(row) = row_of(first, position, state) {
                        *state = match (row.checked_sub(1), &self.last_row) {
                            (Some(before), _) => {
                                let mut rows: Vec<usize> = (0..state.rows()).collect();
                                rows[row] = before;
                                state.select(&rows)
                            }
                            (None, Some(last)) => last.clone(),
                            (None, None) => continue,
                        };
                    }
                }
                Lie::SkippedLayer => *state = before.clone(),
                Lie::ZeroState => {
                    *state = State::zeros(state.rows(), state.width());
                }
                _ => {}
            }
        }
        let is_old = aim(lies, Lie::OldState).is_some_and(|aim| aim.layer == layer);
        if is_old && state.rows() > 0 {
            self.last_row = Some(state.select(&[state.rows() - 1]));
        }
    }
}

/// Flips the lowest bit of a row's smallest mantissa, so that the row stays canonical.
fn flip_bit(bytes: &mut [u8], row: usize, state: &State) {
    let mantissas = state.mantissas(row).iter().enumerate();
    let (least, _) = mantissas.min_by_key(|(_, m)| m.unsigned_abs()).unwrap();
    bytes[row * (bytes.len() / state.rows()) + 2 * least] ^= 1;
}

fn row_of(first: u32, position: u32, state: &State) -> Option<usize> {
    let row = position.checked_sub(first)? as usize;
    (row < state.rows()).then_some(row)
}
