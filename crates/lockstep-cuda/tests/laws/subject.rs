//! What is held to the laws: host numbers in, host numbers out; and the reference as one.

use lockstep_exact::flags::Flags;
use lockstep_exact::forward::{self, Probe, Row, Scratch};
use lockstep_exact::kv::{KvCache, KvShape, ReadKv as _, ReferenceKv};
use lockstep_exact::matrix::Packed;
use lockstep_exact::norm::{HeadNorms, Norm};
use lockstep_exact::ops::{AttentionLayer, Device, Host, Place, Products};
use lockstep_exact::plan::{Activation, AttentionPlan};
use lockstep_exact::reference::{Codes, Reference, Rows, Sums};
use lockstep_exact::state::State;

use crate::decode::{Inputs, Stepped, Steps};

/// Sessions with rows already written, and a batch of fused rows that is appended and attends.
pub(crate) struct Sessions {
    pub(crate) plan: AttentionPlan,
    pub(crate) rope: Vec<u64>,
    pub(crate) norms: Option<HeadNorms>,
    /// Canonical rows of each session's positions so far.
    pub(crate) written: Vec<Vec<u8>>,
    pub(crate) fused: Vec<f32>,
    pub(crate) places: Vec<Place>,
    /// The rows that attend.
    pub(crate) wanted: Vec<usize>,
}

impl Sessions {
    pub(crate) fn shape(&self) -> KvShape {
        let plan = &self.plan;
        KvShape { kv_heads: plan.kv_heads as usize, head_dim: plan.head_dim as usize }
    }

    /// Positions of a session, before and after the batch.
    pub(crate) fn positions(&self, slot: usize) -> (usize, usize) {
        let before = self.written[slot].len() / self.shape().row_bytes();
        let ends = self.places.iter().filter(|place| place.slot == slot).map(|p| p.position + 1);
        (before, ends.max().unwrap_or(0).max(before))
    }

    pub(crate) fn wanted_places(&self) -> Vec<Place> {
        self.wanted.iter().map(|&row| self.places[row]).collect()
    }
}

/// What comes out of a batch of sessions.
pub(crate) struct Attended {
    /// Canonical rows of each session's positions.
    pub(crate) rows: Vec<Vec<u8>>,
    pub(crate) queries: Vec<i16>,
    pub(crate) scales: Vec<f32>,
    pub(crate) append_flags: Flags,
    pub(crate) out: Vec<f32>,
    pub(crate) attend_flags: Flags,
}

/// Something that computes the operations.
pub(crate) trait Subject {
    fn norm(&self, state: &State, norm: &Norm) -> Vec<f32>;
    fn norm_rows(&self, norm: &Norm, data: &[f32]) -> (Vec<f32>, Flags);
    fn residual(&self, state: &State, delta: &[f32]) -> (State, Flags);
    fn quantise(&self, width: usize, data: &[f32]) -> (Vec<i16>, Vec<f32>, Flags);
    fn gate(&self, activation: Activation, width: usize, data: &[f32]) -> Vec<f32>;
    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32]) -> State;
    fn large_logits(&self, width: usize, data: &[f32]) -> Flags;
    fn markers(&self, state: &State) -> Flags;
    /// The product with rows that are quantised first: sums, and numbers with a bias.
    fn product(&self, matrix: &Packed, data: &[f32], bias: Option<&[f32]>) -> (Vec<i64>, Vec<f32>);
    fn attend(&self, sessions: &Sessions) -> Attended;
    fn decode(&self, steps: &Steps) -> Vec<Stepped>;
}

/// Flags for `rows` rows, none set.
fn flags(rows: usize) -> Flags {
    Flags::of(&State::zeros(rows, 1))
}

fn rows(width: usize, data: &[f32]) -> (Rows, Flags) {
    (Rows { width, data: data.to_vec() }, flags(data.len() / width))
}

impl Subject for Reference {
    fn norm(&self, state: &State, norm: &Norm) -> Vec<f32> {
        let mut out = Rows::default();
        Device::norm(self, state, norm.eps, &norm.gain, &mut out);
        out.data
    }

    fn norm_rows(&self, norm: &Norm, data: &[f32]) -> (Vec<f32>, Flags) {
        let (mut rows, mut flags) = rows(norm.gain.len(), data);
        Device::norm_rows(self, norm.eps, &norm.gain, &mut rows, &mut flags);
        (rows.data, flags)
    }

    fn residual(&self, state: &State, delta: &[f32]) -> (State, Flags) {
        let (delta, _) = rows(state.width(), delta);
        let (mut out, mut flags) = (State::default(), Flags::of(state));
        Device::residual(self, state, &delta, &mut out, &mut flags);
        (out, flags)
    }

    fn quantise(&self, width: usize, data: &[f32]) -> (Vec<i16>, Vec<f32>, Flags) {
        let (rows, mut flags) = rows(width, data);
        let mut out = Codes::default();
        Device::quantise(self, &rows, &mut out, &mut flags);
        (out.codes, out.scales, flags)
    }

