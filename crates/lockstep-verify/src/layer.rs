//! The audit of opened cells of one layer: are they the committed ones, and is each what its inputs
//! give?
//!
//! A layer is opened in parts, each of which is checked as it comes; between them only the KV rows
//! are kept ([`Filled`]).
//!
//! In this order: the parts of the opening fit the challenge and lie under the signed roots; rows
//! at an edge agree with the stage's own marks; sums are in range; each product is right
//! (Freivalds); everything between the products is computed again by the forward pass that serves;
//! the resulting KV rows and states are the committed ones.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::cell::RefCell;
use core::ops::Range;

use lockstep_exact::Digest;
use lockstep_exact::experts::Choice;
use lockstep_exact::forward::{Probe, Row, Scratch, Sees};
use lockstep_exact::invariant::Broken;
use lockstep_exact::names::ProductName;
use lockstep_exact::state::State;

use crate::auditor::{Auditor, Session};
use crate::challenge::Side;
use crate::checked::{Checked, CheckedLayer, Claim, Claims, Unproven};
use crate::device::AuditDevice;
use crate::fault::{Blame, Cell, Fault, Part, Reason};
use crate::opening::{Inputs, LayerOpening, runs};
use crate::run::{Filled, LayerRun, ROWS, RunError};
use crate::slice::{self, Slice};
use crate::slots::{Slot, slots};
use crate::statement::LayerRoots;
use crate::sums;

/// Challenged cells of one layer, and what the stage committed to.
pub(crate) struct LayerCells<'t> {
    pub(crate) layer: u32,
    /// The positions whose KV rows are opened.
    pub(crate) kv: Range<u32>,
    pub(crate) positions: &'t [u32],
    /// The index of the segment in the receipt.
    pub(crate) segment: u32,
    pub(crate) blame: Blame,
    pub(crate) roots: LayerRoots,
    /// The root of the column that holds the layer's input rows.
    pub(crate) before: Digest,
    /// Whether the layer is its stage's first, and its last.
    pub(crate) edges: (bool, bool),
    pub(crate) is_last: bool,
    /// The position of the first row of the states column.
    pub(crate) first_output: u32,
}

/// The parts of a layer's opening, proven and of the right sizes.
struct Opened {
    kv: Vec<u8>,
    inputs: Vec<u8>,
    outputs: Vec<u8>,
    /// The sums of each slot.
    sums: Vec<(Slot, Vec<i64>)>,
}

