//! Cases of append and attend.

use lockstep_exact::kv::KvShape;
use lockstep_exact::norm::{HeadNorms, Norm};
use lockstep_exact::num;
use lockstep_exact::ops::Place;
use lockstep_exact::plan::AttentionPlan;
use lockstep_testing::numbers::Numbers;

use crate::elements::{any_floats, floats};
use crate::record::Record;
use crate::subject::{Sessions, Subject};

type Sizes = (u32, u32, u32);

/// Query heads, kv heads and sizes of heads: groups of one to more than a tile, heads of whole and
/// of broken tiles.
const SIZES: [Sizes; 8] = [
    (9, 3, 64),
    (4, 4, 16),
    (8, 1, 6),
    (2, 1, 2),
    (6, 2, 80),
    (32, 1, 34),
    (8, 2, 128),
    (4, 1, 256),
];

fn plan((heads, kv_heads, head_dim): Sizes, window: u32) -> AttentionPlan {
    let score_scale = num::LOG2_E / (head_dim as f32).sqrt();
    AttentionPlan { heads, kv_heads, head_dim, rope: 0, window, score_scale }
}

fn places(slot: usize, positions: std::ops::Range<usize>) -> Vec<Place> {
    positions.map(|position| Place { slot, position }).collect()
}

/// Canonical rows with random codes, and the scales that `scale` gives for a position and whether
/// it is a value's.
pub(crate) fn written(
    numbers: &mut Numbers,
    plan: &AttentionPlan,
    count: usize,
    mut scale: impl FnMut(&mut Numbers, usize, bool) -> f32,
) -> Vec<u8> {
    let shape = KvShape { kv_heads: plan.kv_heads as usize, head_dim: plan.head_dim as usize };
    let mut rows = Vec::with_capacity(count * shape.row_bytes());
    for position in 0..count {
        // Eight codes of each number.
        let mut word = 0;
        for k in 0..2 * shape.width() {
            if k % 8 == 0 {
                word = numbers.next_u64();
            }
            let code = (word as u8).max(1) ^ 0x80;
            word >>= 8;
            rows.push(code);
        }
        for head in 0..2 * shape.kv_heads {
            let scale = scale(numbers, position, head >= shape.kv_heads);
            rows.extend(scale.to_le_bytes());
        }
    }
    rows
}

/// Scales around `size`, some of them 0.
pub(crate) fn around(size: f32) -> impl FnMut(&mut Numbers, usize, bool) -> f32 {
    move |numbers, _, _| {
        let scale = size * (1.5 + numbers.signed_unit());
        if numbers.below(20) == 0 { 0.0 } else { scale }
    }
}

fn sessions(plan: AttentionPlan, written: Vec<Vec<u8>>, places: Vec<Place>) -> Sessions {
    let rope = (0..plan.head_dim / 2).map(|pair| 0x3fff_1234_5678_9abc_u64 >> (pair % 40));
    let wanted = (0..places.len()).collect();
    let (rope, fused) = (rope.collect(), Vec::new());
    Sessions { plan, rope, norms: None, written, fused, places, wanted }
}

fn check(subject: &dyn Subject, sessions: &Sessions, what: &str, record: &mut Record) {
    let AttentionPlan { heads, kv_heads, head_dim, window, .. } = sessions.plan;
    let what = format!("{heads}/{kv_heads} heads of {head_dim}, window {window}, {what}");
    let got = subject.attend(sessions);
    let bytes = sessions.shape().row_bytes();
    for (slot, rows) in got.rows.iter().enumerate() {
        // What was there before is as it was; it need not be recorded.
        let (before, after) = sessions.positions(slot);
        assert_eq!(rows.len(), after * bytes, "{what}");
        let first = sessions.places.iter().filter(|place| place.slot == slot);
        let first = first.map(|place| place.position).min().unwrap_or(before) * bytes;
        assert!(rows[..first] == sessions.written[slot][..first], "{what}: old rows of {slot}");
        record.bytes(format!("{what}: rows of {slot}"), &rows[first..]);
    }
    record.codes(format!("{what}: queries"), &got.queries);
    record.floats(format!("{what}: scales"), &got.scales);
    record.flags(format!("{what}: flags of append"), sessions.places.len(), &got.append_flags);
    record.floats(format!("{what}: outputs"), &got.out);
    record.flags(format!("{what}: flags of attend"), sessions.wanted.len(), &got.attend_flags);
}

pub(crate) fn appended_rows(subject: &dyn Subject, numbers: &mut Numbers, record: &mut Record) {
    for sizes in SIZES.into_iter().chain([(2, 2, 512)]) {
        for with_norms in [false, true] {
            let plan = plan(sizes, 0);
            let head_dim = plan.head_dim as usize;
            for (batch, wanted) in [
                ([places(0, 0..9), places(1, 0..5)].concat(), vec![0, 3, 13]),
                (places(0, 0..1), vec![]),
                (places(0, 0..40), vec![39]),
            ] {
                let special = batch.len() < 40;
                let mut sessions = sessions(plan, vec![Vec::new(); 2], batch);
                let count = sessions.places.len() * plan.qkv_width();
                sessions.fused = any_floats(numbers, count, special);
                sessions.wanted = wanted;
                // Also a table that leaves elements unturned.
                sessions.rope.truncate(head_dim / 2 - numbers.below(2).min(1) as usize);
                let mut norm = || Norm::new(1e-6, floats(numbers, head_dim, 4.0));
                let norms = with_norms.then(|| HeadNorms { query: norm(), key: norm() });
                sessions.norms = norms;
                check(subject, &sessions, &format!("norms {with_norms}"), record);
            }
        }
    }
}

