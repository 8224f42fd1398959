//! The audit of a bundle: links, embeddings, and every opened cell.
//!
//! Its only way to say yes is a [`Verified`] value, which nothing else can make. Everything that is
//! missing is *not checked*, never a fault; everything that is wrong is a [`Fault`].
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::ops::Ops;

use crate::bundle::{Bundle, Exchange};
use crate::cells::{Auditor, stage_of};
use crate::challenge::Target;
use crate::coverage::{Coverage, StageCoverage};
use crate::draw::{Draw, Extent, TooLong, check_length, draw};
use crate::fault::{Blame, Cell, Fault, Reason};
use crate::key::Key;
use crate::limits;
use crate::links::{Linked, Rules};
use crate::opening::Opening;
use crate::receipt::Receipt;
use crate::request::AuditSeed;
use crate::run::Filled;

/// Something that an audit has found right, as far as its coverage goes.
///
/// # Soundness
/// Only [`audit`] makes one. It cannot be read from bytes: whoever stores a verdict stores the
/// bundle and audits again.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T> {
    value: T,
    coverage: Coverage,
}

impl<T> Verified<T> {
    /// What was verified.
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// How much of it was looked at.
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }
}

/// Why there is no [`Verified`].
#[derive(Clone, Debug, PartialEq)]
pub enum Unverified {
    /// Something is wrong.
    Failed(Fault),
    /// Something is missing; what there is is right.
    NotChecked {
        /// What is missing.
        why: Missing,
        /// What was checked.
        coverage: Box<Coverage>,
    },
}

/// What an audit lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The request uses adapters, which this version cannot audit.
    Adapters,
    /// The lease takes over a part of another session, which this version cannot audit.
    Reuse,
    /// The key is of another model.
    Key {
        /// The request's model.
        expected: Digest,
        /// The key's model.
        got: Digest,
    },
    /// Openings of these stages.
    Openings {
        /// Places in the ring.
        stages: Vec<u32>,
    },
    /// Nothing, but more would have to be opened than an audit takes.
    TooLong(TooLong),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapters => f.write_str("the request uses adapters"),
            Self::Reuse => f.write_str("the session takes over a part of another one"),
            Self::Key { expected, got } => {
                write!(f, "the key is of model {}, not {}", got.short(), expected.short())
            }
            Self::Openings { stages } => {
                let stages: Vec<String> = stages.iter().map(u32::to_string).collect();
                write!(f, "no opening of some cells of stage {}", stages.join(", "))
            }
            Self::TooLong(why) => why.fmt(f),
        }
    }
}

impl fmt::Display for Unverified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(fault) => write!(f, "failed: {fault}"),
            Self::NotChecked { why, .. } => write!(f, "not checked: {why}"),
        }
    }
}

impl core::error::Error for Unverified {}

impl From<Fault> for Unverified {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

/// The challenges that a client has to send for an audit: to which stage, and for which cells.
///
/// # Soundness
/// As [`draw`]: only when all segments are signed.
///
/// # Errors
/// The fault in the links of a receipt for which nothing is to be drawn.
pub fn plan(
    key: &Key,
    receipt: &Receipt,
    seed: &AuditSeed,
    extent: Extent,
) -> Result<Vec<(u32, Target)>, Fault> {
    let linked = Linked::check(receipt, rules(key))?;
    let targets = draw(&linked, key.manifest(), seed, extent).targets.into_iter();
    Ok(targets.filter_map(|target| Some((stage_of(&linked, &target)?, target))).collect())
}

/// Audits a bundle. `ops` computes what lies between the products; any backend gives the same
/// verdict.
///
/// # Soundness
/// As [`Auditing::begin`].
///
/// # Errors
/// [`Unverified`]. A fault that convicts a stage comes before one that does not.
pub fn audit<O: Ops>(ops: &O, key: &Key, bundle: &Bundle) -> Result<Verified<Receipt>, Unverified> {
    let mut auditing = Auditing::begin(ops, key, &bundle.receipt, &bundle.seed, bundle.extent)?;
    for exchange in &bundle.exchanges {
        auditing.take(exchange)?;
    }
    auditing.finish()
}

/// An audit under way. Exchanges are taken one by one and need not be kept: what is held between
/// them is, of each stage, the KV rows of the one layer that is being opened.
pub struct Auditing<'a, O: Ops> {
    auditor: Auditor<'a, O>,
    receipt: Digest,
    coverage: Coverage,
    targets: Vec<Target>,
    /// Targets that are not checked.
    open: BTreeSet<Target>,
    /// Parts that came before one that they follow.
    early: Vec<Target>,
    held: BTreeMap<u32, Held<O::Kv>>,
    checked: Tally,
    /// The first fault that convicts nobody.
    unbound: Option<Fault>,
    /// The fault that has ended it: nothing is taken any more, and no other verdict given.
    ended: Option<Fault>,
}