impl LayerCells<'_> {
    pub(crate) fn fault(&self, position: Option<u32>, reason: Reason) -> Fault {
        let cell = position.map(|position| Cell { position, layer: self.layer });
        Fault { blame: self.blame, cell, reason }
    }

    /// Returns the layer's weights as the forward pass takes them.
    pub(crate) fn weights<'k, D: AuditDevice>(
        &self,
        auditor: &'k Auditor<'_, D>,
    ) -> Result<CheckedLayer<'k, D>, Fault> {
        Ok(auditor.weights(self.layer, self.is_last)?)
    }

    pub(crate) fn check<D: AuditDevice>(
        &self,
        auditor: &Auditor<'_, D>,
        opening: &LayerOpening,
        filled: &mut Filled<D::Kv>,
    ) -> Result<u64, Fault> {
        let weights = self.weights(auditor)?;
        let session = auditor.session(self.segment)?;
        let inputs = || self.inputs(auditor, &opening.inputs);
        let opened = self.read(&session, &weights, inputs, opening)?;
        let (is_first, is_end) = self.edges;
        if is_first && self.layer > 0 {
            self.check_marks(auditor, Side::Received, self.positions, &opened.inputs)?;
        }
        let with_state = self.with_state();
        if is_end {
            self.check_marks(auditor, Side::Sent, with_state, &opened.outputs)?;
        }
        self.compute(&session, &weights, &opened, filled)?;
        Ok(self.products(&opened))
    }

    /// Checks as [`LayerCells::check`] does, of cells at no edge whose inputs are committed states.
    pub(crate) fn check_inside<D: AuditDevice>(
        &self,
        session: &Session<'_, D>,
        weights: &CheckedLayer<'_, D>,
        opening: &LayerOpening,
        filled: &mut Filled<D::Kv>,
    ) -> Result<u64, Fault> {
        let Inputs::Slices(slices) = &opening.inputs else {
            return Err(self.fault(None, Reason::Shape("input rows")));
        };
        let inputs = || self.committed_inputs(session, slices);
        let opened = self.read(session, weights, inputs, opening)?;
        self.compute(session, weights, &opened, filled)?;
        Ok(self.products(&opened))
    }

    /// Returns the number of products that are checked.
    fn products(&self, opened: &Opened) -> u64 {
        let of = |(slot, _): &(Slot, _)| slot.times.saturating_mul(self.of_slot(slot).len());
        opened.sums.iter().map(of).fold(0, usize::saturating_add) as u64
    }

    /// Returns the challenged positions that have sums in a slot.
    fn of_slot(&self, slot: &Slot) -> &[u32] {
        if slot.is_of_every_position() { self.positions } else { self.with_state() }
    }

    /// Returns the challenged positions that have a state after the layer.
    fn with_state(&self) -> &[u32] {
        self.with_state_of(self.positions)
    }

    fn with_state_of<'p>(&self, positions: &'p [u32]) -> &'p [u32] {
        let mut rest = positions;
        while let [first, after @ ..] = rest
            && *first < self.first_output
        {
            rest = after;
        }
        rest
    }

    /// Sizes, paths and ranges, in this order: KV rows, inputs, outputs, sums.
    fn read<D: AuditDevice>(
        &self,
        session: &Session<'_, D>,
        weights: &CheckedLayer<'_, D>,
        inputs: impl FnOnce() -> Result<Vec<u8>, Fault>,
        opening: &LayerOpening,
    ) -> Result<Opened, Fault> {
        let (rows, row_bytes) = (session.positions, session.row_bytes());
        let kv_row = weights.kv_shape().row_bytes();
        let kv_runs = core::slice::from_ref(&self.kv);
        let kv = core::slice::from_ref(&opening.kv);
        let kv = Column { part: Part::Kv, root: self.roots.kv, first: 0, rows, row_bytes: kv_row }
            .read(self, kv_runs, kv)?;
        let inputs = inputs()?;
        let outputs = Column {
            part: Part::Output,
            root: self.roots.states,
            first: self.first_output,
            rows: rows.saturating_sub(self.first_output),
            row_bytes,
        }
        .read(self, &runs(self.with_state()), &opening.outputs)?;
        let slots = slots(&weights.plan);
        if slots.len() != opening.sums.len() {
            return Err(self.fault(None, Reason::Shape("products")));
        }
        let sums = slots.into_iter().zip(&opening.sums).map(|(slot, bytes)| {
            let rows = self.of_slot(&slot).len().saturating_mul(slot.times);
            let product = slot.kind;
            let sums = sums::decode(slot.shape, rows, bytes)
                .map_err(|error| self.fault(None, Reason::Sums { product, error }))?;
            Ok((slot, sums))
        });
        let sums = sums.collect::<Result<_, Fault>>()?;
        Ok(Opened { kv, inputs, outputs, sums })
    }

    /// Returns the input rows: embeddings of the tokens in layer 0, committed states elsewhere.
    fn inputs<D: AuditDevice>(
        &self,
        auditor: &Auditor<'_, D>,
        inputs: &Inputs,
    ) -> Result<Vec<u8>, Fault> {
        let row_bytes = auditor.key.manifest().state_row_bytes();
        match inputs {
            Inputs::Embeddings(bytes) if self.layer == 0 => {
                if bytes.len() != self.positions.len().saturating_mul(row_bytes) {
                    return Err(self.fault(None, Reason::Shape("embedding rows")));
                }
                for (&position, row) in self.positions.iter().zip(bytes.chunks_exact(row_bytes)) {
                    let token = auditor.linked.token(position);
                    let expected = token.and_then(|token| auditor.key.embedding(token));
                    if expected != Some(Digest::of(row)) {
                        return Err(self.fault(Some(position), Reason::Embedding));
                    }
                }
                Ok(bytes.clone())
            }
            Inputs::Slices(slices) if self.layer > 0 => {
                self.committed_inputs(&auditor.session(self.segment)?, slices)
            }
            Inputs::Embeddings(_) | Inputs::Slices(_) => {
                Err(self.fault(None, Reason::Shape("input rows")))
            }
        }
    }

    fn committed_inputs<D>(
        &self,
        session: &Session<'_, D>,
        slices: &[Slice],
    ) -> Result<Vec<u8>, Fault> {
        let (rows, row_bytes) = (session.positions, session.row_bytes());
        let column = Column { part: Part::Input, root: self.before, first: 0, rows, row_bytes };
        column.read(self, &runs(self.positions), slices)
    }

    /// Checks of every frame whose rows are all opened that they are what the stage marked.
    fn check_marks<D>(
        &self,
        auditor: &Auditor<'_, D>,
        side: Side,
        positions: &[u32],
        rows: &[u8],
    ) -> Result<(), Fault> {
        let row_bytes = auditor.key.manifest().state_row_bytes();
        for step in &auditor.linked.receipt().steps {
            let end = step.position.saturating_add(step.count);
            let first = match side {
                Side::Received => step.position,
                Side::Sent => step.position.max(self.first_output),
            };
            let count = end.saturating_sub(first) as usize;
            let Ok(at) = positions.binary_search(&first) else { continue };
            let Some(after) = at.checked_add(count) else { continue };
            let last = after.checked_sub(1).and_then(|last| positions.get(last)).copied();
            if last != end.checked_sub(1) {
                continue;
            }
            let bytes = at.saturating_mul(row_bytes)..after.saturating_mul(row_bytes);
            let digest = rows.get(bytes).map(Digest::of);
            let mark = auditor.linked.mark_in(self.segment, step);
            let marked = mark.map(|mark| match side {
                Side::Received => mark.input,
                Side::Sent => mark.output,
            });
            if digest != marked {
                return Err(self.fault(Some(first), Reason::MarkContradicted));
            }
        }
        Ok(())
    }

    /// Puts all cells through the layer with the claimed sums, and takes the KV rows over.
    fn compute<D: AuditDevice>(
        &self,
        session: &Session<'_, D>,
        weights: &CheckedLayer<'_, D>,
        opened: &Opened,
        filled: &mut Filled<D::Kv>,
    ) -> Result<(), Fault> {
        let inputs = State::parse(session.hidden, &opened.inputs)
            .map_err(|_| self.fault(None, Reason::State))?;
        let checked = Checked::new(session.device);
        let mut run = LayerRun {
            ops: &checked,
            weights,
            first_head: session.first_head,
            kv: &opened.kv,
            first: self.kv.start,
            filled,
            scratch: Scratch::default(),
        };
        let (mut at, mut out_at) = (0_usize, 0_usize);
        for piece in self.positions.chunks(ROWS) {
            let outs = self.with_state_of(piece);
            let rows = at..at.saturating_add(piece.len());
            let out_rows = out_at..out_at.saturating_add(outs.len());
            (at, out_at) = (rows.end, out_rows.end);
            checked.claim(claims(opened, &rows, &out_rows)?);
            let state = inputs.select(&rows.collect::<Vec<usize>>());
            let kv = (opened.kv.as_slice(), self.kv.start, weights.kv_shape().row_bytes());
            let mut compare = Compare::new(&checked.choice, kv, &opened.outputs, out_rows);
            let result = run.through(piece, state, &mut compare);
            self.conclude(result.err(), &compare, piece, outs)?;
        }
        match run.fill(self.kv.end) {
            Err(RunError::Kv { position, error }) => {
                Err(self.fault(Some(position), Reason::KvRow(error)))
            }
            Ok(()) | Err(RunError::Products(_)) => Ok(()),
        }
    }

    /// Returns the earliest fault of a piece, in order of position.
    fn conclude(
        &self,
        error: Option<RunError<Unproven>>,
        compare: &Compare<'_>,
        piece: &[u32],
        outs: &[u32],
    ) -> Result<(), Fault> {
        if let Some(broken) = compare.broken {
            return Err(broken.into());
        }
        let refused = match error {
            None => None,
            Some(RunError::Kv { position, error }) => Some((position, Reason::KvRow(error))),
            Some(RunError::Products(Unproven::Internal(broken))) => return Err(broken.into()),
            Some(RunError::Products(Unproven::Wrong { name, row })) => {
                let rows = if name == ProductName::Qkv { piece } else { outs };
                let position = rows.get(row).copied();
                let position = position.ok_or_else(|| Broken::new("a wrong row of no cell"))?;
                Some((position, Reason::Product(name)))
            }
        };
        let kv = compare.wrong_kv.map(|position| (position, Reason::Kv));
        let state = compare.wrong_state.map(|position| (position, Reason::Output));
        // A wrong KV row explains what goes wrong after it, in its own position too.
        let all = [kv, refused, state].into_iter().flatten();
        match all.min_by_key(|(position, _)| *position) {
            Some((position, reason)) => Err(self.fault(Some(position), reason)),
            None => Ok(()),
        }
    }

    /// Checks that rows at an edge of the stage are under its root and are what it marked; returns
    /// 0, the number of products checked.
    pub(crate) fn check_edge<D: AuditDevice>(
        &self,
        auditor: &Auditor<'_, D>,
        side: Side,
        slice: &Slice,
    ) -> Result<u64, Fault> {
        let row_bytes = auditor.key.manifest().state_row_bytes();
        let rows = auditor.session(self.segment)?.positions;
        let (root, first) = match side {
            Side::Received => (self.before, 0),
            Side::Sent => (self.roots.states, self.first_output),
        };
        let rows = rows.saturating_sub(first);
        let bytes = Column { part: Part::Edge, root, first, rows, row_bytes }.read(
            self,
            &runs(self.positions),
            core::slice::from_ref(slice),
        )?;
        self.check_marks(auditor, side, self.positions, &bytes)?;
        Ok(0)
    }
}

