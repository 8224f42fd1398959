//! The audit of one opening: of a layer ([`crate::layer`]), of the head, or of an edge.
//!
//! Head cells: the state is the one that the head marked, the logits' sums are the product
//! (Freivalds), and the sampler, run again, gives the token that was answered.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::convert::Infallible;
use core::ops::Range;

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::forward::{Row, Scratch, logits};
use lockstep_exact::invariant::Broken;
use lockstep_exact::matrix::{Codec, Packed, QuantisedRow, pack};
use lockstep_exact::names::ProductName;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::Place;
use lockstep_exact::sample::{History, sample};
use lockstep_exact::state::State;
use lockstep_exact::weights::HeadWeights;

use crate::auditor::{Auditor, product, put_vector};
use crate::challenge::Target;
use crate::checked::{Check, Checked, Claims, Unproven};
use crate::device::AuditDevice;
use crate::fault::{Blame, Cell, Fault, Reason};
use crate::layer::LayerCells;
use crate::links::Meeting;
use crate::opening::{HeadOpening, Opening};
use crate::sums;

/// Head cells that are checked at once: their logits are large.
const HEAD_ROWS: usize = 8;

impl<D: AuditDevice> Auditor<'_, D> {
    /// Checks an opening of the head, of an edge or of a mark as the answer to a challenge; returns
    /// the number of products checked. A mark is asked for only where neighbours marked a frame
    /// differently, so it always ends in a fault: that of whoever is wrong. Layers are opened in
    /// parts: [`LayerCells::check`].
    pub(crate) fn check(
        &self,
        index: u32,
        target: &Target,
        opening: &Opening,
    ) -> Result<u64, Fault> {
        match (target, opening) {
            (Target::Head { positions }, Opening::Head(opening)) => self.head(positions, opening),
            (Target::Edge { layer, side, first, count }, Opening::Edge(slice)) => {
                let run = *first..first.saturating_add(*count);
                let run = run.collect::<Vec<u32>>();
                self.layer(index, *layer, 0..0, &run)?.check_edge(self, *side, slice)
            }
            (Target::Mark { layer, position }, Opening::Mark(mark)) => {
                let (to, layer, position) = (index, *layer, *position);
                Err(self.linked.settle(Meeting { to, layer, position }, mark))
            }
            (
                Target::Layer { .. }
                | Target::Head { .. }
                | Target::Edge { .. }
                | Target::Mark { .. },
                _,
            ) => {
                let blame = self.linked.blame(index);
                Err(Fault { blame, cell: None, reason: Reason::Shape("the kind of cells") })
            }
        }
    }

    /// Returns the cells that a target of a layer names, with the roots that they must be under.
    pub(crate) fn cells<'t>(
        &self,
        index: u32,
        target: &'t Target,
    ) -> Result<LayerCells<'t>, Fault> {
        match target {
            Target::Layer { layer, first, end, positions } => {
                self.layer(index, *layer, *first..*end, positions)
            }
            Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => Err(nowhere()),
        }
    }

    fn layer<'t>(
        &self,
        index: u32,
        layer: u32,
        kv: Range<u32>,
        positions: &'t [u32],
    ) -> Result<LayerCells<'t>, Fault> {
        let segment = self.linked.receipt().segments.get(index as usize).ok_or_else(nowhere)?;
        let at = layer.checked_sub(segment.first).ok_or_else(nowhere)? as usize;
        let roots = segment.layers.get(at).ok_or_else(nowhere)?;
        let before = match at.checked_sub(1) {
            Some(before) => segment.layers.get(before).ok_or_else(nowhere)?.states,
            None => segment.input_root,
        };
        let is_last = layer.checked_add(1) == Some(self.linked.layers());
        let first_output = if is_last { self.linked.first_head() } else { 0 };
        let blame = self.linked.blame(index);
        let edges = (layer == segment.first, layer.checked_add(1) == Some(segment.end));
        Ok(LayerCells {
            layer,
            kv,
            positions,
            segment: index,
            blame,
            roots: *roots,
            before,
            edges,
            is_last,
            first_output,
        })
    }

    /// Head cells: the state is the marked one, the logits are its, the sampler gives the token.
    fn head(&self, positions: &[u32], opening: &HeadOpening) -> Result<u64, Fault> {
        let fault = |position, reason| self.head_fault(position, reason);
        let manifest = self.key.manifest();
        let row_bytes = manifest.state_row_bytes();
        if opening.states.len() != positions.len().saturating_mul(row_bytes) {
            return Err(fault(None, Reason::Shape("head states")));
        }
        for (&position, row) in positions.iter().zip(opening.states.chunks_exact(row_bytes)) {
            self.check_head_input(position, row)?;
        }
        let state = State::parse(manifest.hidden as usize, &opening.states)
            .map_err(|_| fault(None, Reason::State))?;
        let product = ProductName::Logits;
        let shape = self.key.head().output.shape();
        let sums = sums::decode(shape, positions.len(), &opening.sums)
            .map_err(|error| fault(None, Reason::Sums { product, error }))?;
        let weights = self.head_weights()?;
        let checked = Checked::new(self.device);
        let claims = sums.chunks(shape.rows.saturating_mul(HEAD_ROWS));
        let mut indexes = (0..positions.len()).collect::<Vec<usize>>();
        for (positions, claims) in positions.chunks(HEAD_ROWS).zip(claims) {
            checked.claim(Claims::of_logits(claims));
            let rest = indexes.split_off(positions.len());
            let Ok(state) = self.device.put_state(state.select(&indexes));
            indexes = rest;
            let rows: Vec<Row> = positions.iter().map(|&position| row(position, true)).collect();
            let out = logits(&checked, &weights, &rows, &state, &mut Scratch::default(), &mut ());
            let out = out.map_err(|refused| match refused {
                Unproven::Wrong { name, row } => {
                    fault(positions.get(row).copied(), Reason::Product(name))
                }
                Unproven::Internal(broken) => broken.into(),
            })?;
            for (&position, logits) in positions.iter().zip(&out) {
                self.check_token(position, logits)?;
            }
        }
        Ok(positions.len() as u64)
    }

    fn head_fault(&self, position: Option<u32>, reason: Reason) -> Fault {
        let layer = self.linked.layers();
        let cell = position.map(|position| Cell { position, layer });
        Fault { blame: self.linked.blame(0), cell, reason }
    }

    /// The state that the head read is the one that it marked.
    fn check_head_input(&self, position: u32, row: &[u8]) -> Result<(), Fault> {
        let index = position.saturating_sub(self.linked.first_head()) as usize;
        let mark = self.linked.receipt().head_marks.get(index);
        if mark.is_some_and(|mark| mark.input == Digest::of(row)) {
            return Ok(());
        }
        Err(self.head_fault(Some(position), Reason::MarkContradicted))
    }

    fn check_token(&self, position: u32, logits: &Result<Vec<f32>, Overflow>) -> Result<(), Fault> {
        let receipt = self.linked.receipt();
        let index = position.saturating_sub(self.linked.first_head());
        let answer = receipt.answer.get(..index as usize);
        let answer = answer.ok_or_else(|| Broken::new("a head cell beyond the answer's end"))?;
        let history = History { prompt: &receipt.request.prompt, answer };
        let sampled = logits
            .as_ref()
            .map_err(|overflow| *overflow)
            .and_then(|logits| sample(logits, &receipt.request.sampling, history, None));
        // default: where it overflows the head gives no token
        let chosen = sampled.ok();
        let expected = receipt.answer.get(index as usize).copied();
        if chosen == expected {
            return Ok(());
        }
        let reason = match expected {
            Some(_) => Reason::Token { index },
            None => Reason::NoOverflow,
        };
        Err(self.head_fault(Some(position), reason))
    }

    /// The head's weights as the forward pass takes them, without the embedding, which it does not
    /// look at.
    fn head_weights(&self) -> Result<HeadWeights<Check<'_>, D::Vector>, Broken> {
        let key = self.key.head();
        let shape = Codec::W8.shape(1, 1);
        let shifts = Vec::new();
        let row = QuantisedRow { codes: vec![0], group_scales: vec![1], shifts, scale: 1.0 };
        let bytes = pack(shape, [row]);
        let len = bytes.len();
        let whole = Blob::new(bytes).slice(0, len);
        let Some(Ok(embedding)) = whole.map(|whole| Packed::new(shape, whole)) else {
            return Err(Broken::new("a matrix of one code is none"));
        };
        let put = |gain: &Vec<f32>| Ok::<_, Infallible>(put_vector(self.device, gain.clone()));
        let Ok(norm) = key.norm.try_map(put);
        Ok(HeadWeights {
            embedding,
            embedding_scale: self.key.manifest().head.embedding_scale,
            norm,
            output: product(self.device, ProductName::Logits, &key.output),
            output_shape: key.output.shape(),
        })
    }
}

/// For cells that the model or the receipt does not have.
const fn nowhere() -> Fault {
    Fault { blame: Blame::Receipt, cell: None, reason: Reason::NotDrawn }
}

const fn row(position: u32, feeds_head: bool) -> Row {
    Row { place: Place { slot: 0, position: position as usize }, feeds_head }
}
