//! Openings in parts: each is checked as it comes, and what is missing, repeated or out of order is
//! told apart.

use std::sync::OnceLock;

use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::reference::Reference;
use lockstep_exact::weights::load_span;
use lockstep_kernels::Kernels;
use lockstep_testing::tiny_model::{Sizes, TinyModel};
use lockstep_verify::audit::{Auditing, Missing, Taken, Unverified};
use lockstep_verify::bundle::Exchange;
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::{Extent, check_length};
use lockstep_verify::fault::{Blame, Fault, Reason};
use lockstep_verify::key::Key;
use lockstep_verify::limits::PART_BYTES;

use lockstep_testing::lie::Lie;
use lockstep_testing::long_layer::{Progress, audit_in_parts};
use lockstep_testing::proofs::{
    Ask, Ring, SEED, Session, Slip, key, key_of, model, node, slip, told,
};

/// A model whose KV rows are so large that a short session comes in parts: 32 heads of 512
/// elements, 33,024 bytes a row.
fn wide() -> TinyModel {
    let sizes =
        Sizes { layers: 2, hidden: 32, heads: 32, kv_heads: 32, head_dim: 512, ..Sizes::default() };
    TinyModel::with_sizes(5, sizes)
}

/// The model, its key, and an honest session with the exchanges of a sampled audit.
struct Subject {
    model: TinyModel,
    key: Key,
    session: Session,
    sampled: Vec<Exchange>,
}

fn subject() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| {
        let model = wide();
        let key = key_of(&model);
        let session = Ring::new(&model, &[1]).run(&ask());
        let sampled = session.bundle_with(&key, Extent::Sampled).unwrap().exchanges;
        Subject { model, key, session, sampled }
    })
}

/// 66 positions: three parts of at most 31 rows.
fn ask() -> Ask {
    Ask::new(2, 64, 3)
}

/// What an audit says of some exchanges.
fn verdict(session: &Session, extent: Extent, exchanges: &[Exchange]) -> Result<(), Unverified> {
    let key = &subject().key;
    let mut auditing = Auditing::begin(&Reference, key, &session.receipt, &SEED, extent)?;
    for exchange in exchanges {
        auditing.take(exchange)?;
    }
    auditing.finish().map(|_| ())
}

/// The places of a layer's parts among exchanges.
fn parts_of(exchanges: &[Exchange], of: u32) -> Vec<usize> {
    let is_it = |exchange: &Exchange| match exchange.challenge.target {
        Target::Layer { layer, .. } => layer == of,
        Target::Head { .. } | Target::Edge { .. } | Target::Mark { .. } => false,
    };
    (0..exchanges.len()).filter(|&at| is_it(&exchanges[at])).collect()
}

#[test]
fn a_long_layer_comes_in_parts_that_follow_each_other_and_none_is_larger_than_it_may_be() {
    let Subject { key, session, sampled, .. } = subject();
    let full = session.bundle_with(key, Extent::Full).unwrap().exchanges;
    for (extent, all) in [(Extent::Sampled, sampled), (Extent::Full, &full)] {
        for layer in 0..2 {
            let (mut next, mut cells) = (0, 0);
            let parts = parts_of(all, layer);
            assert!(parts.len() >= 3, "{} parts", parts.len());
            for at in parts {
                let Target::Layer { first, end, positions, .. } = &all[at].challenge.target else {
                    panic!("a layer's part");
                };
                assert_eq!(*first, next, "without a gap");
                assert!(positions.iter().all(|position| (*first..*end).contains(position)));
                next = *end;
                cells += positions.len();
                let bytes = all[at].opening.body.len();
                assert!(bytes <= PART_BYTES + PART_BYTES / 4, "{bytes}");
            }
            assert!(cells >= 16);
        }
        verdict(session, extent, all).unwrap();
    }
}

#[test]
fn a_missing_part_leaves_what_follows_it_unchecked_and_names_the_stage() {
    let Subject { session, sampled, .. } = subject();
    for at in parts_of(sampled, 1) {
        let mut some = sampled.clone();
        some.remove(at);
        match verdict(session, Extent::Sampled, &some) {
            Err(Unverified::NotChecked { why, coverage }) => {
                assert_eq!(why, Missing::Openings { stages: vec![1] });
                assert!(coverage.stages[0].is_complete && !coverage.stages[1].is_complete);
            }
            other => panic!("part {at}: {other:?}"),
        }
    }
}

