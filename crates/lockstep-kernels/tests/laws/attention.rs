//! Laws of attention and of the cache.

use lockstep_exact::kv::{KvCache, KvRowError, KvShape, ReadKv as _, ReferenceKv};
use lockstep_exact::norm::{HeadNorms, Norm};
use lockstep_exact::num;
use lockstep_exact::ops::{AttentionLayer, Device, Host, Place};
use lockstep_exact::plan::AttentionPlan;
use lockstep_exact::reference::{self, Reference};
use lockstep_kernels::{Codes, Kernels, Kv};
use lockstep_testing::numbers::Numbers;

use crate::values::{any_floats, assert_bits, flags, floats, rows};

/// Heads, key heads and head sizes: with and without groups, whole lines and whole registers.
const PLANS: [(u32, u32, u32); 6] =
    [(9, 3, 64), (4, 4, 16), (8, 1, 6), (2, 1, 2), (6, 2, 80), (32, 1, 34)];

fn plan((heads, kv_heads, head_dim): (u32, u32, u32), window: u32) -> AttentionPlan {
    let score_scale = num::LOG2_E / (head_dim as f32).sqrt();
    AttentionPlan { heads, kv_heads, head_dim, rope: 0, window, score_scale }
}

fn frequencies(plan: &AttentionPlan) -> Vec<u64> {
    (0..plan.head_dim / 2).map(|pair| 0x3fff_1234_5678_9abc_u64 >> (pair % 40)).collect()
}

/// The same sessions in both forms of cache, with one layer before the one in use.
struct Sessions {
    plan: AttentionPlan,
    rope: Vec<u64>,
    norms: Option<HeadNorms>,
    fast: Vec<Kv>,
    slow: Vec<ReferenceKv>,
    /// Positions written, per session: the layer before is empty, so the caches do not say.
    lens: Vec<usize>,
}

impl Sessions {
    fn new(plan: AttentionPlan, count: usize) -> Self {
        let shape = |kv_heads, head_dim| KvShape { kv_heads, head_dim };
        let layers = [shape(1, 2), shape(plan.kv_heads as usize, plan.head_dim as usize)];
        Self {
            plan,
            rope: frequencies(&plan),
            norms: None,
            fast: (0..count).map(|_| KvCache::new(&layers)).collect(),
            slow: (0..count).map(|_| KvCache::new(&layers)).collect(),
            lens: vec![0; count],
        }
    }

    /// Writes rows with random codes and scales around `scale`, some 0, up to `len` positions.
    fn fill(&mut self, numbers: &mut Numbers, slot: usize, len: usize, scale: f32) {
        self.fill_with(numbers, slot, len, |numbers, _, _| {
            let scale = scale * (1.5 + numbers.signed_unit());
            if numbers.below(20) == 0 { 0.0 } else { scale }
        });
    }

    /// Writes rows with random codes and the scales that `scale` gives for a position, and whether
    /// it is a value's, up to `len` positions.
    fn fill_with(
        &mut self,
        numbers: &mut Numbers,
        slot: usize,
        len: usize,
        mut scale: impl FnMut(&mut Numbers, usize, bool) -> f32,
    ) {
        let (heads, width) = (self.plan.kv_heads as usize, self.layer_shape().width());
        for position in 0..len {
            let mut row: Vec<u8> =
                (0..2 * width).map(|_| (numbers.below(255) as i32 - 127) as u8).collect();
            for head in 0..2 * heads {
                let scale = scale(numbers, position, head >= heads);
                row.extend(scale.to_le_bytes());
            }
            self.write(slot, position, &row);
        }
    }

    fn layer_shape(&self) -> KvShape {
        let plan = &self.plan;
        KvShape { kv_heads: plan.kv_heads as usize, head_dim: plan.head_dim as usize }
    }

    fn write(&mut self, slot: usize, position: usize, row: &[u8]) {
        self.fast[slot].write_row(1, position, row).unwrap();
        self.slow[slot].write_row(1, position, row).unwrap();
        self.lens[slot] = self.lens[slot].max(position + 1);
    }

