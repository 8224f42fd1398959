//! Rows of numbers in the device's memory, and how they get there and back.
//!
//! Every type is empty when it is made, takes the size of what is written into it, and keeps its
//! memory for the next use.

use lockstep_exact::flags;
use lockstep_exact::state::{self, State};

use crate::driver::{Buffer, Error};
use crate::gpu::{Gpu, at_most, same};
use crate::limits::BATCH_ROWS;

/// Rows of f32 numbers in the device's memory.
#[derive(Debug)]
pub struct Rows {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) data: Buffer<f32>,
}

impl Rows {
    /// Creates a buffer without any rows.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { rows: 0, width: 0, data: gpu.buffer(&[])? })
    }

    /// Makes this rows of `width` numbers.
    ///
    /// # Errors
    /// [`Error::Shape`] when `data` is not whole rows; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn write(&mut self, width: usize, data: &[f32]) -> Result<(), Error> {
        let rows = data.len().checked_div(width).unwrap_or(0);
        same("write", "the numbers of whole rows", rows * width, data.len())?;
        self.fit("write", rows, width)?;
        self.data.write(0, data)
    }

    /// Returns all numbers, row after row.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<Vec<f32>, Error> {
        self.data.read(0..self.rows * self.width)
    }

    /// Makes room for rows, whose numbers are unspecified.
    pub(crate) fn fit(
        &mut self,
        operation: &'static str,
        rows: usize,
        width: usize,
    ) -> Result<(), Error> {
        at_most(operation, "rows of a batch", BATCH_ROWS, rows)?;
        self.data.fit(rows * width)?;
        (self.rows, self.width) = (rows, width);
        Ok(())
    }
}

/// Rows of inputs of products: codes in ±32512 and a scale per row.
#[derive(Debug)]
pub struct Codes {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    /// Two planes in the order of [`Codes::place`].
    pub(crate) codes: Buffer<u8>,
    pub(crate) scales: Buffer<f32>,
}

impl Codes {
    /// Creates a buffer without any rows.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { rows: 0, width: 0, codes: gpu.buffer(&[])?, scales: gpu.buffer(&[])? })
    }

    pub(crate) fn fit(
        &mut self,
        operation: &'static str,
        rows: usize,
        width: usize,
    ) -> Result<(), Error> {
        at_most(operation, "rows of a batch", BATCH_ROWS, rows)?;
        (self.rows, self.width) = (rows, width);
        self.codes.fit(self.bytes())?;
        self.scales.fit(rows)
    }

    /// Tiles of 4 rows, with those that fill up a launch of products: 1, 2, or a multiple of 4.
    pub(crate) const fn tiles(&self) -> usize {
        match self.rows.div_ceil(4) {
            tiles @ 0..=2 => tiles,
            tiles => tiles.next_multiple_of(4),
        }
    }

    /// Returns the number of bytes of both planes.
    const fn bytes(&self) -> usize {
        self.width.div_ceil(64) * self.tiles() * 512
    }

    /// Returns the offset of the upper plane's byte of a code:
    /// `[span of 64 columns][tile of 4 rows][row][plane] [8 columns][half of the span][8]`, where
    /// the four pieces of 16 bytes of row n are exchanged, piece k with k ^ n; the lower plane's
    /// byte is 64 bytes further.
    const fn place(&self, row: usize, column: usize) -> usize {
        let lane = row % 4 * 8 + ((column / 8 % 4) ^ (row % 4));
        let half = column / 32 % 2;
        ((column / 64 * self.tiles() + row / 4) * 32 + lane) * 16 + half * 8 + column % 8
    }

    /// Returns all codes, row after row, and the rows' scales.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<(Vec<i16>, Vec<f32>), Error> {
        let bytes = self.codes.read(0..self.bytes())?;
        let plane = |at: usize| i16::from(bytes[at].cast_signed());
        let code = |row, column| {
            let at = self.place(row, column);
            255 * plane(at) + plane(at + 64)
        };
        let codes = (0..self.rows).flat_map(|row| (0..self.width).map(move |k| (row, k)));
        let codes = codes.map(|(row, column)| code(row, column)).collect();
        Ok((codes, self.scales.read(0..self.rows)?))
    }
}

