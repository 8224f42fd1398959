//! The work and the memory that one rendering may take, and the errors it ends with.
//!
//! Every step is paid for before it is done, and every value before it is made, so that a template
//! cannot make this program allocate what it then refuses. Memory is counted as it is asked for and
//! never given back: what is alive at once is at most what was ever made.

use std::cell::Cell;
use std::fmt;

use crate::limits::{MAX_RENDER_DEPTH, MAX_RENDERED_BYTES, RENDER_FUEL, RENDER_MEMORY};

/// Bytes that one step of work reads or writes.
const BYTES_A_STEP: usize = 64;

/// The work and memory that one rendering may still take.
#[derive(Debug)]
pub(crate) struct Budget {
    fuel: Cell<u64>,
    memory: Cell<usize>,
    depth: Cell<u32>,
}

impl Budget {
    /// Returns all that one rendering may take.
    pub(crate) const fn new() -> Self {
        Self { fuel: Cell::new(RENDER_FUEL), memory: Cell::new(RENDER_MEMORY), depth: Cell::new(0) }
    }

    /// Takes `steps` steps of work from the budget, or fails if fewer are left.
    pub(super) fn work(&self, steps: usize) -> Result<()> {
        let left = self.fuel.get().checked_sub(steps as u64);
        self.fuel.set(left.ok_or_else(|| Error::new(Fault::TooMuchWork))?);
        Ok(())
    }

    /// Takes the work of reading `bytes` bytes from the budget, or fails if less is left.
    pub(super) fn read(&self, bytes: usize) -> Result<()> {
        self.work(bytes / BYTES_A_STEP)
    }

    /// Pays for a value of `bytes`, and for writing it.
    pub(super) fn make(&self, bytes: usize) -> Result<()> {
        let left = self.memory.get().checked_sub(bytes);
        self.memory.set(left.ok_or_else(|| Error::new(Fault::TooMuchMemory))?);
        self.read(bytes)
    }

    /// Pays for `times` values of `bytes` each.
    pub(super) fn make_times(&self, bytes: usize, times: usize) -> Result<()> {
        self.make(bytes.checked_mul(times).ok_or_else(|| Error::new(Fault::TooMuchMemory))?)
    }

    /// Goes one level deeper, until the guard is dropped.
    pub(super) fn deeper(&self) -> Result<Level<'_>> {
        let depth = self.depth.get() + 1;
        if depth > MAX_RENDER_DEPTH {
            return Err(Error::new(Fault::TooDeep));
        }
        self.depth.set(depth);
        Ok(Level(&self.depth))
    }
}

/// A level of nesting that ends when this is dropped.
pub(super) struct Level<'a>(&'a Cell<u32>);

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The result of rendering, or of a part of it.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a template could not be read or rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The template does what Python's jinja2 refuses too, or what is documented as missing here.
    Fails(String),
    /// Its own words, by `raise_exception`.
    Refused(String),
    /// Calls or values nest too deeply.
    TooDeep,
    /// The values that it makes are too large together.
    TooMuchMemory,
    /// Rendering the template takes more work than its limit.
    TooMuchWork,
    /// Its output is longer than [`MAX_RENDERED_BYTES`].
    LongOutput,
}

/// A fault, and where in the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error(Box<(Fault, Option<u32>)>);

impl Error {
    /// Creates a fault whose place is told later.
    pub(super) fn new(fault: Fault) -> Self {
        Self(Box::new((fault, None)))
    }

    /// Creates the error of a template that does what can't be done; `message` says what.
    pub(super) fn fails(message: impl Into<String>) -> Self {
        Self::new(Fault::Fails(message.into()))
    }

    /// Returns the same, on `line` if no inner place is known.
    pub(super) fn at(mut self, line: u32) -> Self {
        self.0.1.get_or_insert(line);
        self
    }

    /// Returns the kind of the error.
    pub(crate) fn fault(&self) -> &Fault {
        &self.0.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault() {
            Fault::Fails(message) | Fault::Refused(message) => f.write_str(message)?,
            Fault::TooDeep => f.write_str("calls or values nest too deeply")?,
            Fault::TooMuchMemory => write!(f, "more than {RENDER_MEMORY} bytes of values")?,
            Fault::TooMuchWork => write!(f, "more than {RENDER_FUEL} steps of work")?,
            Fault::LongOutput => write!(f, "more than {MAX_RENDERED_BYTES} bytes of output")?,
        }
        match self.0.1 {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}
