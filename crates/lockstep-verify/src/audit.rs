//! The audit of a bundle: links, embeddings, and every opened cell.
//!
//! Its only way to say yes is a [`Verified`] value, which nothing else can make. Everything that is
//! missing is *not checked*, never a fault; everything that is wrong is a [`Fault`].
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::invariant::Broken;

use crate::auditor::Auditor;
use crate::bundle::{Bundle, Exchange};
use crate::challenge::Target;
use crate::coverage::{Coverage, StageCoverage};
pub use crate::device::AuditDevice;
use crate::draw::{Draw, Extent, TooLong, check_linked, draw};
use crate::fault::{Blame, Cell, Fault, Reason};
use crate::key::Key;
use crate::limits;
use crate::links::{Border, Dispute, Linked, Meeting, Rules};
use crate::opening::Opening;
use crate::receipt::Receipt;
use crate::request::AuditSeed;
use crate::run::Filled;

/// Something that an audit has found right, as far as its coverage goes.
///
/// # Soundness
/// Only [`Auditing::finish`] makes one, which [`audit`] calls. It cannot be read from bytes:
/// whoever stores a verdict stores the bundle and audits again.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<T> {
    value: T,
    coverage: Coverage,
}

impl<T> Verified<T> {
    /// Returns the value that was verified.
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// Returns the coverage: how much of it was checked.
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }
}

/// The reasons why there is no [`Verified`].
#[derive(Clone, Debug, PartialEq)]
pub enum Unverified {
    /// A check failed, and this is the fault.
    Failed(Fault),
    /// Something is missing; what there is is right.
    NotChecked {
        /// The part of the audit that is missing.
        why: Missing,
        /// The coverage of what was checked.
        coverage: Box<Coverage>,
    },
}

/// The parts that an audit can lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The request uses adapters, which this version cannot audit.
    Adapters,
    /// The lease takes over a part of another session, which this version cannot audit.
    Reuse,
    /// The key is that of another model.
    Key {
        /// The model of the request.
        expected: Digest,
        /// The model of the key.
        got: Digest,
    },
    /// Openings of these stages are missing.
    Openings {
        /// The places of the stages in the ring.
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

impl From<Broken> for Unverified {
    fn from(broken: Broken) -> Self {
        Self::Failed(broken.into())
    }
}

impl From<Fault> for Unverified {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

/// Returns the challenges that a client has to send for an audit: to the stage of which segment, by
/// its index in the receipt, and for which cells.
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
    Ok(draw(&linked, key.manifest(), seed, extent)?.targets)
}

/// Audits a bundle that is wholly in memory. `device` computes what lies between the products; any
/// backend gives the same verdict.
///
/// # Soundness
/// As [`Auditing::begin`].
///
/// # Errors
/// [`Unverified`]. A fault that convicts a stage comes before one that does not.
pub fn audit<D: AuditDevice>(
    device: &D,
    key: &Key,
    bundle: &Bundle,
) -> Result<Verified<Receipt>, Unverified> {
    let mut auditing = Auditing::begin(device, key, &bundle.receipt, &bundle.seed, bundle.extent)?;
    for exchange in &bundle.exchanges {
        auditing.take(exchange)?;
    }
    auditing.finish()
}

/// An audit under way, to which exchanges are given one by one. They need not be kept: what is held
/// between them is, of each stage, the KV rows of the one layer that is being opened.
pub struct Auditing<'a, D: AuditDevice> {
    auditor: Auditor<'a, D>,
    receipt: Digest,
    coverage: Coverage,
    /// Each with the index of the segment whose stage has to answer.
    targets: Vec<(u32, Target)>,
    /// The targets that are not checked yet.
    open: BTreeSet<(u32, Target)>,
    /// Parts that came before one that they follow.
    early: Vec<(u32, Target)>,
    held: BTreeMap<u32, Held<D::Kv>>,
    checked: Tally,
    /// The first fault that convicts nobody.
    unbound: Option<Fault>,
    /// The fault that has ended it: nothing is taken any more, and no other verdict given.
    ended: Option<Fault>,
}

/// The result of taking a challenge and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The opening was checked.
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