    /// Appends the same fused rows to both; returns both queries. Compares flags and queries.
    fn append(
        &mut self,
        kernels: &Kernels,
        fused: Vec<f32>,
        places: &[Place],
        wanted: &[usize],
    ) -> (Codes, reference::Codes) {
        let (fast_rows, slow_rows) = rows(self.plan.qkv_width(), fused);
        let (mut fast, mut slow): (Codes, reference::Codes) = Default::default();
        let (mut fast_flags, mut slow_flags) = (flags(places.len()), flags(places.len()));
        let (plan, rope, norms) = (self.plan, self.rope.clone(), self.norms.clone());
        let layer = AttentionLayer { plan: &plan, rope: &rope, norms: norms.as_ref(), index: 1 };
        let mut caches: Vec<&mut Kv> = self.fast.iter_mut().collect();
        let flags = &mut fast_flags;
        kernels.append(layer, &fast_rows, places, wanted, &mut caches, &mut fast, flags);
        let mut caches: Vec<&mut ReferenceKv> = self.slow.iter_mut().collect();
        let flags = &mut slow_flags;
        Reference.append(layer, &slow_rows, places, wanted, &mut caches, &mut slow, flags);
        assert_eq!(kernels.read_codes(&fast).unwrap(), slow.codes);
        assert_eq!(fast_flags, slow_flags);
        for place in places {
            self.lens[place.slot] = self.lens[place.slot].max(place.position + 1);
        }
        (fast, slow)
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.fast[slot].truncate(len);
        self.slow[slot].truncate(len);
        self.lens[slot] = self.lens[slot].min(len);
    }

    /// Attends with both and compares outputs and flags, which are returned.
    fn attend(
        &mut self,
        kernels: &Kernels,
        (fast, slow): &(Codes, reference::Codes),
        places: &[Place],
    ) -> (Vec<f32>, Vec<bool>) {
        let (mut fast_out, mut slow_out) = Default::default();
        let (mut fast_flags, mut slow_flags) = (flags(places.len()), flags(places.len()));
        let (plan, rope) = (self.plan, self.rope.clone());
        let layer = AttentionLayer { plan: &plan, rope: &rope, norms: None, index: 1 };
        let caches: Vec<&mut Kv> = self.fast.iter_mut().collect();
        kernels.attend(layer, fast, places, &caches, &mut fast_out, &mut fast_flags);
        let caches: Vec<&mut ReferenceKv> = self.slow.iter_mut().collect();
        Reference.attend(layer, slow, places, &caches, &mut slow_out, &mut slow_flags);
        assert_bits(&kernels.read_rows(&fast_out).unwrap(), &slow_out.data);
        assert_eq!(fast_flags, slow_flags);
        (slow_out.data, (0..places.len()).map(|row| slow_flags.get(row)).collect())
    }

    fn assert_same_rows(&self, slot: usize) {
        assert_eq!(self.fast[slot].pages(), self.slow[slot].pages());
        let (mut fast, mut slow) = (Vec::new(), Vec::new());
        for position in 0..self.lens[slot] {
            self.fast[slot].read_row(1, position, &mut fast);
            self.slow[slot].read_row(1, position, &mut slow);
        }
        assert_eq!(fast, slow);
    }
}

fn places(slot: usize, positions: std::ops::Range<usize>) -> Vec<Place> {
    positions.map(|position| Place { slot, position }).collect()
}

