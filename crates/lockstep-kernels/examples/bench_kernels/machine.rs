//! What the machine can: read bandwidth and int8 multiply-adds, on all threads in use.

use std::hint::black_box;

use crate::best_of;

/// Bytes that are read, by all threads together, and how often.
const READ_BYTES: usize = 1 << 30;
const READS: usize = 7;
/// Iterations of one run of the loop that measures the peak, and runs.
const ROUNDS: usize = 20_000;
const RUNS: usize = 2_000;

/// Measured limits.
pub(crate) struct Machine {
    /// 10^9 bytes per second.
    pub(crate) read_gb_s: f64,
    /// 10^9 multiply-adds per second of `vpdpbusd` on registers; unknown without AVX-512 VNNI.
    pub(crate) peak_gmac_s: Option<f64>,
}

impl Machine {
    /// Measures with `threads` threads at once.
    pub(crate) fn measure(threads: usize) -> Self {
        Self { read_gb_s: read_gb_s(threads), peak_gmac_s: peak(threads) }
    }
}

/// The sum of what `measure` gives on each of `threads` threads at once.
fn on_all(threads: usize, measure: fn() -> f64) -> f64 {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(measure)).collect();
        all.into_iter().map(|one| one.join().unwrap_or(f64::NAN)).sum()
    })
}

/// The best of some reads of more memory than any cache holds, each thread reading its share.
fn read_gb_s(threads: usize) -> f64 {
    let memory = vec![1_u8; READ_BYTES];
    let seconds = best_of(READS, || {
        std::thread::scope(|scope| {
            for share in memory.chunks(READ_BYTES.div_ceil(threads)) {
                scope.spawn(move || {
                    black_box(read(share));
                });
            }
        });
    });
    READ_BYTES as f64 / seconds / 1e9
}

fn read(bytes: &[u8]) -> [u64; 32] {
    let mut sums = [0_u64; 32];
    for line in bytes.chunks_exact(256) {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
fn peak(threads: usize) -> Option<f64> {
    if !is_x86_feature_detected!("avx512vnni") || !is_x86_feature_detected!("avx512f") {
        return None;
    }
    Some(on_all(threads, || {
        let seconds = best_of(RUNS, || {
            // SAFETY: the processor has both, as checked above.
            black_box(unsafe { chains() });
        });
        (ROUNDS * CHAINS * 64) as f64 / seconds / 1e9
    }))
}

#[cfg(not(target_arch = "x86_64"))]
const fn peak(_threads: usize) -> Option<f64> {
    None
}

/// Independent chains, so that latency does not show.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 20;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn chains() -> i32 {
    use std::arch::x86_64::*;
    let mut sums = [_mm512_set1_epi32(1); CHAINS];
    let x = black_box(_mm512_set1_epi32(0x0101_0101));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, x, x);
        }
    }
    let total = sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b));
    _mm512_reduce_add_epi32(total)
}
