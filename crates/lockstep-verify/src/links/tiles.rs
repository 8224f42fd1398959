//! Segments: that they tile layers and positions once, whose they are, and from which run of the
//! stage before each stage got its frames.
//!
//! A *place* is a span of layers in the ring. Its segments follow each other in positions: where a
//! stage handed its place over, the one that took over signs the next. Whoever takes over computes
//! everything again from position 0 on, in a run of its own, and marks every frame again; so each
//! segment is a whole stage from position 0 to its end, and all that convicts a stage is inside one
//! run as it is without takeovers. Its tile is what of that went on to the next stage first.
#![deny(clippy::arithmetic_side_effects, clippy::integer_division)]

use core::ops::Range;
use std::collections::BTreeSet;

use lockstep_exact::Digest;

use super::{Linked, receipt_fault};
use crate::fault::{Fault, Reason};
use crate::request::{Hop, Lease};
use crate::sign::NodeId;
use crate::statement::{RunId, Segment, Takeover};

/// A tile: the place and sources of a segment, by the order of segments.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    /// The place in the ring; 0 is server 1's.
    pub(super) place: u32,
    pub(super) run: RunId,
    /// Its first position.
    first_position: u32,
    /// The epoch of the lease that its stage got.
    epoch: u32,
    /// The sources of its frames; none for server 1's.
    pub(super) sources: Vec<Source>,
}

/// Frames that came from one run of the stage before.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The index of that stage's segment.
    pub(super) from: u32,
    pub(super) positions: Range<u32>,
}