pub(crate) fn append_writes_the_rows_and_queries_of_the_reference(kernels: &Kernels) {
    let mut numbers = Numbers::new(20);
    for sizes in PLANS {
        let plan = plan(sizes, 0);
        let mut sessions = Sessions::new(plan, 2);
        // Two sessions, interleaved in one batch.
        let mut batch = [places(0, 0..9), places(1, 0..5)].concat();
        batch.sort_by_key(|place| place.position);
        for (batch, wanted) in
            [(batch, vec![0, 3, 13]), (places(0, 9..10), vec![]), (places(1, 5..75), vec![69])]
        {
            let special = batch.len() < 70;
            let fused = any_floats(&mut numbers, batch.len() * plan.qkv_width(), special);
            sessions.append(kernels, fused, &batch, &wanted);
        }
        sessions.assert_same_rows(0);
        sessions.assert_same_rows(1);
    }
}

pub(crate) fn heads_are_normalised_as_in_the_reference(kernels: &Kernels) {
    let mut numbers = Numbers::new(25);
    for sizes in PLANS {
        let plan = plan(sizes, 0);
        let mut sessions = Sessions::new(plan, 1);
        let head_dim = plan.head_dim as usize;
        let mut norm = || Norm::new(1e-6, floats(&mut numbers, head_dim));
        sessions.norms = Some(HeadNorms { query: norm(), key: norm() });
        for (batch, wanted) in [(0..9, vec![0, 3, 8]), (9..10, vec![]), (10..80, vec![69])] {
            let (batch, special) = (places(0, batch.clone()), batch.len() < 70);
            let fused = any_floats(&mut numbers, batch.len() * plan.qkv_width(), special);
            sessions.append(kernels, fused, &batch, &wanted);
        }
        sessions.assert_same_rows(0);
    }
}

pub(crate) fn attention_is_exact_at_chunk_boundaries_and_in_windows(kernels: &Kernels) {
    let mut numbers = Numbers::new(21);
    for sizes in PLANS {
        for window in [0, 1, 5, 200, 300] {
            let plan = plan(sizes, window);
            let mut sessions = Sessions::new(plan, 1);
            sessions.fill(&mut numbers, 0, 530, 0.01);
            for range in [0..1, 3..5, 254..259, 511..514, 520..530, 120..150] {
                let batch = places(0, range);
                let wanted: Vec<usize> = (0..batch.len()).collect();
                let fused = values_around(&mut numbers, batch.len() * plan.qkv_width(), 3.0);
                let queries = sessions.append(kernels, fused, &batch, &wanted);
                let (_, flags) = sessions.attend(kernels, &queries, &batch);
                assert!(!flags.contains(&true), "nothing overflows here");
            }
        }
    }
}

fn values_around(numbers: &mut Numbers, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| numbers.signed_unit() * size).collect()
}

pub(crate) fn attention_is_exact_for_scales_of_any_spread(kernels: &Kernels) {
    let mut numbers = Numbers::new(25);
    let power = |exponent: i64| num::pow2(exponent as i32);
    for (trial, sizes) in PLANS.into_iter().cycle().take(24).enumerate() {
        let plan = plan(sizes, 0);
        let mut sessions = Sessions::new(plan, 1);
        // Scores up to some hundreds of powers of two; in some chunks no value counts.
        let steepness = trial as i64 % 8;
        let silent: Vec<bool> = (0..3).map(|_| numbers.below(2) == 0).collect();
        sessions.fill_with(&mut numbers, 0, 600, |numbers, position, is_value| {
            let size = 1.5 + numbers.signed_unit() / 2.0;
            match is_value {
                true if silent[position / 256] => 0.0,
                true => size * power(numbers.below(60) as i64 - 46),
                false => size * power(steepness - 5 - numbers.below(4) as i64),
            }
        });
        let batch = places(0, 596..600);
        let mut fused = values_around(&mut numbers, batch.len() * plan.qkv_width(), 1.0);
        for row in fused.chunks_exact_mut(plan.qkv_width()) {
            row[plan.query_width()..].fill(0.0);
        }
        let queries = sessions.append(kernels, fused, &batch, &[0, 1, 2, 3]);
        sessions.attend(kernels, &queries, &batch);
    }
}

