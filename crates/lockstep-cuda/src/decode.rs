//! A decode step: one new position of each of a few sessions through a span, in one launch.
//!
//! The blocks of the launch wait for each other between the parts of a layer, so that nothing
//! returns to the host before the step is done. Everything that a server needs of it then lies in
//! one piece of memory: states, KV rows, logits.

use std::ops::Range;

use lockstep_exact::kv::PAGE;
use lockstep_exact::num::{OVERFLOW_BITS, Overflow};
use lockstep_exact::state::{self, State};

use crate::driver::{Buffer, Error, Landing};
use crate::gpu::{Gpu, at_most, same, size};
use crate::kv::{Kv, padded};
use crate::limits::{STEP_CHUNKS_OF_FEW, STEP_CHUNKS_OF_MANY, STEP_ROWS};
use crate::rows::States;
use crate::span::{self, Layer, Path, Span};
use crate::words::{self, Words};

/// The number of threads of a block.
const THREADS: u32 = 512;
/// The number of warps of a block.
const WARPS: u32 = THREADS / 32;
/// Bytes of a chunk of the weights that are on their way to a warp.
const CHUNK: u32 = 2080;
/// Bytes of what a chunk of attention says of itself.
const SHARE: usize = 16;
/// A row's flag where nothing overflowed.
const NEVER: u32 = u32::MAX;