pub(crate) fn attention_in_windows(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for (sizes, window) in SIZES.into_iter().zip([0, 1, 5, 200, 300, 256, 257, 0]) {
        let plan = plan(sizes, window);
        for range in [0..1, 3..5, 254..259, 511..514, 520..522, 120..125] {
            let before = written(numbers, &plan, range.start, around(0.01));
            let mut sessions = sessions(plan, vec![before], places(0, range.clone()));
            sessions.fused = floats(numbers, range.len() * plan.qkv_width(), 3.0);
            check(subject, &sessions, &format!("{range:?}"), record);
        }
    }
}

pub(crate) fn attention_of_every_head_size_and_group(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let groups = [1, 2, 3, 4, 5, 7, 8, 16];
    for (kv_heads, head_dim) in [(2, 64), (1, 128), (1, 256), (2, 96), (1, 512)] {
        for group in groups {
            let plan = plan((group * kv_heads, kv_heads, head_dim), 0);
            let before = written(numbers, &plan, 259, around(0.01));
            let mut sessions = sessions(plan, vec![before], places(0, 259..260));
            sessions.fused = floats(numbers, plan.qkv_width(), 3.0);
            check(subject, &sessions, "259", record);
        }
    }
}

pub(crate) fn attention_over_scales_of_any_spread(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let power = |exponent: i64| num::pow2(exponent as i32);
    for (trial, sizes) in SIZES.into_iter().cycle().take(16).enumerate() {
        let plan = plan(sizes, 0);
        // Scores up to some hundreds of powers of two; in some chunks no value counts.
        let steepness = trial as i64 % 8;
        let silent: Vec<bool> = (0..3).map(|_| numbers.below(2) == 0).collect();
        let before = written(numbers, &plan, 598, |numbers, position, is_value| {
            let size = 1.5 + numbers.signed_unit() / 2.0;
            match is_value {
                true if silent[position / 256] => 0.0,
                true => size * power(numbers.below(60) as i64 - 46),
                false => size * power(steepness - 5 - numbers.below(4) as i64),
            }
        });
        let mut sessions = sessions(plan, vec![before], places(0, 598..600));
        sessions.fused = floats(numbers, 2 * plan.qkv_width(), 1.0);
        for row in sessions.fused.chunks_exact_mut(plan.qkv_width()) {
            row[plan.query_width()..].fill(0.0);
        }
        check(subject, &sessions, &format!("trial {trial}"), record);
    }
}

pub(crate) fn attention_that_overflows(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let plan = plan((9, 3, 64), 0);
    for (scale, size) in [(1.0, 1e3), (1e6, 1e-3), (1e13, 1e-8), (1e13, 1.0), (1e-9, 1e9)] {
        let before = written(numbers, &plan, 300, around(scale));
        let mut sessions = sessions(plan, vec![before], places(0, 300..320));
        let fused = |row| {
            // Some queries are so small that they do not overflow.
            let size = if row % 3 == 0 { size * 1e-9 } else { size };
            let mut row = floats(numbers, plan.qkv_width(), size);
            row[plan.query_width()..].fill(1e-3);
            row
        };
        sessions.fused = (0..20).flat_map(fused).collect();
        check(subject, &sessions, &format!("scale {scale}"), record);
    }
}

pub(crate) fn attention_to_values_of_zero(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    let plan = plan((2, 1, 2), 0);
    for trial in 0..40 {
        // The only key points away from both queries: the best score is far below zero.
        let key = (trial * 15) as f32 * -0.5 - numbers.below(2) as f32;
        let mut sessions = sessions(plan, vec![Vec::new()], places(0, 0..1));
        sessions.fused = vec![1.0, 1.0, 1.0, 0.0, key, key, 0.0, 0.0];
        check(subject, &sessions, &format!("trial {trial}"), record);
    }
}

pub(crate) fn attention_of_mixed_sessions(
    subject: &dyn Subject,
    numbers: &mut Numbers,
    record: &mut Record,
) {
    for (sizes, window) in [((9, 3, 64), 0), ((4, 1, 128), 70), ((5, 1, 20), 0), ((14, 2, 64), 300)]
    {
        let plan = plan(sizes, window);
        let starts = [240, 520, 0, 63];
        let before = starts.map(|start| written(numbers, &plan, start, around(0.01)));
        let batch = [
            places(0, 240..258),
            places(1, 520..521),
            places(2, 0..7),
            places(3, 63..66),
            places(0, 258..259),
        ];
        let mut sessions = sessions(plan, before.to_vec(), batch.concat());
        let count = sessions.places.len();
        sessions.fused = floats(numbers, count * plan.qkv_width(), 3.0);
        // Some rows do not attend, as in a last layer.
        sessions.wanted = (0..count).filter(|row| row % 11 != 7).collect();
        check(subject, &sessions, "mixed", record);
    }
}
