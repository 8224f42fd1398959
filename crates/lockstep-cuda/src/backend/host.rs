//! The exchange with the host's memory: [`Host`].

use std::fmt;
use std::ops::Range;

use lockstep_exact::experts::Choice;
use lockstep_exact::feed_forward::Rule;
use lockstep_exact::num::{self, Overflow};
use lockstep_exact::ops::{Copied, CopiedOf, Host, Place};
use lockstep_exact::state::State;

use super::tray::Tray;
use super::{Cache, Cuda, Quantised, SharedTray, Slot, lock, missing};
use crate::driver::{Buffer, Element, Error};
use crate::gpu::Gpu;
use crate::kv;
use crate::rows::{Flags, Rows, States, Sums};

/// A copy that the device makes, of something that is a `T` on the host.
pub struct Ticket<T>(Made<T>);

/// Makes a `T` of the bytes that the device has put on a place of a tray.
type Read<T> = Box<dyn FnOnce(&mut Tray, &Range<usize>) -> Result<T, Error> + Send>;

/// Where a ticket's copy is.
enum Made<T> {
    /// Nowhere: the device has failed.
    Failed,
    /// On the host.
    Here(T),
    /// On a tray, and how its bytes are read.
    OnTray(SharedTray, Range<usize>, Read<T>),
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").finish_non_exhaustive()
    }
}

impl<T> Ticket<T> {
    fn of(copied: Option<T>) -> Self {
        Self(copied.map_or(Made::Failed, Made::Here))
    }
}

impl Cuda {
    /// Puts `bytes` bytes on a tray by `fill`, which is told from where on; `read` makes of them
    /// what the ticket gives.
    fn show<T>(
        &self,
        bytes: impl FnOnce() -> Result<usize, Error>,
        fill: impl FnOnce(&Gpu, &mut Buffer<u8>, usize) -> Result<(), Error>,
        read: impl FnOnce(&mut Tray, &Range<usize>) -> Result<T, Error> + Send + 'static,
    ) -> Ticket<T> {
        let put =
            self.give(|gpu| lock(&self.trays).put(gpu, bytes()?, |tray, at| fill(gpu, tray, at)));
        Ticket(match put {
            Some((tray, place)) => Made::OnTray(tray, place, Box::new(read)),
            None => Made::Failed,
        })
    }
}

/// Reads all numbers of a place.
fn numbers_of<T: Element>(tray: &mut Tray, place: &Range<usize>) -> Result<Vec<T>, Error> {
    let mut numbers = vec![T::default(); place.len() / size_of::<T>()];
    tray.read(place, 0, &mut numbers)?;
    Ok(numbers)
}

impl Host for Cuda {
    type Ticket<T> = Ticket<T>;

    fn wait<T>(&self, ticket: Ticket<T>) -> Result<T, Error> {
        self.answer(|_| match ticket.0 {
            Made::Failed => Err(missing("a copy that was made")),
            Made::Here(value) => Ok(value),
            Made::OnTray(tray, place, read) => read(&mut lock(&tray), &place),
        })
    }

    fn put_vector(&self, values: Vec<f32>) -> Result<Buffer<f32>, Error> {
        self.answer(|gpu| gpu.buffer(&values))
    }

    fn put_rope(&self, turns: Vec<u64>) -> Result<Buffer<u64>, Error> {
        self.answer(|gpu| gpu.buffer(&turns))
    }

    fn put_state(&self, state: State) -> Result<Slot<States>, Error> {
        self.begin();
        self.answer(|gpu| {
            let mut out: Slot<States> = Slot::default();
            out.room(gpu)?.write(&state)?;
            Ok(out)
        })
    }