impl Linked<'_> {
    /// Checks that the leases of takeovers are the session key's, and differ from the one that
    /// opened the session in who is where after server 1, and in nothing else.
    pub(super) fn check_placements(&self) -> Result<(), Fault> {
        let lease = &self.receipt.lease;
        for (epoch, placed) in (1..).zip(&self.receipt.placements) {
            let signature = placed.signature;
            let (route, addresses) = (placed.route.clone(), placed.addresses.clone());
            let same = Lease { epoch, route, addresses, signature, ..lease.clone() };
            let nodes = placed.route.iter().map(|hop| hop.node).collect::<BTreeSet<NodeId>>();
            let differs = [
                *placed != same,
                placed.route.first() != lease.route.first(),
                !placed.route.iter().map(span).eq(lease.route.iter().map(span)),
                nodes.len() != placed.route.len(),
            ];
            if differs.contains(&true) {
                return Err(receipt_fault(Reason::Lease("placement")));
            }
            placed.verify().map_err(|_| receipt_fault(Reason::Signature("lease")))?;
        }
        Ok(())
    }

    /// Checks that segments are those of the routes, tile layers and positions, and are signed for
    /// one of the session's leases, each in a run that follows runs of the stage before.
    pub(super) fn check_segments(&mut self) -> Result<(), Fault> {
        let receipt = self.receipt;
        let leases: Vec<(Digest, &Lease)> = core::iter::once(&receipt.lease)
            .chain(&receipt.placements)
            .map(|lease| (lease.digest(), lease))
            .collect();
        let mut previous: Option<&Segment> = None;
        for segment in &receipt.segments {
            let tile = self.tile(segment, previous, &leases)?;
            self.tiles.push(tile);
            previous = Some(segment);
        }
        let tiling = || receipt_fault(Reason::Tiling("segments"));
        let places = self.tiles.last().map_or(0, |tile| tile.place.saturating_add(1));
        let is_whole = [
            usize::try_from(places) == Ok(receipt.lease.route.len()),
            previous.is_some_and(|last| last.end == self.layers),
        ];
        let first = receipt.segments.first().filter(|_| !is_whole.contains(&false));
        let run = first.ok_or_else(tiling)?.run();
        self.head_run = run.of_head(receipt.head.before, self.layers).id();
        Ok(())
    }

    fn tile(
        &self,
        segment: &Segment,
        previous: Option<&Segment>,
        leases: &[(Digest, &Lease)],
    ) -> Result<Tile, Fault> {
        let tiling = || receipt_fault(Reason::Tiling("segments"));
        let last = self.tiles.last();
        // The same span again is the same place, taken over.
        let taken = previous.filter(|previous| span_of(previous) == span_of(segment));
        let (place, first, from) = match (last, previous, taken) {
            (Some(last), _, Some(taken)) => (last.place, taken.first, taken.positions),
            (Some(last), Some(previous), None) => (last.place.saturating_add(1), previous.end, 0),
            _ => (0, 0, 0),
        };
        let hop = Hop { node: segment.node, first: segment.first, end: segment.end };
        let is_at = |lease: &Lease| lease.route.get(place as usize) == Some(&hop);
        let fits = [
            segment.session == self.session,
            leases.iter().any(|(_, lease)| is_at(lease)),
            segment.first == first,
            segment.end > segment.first,
            segment.first_position == from,
            // Only the last segment of a place can be without positions of its own: a stage that
            // hands its place over before it has sent anything signs nothing.
            taken.is_none_or(|taken| taken.positions > taken.first_position),
            // Server 1 can't be replaced: the head's words are its own.
            taken.is_none_or(|_| place > 0),
        ];
        if fits.contains(&false) {
            return Err(tiling());
        }
        segment.verify().map_err(|_| receipt_fault(Reason::Signature("segment")))?;
        let mut given = leases.iter().filter(|(digest, _)| segment.lease == *digest);
        let given = given.find(|(_, lease)| is_at(lease)).map(|(_, lease)| lease.epoch);
        let epoch = given.ok_or_else(|| receipt_fault(Reason::OtherLease { stage: place }))?;
        let is_later = taken.is_none_or(|_| last.is_none_or(|last| epoch > last.epoch));
        if !is_later {
            return Err(tiling());
        }
        let Segment { before, ref takeovers, positions, .. } = *segment;
        let sources = self.sources(place, before, takeovers, positions);
        let sources = sources.ok_or_else(|| receipt_fault(Reason::OtherRun { stage: place }))?;
        let (run, first_position) = (segment.run().id(), segment.first_position);
        Ok(Tile { place, run, first_position, epoch, sources })
    }

    /// Returns the sources of what came to a place, up to a position: `None` if it is not stated so
    /// that each frame has one segment of the place before. The first source can be any of them;
    /// each other one is a later segment, from the first position of its tile on.
    ///
    /// # Soundness
    /// No frame crosses the end of a segment, so no frame has two sources. The rows of one that had
    /// two would be held against the marks of neither.
    pub(super) fn sources(
        &self,
        place: u32,
        before: RunId,
        takeovers: &[Takeover],
        end: u32,
    ) -> Option<Vec<Source>> {
        let Some(place_before) = place.checked_sub(1) else {
            return ((before, takeovers) == (RunId::NONE, &[])).then(Vec::new);
        };
        let mut runs = vec![(0_u32, before)];
        for &Takeover { position, run } in takeovers {
            if (position, runs.len()) == (0, 1) {
                runs = vec![(0, run)];
                continue;
            }
            let next = runs.last().map_or(0, |(position, _)| position.saturating_add(1));
            if !(next..end).contains(&position) {
                return None;
            }
            runs.push((position, run));
        }
        let ends = runs.iter().skip(1).map(|(position, _)| *position).chain([end]);
        let source = |(&(first, run), end): (&(u32, RunId), u32)| {
            let mut tiles = (0..).zip(&self.tiles);
            let (from, tile) =
                tiles.find(|(_, tile)| (tile.place, tile.run) == (place_before, run))?;
            let reaches = self.marked(from, end.saturating_sub(1));
            let begins = [0, tile.first_position].contains(&first);
            let is_it = (reaches, begins) == (true, true);
            is_it.then_some(Source { from, positions: first..end })
        };
        let sources = runs.iter().zip(ends).map(source).collect::<Option<Vec<Source>>>()?;
        sources.is_sorted_by(|one, next| one.from < next.from).then_some(sources)
    }

    /// Returns whether a segment is the last of its place: it goes as far as the session.
    pub(super) fn ends_place(&self, index: u32) -> bool {
        let at = index as usize;
        let place = self.tiles.get(at).map(|tile| tile.place);
        let next = at.checked_add(1).and_then(|next| self.tiles.get(next));
        next.map(|tile| tile.place) != place
    }

    /// Returns whether a segment's stage must have marked the frame at a position: it computed the
    /// position, or it is the last of its place, and so has to go on to the session's end.
    pub(super) fn marked(&self, index: u32, position: u32) -> bool {
        let segment = self.receipt.segments.get(index as usize);
        let has = segment.is_some_and(|segment| position < segment.positions);
        [has, self.ends_place(index)].contains(&true)
    }

    /// Returns the place in the ring of a segment, 0 for server 1's; `index` itself as long as the
    /// segment has not been checked.
    #[must_use]
    pub fn place(&self, index: u32) -> u32 {
        self.tiles.get(index as usize).map_or(index, |tile| tile.place)
    }
}

const fn span(hop: &Hop) -> (u32, u32) {
    (hop.first, hop.end)
}

const fn span_of(segment: &Segment) -> (u32, u32) {
    (segment.first, segment.end)
}