    fn gate(&self, activation: Activation, width: usize, data: &[f32]) -> Vec<f32> {
        let mut out = Rows::default();
        Device::gate(self, activation, &rows(width, data).0, &mut out);
        out.data
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32]) -> State {
        let mut out = State::default();
        Device::embed(self, table, scale, tokens, &mut out);
        out
    }

    fn large_logits(&self, width: usize, data: &[f32]) -> Flags {
        let (rows, mut flags) = rows(width, data);
        let Ok(logits) = self.read_logits(&rows, width, &flags);
        let large = logits.iter().enumerate().filter(|(_, logits)| logits.is_err());
        large.for_each(|(row, _)| flags.set(row));
        flags
    }

    fn markers(&self, state: &State) -> Flags {
        Flags::of(state)
    }

    fn product(&self, matrix: &Packed, data: &[f32], bias: Option<&[f32]>) -> (Vec<i64>, Vec<f32>) {
        let (rows, mut flags) = rows(matrix.shape().columns, data);
        let (mut codes, mut sums, mut out) = (Codes::default(), Sums::default(), Rows::default());
        Device::quantise(self, &rows, &mut codes, &mut flags);
        let Ok(()) =
            Products::product(self, matrix, &matrix.row_scales(), &codes, &mut sums, &mut out);
        if let Some(bias) = bias {
            self.add_bias(&bias.to_vec(), &mut out);
        }
        (sums.data, out.data)
    }

    fn attend(&self, sessions: &Sessions) -> Attended {
        let shape = sessions.shape();
        let mut caches: Vec<ReferenceKv> = sessions
            .written
            .iter()
            .map(|rows| {
                let mut cache = ReferenceKv::new(&[shape]);
                for (position, row) in rows.chunks_exact(shape.row_bytes()).enumerate() {
                    cache.write_row(0, position, row).unwrap();
                }
                cache
            })
            .collect();
        let layer = AttentionLayer {
            plan: &sessions.plan,
            rope: &sessions.rope,
            norms: sessions.norms.as_ref(),
            index: 0,
        };
        let (fused, mut append_flags) = rows(sessions.plan.qkv_width(), &sessions.fused);
        let (places, wanted) = (&sessions.places, &sessions.wanted);
        let (mut queries, mut out) = (Codes::default(), Rows::default());
        let mut borrowed: Vec<&mut ReferenceKv> = caches.iter_mut().collect();
        let (queries_out, flags_out) = (&mut queries, &mut append_flags);
        self.append(layer, &fused, places, wanted, &mut borrowed, queries_out, flags_out);
        let mut attend_flags = flags(wanted.len());
        let places = sessions.wanted_places();
        Device::attend(self, layer, &queries, &places, &borrowed, &mut out, &mut attend_flags);
        let rows = |(slot, cache): (usize, &ReferenceKv)| {
            let mut rows = Vec::new();
            let positions = 0..sessions.positions(slot).1;
            positions.for_each(|position| cache.read_row(0, position, &mut rows));
            rows
        };
        Attended {
            rows: caches.iter().enumerate().map(rows).collect(),
            queries: queries.codes,
            scales: queries.scales,
            append_flags,
            out: out.data,
            attend_flags,
        }
    }

    fn decode(&self, steps: &Steps) -> Vec<Stepped> {
        let shapes: Vec<KvShape> = steps.layers.iter().map(|layer| layer.kv_shape()).collect();
        let mut caches: Vec<ReferenceKv> = steps
            .written
            .iter()
            .map(|layers| {
                let mut cache = ReferenceKv::new(&shapes);
                for (layer, (rows, shape)) in layers.iter().zip(&shapes).enumerate() {
                    for (position, row) in rows.chunks_exact(shape.row_bytes()).enumerate() {
                        cache.write_row(layer, position, row).unwrap();
                    }
                }
                cache
            })
            .collect();
        steps.states_with(self).into_iter().map(|state| step(steps, &mut caches, state)).collect()
    }
}

impl Steps {
    /// The state that each step begins with.
    fn states_with(&self, ops: &Reference) -> Vec<State> {
        match &self.inputs {
            Inputs::States(states) => states.clone(),
            Inputs::Tokens(steps) => {
                let embed = |tokens: &Vec<u32>| {
                    let mut state = State::default();
                    let head = &self.head;
                    Device::embed(ops, &head.embedding, head.embedding_scale, tokens, &mut state);
                    state
                };
                steps.iter().map(embed).collect()
            }
        }
    }
}

/// Sees the states after layers.
struct States(Vec<State>);

impl Probe for States {
    fn state(&mut self, _layer: u32, _rows: &[Row], state: &State) {
        self.0.push(state.clone());
    }
}

/// One step of the reference.
fn step(steps: &Steps, caches: &mut [ReferenceKv], state: State) -> Stepped {
    let place = |(slot, cache): (usize, &ReferenceKv)| Place { slot, position: cache.len() };
    let places: Vec<Place> = caches.iter().enumerate().map(place).collect();
    let rows: Vec<Row> = places.iter().map(|&place| Row { place, feeds_head: true }).collect();
    let mut probe = States(vec![state.clone()]);
    let mut scratch = Scratch::default();
    let mut borrowed: Vec<&mut ReferenceKv> = caches.iter_mut().collect();
    let (ops, layers) = (&Reference, &steps.layers);
    let Ok(state) =
        forward::forward(ops, layers, &rows, &mut borrowed, state, &mut scratch, &mut probe);
    let mut logits = Vec::new();
    if steps.to_logits {
        let Ok(all) =
            forward::logits(ops, &steps.head, &rows, &state, &mut scratch, &mut States(Vec::new()));
        logits = all.into_iter().map(Result::ok).collect();
    }
    let kv_row = |layer, place: &Place| {
        let mut row = Vec::new();
        caches[place.slot].read_row(layer, place.position, &mut row);
        row
    };
    let kv_rows = |layer| places.iter().map(|place| kv_row(layer, place)).collect();
    Stepped { states: probe.0, kv_rows: (0..layers.len()).map(kv_rows).collect(), logits }
}