impl<'a, D: AuditDevice> Auditing<'a, D> {
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
        device: &'a D,
        key: &'a Key,
        receipt: &'a Receipt,
        seed: &AuditSeed,
        extent: Extent,
    ) -> Result<Self, Unverified> {
        Self::begin_within(limits::AUDIT_CHALLENGES, device, key, receipt, seed, extent)
    }

    /// Begins an audit as [`Auditing::begin`] does, of at most `most` challenges for cells.
    ///
    /// # Errors
    /// As [`Auditing::begin`].
    pub fn begin_within(
        most: u64,
        device: &'a D,
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
        if let Err(why) = check_linked(most, key.manifest(), extent, &linked) {
            let (why, coverage) = (Missing::TooLong(why), Box::new(coverage));
            return Err(Unverified::NotChecked { why, coverage });
        }
        let drawn = draw(&linked, key.manifest(), seed, extent);
        let Draw { targets, strata, head } = drawn?;
        for (stage, strata) in coverage.stages.iter_mut().zip(strata) {
            stage.strata = strata;
        }
        coverage.head = Some(head);
        Ok(Self {
            auditor: Auditor { device, key, linked },
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

    /// Returns the challenges to send, each with the index of the segment whose stage has to answer
    /// it. The parts of a layer come in order.
    #[must_use]
    pub fn plan(&self) -> Vec<(u32, Target)> {
        self.targets.clone()
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
        let not_drawn = || receipt_fault(Reason::NotDrawn);
        let segment = self.auditor.linked.segment_of(exchange.challenge.run);
        let (index, _) = segment.ok_or_else(not_drawn)?;
        let asked = (index, target.clone());
        if !self.open.remove(&asked) {
            return Err(not_drawn());
        }
        match self.check(index, exchange) {
            Ok(Some(products)) => self.checked.count(&self.auditor.linked, &asked, products),
            Ok(None) => {
                self.open.insert(asked.clone());
                self.early.push(asked);
                return Ok(Taken::Unchecked);
            }
            Err(fault) if fault.stage().is_some() => return Err(fault),
            Err(fault) => self.unbound = self.unbound.take().or(Some(fault)),
        }
        Ok(Taken::Checked)
    }

    /// Checks who signed what; then the opening itself, if the parts before it have been checked.
    /// Returns the number of products that were checked.
    fn check(&mut self, index: u32, exchange: &Exchange) -> Result<Option<u64>, Fault> {
        let target = &exchange.challenge.target;
        let opening = read_exchange(&self.auditor.linked, index, &self.receipt, exchange)?;
        let (Target::Layer { layer, first, .. }, Opening::Layer(opening)) = (target, &opening)
        else {
            return self.auditor.check(index, target, &opening).map(Some);
        };
        let cells = self.auditor.cells(index, target)?;
        if *first == 0 {
            let filled = Filled::new(cells.weights(&self.auditor)?.kv_shape());
            self.held.insert(index, Held { layer: *layer, filled });
        }
        let held = self.held.get_mut(&index).filter(|held| held.layer == *layer);
        let Some(held) = held.filter(|held| held.filled.rows() == *first) else {
            return Ok(None);
        };
        cells.check(&self.auditor, opening, &mut held.filled).map(Some)
    }

    /// Returns the verdict over all exchanges that were taken.
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
        for (index, stage) in (0..).zip(&mut coverage.stages) {
            stage.is_complete = open.iter().all(|(of, _)| *of != index);
        }
        if open.is_empty() {
            check_settled(linked)?;
            return Ok(Verified { value: linked.receipt().clone(), coverage });
        }
        let stages: BTreeSet<u32> = open.iter().map(|(index, _)| linked.place(*index)).collect();
        let why = Missing::Openings { stages: stages.into_iter().collect() };
        Err(Unverified::NotChecked { why, coverage: Box::new(coverage) })
    }
}

/// Returns whether no part of the same layer before this one is open: if one is, this one only came
/// too early.
fn follows_checked((index, part): &(u32, Target), open: &BTreeSet<(u32, Target)>) -> bool {
    let Target::Layer { layer, first, .. } = part else { return false };
    let is_before = |(_, target): &&(u32, Target)| match target {
        Target::Layer { layer: of, first: at, .. } => of == layer && at < first,
        Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => false,
    };
    let mut of_segment = open.iter().filter(|(of, _)| of == index);
    !of_segment.any(|asked| is_before(&asked))
}

const fn rules(key: &Key) -> Rules<'_> {
    Rules { manifest: key.manifest(), vocabulary: key.vocabulary() }
}