/// What an audit made of a challenge and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was checked.
    Checked,
    /// Parts that it follows are missing, so its contents were not looked at: as long as they are
    /// not, it can hold anything, and is no evidence of anything.
    Unchecked,
}

/// The layer of a stage that is being opened.
struct Held<K> {
    layer: u32,
    filled: Filled<K>,
}

impl<'a, O: Ops> Auditing<'a, O> {
    /// Checks all that needs no opening, and draws what is to be opened.
    ///
    /// # Soundness
    /// The request in the receipt must be the one that the caller made, and the nodes of its
    /// segments those that the caller leased, or the verdict is about somebody else's. It holds as
    /// far as the key is secret and made by somebody whom the caller trusts, and the draw was
    /// unknown before the roots were signed.
    ///
    /// # Errors
    /// [`Unverified`] for a receipt of which no opening would change the verdict.
    pub fn begin(
        ops: &'a O,
        key: &'a Key,
        receipt: &'a Receipt,
        seed: &AuditSeed,
        extent: Extent,
    ) -> Result<Self, Unverified> {
        Self::begin_within(limits::AUDIT_CHALLENGES, ops, key, receipt, seed, extent)
    }

    /// As [`Auditing::begin`], of at most so many challenges for cells.
    ///
    /// # Errors
    /// As [`Auditing::begin`].
    pub fn begin_within(
        most: u64,
        ops: &'a O,
        key: &'a Key,
        receipt: &'a Receipt,
        seed: &AuditSeed,
        extent: Extent,
    ) -> Result<Self, Unverified> {
        let request = &receipt.request;
        let missing = |why| Unverified::NotChecked { why, coverage: Box::default() };
        if request.manifest != key.id() {
            return Err(missing(Missing::Key { expected: request.manifest, got: key.id() }));
        }
        if !request.adapters.is_empty() {
            return Err(missing(Missing::Adapters));
        }
        if receipt.lease.reuse.is_some() {
            return Err(missing(Missing::Reuse));
        }
        if seed.commitment() != request.audit_commitment {
            return Err(receipt_fault(Reason::Seed).into());
        }
        let linked = Linked::check(receipt, rules(key))?;
        let mut coverage = total(&linked);
        check_embeddings(key, &linked, &mut coverage)?;
        let prompt_len = linked.first_head().saturating_add(1);
        let positions = linked.positions();
        if let Err(why) = check_length(most, key.manifest(), extent, prompt_len, positions) {
            let (why, coverage) = (Missing::TooLong(why), Box::new(coverage));
            return Err(Unverified::NotChecked { why, coverage });
        }
        let Draw { targets, strata, head } = draw(&linked, key.manifest(), seed, extent);
        for (stage, strata) in coverage.stages.iter_mut().zip(strata) {
            stage.strata = strata;
        }
        coverage.head = Some(head);
        Ok(Self {
            auditor: Auditor { ops, key, linked },
            receipt: receipt.digest(),
            coverage,
            open: targets.iter().cloned().collect(),
            targets,
            early: Vec::new(),
            held: BTreeMap::new(),
            checked: Tally::default(),
            unbound: None,
            ended: None,
        })
    }

    /// The challenges to send, each with the stage that has to answer it. The parts of a layer come
    /// in order.
    #[must_use]
    pub fn plan(&self) -> Vec<(u32, Target)> {
        let stage =
            |target: &Target| Some((stage_of(&self.auditor.linked, target)?, target.clone()));
        self.targets.iter().filter_map(stage).collect()
    }

    /// Checks one challenge and its answer. The parts of a layer are to come in order, one layer of
    /// a stage after the other; one that comes without those before it is not checked.
    ///
    /// # Errors
    /// A fault that ends the audit: whatever is taken after it gives the same, and so does
    /// [`Auditing::finish`].
    pub fn take(&mut self, exchange: &Exchange) -> Result<Taken, Fault> {
        if let Some(fault) = &self.ended {
            return Err(fault.clone());
        }
        let taken = self.take_next(exchange);
        self.ended = taken.clone().err();
        taken
    }