    fn take_state<'a>(&self, state: &'a Slot<States>) -> CopiedOf<'a, Self, State> {
        // default: of states that no operation has written, `show` gives no copy
        let (rows, width) = state.get().map_or((0, 0), |of| (of.rows, of.width));
        let (numbers, groups) = (0..rows * width, 0..rows * width.div_ceil(32));
        let split = numbers.len() * size_of::<i16>();
        let all = split + groups.len();
        Copied::UnderWay(self.show(
            || state.get().map(|_| all),
            |_, tray, at| {
                let of = state.get()?;
                tray.copy_bytes(at, &of.mantissas, &numbers)?;
                tray.copy_bytes(at + split, &of.exponents, &groups)
            },
            move |tray, place| {
                let mut out = State::zeros(rows, width);
                let (mantissas, exponents) = out.parts_mut();
                tray.read(place, 0, mantissas)?;
                tray.read(place, split, exponents)?;
                Ok(out)
            },
        ))
    }

    fn take_kv(
        &self,
        caches: &[&mut Cache],
        layer: usize,
        places: &[Place],
    ) -> CopiedOf<'static, Self, [u8]> {
        let shape = caches.first().map(|cache| cache.on_device(layer).shape());
        // default: no caches have no rows
        let bytes = shape.map_or(0, |shape| shape.row_bytes() * places.len());
        Copied::UnderWay(self.show(
            || Ok(bytes),
            |gpu, tray, at| {
                let Some(shape) = shape else { return Ok(()) };
                let place = |place: &Place| {
                    let kv = caches[place.slot].on_device(layer);
                    kv.page_of(place.position)
                };
                let pages = places.iter().map(place).collect::<Result<Vec<_>, _>>()?;
                let positions = places.iter().map(|place| place.position as u32).collect();
                let rows = tray.argument_at(at);
                kv::move_rows(gpu, "read_kv", shape, pages, positions, rows)
            },
            numbers_of,
        ))
    }

    fn take_rows<'a>(&self, rows: &'a Slot<Rows>) -> CopiedOf<'a, Self, [f32]> {
        let numbers = || rows.get().map(|of| 0..of.rows * of.width);
        Copied::UnderWay(self.show(
            || Ok(numbers()?.len() * size_of::<f32>()),
            |_, tray, at| tray.copy_bytes(at, &rows.get()?.data, &numbers()?),
            numbers_of,
        ))
    }

    /// Nobody who serves asks for codes, so they are read at once.
    fn take_codes<'a>(&self, codes: &'a Quantised) -> CopiedOf<'a, Self, [i16]> {
        Copied::UnderWay(Ticket::of(self.give(|_| {
            let (codes, _) = match codes.are_queries {
                true => codes.queries.get()?.read()?,
                false => codes.rows.get()?.read()?,
            };
            Ok(codes)
        })))
    }

    fn take_sums<'a>(&self, sums: &'a Slot<Sums>) -> CopiedOf<'a, Self, [i64]> {
        let numbers = || sums.get().map(|of| 0..of.rows * of.width);
        Copied::UnderWay(self.show(
            || Ok(numbers()?.len() * size_of::<i64>()),
            |_, tray, at| tray.copy_bytes(at, &sums.get()?.data, &numbers()?),
            numbers_of,
        ))
    }

    fn read_logits(
        &self,
        rows: &Slot<Rows>,
        width: usize,
        flags: &Slot<Flags>,
    ) -> Result<Vec<Result<Vec<f32>, Overflow>>, Error> {
        self.answer(|_| {
            let (numbers, flags) = (rows.get()?.read()?, flags.get()?.read()?);
            let logits = |(row, logits): (usize, &[f32])| {
                let fits = num::amax_bits(logits) < num::OVERFLOW_BITS && !flags.get(row);
                if fits { Ok(logits.to_vec()) } else { Err(Overflow) }
            };
            Ok(numbers.chunks_exact(width.max(1)).enumerate().map(logits).collect())
        })
    }

    fn choose(
        &self,
        rule: Rule,
        experts: usize,
        logits: &Slot<Rows>,
        flags: &mut Slot<Flags>,
    ) -> Result<Choice, Error> {
        self.answer(|_| {
            let logits = logits.get()?.read()?;
            let flags = flags.get_mut()?;
            let mut on_host = flags.read()?;
            let choice = Choice::new(rule, experts, &logits, &mut on_host);
            flags.write(&on_host)?;
            Ok(choice)
        })
    }

    fn write_sums(&self, width: usize, values: &[i64], out: &mut Slot<Sums>) {
        self.run(|gpu| out.room(gpu)?.write(width, values));
    }
}
