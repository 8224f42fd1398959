//! One layer of a session that is too long to be computed in a test, opened and audited in parts.

use std::convert::Infallible;
use std::fmt;
use std::ops::Range;
use std::slice;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_exact::forward::{Row, Scratch, forward};
use lockstep_exact::kv::KvCache as _;
use lockstep_exact::matrix::Packed;
use lockstep_exact::ops::{Device, Host as _, KvOf, Place, Products};
use lockstep_exact::state::{State, row_bytes};
use lockstep_exact::weights::LayerWeights;
use lockstep_verify::archive::{Archive, OpenError, Prover};
use lockstep_verify::column::{Column, Columns, Keep, Recorder};
use lockstep_verify::device::AuditDevice;
use lockstep_verify::fault::Fault;
use lockstep_verify::limits::OPENING_BYTES;
use lockstep_verify::measure::{CommittedLayer, LayerAudit, inner_layer, seeded_states};

/// Positions whose rows are repeated over the whole session.
const REPEATED: u32 = 128;
/// Bytes that are appended to a column at once: what waits to be hashed is no larger.
const APPENDED: usize = 64 << 10;

/// A step of [`audit_in_parts`] that has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The columns of the layer are there.
    Committed,
    /// The stage has opened a part of so many bytes.
    Opened(usize),
    /// The auditor has checked the part against the root and dropped it.
    Checked,
}

/// Why a layer was not audited to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unaudited {
    /// Something was not opened.
    Open(OpenError),
    /// Something that is right was found wrong.
    Fault(Fault),
}

impl fmt::Display for Unaudited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Unaudited {}

impl From<OpenError> for Unaudited {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl From<Fault> for Unaudited {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Commits to a layer's columns over `positions` pseudo-random states, opens those that are given,
/// which increase, in parts, and audits each part as it comes: nothing of a part is kept but its KV
/// rows. `each` hears of every step. Gives the number of products checked.
///
/// Only the opened positions are put through the layer, each after the KV rows before it; all other
/// rows are those of a few positions, repeated. Commitments, openings and checks are as in earnest,
/// without the hours of a forward pass.
///
/// # Errors
/// [`Unaudited`].
pub fn audit_in_parts<O>(
    ops: &O,
    weights: &LayerWeights<Packed>,
    positions: u32,
    opened: impl IntoIterator<Item = u32>,
    mut each: impl FnMut(Progress),
) -> Result<u64, Unaudited>
where
    O: Products<Matrix = Packed, Error = Infallible>,
    O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
{
    let opened: Vec<u32> = opened.into_iter().collect();
    let weights = inner_layer(weights);
    let span = weights.layer..weights.layer + 1;
    let mut archive = Archive::new(span.clone(), positions);
    let input = seeded_states(positions, weights.parts.attention_norm.gain.len());
    archive.states(&input);
    let columns = repeated(ops, &weights, (span, positions), &input, &opened)?;
    drop(input);
    let layer = CommittedLayer::new(ops, &weights, &columns, positions)?;
    let prover = Prover::with_columns(ops, slice::from_ref(&weights), None, &archive, columns);
    each(Progress::Committed);
    let mut audit = LayerAudit::new(ops.device(), &layer);
    let mut products = 0;
    for target in layer.parts(opened) {
        let body = prover.open(&target)?.to_bytes();
        if body.len() > OPENING_BYTES {
            return Err(OpenError::TooLarge { bytes: body.len() }.into());
        }
        let digest = Digest::of(&body);
        each(Progress::Opened(body.len()));
        products += audit.check(&target, &body, digest)?;
        drop(body);
        each(Progress::Checked);
    }
    Ok(products)
}

/// The columns of a layer of which only the opened positions are computed, over their own inputs
/// and the KV rows before them.
fn repeated<O>(
    ops: &O,
    weights: &LayerWeights<Packed>,
    (span, positions): (Range<u32>, u32),
    input: &[u8],
    opened: &[u32],
) -> Result<Columns, OpenError>
where
    O: Products<Matrix = Packed, Error = Infallible>,
    O::Device: AuditDevice + Device<Vector = Vec<f32>, Rope = Vec<u64>>,
{
    let hidden = weights.parts.attention_norm.gain.len();
    let (state_row, kv_row) = (row_bytes(hidden), weights.kv_shape().row_bytes());
    let layers = slice::from_ref(weights);
    let mut archive = Archive::new(span.clone(), positions);
    archive.states(&input[..REPEATED.min(positions) as usize * state_row]);
    let base = Prover::rebuild(ops, layers, None, &archive, span.start, None)?.into_columns();
    let mut kv = repeat(&base.layers[0].kv, kv_row, positions);
    let mut states = repeat(&base.layers[0].states, state_row, positions);
    let mut cache = KvOf::<O>::new(&[weights.kv_shape()]);
    let (mut filled, mut computed) = (0, Vec::new());
    for position in opened.iter().map(|position| *position as usize) {
        for (at, row) in kv.chunks_exact(kv_row).enumerate().take(position).skip(filled) {
            cache.write_row(0, at, row).expect("a row of the layer");
        }
        let state = State::parse(hidden, &input[position * state_row..][..state_row]);
        let rows = [Row { place: Place { slot: 0, position }, feeds_head: false }];
        let mut columns = Columns::new(span.clone(), Keep::Bytes);
        let sessions = &mut [&mut columns];
        let mut recorder = Recorder::new(sessions);
        let Ok(state) = ops.device().put_state(state.expect("a seeded state"));
        let scratch = &mut Scratch::default();
        let Ok(_) = forward(ops, layers, &rows, &mut [&mut cache], state, scratch, &mut recorder);
        recorder.finish().expect("a column for each row");
        filled = position + 1;
        computed.push((position, columns));
    }
    for (position, columns) in computed {
        put(&mut kv, position, &columns.layers[0].kv);
        put(&mut states, position, &columns.layers[0].states);
    }
    let mut columns = Columns::new(span, Keep::Bytes);
    columns.reserve(positions as usize, state_row, kv_row);
    input.chunks(APPENDED).for_each(|bytes| columns.receive(bytes));
    kv.chunks(APPENDED).for_each(|bytes| columns.layers[0].kv.append(bytes));
    drop(kv);
    states.chunks(APPENDED).for_each(|bytes| columns.layers[0].states.append(bytes));
    Ok(columns)
}

/// The rows of a column, one after the other and again from the first, so many in all.
fn repeat(rows: &Column, row_bytes: usize, count: u32) -> Vec<u8> {
    let bytes = rows.bytes().expect("columns that keep their bytes").iter().copied();
    bytes.cycle().take(row_bytes * count as usize).collect()
}

/// Puts the one row of a column into its place.
fn put(all: &mut [u8], position: usize, row: &Column) {
    let row = row.bytes().expect("columns that keep their bytes");
    all[position * row.len()..][..row.len()].copy_from_slice(row);
}