const fn receipt_fault(reason: Reason) -> Fault {
    Fault { blame: Blame::Receipt, cell: None, reason }
}

/// Returns the coverage of nothing: the totals of what there is to check.
fn total(linked: &Linked<'_>) -> Coverage {
    let segments = linked.receipt().segments.iter();
    let stages = segments.map(|segment| {
        let layers = segment.end.saturating_sub(segment.first);
        let cells_total = u64::from(layers).saturating_mul(segment.positions.into());
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

/// Checks that server 1's input column is that of the tokens' embeddings.
fn check_embeddings(key: &Key, linked: &Linked<'_>, coverage: &mut Coverage) -> Result<(), Fault> {
    let mut hasher = blake3::Hasher::new();
    for position in 0..linked.positions() {
        // The links hold: each position has a token, and each token is one of the model's.
        let row = linked.token(position).and_then(|token| key.embedding(token));
        hasher.update(&row.ok_or_else(|| Broken::new("a position has no embedding"))?.0);
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

/// Checks that nothing is left that neighbours signed differently. Where both have shown what they
/// got and sent, one of them has been convicted before this is called.
fn check_settled(linked: &Linked<'_>) -> Result<(), Fault> {
    let unsettled = linked.unsettled();
    if let Some(&Meeting { position, .. }) = unsettled.marks.first() {
        return Err(receipt_fault(Reason::MarksDiffer { position }));
    }
    if let Some(&Dispute { end, .. }) = unsettled.disputes.first() {
        return Err(receipt_fault(Reason::Disputed { end }));
    }
    match unsettled.roots.first() {
        Some(&Border { layer, .. }) => Err(receipt_fault(Reason::RootsDiffer { layer })),
        None => Ok(()),
    }
}

/// What the stage of a segment opened in answer to a challenge to its run, as it signed it.
fn read_exchange(
    linked: &Linked<'_>,
    index: u32,
    receipt: &Digest,
    exchange: &Exchange,
) -> Result<Opening, Fault> {
    let Exchange { challenge, opening } = exchange;
    let session_key = linked.receipt().request.session_key;
    let unsigned = |what| receipt_fault(Reason::Signature(what));
    if challenge.session != linked.session() || challenge.receipt != *receipt {
        return Err(receipt_fault(Reason::NotDrawn));
    }
    challenge.verify(session_key).map_err(|_| unsigned("challenge"))?;
    let segment = linked.receipt().segments.get(index as usize);
    let node = segment.ok_or_else(|| receipt_fault(Reason::NotDrawn))?.node;
    opening.verify_answer(challenge, node).map_err(|_| unsigned("opening"))?;
    Opening::from_bytes(&opening.body).map_err(|error| Fault {
        blame: linked.blame(index),
        cell: None,
        reason: Reason::Encoding(error),
    })
}

/// The count of cells that were checked.
#[derive(Default)]
struct Tally {
    /// Each with the index of its segment; head cells with that of server 1.
    cells: BTreeSet<(u32, Cell)>,
    products: u64,
}

impl Tally {
    fn count(&mut self, linked: &Linked<'_>, (index, target): &(u32, Target), products: u64) {
        self.products = self.products.saturating_add(products);
        let (layer, positions) = match target {
            Target::Layer { layer, positions, .. } => (*layer, positions),
            Target::Head { positions } => (linked.layers(), positions),
            Target::Edge { .. } | Target::Mark { .. } => return,
        };
        self.cells.extend(positions.iter().map(|&position| (*index, Cell { position, layer })));
    }

    fn fill(&self, linked: &Linked<'_>, coverage: &mut Coverage) {
        let mut layers: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (index, cell) in &self.cells {
            let count = layers.entry((*index, cell.layer)).or_default();
            *count = count.saturating_add(1);
        }
        for ((index, layer), cells) in layers {
            let is_head = layer == linked.layers();
            let stage = coverage.stages.get_mut(index as usize).filter(|_| !is_head);
            match stage {
                Some(stage) => {
                    stage.layers_checked = stage.layers_checked.saturating_add(1);
                    stage.cells_checked = stage.cells_checked.saturating_add(cells);
                }
                None => coverage.head_checked = cells,
            }
        }
        coverage.products_checked = self.products;
        let last = linked.head_positions().last();
        let last = last.map(|position| (0, Cell { position, layer: linked.layers() }));
        coverage.last_checked |= last.is_some_and(|last| self.cells.contains(&last));
    }
}