    fn take_next(&mut self, exchange: &Exchange) -> Result<Taken, Fault> {
        let target = &exchange.challenge.target;
        if !self.open.remove(target) {
            return Err(receipt_fault(Reason::NotDrawn));
        }
        match self.check(exchange) {
            Ok(Some(products)) => self.checked.count(&self.auditor.linked, target, products),
            Ok(None) => {
                self.open.insert(target.clone());
                self.early.push(target.clone());
                return Ok(Taken::Unchecked);
            }
            Err(fault) if fault.stage().is_some() => return Err(fault),
            Err(fault) => self.unbound = self.unbound.take().or(Some(fault)),
        }
        Ok(Taken::Checked)
    }

    /// Who signed what; then the opening itself, if the parts before it have been checked. Gives
    /// the number of products.
    fn check(&mut self, exchange: &Exchange) -> Result<Option<u64>, Fault> {
        let target = &exchange.challenge.target;
        let (stage, opening) = read_exchange(&self.auditor.linked, &self.receipt, exchange)?;
        let (Target::Layer { layer, first, .. }, Opening::Layer(opening)) = (target, &opening)
        else {
            return self.auditor.check(target, &opening).map(Some);
        };
        let cells = self.auditor.cells(target)?;
        if *first == 0 {
            let filled = Filled::new(self.auditor.weights(&cells)?.kv_shape());
            self.held.insert(stage, Held { layer: *layer, filled });
        }
        let held = self.held.get_mut(&stage).filter(|held| held.layer == *layer);
        let Some(held) = held.filter(|held| held.filled.rows() == *first) else {
            return Ok(None);
        };
        cells.check(&self.auditor, opening, &mut held.filled).map(Some)
    }

    /// The verdict over all that was taken.
    ///
    /// # Errors
    /// [`Unverified`].
    pub fn finish(self) -> Result<Verified<Receipt>, Unverified> {
        let Self { auditor, mut coverage, open, early, checked, unbound, ended, .. } = self;
        let linked = &auditor.linked;
        if let Some(fault) = ended.or(unbound) {
            return Err(fault.into());
        }
        if early.iter().any(|part| open.contains(part) && follows_checked(part, &open)) {
            return Err(receipt_fault(Reason::Order).into());
        }
        checked.fill(linked, &mut coverage);
        for (place, stage) in (0..).zip(&mut coverage.stages) {
            stage.is_complete = open.iter().all(|target| stage_of(linked, target) != Some(place));
        }
        if open.is_empty() {
            check_settled(linked)?;
            return Ok(Verified { value: linked.receipt().clone(), coverage });
        }
        let stages: BTreeSet<u32> =
            open.iter().filter_map(|target| stage_of(linked, target)).collect();
        let why = Missing::Openings { stages: stages.into_iter().collect() };
        Err(Unverified::NotChecked { why, coverage: Box::new(coverage) })
    }
}

/// Whether no part of the same layer before this one is open: it only came too early.
fn follows_checked(part: &Target, open: &BTreeSet<Target>) -> bool {
    let Target::Layer { layer, first, .. } = part else { return false };
    let is_before = |target: &Target| match target {
        Target::Layer { layer: of, first: at, .. } => of == layer && at < first,
        Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => false,
    };
    !open.iter().any(is_before)
}

const fn rules(key: &Key) -> Rules<'_> {
    Rules { manifest: key.manifest(), vocabulary: key.vocabulary() }
}

const fn receipt_fault(reason: Reason) -> Fault {
    Fault { blame: Blame::Receipt, cell: None, reason }
}

/// What there is to check.
fn total(linked: &Linked<'_>) -> Coverage {
    let segments = linked.receipt().segments.iter();
    let stages = segments.map(|segment| {
        let layers = segment.end.saturating_sub(segment.first);
        let cells_total = u64::from(layers).saturating_mul(linked.positions().into());
        StageCoverage {
            layers,
            layers_checked: 0,
            cells_total,
            cells_checked: 0,
            strata: Vec::new(),
            is_complete: false,
        }
    });
    Coverage {
        stages: stages.collect(),
        head_total: linked.head_positions().len() as u64,
        last_checked: linked.head_positions().is_empty(),
        embeddings_total: linked.positions().into(),
        ..Coverage::default()
    }
}