/// The input of a step: tokens, or the states of the layer before the span.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A token of each session, for a span with an embedding.
    Tokens(&'a [u32]),
    /// A state of each session, for a span without.
    States(&'a State),
    /// States that the device has.
    OnDevice(&'a States),
}

/// Memory for decode steps of a fixed number of sessions.
#[derive(Debug)]
pub struct Step {
    rows: usize,
    kernel: &'static str,
    /// Bytes of shared memory of each block's rings.
    rings: u32,
    /// The most pages that a session may have.
    pages: usize,
    layout: Layout,
    /// Tokens, positions, counters: written before each step, all in one.
    control: Buffer<u32>,
    image: Vec<u32>,
    tables: Buffer<u64>,
    /// The addresses that `tables` holds on the device.
    pages_known: Vec<u64>,
    results: Buffer<u8>,
    landing: Landing,
    plan: Buffer<u64>,
    /// What the device knows of the layers.
    layer_words: Vec<u64>,
    /// Kept as long as their addresses are in `plan`.
    _held: Held,
}

#[derive(Debug)]
struct Held {
    _floats: Buffer<f32>,
    _bytes: Buffer<u8>,
    _numerators: Buffer<i32>,
    _layers: Buffer<u64>,
}

/// The offsets in bytes of the parts of a step's results.
#[derive(Clone, Debug)]
struct Layout {
    rows: usize,
    hidden: usize,
    vocabulary: usize,
    flagged: usize,
    largest_logits: usize,
    exponents: usize,
    mantissas: usize,
    /// Each layer's, and the bytes of one of its rows.
    kv_rows: Vec<(usize, usize)>,
    logits: usize,
    end: usize,
}

/// Gives out places of a piece of memory, 16 bytes aligned.
struct Places(usize);

impl Places {
    const fn take(&mut self, bytes: usize) -> usize {
        let place = self.0;
        self.0 = (place + bytes).next_multiple_of(16);
        place
    }
}

impl Layout {
    fn new(span: Path<'_>, rows: usize) -> Self {
        let mut places = Places(0);
        let (hidden, vocabulary) = (span.hidden(), span.vocabulary());
        let states = (span.layers.len() + 1) * rows;
        let flagged = places.take(rows * 4);
        let largest_logits = places.take(rows * 4);
        let exponents = places.take(states * hidden.div_ceil(state::GROUP));
        let mantissas = places.take(states * hidden * 2);
        let row_bytes = span.layers.iter().map(|layer| layer.kv_shape().row_bytes());
        let kv_rows = row_bytes.map(|bytes| (places.take(rows * bytes), bytes)).collect();
        let logits = places.take(rows * vocabulary * 4);
        let end = places.0;
        Self {
            rows,
            hidden,
            vocabulary,
            flagged,
            largest_logits,
            exponents,
            mantissas,
            kv_rows,
            logits,
            end,
        }
    }
}

/// Places of the counters behind tokens and positions, in words.
struct Counters {
    largest: usize,
    chunks_done: usize,
    end: usize,
}

/// Words between counters that all blocks ask for: a line of the cache.
const LINE: usize = 32;

impl Counters {
    fn new(span: Path<'_>, rows: usize) -> Self {
        let largest = 2 * STEP_ROWS + 2 * LINE;
        let chunks_done = largest + span.layers.len() * 2 * rows;
        Self { largest, chunks_done, end: chunks_done + span.layers.len() * rows * kv_heads(span) }
    }
}

/// Returns the largest of some number of all layers.
fn largest(span: Path<'_>, of: impl Fn(&Layer) -> usize) -> usize {
    span.layers.iter().map(of).max().unwrap_or(0)
}

fn kv_heads(span: Path<'_>) -> usize {
    largest(span, |layer| layer.plan.attention.kv_heads as usize)
}

impl Step {
    /// Allocates memory for steps of `rows` sessions, of up to `positions` positions each.
    ///
    /// # Errors
    /// [`Error::Shape`] for no sessions or more than 8, or a device with fewer multiprocessors;
    /// [`Error::Memory`]; [`Error::Lost`], [`Error::Call`].
    pub fn new(gpu: &Gpu, span: &Span, rows: usize, positions: usize) -> Result<Self, Error> {
        Self::along(gpu, span.path(), rows, positions)
    }

    /// Allocates memory as [`Step::new`] does.
    pub(crate) fn along(
        gpu: &Gpu,
        path: Path<'_>,
        rows: usize,
        positions: usize,
    ) -> Result<Self, Error> {
        let operation = "decode";
        at_most(operation, "sessions", STEP_ROWS.min(gpu.info().processors as usize), rows)?;
        same(operation, "sessions, at least", rows.max(1), rows)?;
        let (kernel, chunks) = kernel(gpu, rows)?;
        let (pages, layout) = (positions.div_ceil(PAGE).max(1), Layout::new(path, rows));
        let counters = Counters::new(path, rows);
        let control = Buffer::zeros(&gpu.context, counters.end)?;
        let pages_known = vec![0; path.layers.len() * rows * pages];
        let tables = gpu.buffer(&pages_known)?;
        let results = Buffer::zeros(&gpu.context, layout.end)?;
        let landing = Landing::new(&gpu.context, layout.end)?;
        let addresses = (tables.address(), results.address());
        let layer_words = words_of_layers(path, &layout, pages, addresses)?;
        let layers = gpu.buffer(&layer_words)?;
        let mut words = Words::default();
        words.buffer(&layers);
        let embedding = path.embedding;
        words.matrix(embedding.map(|(matrix, _)| matrix), None)?;
        words.matrix(path.head.map(|(_, matrix)| matrix), None)?;
        words.norm(path.head.map(|(norm, _)| norm));
        let at = |place: usize| control.address() + (place * 4) as u64;
        let lines = 2 * STEP_ROWS;
        for place in [0, STEP_ROWS, lines, lines + LINE, counters.chunks_done, counters.largest] {
            words.word(at(place));
        }
        let result = |place: usize| results.address() + place as u64;
        words.word(result(layout.largest_logits));
        words.word(result(layout.flagged));
        words.word(result(layout.mantissas));
        words.word(result(layout.exponents));
        let held = scratch(gpu, path, rows, pages, result(layout.logits), layers, &mut words)?;
        words.pair(size(operation, "layers", path.layers.len())?, rows as u32);
        words.pair(size(operation, "width", path.hidden())?, size(operation, "pages", pages)?);
        words.pair(pages as u32, kv_heads(path) as u32);
        words.pair(embedding.map_or(0, |(_, scale)| scale.to_bits()), chunks);
        same(operation, "words of a step", words::STEP, words.0.len())?;
        let image = vec![0; counters.end];
        let plan = gpu.buffer(&words.0)?;
        Ok(Self {
            rows,
            kernel,
            rings: chunks * WARPS * CHUNK,
            pages,
            layout,
            control,
            image,
            tables,
            pages_known,
            results,
            landing,
            plan,
            layer_words,
            _held: held,
        })
    }

    /// Reads the results of the last step to the host.
    ///
    /// # Errors
    /// [`Error::Lost`] when the step failed; [`Error::Call`].
    pub fn read(&mut self) -> Result<Decoded, Error> {
        let mut bytes = vec![0; self.layout.end];
        self.landing.copy_later(&self.results, self.layout.end)?;
        self.landing.read(0, &mut bytes)?;
        Ok(Decoded { layout: self.layout.clone(), bytes })
    }
}

/// Returns the structures `LayerPlan` of all layers; `tables` and `results` are where those begin.
fn words_of_layers(
    path: Path<'_>,
    layout: &Layout,
    pages: usize,
    (tables, results): (u64, u64),
) -> Result<Vec<u64>, Error> {
    let mut words = Words::default();
    for ((index, layer), (kv_rows, _)) in path.layers.iter().enumerate().zip(&layout.kv_rows) {
        let table = tables + (index * layout.rows * pages * 8) as u64;
        span::write(layer, table, results + *kv_rows as u64, &mut words)?;
    }
    same("decode", "words of layers", words::LAYER * path.layers.len(), words.0.len())?;
    Ok(words.0)
}

/// Returns the kernel for steps of `rows` sessions, and the number of chunks of weights that each
/// of its warps has on their way to shared memory.
fn kernel(gpu: &Gpu, rows: usize) -> Result<(&'static str, u32), Error> {
    let (kernel, most) = if rows <= 4 {
        ("decode_rows4", STEP_CHUNKS_OF_FEW)
    } else {
        ("decode_rows8", STEP_CHUNKS_OF_MANY)
    };
    let chunks = (gpu.free_shared(kernel)? / (WARPS * CHUNK)).min(most);
    // The text for 7.5 has no copies to shared memory, and needs no room for them.
    let least = usize::from(gpu.target() != "sm_75");
    same(
        "decode",
        "chunks of weights in shared memory, at least",
        least.max(chunks as usize),
        chunks as usize,
    )?;
    Ok((kernel, chunks))
}

/// Takes the memory of what lies between the products, and says where it is.
fn scratch(
    gpu: &Gpu,
    path: Path<'_>,
    rows: usize,
    pages: usize,
    logits: u64,
    layers: Buffer<u64>,
    words: &mut Words,
) -> Result<Held, Error> {
    let hidden = path.hidden();
    let query_width = largest(path, |layer| layer.plan.attention.query_width());
    let inner = largest(path, span::inner);
    let mut places = Places(0);
    // Floats, in words of four bytes; states between the parts of layers, and codes, in bytes.
    let qkv = places.take(rows * largest(path, |layer| layer.plan.attention.qkv_width()));
    let attended = places.take(rows * query_width);
    let delta = places.take(rows * hidden);
    let gated = places.take(rows * inner);
    let scales = places.take(rows);
    let floats: Buffer<f32> = Buffer::zeros(&gpu.context, places.0)?;
    let mut places = Places(0);
    let middles = path.layers.len() * rows;
    let middle_mantissas = places.take(middles * hidden * 2);
    let middle_exponents = places.take(middles * hidden.div_ceil(state::GROUP));
    let widest = hidden.max(query_width).max(inner);
    let codes = places.take(widest.div_ceil(64) * rows * 128);
    let heads = |layer: &Layer| layer.plan.attention.heads as usize;
    let shares = places.take(rows * largest(path, heads) * pages * SHARE);
    let bytes: Buffer<u8> = Buffer::zeros(&gpu.context, places.0)?;
    let elements = |layer: &Layer| heads(layer) * padded(layer.plan.attention.head_dim as usize);
    let numerators = Buffer::zeros(&gpu.context, rows * pages * largest(path, elements))?;
    let byte = |place: usize| bytes.address() + place as u64;
    let float = |place: usize| floats.address() + (place * 4) as u64;
    words.word(byte(middle_mantissas));
    words.word(byte(middle_exponents));
    for place in [qkv, attended, delta, gated] {
        words.word(float(place));
    }
    words.word(logits);
    words.word(byte(codes));
    words.word(float(scales));
    words.buffer(&numerators);
    words.word(byte(shares));
    Ok(Held { _floats: floats, _bytes: bytes, _numerators: numerators, _layers: layers })
}

impl Gpu {
    /// Decodes one position of each session: it goes through the span, and its keys and values into
    /// the session's caches, one per layer, which hold all positions before it.
    ///
    /// # Errors
    /// [`Error::Shape`] when sessions, caches or input are not those of the step and span, or a
    /// session is too long; [`Error::Memory`]; [`Error::Lost`], [`Error::Call`]. The caches of a
    /// step that failed have the position, with unspecified bytes: truncate them.
    pub fn decode(
        &self,
        span: &Span,
        step: &mut Step,
        input: Input<'_>,
        sessions: &mut [&mut [Kv]],
    ) -> Result<(), Error> {
        self.decode_along(span.path(), step, input, sessions)
    }

    /// Decodes as [`Gpu::decode`] does.
    pub(crate) fn decode_along(
        &self,
        path: Path<'_>,
        step: &mut Step,
        input: Input<'_>,
        sessions: &mut [&mut [Kv]],
    ) -> Result<(), Error> {
        let operation = "decode";
        same(operation, "sessions", step.rows, sessions.len())?;
        step.begin(path, input)?;
        for (row, caches) in sessions.iter_mut().enumerate() {
            same(operation, "caches", path.layers.len(), caches.len())?;
            let position = caches.first().map_or(0, Kv::len);
            at_most(operation, "a position", step.pages * PAGE - 1, position)?;
            for (cache, layer) in caches.iter_mut().zip(path.layers) {
                same(operation, "positions of a session's caches", position, cache.len())?;
                let (shape, expected) = (cache.shape(), layer.kv_shape());
                same(operation, "kv heads of a cache", expected.kv_heads, shape.kv_heads)?;
                same(operation, "size of a cache's heads", expected.head_dim, shape.head_dim)?;
                cache.extend(self, position + 1)?;
            }
            step.image[STEP_ROWS + row] = position as u32;
        }
        step.find_pages(sessions)?;
        step.control.write_later(0, step.image.clone())?;
        self.launch_together(step.kernel, THREADS, step.rings, &[step.plan.argument()])
    }
}

impl Step {
    /// Writes the tokens or states of a step to the device.
    fn begin(&mut self, path: Path<'_>, input: Input<'_>) -> Result<(), Error> {
        let operation = "decode";
        match (input, path.embedding) {
            (Input::Tokens(tokens), Some((table, _))) => {
                same(operation, "tokens", self.rows, tokens.len())?;
                for (row, &token) in tokens.iter().enumerate() {
                    let largest = table.shape().rows.saturating_sub(1);
                    at_most(operation, "a token's id", largest, token as usize)?;
                    self.image[row] = token;
                }
                Ok(())
            }
            (Input::States(states), None) => {
                same(operation, "states", self.rows, states.rows())?;
                let mut bytes = Vec::new();
                for row in 0..self.rows {
                    same(operation, "width of a state", path.hidden(), states.width())?;
                    bytes.extend(states.mantissas(row).iter().flat_map(|m| m.to_ne_bytes()));
                }
                self.results.write(self.layout.mantissas, &bytes)?;
                let exponents = (0..self.rows).flat_map(|row| states.exponents(row));
                let exponents: Vec<u8> = exponents.copied().collect();
                self.results.write(self.layout.exponents, &exponents)
            }
            (Input::Tokens(tokens), None) => {
                same(operation, "tokens of a span without embedding", 0, tokens.len().max(1))
            }
            (Input::OnDevice(states), None) => {
                same(operation, "states", self.rows, states.rows)?;
                same(operation, "width of a state", path.hidden(), states.width)?;
                let (mantissas, exponents) = (self.layout.mantissas, self.layout.exponents);
                let numbers = 0..states.rows * states.width;
                self.results.copy_bytes(mantissas, &states.mantissas, &numbers)?;
                let bytes = 0..states.rows * states.groups();
                self.results.copy_bytes(exponents, &states.exponents, &bytes)
            }
            (Input::States(_) | Input::OnDevice(_), Some(_)) => {
                same(operation, "states of a span with embedding", 0, self.rows)
            }
        }
    }

    /// Tells the device where the pages are, if it does not know.
    fn find_pages(&mut self, sessions: &[&mut [Kv]]) -> Result<(), Error> {
        let mut news = false;
        for (row, caches) in sessions.iter().enumerate() {
            for (layer, cache) in caches.iter().enumerate() {
                let first = (layer * self.rows + row) * self.pages;
                let known = self.pages_known[first..].iter_mut();
                for (known, page) in known.zip(cache.pages()) {
                    news |= *known != page.address();
                    *known = page.address();
                }
            }
        }
        if news { self.tables.write_later(0, self.pages_known.clone()) } else { Ok(()) }
    }

    /// Returns whether the steps go this way, in up to so many positions.
    pub(crate) fn goes(&self, path: Path<'_>, positions: usize) -> Result<bool, Error> {
        let fits = self.layout.kv_rows.len() == path.layers.len()
            && self.layout.hidden == path.hidden()
            && positions <= self.pages * PAGE;
        let addresses = (self.tables.address(), self.results.address());
        let words = || words_of_layers(path, &self.layout, self.pages, addresses);
        Ok(fits && words()? == self.layer_words)
    }

    /// Copies the states after the last layer to `out`, on the device.
    pub(crate) fn last_states(&self, out: &mut States) -> Result<(), Error> {
        let Layout { rows, hidden, mantissas, exponents, .. } = self.layout;
        out.fit("decode", rows, hidden)?;
        let (numbers, groups) = (0..rows * hidden, 0..rows * hidden.div_ceil(state::GROUP));
        let layers = self.layout.kv_rows.len();
        let (mantissas, exponents) =
            (mantissas + layers * numbers.end * 2, exponents + layers * groups.end);
        out.mantissas.copy_of_bytes(&numbers, &self.results, mantissas)?;
        out.exponents.copy_of_bytes(&groups, &self.results, exponents)
    }
}

/// The results of a step, on the host.
#[derive(Debug)]
pub struct Decoded {
    layout: Layout,
    bytes: Vec<u8>,
}

impl Decoded {
    fn part(&self, start: usize, index: usize, len: usize) -> &[u8] {
        let Range { start, end } = start + index * len..start + (index + 1) * len;
        &self.bytes[start..end]
    }

    /// Returns every session's state before the layer of this index in the span; with the number of
    /// layers as index, after the last.
    #[must_use]
    pub fn states(&self, index: usize) -> State {
        let Layout { rows, hidden, .. } = self.layout;
        let mut state = State::zeros(rows, hidden);
        let (mantissas, exponents) = state.parts_mut();
        let bytes = self.part(self.layout.mantissas, index, rows * hidden * 2);
        for (mantissa, bytes) in mantissas.iter_mut().zip(bytes.as_chunks().0) {
            *mantissa = i16::from_ne_bytes(*bytes);
        }
        exponents.copy_from_slice(self.part(self.layout.exponents, index, exponents.len()));
        state
    }

    /// Returns the canonical KV row that a layer, by its index in the span, has for a session's
    /// position.
    #[must_use]
    pub fn kv_row(&self, layer: usize, session: usize) -> &[u8] {
        let (start, bytes) = self.layout.kv_rows[layer];
        self.part(start, session, bytes)
    }

    fn number(&self, start: usize, session: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.part(start, session, 4));
        u32::from_ne_bytes(bytes)
    }

    /// Returns a session's logits; none without a head.
    ///
    /// # Errors
    /// [`Overflow`] when the session has overflowed, or a logit is too large.
    pub fn logits(&self, session: usize) -> Result<Vec<f32>, Overflow> {
        let flagged = self.number(self.layout.flagged, session) != NEVER;
        let largest = self.number(self.layout.largest_logits, session);
        if flagged || largest >= OVERFLOW_BITS {
            return Err(Overflow);
        }
        let bytes = self.part(self.layout.logits, session, self.layout.vocabulary * 4);
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect())
    }
}
