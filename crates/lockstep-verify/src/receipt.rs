//! The receipt of an answer: the request, the answer, and what every stage signed.

use lockstep_exact::Digest;
use lockstep_exact::bytes::{Canonical, DecodeError, Reader, put_list};
use lockstep_exact::sample::Finish;

use crate::limits;
use crate::request::{Lease, Request};
use crate::statement::{HeadStatement, Mark, Segment, Step};

/// Everything that the servers of a ring have signed about one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The request that the client made.
    pub request: Request,
    /// The lease that the client sent round the ring.
    pub lease: Lease,
    /// The leases of later placements, in the order of their epochs, from 1 on.
    pub placements: Vec<Lease>,
    /// The answer's tokens, as streamed.
    pub answer: Vec<u32>,
    /// The reason why the answer ended.
    pub finish: Finish,
    /// One per stage, server 1's first; where a stage took over from another one, its segment
    /// follows that one's.
    pub segments: Vec<Segment>,
    /// The statement of the head at the end.
    pub head: HeadStatement,
    /// The marks of every frame, in order of position.
    pub steps: Vec<Step>,
    /// The head's mark of every token of the answer, and of the state that gave none if the answer
    /// ended so.
    pub head_marks: Vec<Mark>,
}

impl Canonical for Receipt {
    fn encode(&self, out: &mut Vec<u8>) {
        self.request.encode(out);
        self.lease.encode(out);
        put_list(out, &self.placements);
        put_list(out, &self.answer);
        self.finish.encode(out);
        put_list(out, &self.segments);
        self.head.encode(out);
        put_list(out, &self.steps);
        put_list(out, &self.head_marks);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            request: Request::decode(input)?,
            lease: Lease::decode(input)?,
            placements: input.list("placements", limits::TAKEOVERS, 216)?,
            answer: input.list("answer", limits::ANSWER_TOKENS, 4)?,
            finish: Finish::decode(input)?,
            segments: input.list("segments", limits::SEGMENTS, 320)?,
            head: HeadStatement::decode(input)?,
            steps: input.list("steps", limits::STEPS, 12)?,
            head_marks: input.list("head marks", limits::ANSWER_TOKENS, 180)?,
        })
    }
}

impl Receipt {
    /// Returns the name of the receipt, as challenges carry it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::derive("lockstep 2026 receipt", &[&self.to_bytes()])
    }

    /// Returns the place in the ring of each segment, in their order; 0 is server 1's. A segment of
    /// the same span as the one before it is of a stage that took that one's place over.
    ///
    /// # Soundness
    /// They are the places of a receipt whose links hold: nothing is checked here.
    #[must_use]
    pub fn places(&self) -> Vec<u32> {
        let mut place = 0_u32;
        let mut before = None;
        let place_of = |segment: &Segment| {
            let span = (segment.first, segment.end);
            if before.replace(span).is_some_and(|before| before != span) {
                place = place.saturating_add(1);
            }
            place
        };
        self.segments.iter().map(place_of).collect()
    }
}
