//! Operations that move, scale or add rows: each is defined by the reference's of the same name.

use crate::driver::{Argument, Buffer, Element, Error};
use crate::gpu::{Gpu, at_most, same, size};
use crate::rows::{Codes, Flags, Rows, States, Sums};

/// Threads of a block that takes elements one by one.
const THREADS: u32 = 256;

impl Gpu {
    /// Launches a kernel with a thread for each element of each row.
    fn for_elements(
        &self,
        operation: &'static str,
        width: u32,
        rows: usize,
        arguments: &[Argument],
    ) -> Result<(), Error> {
        let grid = [width.div_ceil(THREADS), size(operation, "rows", rows)?, 1];
        self.launch(operation, grid, THREADS, arguments)
    }

    /// Computes `f32(sum) · (row_scale · token_scale)` for every sum: `scales` are the matrix's row
    /// scales, `x` has the scales of its inputs.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn dequant(
        &self,
        sums: &Sums,
        x: &Codes,
        scales: &Buffer<f32>,
        out: &mut Rows,
    ) -> Result<(), Error> {
        let operation = "dequant";
        same(operation, "rows", sums.rows, x.rows)?;
        same(operation, "scales", sums.width, scales.len())?;
        out.fit(operation, sums.rows, sums.width)?;
        let width = size(operation, "width", sums.width)?;
        let arguments = [
            sums.data.argument(),
            x.scales.argument(),
            scales.argument(),
            Argument::U32(width),
            out.data.argument(),
        ];
        self.for_elements(operation, width, sums.rows, &arguments)
    }

    /// Adds one number per column to every row.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn add_bias(&self, bias: &Buffer<f32>, rows: &mut Rows) -> Result<(), Error> {
        let operation = "add_bias";
        same(operation, "numbers of the bias", rows.width, bias.len())?;
        let width = size(operation, "width", rows.width)?;
        let arguments = [bias.argument(), Argument::U32(width), rows.data.argument()];
        self.for_elements(operation, width, rows.rows, &arguments)
    }

    /// Copies rows of `width` numbers at `indexes`, in that order.
    #[expect(clippy::needless_pass_by_ref_mut, reason = "it is written, in the device's memory")]
    fn gather<T: Element>(
        &self,
        from: &Buffer<T>,
        width: usize,
        indexes: &Buffer<u32>,
        out: &mut Buffer<T>,
    ) -> Result<(), Error> {
        let operation = "gather";
        let bytes = size(operation, "bytes of a row", width * size_of::<T>())?;
        let [from, to, out] = [from.argument(), indexes.argument(), out.argument()];
        let arguments = [from, to, Argument::U32(bytes), out];
        self.for_elements(operation, bytes, indexes.len(), &arguments)
    }

    /// Copies the states at `indexes`, in that order.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn select_states(
        &self,
        from: &States,
        indexes: &[usize],
        out: &mut States,
    ) -> Result<(), Error> {
        let table = self.indexes("select_states", from.rows, indexes)?;
        out.fit("select_states", indexes.len(), from.width)?;
        self.gather(&from.mantissas, from.width, &table, &mut out.mantissas)?;
        self.gather(&from.exponents, from.groups(), &table, &mut out.exponents)
    }

    /// Copies the rows at `indexes`, in that order.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn select_rows(&self, from: &Rows, indexes: &[usize], out: &mut Rows) -> Result<(), Error> {
        let table = self.indexes("select_rows", from.rows, indexes)?;
        out.fit("select_rows", indexes.len(), from.width)?;
        self.gather(&from.data, from.width, &table, &mut out.data)
    }

    /// Copies the flags at `indexes`, in that order.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn select_flags(&self, from: &Flags, indexes: &[usize]) -> Result<Flags, Error> {
        let table = self.indexes("select_flags", from.rows, indexes)?;
        let mut out = Flags::new(self, indexes.len())?;
        self.gather(&from.data, 1, &table, &mut out.data)?;
        Ok(out)
    }

    /// Flags the row `indexes[i]` of `out` for every flagged row `i`.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn merge_flags(
        &self,
        from: &Flags,
        indexes: &[usize],
        out: &mut Flags,
    ) -> Result<(), Error> {
        let operation = "merge_flags";
        same(operation, "indexes", from.rows, indexes.len())?;
        let table = self.indexes(operation, out.rows, indexes)?;
        let rows = size(operation, "rows", from.rows)?;
        let [from, table, out] = [from.data.argument(), table.argument(), out.data.argument()];
        let arguments = [from, table, Argument::U32(rows), out];
        self.for_elements(operation, rows, 1, &arguments)
    }

    /// Makes `out` rows of zeros.
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn zero_rows(&self, rows: usize, width: usize, out: &mut Rows) -> Result<(), Error> {
        out.fit("zero_rows", rows, width)?;
        out.data.clear()
    }

    /// Adds `weights[i] · rows[i]` to `out[indexes[i]]`: the product is rounded, then the sum.
    ///
    /// # Errors
    /// [`Error::Shape`] also for indexes that do not increase; otherwise as [`Gpu::dequant`].
    pub fn accumulate(
        &self,
        rows: &Rows,
        indexes: &[usize],
        weights: &[f32],
        out: &mut Rows,
    ) -> Result<(), Error> {
        let operation = "accumulate";
        same(operation, "weights", rows.rows, weights.len())?;
        same(operation, "indexes", rows.rows, indexes.len())?;
        same(operation, "width", out.width, rows.width)?;
        // Two threads must not add to one number.
        let increasing = indexes.windows(2).filter(|pair| pair[0] < pair[1]).count();
        same(operation, "indexes that increase", indexes.len().saturating_sub(1), increasing)?;
        let table = self.indexes(operation, out.rows, indexes)?;
        let weights = self.table(weights.to_vec())?;
        let width = size(operation, "width", rows.width)?;
        let arguments = [
            rows.data.argument(),
            table.argument(),
            weights.argument(),
            Argument::U32(width),
            out.data.argument(),
        ];
        self.for_elements(operation, width, rows.rows, &arguments)
    }

    /// Adds `sigmoid(gates[i]) · rows[i]` to `out[i]`, rounded as by [`Gpu::accumulate`].
    ///
    /// # Errors
    /// As [`Gpu::dequant`].
    pub fn accumulate_gated(&self, rows: &Rows, gates: &Rows, out: &mut Rows) -> Result<(), Error> {
        let operation = "accumulate_gated";
        same(operation, "gates", rows.rows, gates.rows * gates.width)?;
        same(operation, "rows", out.rows, rows.rows)?;
        same(operation, "width", out.width, rows.width)?;
        let width = size(operation, "width", rows.width)?;
        let [from, gates, to] = [rows.data.argument(), gates.data.argument(), out.data.argument()];
        let arguments = [from, gates, Argument::U32(width), to];
        self.for_elements(operation, width, rows.rows, &arguments)
    }

    /// Has the indexes of some of `rows` rows copied to the device.
    fn indexes(
        &self,
        operation: &'static str,
        rows: usize,
        indexes: &[usize],
    ) -> Result<Buffer<u32>, Error> {
        for &index in indexes {
            at_most(operation, "the index of a row", rows.saturating_sub(1), index)?;
        }
        self.table(indexes.iter().map(|&index| index as u32).collect())
    }
}