pub(crate) fn values_of_zero_attend_to_zero_at_every_score(kernels: &Kernels) {
    let plan = plan((2, 1, 2), 0);
    let batch = places(0, 0..1);
    for score in 0..600 {
        // The only key points away from both queries: the best score is far below zero.
        let key = score as f32 * -0.5;
        let fused = vec![1.0, 1.0, 1.0, 0.0, key, key, 0.0, 0.0];
        let mut sessions = Sessions::new(plan, 1);
        let queries = sessions.append(kernels, fused, &batch, &[0]);
        let (out, flags) = sessions.attend(kernels, &queries, &batch);
        assert!(out.iter().all(|x| x.to_bits() == 0) && !flags[0], "score {score}: {out:?}");
    }
}

pub(crate) fn attention_overflows_exactly_where_the_reference_does(kernels: &Kernels) {
    let mut numbers = Numbers::new(22);
    let plan = plan((9, 3, 64), 0);
    let mut seen = [false; 2];
    for (scale, size) in [(1.0, 1e3), (1e6, 1e-3), (1e13, 1e-8), (1e13, 1.0), (1e-9, 1e9)] {
        let mut sessions = Sessions::new(plan, 1);
        sessions.fill(&mut numbers, 0, 300, scale);
        let batch = places(0, 250..300);
        let fused: Vec<f32> = (0..batch.len())
            .flat_map(|row| {
                // Some queries are so small that they do not overflow.
                let size = if row % 3 == 0 { size * 1e-9 } else { size };
                let mut row = values_around(&mut numbers, plan.qkv_width(), size);
                row[plan.query_width()..].fill(1e-3);
                row
            })
            .collect();
        let wanted: Vec<usize> = (0..batch.len()).collect();
        let queries = sessions.append(kernels, fused, &batch, &wanted);
        let (_, flags) = sessions.attend(kernels, &queries, &batch);
        flags.iter().for_each(|&flag| seen[usize::from(flag)] = true);
    }
    assert_eq!(seen, [true; 2], "both outcomes are tested");
}

pub(crate) fn batches_of_sessions_attend_as_each_alone(kernels: &Kernels) {
    let mut numbers = Numbers::new(23);
    let plan = plan((9, 3, 64), 0);
    let mut sessions = Sessions::new(plan, 5);
    let lens = [1, 700, 256, 257, 30];
    for (slot, &len) in lens.iter().enumerate() {
        sessions.fill(&mut numbers, slot, len - 1, 0.02);
    }
    let batch: Vec<Place> =
        lens.iter().enumerate().map(|(slot, &len)| Place { slot, position: len - 1 }).collect();
    let wanted: Vec<usize> = (0..batch.len()).collect();
    let fused = values_around(&mut numbers, batch.len() * plan.qkv_width(), 5.0);
    let queries = sessions.append(kernels, fused.clone(), &batch, &wanted);
    let (together, _) = sessions.attend(kernels, &queries, &batch);
    for (row, place) in batch.iter().enumerate() {
        let fused = fused[row * plan.qkv_width()..][..plan.qkv_width()].to_vec();
        let queries = sessions.append(kernels, fused, &[*place], &[0]);
        let (alone, _) = sessions.attend(kernels, &queries, &[*place]);
        let width = plan.query_width();
        assert_bits(&together[row * width..][..width], &alone);
    }
}