/// The claims for a piece of an opening's rows.
///
/// # Errors
/// [`Broken`]: fewer sums were read than the opening has to have.
fn claims<'a>(
    opened: &'a Opened,
    rows: &Range<usize>,
    out_rows: &Range<usize>,
) -> Result<Claims<'a>, Broken> {
    let part = |(slot, sums): &'a (Slot, Vec<i64>)| {
        let rows = if slot.is_of_every_position() { rows } else { out_rows };
        let width = slot.width();
        let sums = sums.get(rows.start.saturating_mul(width)..rows.end.saturating_mul(width));
        let sums = sums.ok_or_else(|| Broken::new("an opening's sums end too early"))?;
        Ok(Claim { kind: slot.kind, times: slot.times, sums })
    };
    Ok(Claims(opened.sums.iter().map(part).collect::<Result<_, Broken>>()?))
}

/// A column as its stage committed to it.
struct Column {
    part: Part,
    root: Digest,
    /// The position of the first row.
    first: u32,
    rows: u32,
    row_bytes: usize,
}

impl Column {
    /// Checks one slice per run and returns the rows of all.
    fn read(
        &self,
        cells: &LayerCells<'_>,
        runs: &[Range<u32>],
        slices: &[Slice],
    ) -> Result<Vec<u8>, Fault> {
        let part = self.part;
        if runs.len() != slices.len() {
            return Err(cells.fault(None, Reason::Shape("slices")));
        }
        let total = self.offset(self.first.saturating_add(self.rows));
        let mut rows = Vec::new();
        for (run, opened) in runs.iter().zip(slices) {
            let range = self.offset(run.start)..self.offset(run.end);
            let bytes = slice::check(opened, &self.root, total, range)
                .map_err(|error| cells.fault(Some(run.start), Reason::Slice { part, error }))?;
            rows.extend_from_slice(bytes);
        }
        Ok(rows)
    }