/// Server 1's input column is that of the tokens' embeddings.
fn check_embeddings(key: &Key, linked: &Linked<'_>, coverage: &mut Coverage) -> Result<(), Fault> {
    let mut hasher = blake3::Hasher::new();
    for position in 0..linked.positions() {
        let token = linked.token(position).and_then(|token| key.embedding(token));
        hasher.update(&token.unwrap_or(Digest::ZERO).0);
    }
    let root = Digest(*hasher.finalize().as_bytes());
    let signed = linked.receipt().segments.first().map(|segment| segment.input_root);
    if signed != Some(root) {
        let blame = linked.blame(0);
        return Err(Fault { blame, cell: None, reason: Reason::EmbeddingRoot });
    }
    coverage.embeddings_checked = linked.positions().into();
    Ok(())
}

/// Nothing that neighbours signed differently is left. Where both have shown what they got and
/// sent, one of them has been convicted before this is asked.
fn check_settled(linked: &Linked<'_>) -> Result<(), Fault> {
    let unsettled = linked.unsettled();
    if let Some(&(_, position)) = unsettled.marks.first() {
        return Err(receipt_fault(Reason::MarksDiffer { position }));
    }
    match unsettled.roots.first() {
        Some(&layer) => Err(receipt_fault(Reason::RootsDiffer { layer })),
        None => Ok(()),
    }
}

/// The stage that answered a challenge, and what it opened, as it signed it.
fn read_exchange(
    linked: &Linked<'_>,
    receipt: &Digest,
    exchange: &Exchange,
) -> Result<(u32, Opening), Fault> {
    let Exchange { challenge, opening } = exchange;
    let session_key = linked.receipt().request.session_key;
    let unsigned = |what| receipt_fault(Reason::Signature(what));
    if challenge.session != linked.session() || challenge.receipt != *receipt {
        return Err(receipt_fault(Reason::NotDrawn));
    }
    challenge.verify(session_key).map_err(|_| unsigned("challenge"))?;
    let not_drawn = || receipt_fault(Reason::NotDrawn);
    let stage = stage_of(linked, &challenge.target).ok_or_else(not_drawn)?;
    if challenge.run != linked.run(stage) {
        return Err(not_drawn());
    }
    let segment = linked.receipt().segments.get(stage as usize);
    let node = segment.ok_or_else(not_drawn)?.node;
    opening.verify_answer(challenge, node).map_err(|_| unsigned("opening"))?;
    let parsed = Opening::from_bytes(&opening.body).map_err(|error| Fault {
        blame: linked.blame(stage),
        cell: None,
        reason: Reason::Encoding(error),
    })?;
    Ok((stage, parsed))
}

/// Cells that were checked.
#[derive(Default)]
struct Tally {
    cells: BTreeSet<Cell>,
    products: u64,
}

impl Tally {
    fn count(&mut self, linked: &Linked<'_>, target: &Target, products: u64) {
        self.products = self.products.saturating_add(products);
        let (layer, positions) = match target {
            Target::Layer { layer, positions, .. } => (*layer, positions),
            Target::Head { positions } => (linked.layers(), positions),
            Target::Edge { .. } | Target::Mark { .. } => return,
        };
        self.cells.extend(positions.iter().map(|&position| Cell { position, layer }));
    }

    fn fill(&self, linked: &Linked<'_>, coverage: &mut Coverage) {
        let mut layers: BTreeMap<u32, u64> = BTreeMap::new();
        for cell in &self.cells {
            let count = layers.entry(cell.layer).or_default();
            *count = count.saturating_add(1);
        }
        for (layer, cells) in layers {
            let stage = linked.stage_of(layer).map(|(stage, _)| stage as usize);
            match stage.and_then(|stage| coverage.stages.get_mut(stage)) {
                Some(stage) => {
                    stage.layers_checked = stage.layers_checked.saturating_add(1);
                    stage.cells_checked = stage.cells_checked.saturating_add(cells);
                }
                None => coverage.head_checked = cells,
            }
        }
        coverage.products_checked = self.products;
        let last = linked.head_positions().last();
        let last = last.map(|position| Cell { position, layer: linked.layers() });
        coverage.last_checked |= last.is_some_and(|last| self.cells.contains(&last));
    }
}