/// Rows of exact sums in the device's memory.
#[derive(Debug)]
pub struct Sums {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) data: Buffer<i64>,
}

impl Sums {
    /// Creates a buffer without any rows.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { rows: 0, width: 0, data: gpu.buffer(&[])? })
    }

    /// Makes this rows of `width` sums.
    ///
    /// # Errors
    /// As [`Rows::write`].
    pub fn write(&mut self, width: usize, sums: &[i64]) -> Result<(), Error> {
        let rows = sums.len().checked_div(width).unwrap_or(0);
        same("write", "the sums of whole rows", rows * width, sums.len())?;
        at_most("write", "rows of a batch", BATCH_ROWS, rows)?;
        self.data.fit(sums.len())?;
        (self.rows, self.width) = (rows, width);
        self.data.write(0, sums)
    }

    /// Returns all sums, row after row.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<Vec<i64>, Error> {
        self.data.read(0..self.rows * self.width)
    }
}

/// Rows of states in the device's memory.
#[derive(Debug)]
pub struct States {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) mantissas: Buffer<i16>,
    pub(crate) exponents: Buffer<u8>,
}

impl States {
    /// Creates a buffer without any rows.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu) -> Result<Self, Error> {
        Ok(Self { rows: 0, width: 0, mantissas: gpu.buffer(&[])?, exponents: gpu.buffer(&[])? })
    }

    /// Returns the number of groups of a row.
    pub(crate) const fn groups(&self) -> usize {
        self.width.div_ceil(state::GROUP)
    }

    pub(crate) fn fit(
        &mut self,
        operation: &'static str,
        rows: usize,
        width: usize,
    ) -> Result<(), Error> {
        at_most(operation, "rows of a batch", BATCH_ROWS, rows)?;
        (self.rows, self.width) = (rows, width);
        self.mantissas.fit(rows * width)?;
        self.exponents.fit(rows * self.groups())
    }

    /// Copies the rows of `state` to the device, in place of those that were here.
    ///
    /// # Errors
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn write(&mut self, state: &State) -> Result<(), Error> {
        self.fit("write", state.rows(), state.width())?;
        let rows = || 0..state.rows();
        let mantissas: Vec<i16> = rows().flat_map(|row| state.mantissas(row)).copied().collect();
        let exponents: Vec<u8> = rows().flat_map(|row| state.exponents(row)).copied().collect();
        self.mantissas.write(0, &mantissas)?;
        self.exponents.write(0, &exponents)
    }

    /// Copies the rows to the host.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<State, Error> {
        let mut state = State::zeros(self.rows, self.width);
        let (mantissas, exponents) = state.parts_mut();
        mantissas.copy_from_slice(&self.mantissas.read(0..self.rows * self.width)?);
        exponents.copy_from_slice(&self.exponents.read(0..self.rows * self.groups())?);
        Ok(state)
    }
}

/// Which rows of a batch have overflowed.
#[derive(Debug)]
pub struct Flags {
    pub(crate) rows: usize,
    pub(crate) data: Buffer<u32>,
}

impl Flags {
    /// Creates flags for `rows` rows, of which none is set.
    ///
    /// # Errors
    /// [`Error::Shape`] when there are too many; [`Error::Memory`]; [`Error::Lost`],
    /// [`Error::Call`].
    pub fn new(gpu: &Gpu, rows: usize) -> Result<Self, Error> {
        at_most("flags", "rows of a batch", BATCH_ROWS, rows)?;
        Ok(Self { rows, data: Buffer::zeros(&gpu.context, rows)? })
    }

    /// Copies flags of as many rows to the device.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn write(&mut self, flags: &flags::Flags) -> Result<(), Error> {
        self.data.write(0, &(0..self.rows).map(|row| flags.get(row).into()).collect::<Vec<u32>>())
    }

    /// Copies the flags to the host.
    ///
    /// # Errors
    /// [`Error::Lost`], [`Error::Call`].
    pub fn read(&self) -> Result<flags::Flags, Error> {
        let mut flags = flags::Flags::of(&State::zeros(self.rows, 1));
        let set: Vec<bool> = self.data.read(0..self.rows)?.iter().map(|&flag| flag != 0).collect();
        flags.merge(0, &set);
        Ok(flags)
    }
}