    fn offset(&self, position: u32) -> u64 {
        let row = u64::from(position.saturating_sub(self.first));
        row.saturating_mul(self.row_bytes as u64)
    }
}

/// Compares what a forward pass computes with what was committed.
struct Compare<'a> {
    /// The choice of the audited router, by which the claims of experts are looked up.
    choice: &'a RefCell<Choice>,
    kv: &'a [u8],
    /// The position of the first KV row.
    first: u32,
    kv_row: usize,
    outputs: &'a [u8],
    out_rows: Range<usize>,
    wrong_kv: Option<u32>,
    wrong_state: Option<u32>,
    /// Why something was not compared, if it was not.
    broken: Option<Broken>,
}

impl<'a> Compare<'a> {
    fn new(
        choice: &'a RefCell<Choice>,
        (kv, first, kv_row): (&'a [u8], u32, usize),
        outputs: &'a [u8],
        out_rows: Range<usize>,
    ) -> Self {
        let (wrong_kv, wrong_state) = (None, None);
        let broken = None;
        Self { choice, kv, first, kv_row, outputs, out_rows, wrong_kv, wrong_state, broken }
    }

    /// A position of a row as a cell names it; `None` if no cell has it.
    fn position(&mut self, row: &Row) -> Option<u32> {
        let position = u32::try_from(row.place.position);
        if position.is_err() {
            self.broken = Some(Broken::new("a row beyond every position"));
        }
        // default: what the error says is kept in `broken`
        position.ok()
    }
}

impl Probe for Compare<'_> {
    const SEES: Sees = Sees { kv: true, state: true, ..Sees::NOTHING };

    fn choice(&mut self, _: u32, choice: &Choice) {
        self.choice.replace(choice.clone());
    }

    fn kv(&mut self, _: u32, rows: &[Row], kv: &[u8]) {
        let computed = kv.chunks_exact(self.kv_row);
        if computed.len() != rows.len() {
            self.broken = Some(Broken::new("not one KV row for each row"));
            return;
        }
        for (row, bytes) in rows.iter().zip(computed) {
            let at = row.place.position.saturating_sub(self.first as usize);
            if self.kv.chunks_exact(self.kv_row).nth(at) != Some(bytes) {
                self.wrong_kv = self.position(row);
                return;
            }
        }
    }

    fn state(&mut self, _: u32, rows: &[Row], state: &State) {
        if rows.len() != self.out_rows.len() {
            self.broken = Some(Broken::new("not as many states as outputs of a piece"));
            return;
        }
        let mut bytes = Vec::new();
        for ((index, row), at) in rows.iter().enumerate().zip(self.out_rows.clone()) {
            bytes.clear();
            state.write_row(index, &mut bytes);
            if self.outputs.chunks_exact(bytes.len().max(1)).nth(at) != Some(&bytes) {
                self.wrong_state = self.position(row);
                return;
            }
        }
    }
}
