//! Attention of one query and of a chunk of queries, at several depths. Throughput counts pairs of
//! a query's head and a position.

use std::hint::black_box;

use criterion::measurement::Measurement;
use criterion::{BenchmarkId, Criterion, Throughput};
use lockstep_exact::flags::Flags;
use lockstep_exact::kv::{KvCache as _, KvShape};
use lockstep_exact::num::LOG2_E;
use lockstep_exact::ops::{AttentionLayer, Device, Place};
use lockstep_exact::plan::AttentionPlan;
use lockstep_kernels::{Codes, Kernels, Kv, Rows};

/// Name, query heads, key/value heads, elements of a head.
const MODELS: [(&str, u32, u32, u32); 3] =
    [("SmolLM2-135M", 9, 3, 64), ("Llama-3.2-1B", 32, 8, 64), ("Llama-3.1-8B", 32, 8, 128)];
const DEPTHS: [usize; 2] = [512, 8192];
/// Queries of a decoded token and of a prompt's chunk.
const QUERIES: [usize; 2] = [1, 128];
/// Positions appended at once.
const APPENDED: usize = 256;

pub(crate) fn bench<M: Measurement>(criterion: &mut Criterion<M>) {
    let kernels = crate::kernels();
    let mut group = criterion.benchmark_group("attention");
    group.sample_size(10);
    for (name, heads, kv_heads, head_dim) in MODELS {
        let score_scale = LOG2_E / (head_dim as f32).sqrt();
        let plan = AttentionPlan { heads, kv_heads, head_dim, rope: 0, window: 0, score_scale };
        for depth in DEPTHS {
            for queries in QUERIES {
                let id = BenchmarkId::new(format!("{name} at {depth}"), queries);
                let mut cache = Cache::filled(&kernels, &plan, depth, queries);
                let pairs = heads as usize * queries * depth;
                group.throughput(Throughput::Elements(pairs as u64));
                group.bench_function(id, |bencher| bencher.iter(|| cache.attend(&kernels)));
            }
        }
    }
    group.finish();
}

/// A filled cache, and the queries of its last positions.
struct Cache<'a> {
    plan: &'a AttentionPlan,
    rope: Vec<u64>,
    kv: Kv,
    places: Vec<Place>,
    queries: Codes,
    out: Rows,
}

impl<'a> Cache<'a> {
    fn filled(kernels: &Kernels, plan: &'a AttentionPlan, depth: usize, queries: usize) -> Self {
        let (kv_heads, head_dim) = (plan.kv_heads as usize, plan.head_dim as usize);
        let mut cache = Self {
            plan,
            rope: (0..plan.head_dim / 2).map(|pair| (1 << 61) >> pair.min(60)).collect(),
            kv: Kv::new(&[KvShape { kv_heads, head_dim }]),
            places: Vec::new(),
            queries: Codes::default(),
            out: Rows::default(),
        };
        let asking = depth - queries;
        for start in (0..asking).step_by(APPENDED) {
            cache.append(kernels, start..(start + APPENDED).min(asking));
        }
        cache.append(kernels, asking..depth);
        cache
    }

    fn append(&mut self, kernels: &Kernels, positions: std::ops::Range<usize>) {
        let qkv = crate::rows(positions.len(), self.plan.qkv_width());
        let wanted: Vec<usize> = (0..positions.len()).collect();
        self.places = positions.map(|position| Place { slot: 0, position }).collect();
        let layer = AttentionLayer { plan: self.plan, rope: &self.rope, norms: None, index: 0 };
        let caches = &mut [&mut self.kv];
        let flags = &mut Flags::none(self.places.len());
        kernels.append(layer, &qkv, &self.places, &wanted, caches, &mut self.queries, flags);
    }

    fn attend(&mut self, kernels: &Kernels) {
        let layer = AttentionLayer { plan: self.plan, rope: &self.rope, norms: None, index: 0 };
        let (caches, flags) = (&[&mut self.kv], &mut Flags::none(self.places.len()));
        kernels.attend(layer, &self.queries, &self.places, caches, &mut self.out, flags);
        black_box(&self.out);
    }
}