#[test]
fn what_comes_while_the_parts_before_it_are_missing_is_told_from_what_was_checked() {
    let Subject { key, session, sampled, .. } = subject();
    let (receipt, parts) = (&session.receipt, parts_of(sampled, 1));
    let begin = Auditing::begin(&Reference, key, receipt, &SEED, Extent::Sampled);
    let mut auditing = begin.unwrap();
    for (at, exchange) in sampled.iter().enumerate().filter(|(at, _)| *at != parts[0]) {
        let is_later = parts.contains(&at);
        let expected = if is_later { Taken::Unchecked } else { Taken::Checked };
        assert_eq!(auditing.take(exchange), Ok(expected), "{at}");
    }
    assert_eq!(auditing.take(&sampled[parts[0]]), Ok(Taken::Checked));
    assert_eq!(auditing.take(&sampled[parts[1]]), Ok(Taken::Checked), "it can come again");
}

#[test]
fn parts_out_of_order_or_twice_are_the_bundles_fault_and_no_stages() {
    let Subject { session, sampled: all, .. } = subject();
    let parts = parts_of(all, 1);
    let fault = |exchanges: &[Exchange]| match verdict(session, Extent::Sampled, exchanges) {
        Err(Unverified::Failed(Fault { blame: Blame::Receipt, reason, .. })) => reason,
        other => panic!("{other:?}"),
    };
    let mut swapped = all.clone();
    swapped.swap(parts[0], parts[1]);
    assert_eq!(fault(&swapped), Reason::Order);
    let mut twice = all.clone();
    twice.insert(parts[1], all[parts[1]].clone());
    assert_eq!(fault(&twice), Reason::NotDrawn);
    // One part's opening in place of another's: signed, but as the answer to another challenge.
    let mut mixed = all.clone();
    mixed[parts[0]].opening = all[parts[1]].opening.clone();
    assert_eq!(fault(&mixed), Reason::Signature("opening"));
}

#[test]
fn a_part_that_comes_again_in_its_place_is_checked() {
    let Subject { session, sampled, .. } = subject();
    let parts = parts_of(sampled, 1);
    let mut again = sampled.clone();
    again.insert(parts[0], sampled[parts[1]].clone());
    verdict(session, Extent::Sampled, &again).unwrap();
}

