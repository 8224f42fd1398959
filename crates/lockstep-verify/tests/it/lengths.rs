//! Lengths: every list and byte string that is read has a limit, which is looked at before anything
//! else is.

use lockstep_exact::bytes::{Canonical, DecodeError, DecodeReason};
use lockstep_exact::limits as exact;
use lockstep_verify::bundle::Bundle;
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::Extent;
use lockstep_verify::limits;
use lockstep_verify::opening::{HeadOpening, Inputs, LayerOpening, SignedOpening};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Lease, Request, VERSION};
use lockstep_verify::slice::Slice;
use lockstep_verify::statement::{HeadStatement, Segment, Step};

use lockstep_testing::proofs::{Ask, Ring, model};

/// What stands before a length, and how it is read.
type Row = (&'static str, usize, Vec<u8>, fn(&[u8]) -> Option<DecodeError>);

fn row<T: Canonical>(what: &'static str, limit: usize, before: &[&[u8]]) -> Row {
    (what, limit, before.concat(), |bytes| T::from_bytes(bytes).err())
}

/// So many fields of so many bytes.
fn fields(count: usize, bytes: usize) -> Vec<u8> {
    vec![0; count * bytes]
}

const NONE: &[u8] = &[0; 4];
const ONE: &[u8] = &[1, 0, 0, 0];

fn openings() -> Vec<Row> {
    let (bytes, positions) = (limits::OPENING_BYTES, limits::CHALLENGE_POSITIONS);
    // No KV rows, no inputs.
    let layer = [NONE, NONE, &[1], NONE].concat();
    vec![
        row::<SignedOpening>("opening", bytes, &[&fields(1, 32)]),
        row::<Inputs>("embedding rows", bytes, &[&[0]]),
        row::<Inputs>("inputs", positions, &[&[1]]),
        row::<LayerOpening>("outputs", positions, &[&layer]),
        row::<LayerOpening>("sums", limits::SLOTS, &[&layer, NONE]),
        row::<LayerOpening>("sums", bytes, &[&layer, NONE, ONE]),
        row::<HeadOpening>("head states", bytes, &[]),
        row::<HeadOpening>("logit sums", bytes, &[NONE]),
        row::<Slice>("slice", bytes, &[]),
        row::<Slice>("slice siblings", 128, &[NONE]),
        row::<Target>("challenged positions", positions, &[&[0], &fields(3, 4)]),
        row::<Target>("challenged positions", positions, &[&[1]]),
    ]
}

fn statements() -> Vec<Row> {
    let mut bundle =
        Ring::new(model(), &[3]).run(&Ask::new(1, 3, 1)).bundle(Extent::Sampled).unwrap();
    bundle.exchanges.clear();
    let bytes = bundle.to_bytes();
    let Receipt { request, lease, head, .. } = bundle.receipt;
    let leases = [request.to_bytes(), lease.to_bytes()].concat();
    let start = [&leases[..], NONE].concat();
    let head = head.to_bytes();
    let (tokens, finish) = (limits::ANSWER_TOKENS, &[0_u8][..]);
    let bound = [fields(1, 32), fields(1, 4), fields(1, 32)].concat();
    let leased = [&bound[..], NONE, &[0], &fields(1, 32), &fields(2, 4)].concat();
    let named = fields(3, 32);
    let rest = [fields(2, 32), fields(4, 4), fields(1, 32)].concat();
    let segment = [&named[..], NONE, &rest].concat();
    let asked = [VERSION.to_bytes(), fields(1, 32)].concat();
    vec![
        row::<Step>("marks", limits::SEGMENTS, &[&fields(2, 4)]),
        row::<Segment>("takeovers", limits::TAKEOVERS, &[&named]),
        row::<HeadStatement>("takeovers", limits::TAKEOVERS, &[&fields(2, 32)]),
        row::<Segment>("layers", exact::LAYERS, &[&segment]),
        row::<Request>("adapters", limits::ADAPTERS, &[&asked]),
        row::<Request>("prompt", limits::PROMPT_TOKENS, &[&asked, NONE]),
        row::<Lease>("adapters", limits::ADAPTERS, &[&bound]),
        row::<Lease>("route", limits::STAGES, &[&leased]),
        row::<Lease>("addresses", limits::STAGES, &[&leased, NONE]),
        row::<Lease>("address", limits::ADDRESS_BYTES, &[&leased, NONE, ONE]),
        row::<Receipt>("placements", limits::TAKEOVERS, &[&leases]),
        row::<Receipt>("answer", tokens, &[&start]),
        row::<Receipt>("segments", limits::SEGMENTS, &[&start, NONE, finish]),
        row::<Receipt>("steps", limits::STEPS, &[&start, NONE, finish, NONE, &head]),
        row::<Bundle>("exchange", limits::EXCHANGE_BYTES, &[&bytes]),
        row::<Receipt>("head marks", tokens, &[&start, NONE, finish, NONE, &head, NONE]),
    ]
}

#[test]
fn every_list_and_byte_string_has_a_limit() {
    for (what, limit, before, read) in openings().into_iter().chain(statements()) {
        let count = |count: usize| u32::try_from(count).unwrap().to_le_bytes();
        let error = read(&[before.as_slice(), &count(limit + 1)].concat()).unwrap();
        let reason = DecodeReason::TooLong { got: limit + 1, limit };
        assert_eq!((error.what, error.at, error.reason), (what, before.len(), reason));
        // As many as may be: only they themselves are missing.
        let error = read(&[before.as_slice(), &count(limit)].concat()).unwrap();
        assert!(matches!(error.reason, DecodeReason::Truncated { .. }), "{what}: {error}");
    }
}