pub(crate) fn ragged_batches_of_prompts_and_tokens_attend_exactly(kernels: &Kernels) {
    let mut numbers = Numbers::new(26);
    // Tiles that are full, cut by a session's end or by a window; heads that share a key in
    // groups that are and are not whole register tiles.
    for sizes in [(9, 3, 64), (4, 1, 128), (5, 1, 20), (14, 2, 64), (3, 3, 48)] {
        for window in [0, 70] {
            let plan = plan(sizes, window);
            let mut sessions = Sessions::new(plan, 4);
            let batch = [
                places(0, 240..290),
                places(1, 520..521),
                places(2, 0..17),
                places(3, 63..66),
                places(0, 290..291),
            ];
            for (slot, len) in [(0, 240), (1, 520), (3, 63)] {
                sessions.fill(&mut numbers, slot, len, 0.01);
            }
            let batch = batch.concat();
            // Some rows of a session do not attend, as in a last layer.
            let wanted: Vec<usize> = (0..batch.len()).filter(|row| row % 11 != 7).collect();
            let fused = values_around(&mut numbers, batch.len() * plan.qkv_width(), 3.0);
            let queries = sessions.append(kernels, fused, &batch, &wanted);
            let batch: Vec<Place> = wanted.iter().map(|&row| batch[row]).collect();
            let (_, flags) = sessions.attend(kernels, &queries, &batch);
            assert!(!flags.contains(&true), "nothing overflows here");
            (0..4).for_each(|slot| sessions.assert_same_rows(slot));
        }
    }
}

pub(crate) fn a_long_session_attends_exactly(kernels: &Kernels) {
    let mut numbers = Numbers::new(27);
    for (sizes, window) in [((9, 3, 64), 0), ((6, 2, 18), 900)] {
        let plan = plan(sizes, window);
        let mut sessions = Sessions::new(plan, 1);
        sessions.fill(&mut numbers, 0, 1500, 0.01);
        let batch = places(0, 1500..1502);
        let fused = values_around(&mut numbers, batch.len() * plan.qkv_width(), 3.0);
        let queries = sessions.append(kernels, fused, &batch, &[0, 1]);
        sessions.attend(kernels, &queries, &batch);
    }
}

pub(crate) fn a_cache_forgets_what_is_truncated_and_keeps_the_rest(kernels: &Kernels) {
    let mut numbers = Numbers::new(24);
    let plan = plan((6, 2, 80), 0);
    let mut sessions = Sessions::new(plan, 1);
    sessions.fill(&mut numbers, 0, 520, 0.01);
    for len in [515, 512, 300, 256, 255, 10] {
        sessions.truncate(0, len);
        sessions.assert_same_rows(0);
        // New rows over old ones, and attention that must not see what was forgotten.
        let batch = places(0, len..len + 3);
        let fused = values_around(&mut numbers, 3 * plan.qkv_width(), 1.0);
        let queries = sessions.append(kernels, fused, &batch, &[0, 1, 2]);
        sessions.attend(kernels, &queries, &batch);
        sessions.assert_same_rows(0);
    }
    assert_eq!(sessions.fast[0].len(), 0, "the first layer has no rows");
    // With rows in every layer, the length follows.
    for position in 0..5 {
        let row = [[1; 4].as_slice(), &[0; 8]].concat();
        sessions.fast[0].write_row(0, position, &row).unwrap();
        assert_eq!(sessions.fast[0].len(), position + 1);
    }
    sessions.fast[0].truncate(3);
    assert_eq!(sessions.fast[0].len(), 3);
    sessions.fast[0].truncate(0);
    assert!(sessions.fast[0].is_empty() && sessions.fast[0].pages() == 0);
}

pub(crate) fn rows_that_no_quantisation_gives_are_refused(_: &Kernels) {
    let mut cache = Kv::new(&[KvShape { kv_heads: 1, head_dim: 4 }]);
    let good = [vec![1_u8; 8], 0.5_f32.to_le_bytes().to_vec(), vec![0; 4]].concat();
    assert_eq!(cache.write_row(0, 0, &good), Ok(()));
    let mut code = good.clone();
    code[3] = 0x80;
    assert_eq!(cache.write_row(0, 1, &code), Err(KvRowError::Code));
    let mut scale = good.clone();
    scale[11] |= 0x80;
    assert_eq!(cache.write_row(0, 1, &scale), Err(KvRowError::Scale));
    let length = KvRowError::Length { expected: 16, got: 15 };
    assert_eq!(cache.write_row(0, 1, &good[..15]), Err(length));
    assert_eq!(cache.len(), 1);
    let mut row = Vec::new();
    cache.read_row(0, 0, &mut row);
    assert_eq!(row, good);
}