#[test]
fn a_part_out_of_order_is_told_from_a_missing_part_of_another_layer() {
    let Subject { model, key, session, sampled } = subject();
    // The other layer is another stage's, or the same stage's.
    let whole = Ring::new(model, &[]).run(&ask());
    let of_whole = whole.bundle_with(key, Extent::Sampled).unwrap().exchanges;
    for (session, sampled) in [(session, sampled), (&whole, &of_whole)] {
        let parts = parts_of(sampled, 1);
        let mut swapped = sampled.clone();
        swapped.swap(parts[0], parts[1]);
        // All of layer 0 is missing.
        let first = parts_of(sampled, 0);
        swapped.drain(first[0]..=first[first.len() - 1]);
        match verdict(session, Extent::Sampled, &swapped) {
            Err(Unverified::Failed(Fault { blame: Blame::Receipt, reason, .. })) => {
                assert_eq!(reason, Reason::Order);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_wrong_kv_row_in_any_part_convicts_its_signer() {
    let Subject { model, key, .. } = subject();
    for position in [0, 64] {
        let lie = slip(Slip::KvRowCommitted(1, position));
        let session = Ring::new(model, &[1]).lying(1, lie).run(&ask());
        let all = session.bundle_with(key, Extent::Full).unwrap().exchanges;
        match verdict(&session, Extent::Full, &all) {
            Err(Unverified::Failed(fault)) => {
                assert_eq!(fault.blame, Blame::Stage { stage: 1, node: node(1).id() }, "{fault}");
                assert_eq!(fault.reason, Reason::Kv);
            }
            other => panic!("position {position}: {other:?}"),
        }
    }
    // Bytes of a part that are not under the root.
    let session = Ring::new(model, &[1]).lying(1, slip(Slip::OpeningByte(500_000))).run(&ask());
    let all = session.bundle_with(key, Extent::Sampled).unwrap().exchanges;
    match verdict(&session, Extent::Sampled, &all) {
        Err(Unverified::Failed(fault)) => assert_eq!(fault.stage(), Some(1), "{fault}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_layer_is_opened_and_audited_part_by_part() {
    let model = wide();
    let layers = load_span(&Reference, &model.manifest, 1..2, |b| model.blob(b)).unwrap();
    let (mut parts, mut largest) = (0, 0);
    let kernels = Kernels::detect(1).unwrap();
    let each = |progress: Progress| {
        if let Progress::Opened(bytes) = progress {
            parts += 1;
            largest = largest.max(bytes);
        }
    };
    // 300 positions of 33 KiB: 10 MiB of KV rows.
    let products = audit_in_parts(&kernels, &layers[0], 300, [7, 200, 201, 299], each).unwrap();
    assert_eq!(products, 4 * 4);
    assert!(parts >= 10, "{parts} parts");
    assert!(largest <= PART_BYTES + PART_BYTES / 4, "{largest} bytes");
}

/// What 32,768 positions of a layer of 8 billion parameters' shape take, with 8 KiB of KV rows a
/// position: 32 key heads, four times as many as Llama 3 8B has.
/// `cargo test --release -p lockstep-verify --test it -- --ignored --nocapture long_session`.
#[test]
#[ignore = "a minute, and 3 GiB of memory"]
fn a_layer_of_a_long_session_is_audited_in_bounded_memory() {
    let sizes = Sizes {
        layers: 1,
        hidden: 4096,
        heads: 32,
        kv_heads: 32,
        head_dim: 128,
        inner: 14_336,
        context: 32_768,
        ..Sizes::default()
    };
    let model = TinyModel::with_sizes(1, sizes);
    let kernels = Kernels::detect(2).unwrap();
    let layers = load_span(&kernels, &model.manifest, 0..1, |b| model.blob(b)).unwrap();
    // Ends, and cells deep inside: what a sampled audit opens of a layer, and more.
    let opened = [0, 1, 9000, 20_000, 32_767];
    let mut meter = Meter::start();
    let each = |progress: Progress| meter.hear(progress);
    let products = audit_in_parts(&kernels, &layers[0], 32_768, opened, each).unwrap();
    assert_eq!(products, 4 * opened.len() as u64);
    let Meter { parts, bytes, largest, kept, opening, auditing, .. } = meter;
    println!("{parts} parts, {bytes} bytes, the largest {largest}");
    println!("stage: {kept} KiB to open from, {opening} KiB more at most for one part");
    println!("auditor: {} KiB at most, {} KiB of it kept", auditing.most, auditing.kept);
    // 264 MiB of KV rows as attention reads them, and a few copies of a part; the stage takes as
    // much as it derives the sums of the last cell.
    for (end, most) in [("opening", opening), ("auditing", auditing.most)] {
        assert!(most < 320 * 1024, "{end}: {most} KiB");
    }
    // What came in, states before and after the layer, and KV rows as they are committed.
    assert!(kept < 1200 * 1024, "{kept} KiB");
}

/// The memory that both ends of [`audit_in_parts`] take, in KiB: they work by turns.
struct Meter {
    parts: u64,
    bytes: usize,
    largest: usize,
    /// The process before anything was done, and at the last step.
    start: u64,
    before: u64,
    /// What the stage holds to open from.
    kept: u64,
    /// The stage's most for one part, beside what it keeps.
    opening: u64,
    auditing: Auditor,
}

/// The auditor's most, and what it keeps between parts.
#[derive(Default)]
struct Auditor {
    most: u64,
    kept: u64,
}

impl Meter {
    fn start() -> Self {
        reset_peak();
        let start = memory("VmRSS");
        Self {
            parts: 0,
            bytes: 0,
            largest: 0,
            start,
            before: start,
            kept: 0,
            opening: 0,
            auditing: Auditor::default(),
        }
    }

    fn hear(&mut self, progress: Progress) {
        let (peak, now) = (memory("VmHWM"), memory("VmRSS"));
        let rose = peak.saturating_sub(self.before);
        match progress {
            Progress::Committed => self.kept = now - self.start,
            Progress::Opened(bytes) => {
                self.parts += 1;
                self.bytes += bytes;
                self.largest = self.largest.max(bytes);
                self.opening = self.opening.max(rose);
            }
            Progress::Checked => {
                let kept = self.auditing.kept;
                self.auditing.most = self.auditing.most.max(kept + rose);
                self.auditing.kept = (kept + now).saturating_sub(self.before);
            }
        }
        reset_peak();
        self.before = now;
    }
}

/// Starts a new peak of this process' memory.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A figure of this process' memory in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn how_long_an_audit_is_is_known_before_the_session_and_no_stage_can_make_it_longer() {
    let (key, manifest, ask) = (key(), &model().manifest, Ask::new(41, 9, 3));
    let lies =
        [None, Some((0, slip(Slip::OutputRoot))), Some((1, told(Lie::OtherInputRoot, 0, 0)))];
    for (extent, lie) in [Extent::Sampled, Extent::Full].map(|e| lies.map(|l| (e, l))).concat() {
        let ring =
            lie.iter().fold(Ring::new(model(), &[3]), |ring, &(at, lie)| ring.lying(at, lie));
        let session = ring.run(&ask);
        let receipt = &session.receipt;
        let begin = |most| Auditing::begin_within(most, &Reference, key, receipt, &SEED, extent);
        let too_long = |most| match begin(most).err() {
            Some(Unverified::NotChecked { why: Missing::TooLong(why), .. }) => why,
            other => panic!("{other:?}"),
        };
        let most = too_long(0).challenges;
        let why = too_long(most - 1);
        assert_eq!((why.extent, why.positions, why.challenges), (extent, 11, most));
        let fits = |positions| check_length(why.most, manifest, extent, 9, positions);
        assert_eq!(fits(11), Err(why));
        assert!(why.most_positions == 0 || fits(why.most_positions).is_ok(), "{why}");
        let mut auditing = begin(most).unwrap();
        let plan = auditing.plan();
        let is_cell =
            |target: &&Target| matches!(target, Target::Layer { .. } | Target::Head { .. });
        let cells = plan.iter().map(|(_, target)| target).filter(is_cell).count() as u64;
        assert!(cells <= most, "{cells} of {most}");
        assert!(extent == Extent::Sampled || cells == most, "a full audit is counted exactly");
        // What neighbours signed differently comes on top, within the same limit.
        assert_eq!(plan.len() as u64 > cells, lie.is_some(), "{lie:?}");
        let all = session.bundle_with(key, extent).unwrap().exchanges;
        let fault = all.iter().find_map(|exchange| auditing.take(exchange).err());
        assert_eq!(
            fault.and_then(|fault| fault.stage()),
            lie.map(|(at, _)| u32::try_from(at).unwrap())
        );
    }
}

#[test]
fn after_a_fault_that_ends_an_audit_no_other_verdict_is_given() {
    let key = key();
    let lying = Ring::new(model(), &[3]).lying(1, told(Lie::FlippedBit, 4, 2));
    let session = lying.run(&Ask::new(41, 9, 3));
    let all = session.bundle_with(key, Extent::Full).unwrap().exchanges;
    let begin = || Auditing::begin(&Reference, key, &session.receipt, &SEED, Extent::Full).unwrap();
    let mut auditing = begin();
    let taken: Vec<_> = all.iter().map(|exchange| auditing.take(exchange)).collect();
    let first = taken.iter().position(Result::is_err).unwrap();
    let fault = taken[first].clone().unwrap_err();
    assert!(fault.stage() == Some(1) && first + 1 < all.len(), "{fault}");
    assert!(taken[first..].iter().all(|taken| *taken == Err(fault.clone())), "nothing is taken");
    assert_eq!(auditing.finish().err(), Some(Unverified::Failed(fault)));
    // What ends it without a stage's name ends it as well.
    let mut auditing = begin();
    auditing.take(&all[0]).unwrap();
    let again = auditing.take(&all[0]).unwrap_err();
    let rest: Vec<_> = all[1..].iter().map(|exchange| auditing.take(exchange)).collect();
    assert!(rest.iter().all(|taken| *taken == Err(again.clone())));
    assert_eq!(auditing.finish().err(), Some(Unverified::Failed(again)));
}

#[test]
fn a_sampled_audit_of_a_long_session_of_a_large_model_is_not_too_long() {
    let sizes = Sizes { layers: 2, ..Sizes::default() };
    let mut manifest = TinyModel::with_sizes(1, sizes).manifest;
    // 32 layers, keys of 8 heads of 128 elements, as an 8B model has them.
    let mut layer = manifest.layers[1].clone();
    (layer.attention.kv_heads, layer.attention.head_dim) = (8, 128);
    manifest.layers = vec![layer; 32];
    let limit = lockstep_verify::limits::AUDIT_CHALLENGES;
    let fits = |extent, positions| check_length(limit, &manifest, extent, 32_000, positions);
    assert_eq!(fits(Extent::Sampled, 32_768), Ok(()));
    assert_eq!(fits(Extent::Sampled, 131_072), Ok(()));
}

#[test]
fn a_part_of_a_layer_reads_back() {
    let part = Target::Layer { layer: 1, first: 31, end: 62, positions: vec![40] };
    assert_eq!(Target::from_bytes(&part.to_bytes()), Ok(part));
}
