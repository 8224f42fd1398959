//! Operations on rows: each is defined by the reference's of the same name.

use lockstep_exact::limits;
use lockstep_exact::matrix::{COLUMNS_MAX, Codec};
use lockstep_exact::plan::Activation;

use crate::driver::{Argument, Buffer, Error};
use crate::gpu::{Gpu, at_most, row_threads, same, size};
use crate::products::Matrix;
use crate::rows::{Codes, Flags, Rows, States};

/// Threads of a block that takes elements one by one.
const THREADS: u32 = 256;

impl Gpu {
    /// Sets `flags` to which rows of `state` are the overflow marker.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn flags_of(&self, state: &States, flags: &mut Flags) -> Result<(), Error> {
        let operation = "flag_markers";
        flags.data.fit(state.rows)?;
        flags.rows = state.rows;
        let rows = size(operation, "rows", state.rows)?;
        let groups = size(operation, "groups", state.groups())?;
        let arguments = [
            state.exponents.argument(),
            Argument::U32(groups),
            Argument::U32(rows),
            flags.data.argument(),
        ];
        self.launch(operation, [rows.div_ceil(THREADS), 1, 1], THREADS, &arguments)
    }

    /// Computes the RMS normalisation of states.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn norm(
        &self,
        x: &States,
        eps: f32,
        gain: &Buffer<f32>,
        out: &mut Rows,
    ) -> Result<(), Error> {
        let operation = "norm";
        same(operation, "gains", x.width, gain.len())?;
        out.fit(operation, x.rows, x.width)?;
        let width = size(operation, "width", x.width)?;
        let arguments = [
            x.mantissas.argument(),
            x.exponents.argument(),
            Argument::U32(width),
            Argument::F32(eps),
            gain.argument(),
            out.data.argument(),
        ];
        let rows = size(operation, "rows", x.rows)?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Normalises f32 rows in place by RMS, after rounding them to block-i16; a row that overflows
    /// is flagged.
    ///
    /// # Errors
    /// As [`Gpu::norm`].
    pub fn norm_rows(
        &self,
        eps: f32,
        gain: &Buffer<f32>,
        rows: &mut Rows,
        flags: &mut Flags,
    ) -> Result<(), Error> {
        let operation = "norm_rows";
        same(operation, "gains", rows.width, gain.len())?;
        at_most(operation, "width", limits::HIDDEN, rows.width)?;
        same(operation, "flags", rows.rows, flags.rows)?;
        let width = size(operation, "width", rows.width)?;
        let arguments = [
            rows.data.argument(),
            Argument::U32(width),
            Argument::F32(eps),
            gain.argument(),
            flags.data.argument(),
        ];
        let rows = size(operation, "rows", rows.rows)?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Computes `x + delta` as states, with the marker for rows that are flagged or overflow.
    ///
    /// # Errors
    /// As [`Gpu::norm`].
    pub fn residual(
        &self,
        x: &States,
        delta: &Rows,
        out: &mut States,
        flags: &mut Flags,
    ) -> Result<(), Error> {
        let operation = "residual";
        same(operation, "width of the delta", x.width, delta.width)?;
        same(operation, "rows of the delta", x.rows, delta.rows)?;
        same(operation, "flags", x.rows, flags.rows)?;
        out.fit(operation, x.rows, x.width)?;
        let width = size(operation, "width", x.width)?;
        let arguments = [
            x.mantissas.argument(),
            x.exponents.argument(),
            delta.data.argument(),
            Argument::U32(width),
            out.mantissas.argument(),
            out.exponents.argument(),
            flags.data.argument(),
        ];
        let rows = size(operation, "rows", x.rows)?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Quantises each row to ±32512 with one scale.
    ///
    /// # Errors
    /// As [`Gpu::norm`].
    pub fn quantise(&self, x: &Rows, out: &mut Codes, flags: &mut Flags) -> Result<(), Error> {
        let operation = "quantise";
        at_most(operation, "width", COLUMNS_MAX, x.width)?;
        same(operation, "flags", x.rows, flags.rows)?;
        out.fit(operation, x.rows, x.width)?;
        let width = size(operation, "width", x.width)?;
        let arguments = [
            x.data.argument(),
            Argument::U32(width),
            Argument::U32(size(operation, "tiles", out.tiles())?),
            out.codes.argument(),
            out.scales.argument(),
            flags.data.argument(),
        ];
        let rows = size(operation, "rows", x.rows)?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Computes `activation(gate) · up` of rows that hold a gate's elements and then up's.
    ///
    /// # Errors
    /// As [`Gpu::norm`].
    pub fn gate(
        &self,
        activation: Activation,
        gate_up: &Rows,
        out: &mut Rows,
    ) -> Result<(), Error> {
        let (operation, inner) = ("gate", gate_up.width / 2);
        same(operation, "width of gate and up", inner * 2, gate_up.width)?;
        out.fit(operation, gate_up.rows, inner)?;
        let inner = size(operation, "width", inner)?;
        let activation = match activation {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
        };
        let arguments = [
            gate_up.data.argument(),
            Argument::U32(inner),
            Argument::U32(activation),
            out.data.argument(),
        ];
        let rows = size(operation, "rows", gate_up.rows)?;
        self.launch(operation, [inner.div_ceil(THREADS), rows, 1], THREADS, &arguments)
    }

    /// Reads the embedding rows of `tokens`, ids below the table's rows, and writes them times
    /// `scale` as states.
    ///
    /// # Errors
    /// [`Error::Shape`] for an id that the table does not have; otherwise as [`Gpu::norm`].
    pub fn embed(
        &self,
        table: &Matrix,
        scale: f32,
        tokens: &[u32],
        out: &mut States,
    ) -> Result<(), Error> {
        let (operation, shape) = ("embed", table.shape());
        for &token in tokens {
            at_most(operation, "a token's id", shape.rows.saturating_sub(1), token as usize)?;
        }
        out.fit(operation, tokens.len(), shape.columns)?;
        let tokens: Buffer<u32> = self.table(tokens.to_vec())?;
        let width = size(operation, "width", shape.columns)?;
        let arguments = [
            table.bytes.argument(),
            Argument::U64(table.stride()),
            Argument::U32(size(operation, "spans", shape.columns.div_ceil(64))?),
            Argument::U32(match shape.codec {
                Codec::W8 => 8,
                Codec::W4 => 4,
            }),
            tokens.argument(),
            Argument::F32(scale),
            Argument::U32(width),
            out.mantissas.argument(),
            out.exponents.argument(),
        ];
        let rows = size(operation, "rows", tokens.len())?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }

    /// Flags rows of logits of which one is 2^55 or more, infinite or not a number.
    ///
    /// # Errors
    /// As [`Gpu::norm`].
    pub fn flag_logits(&self, logits: &Rows, flags: &mut Flags) -> Result<(), Error> {
        let operation = "flag_large";
        same(operation, "flags", logits.rows, flags.rows)?;
        let width = size(operation, "width", logits.width)?;
        let arguments = [logits.data.argument(), Argument::U32(width), flags.data.argument()];
        let rows = size(operation, "rows", logits.rows)?;
        self.launch(operation, [rows, 1, 1], row_threads(width), &arguments)
    }
}
