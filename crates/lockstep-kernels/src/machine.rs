//! Measures the limits of the machine: how fast its threads read memory, and how many 8-bit
//! multiply-adds they do. Speeds of kernels are stated as shares of these, measured in the same run
//! on the same threads.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::isa::Kind;
use crate::{Isa, Kernels};

/// The number of times that memory is read; the fastest counts.
const READS: usize = 7;
/// Bytes that a thread reads in a row before it takes the next part.
const PART_BYTES: usize = 4 << 20;
/// Bytes of a line of [`read_plain`]: eight registers of 32.
const LINE: usize = 256;
/// Bytes ahead of a stream that are fetched.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2 * 1024;
/// Runs of which the best is the peak; parts of one, a fraction of a millisecond each.
const PEAK_RUNS: usize = 50;
const PARTS_PER_THREAD: usize = 4;
/// The number of turns of the loop in a part.
#[cfg(target_arch = "x86_64")]
const TURNS: usize = 50_000;
/// Independent chains of dot products, so that their latency does not show.
#[cfg(target_arch = "x86_64")]
const CHAINS: usize = 20;
/// The number of chains, as many as 16 registers hold beside the factors.
#[cfg(target_arch = "x86_64")]
const CHAINS_AVX2: usize = 12;

/// Measures how fast `memory` is read on all threads, in 10^9 bytes per second: the best of 7
/// passes of the faster of two ways, one stream as the compiler loads it, and two streams with
/// prefetches. Which of them is faster depends on the processor.
///
/// `memory` should be mapped as weights are, and be 1 GiB or more: far more than any cache.
#[must_use]
pub fn read_gb_s(kernels: &Kernels, memory: &[u8]) -> f64 {
    let parts: Vec<&[u8]> = memory.chunks(PART_BYTES).collect();
    let rate = |read: fn(Isa, &[u8]) -> u64| {
        let seconds = best(READS, || {
            kernels.pool().scope(|| {
                kernels.pool().run(parts.len(), |part| {
                    black_box(read(kernels.isa(), parts[part]));
                });
            });
        });
        memory.len() as f64 / seconds / 1e9
    };
    let (plain, streams) = (rate(read), rate(read_two_streams));
    if streams > plain { streams } else { plain }
}

/// Measures the 8-bit multiply-adds from registers on all threads, in 10^9 per second, with the
/// fastest dot product of the instruction set that the kernels use. `None` if it has none.
#[must_use]
pub fn int8_peak_gmac_s(kernels: &Kernels) -> Option<f64> {
    let products = dot_products(kernels.isa())?;
    let parts = PARTS_PER_THREAD * kernels.threads();
    let seconds = best(PEAK_RUNS, || {
        kernels.pool().scope(|| kernels.pool().run(parts, |_| (products.run)()));
    });
    Some((products.multiply_adds * parts) as f64 / seconds / 1e9)
}

/// Returns the shortest of `count` runs, in seconds.
fn best(count: usize, mut body: impl FnMut()) -> f64 {
    let mut shortest = Duration::MAX;
    for _ in 0..count {
        let start = Instant::now();
        body();
        shortest = shortest.min(start.elapsed());
    }
    shortest.as_secs_f64()
}

/// Adds up `bytes`: with loads of 32 bytes where there are, which is as fast as with 64.
fn read(isa: Isa, bytes: &[u8]) -> u64 {
    match isa.0 {
        Kind::Portable => read_plain(bytes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` other than the portable one is only made where there is AVX2.
        _ => unsafe { x86::read_avx2(bytes) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => read_plain(bytes),
    }
}

/// Reads memory as [`read`] does, in two streams that begin at the first and at the second half,
/// each prefetched [`AHEAD`] before it is added up.
fn read_two_streams(isa: Isa, bytes: &[u8]) -> u64 {
    match isa.0 {
        Kind::Portable => read(isa, bytes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` other than the portable one is only made where there is AVX2.
        _ => unsafe { x86::read_two_streams_avx2(bytes) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => read(isa, bytes),
    }
}

/// Adds up the 64-bit words of whole lines. It is compiled for two instruction sets.
#[inline(always)]
fn read_plain(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; LINE / 8];
    bytes.as_chunks().0.iter().for_each(|line| add_line(&mut sums, line));
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[inline(always)]
fn add_line(sums: &mut [u64; LINE / 8], line: &[u8; LINE]) {
    for (sum, word) in sums.iter_mut().zip(line.as_chunks().0) {
        *sum = sum.wrapping_add(u64::from_le_bytes(*word));
    }
}

/// A loop of dot products with its counts.
struct DotProducts {
    run: fn(),
    multiply_adds: usize,
}

/// Returns the loop of dot products that is fastest on an instruction set; `None` if it has none.
fn dot_products(isa: Isa) -> Option<DotProducts> {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => Some(DotProducts {
            // SAFETY: an `Isa` is only made where the processor has its instructions.
            run: || _ = black_box(unsafe { x86::chains_avx512() }),
            multiply_adds: TURNS * CHAINS * 64,
        }),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => Some(DotProducts {
            // SAFETY: as above.
            run: || _ = black_box(unsafe { x86::chains_avx2() }),
            multiply_adds: TURNS * CHAINS_AVX2 * 32,
        }),
        #[cfg(target_arch = "x86_64")]
        Kind::AvxVnni => Some(DotProducts {
            // SAFETY: as above.
            run: || _ = black_box(unsafe { x86::chains_avx_vnni() }),
            multiply_adds: TURNS * CHAINS_AVX2 * 32,
        }),
        _ => None,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{AHEAD, CHAINS, CHAINS_AVX2, LINE, TURNS, add_line, read_plain};

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(bytes: &[u8]) -> u64 {
        read_plain(bytes)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_two_streams_avx2(bytes: &[u8]) -> u64 {
        let lines = bytes.as_chunks::<LINE>().0;
        let (first, second) = lines.split_at(lines.len() / 2);
        let mut sums = [0_u64; LINE / 8];
        for (at, line) in second.iter().enumerate() {
            for line in first.get(at).into_iter().chain([line]) {
                for part in (0..LINE).step_by(64) {
                    let ahead = line.as_ptr().wrapping_add(AHEAD + part);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                }
                add_line(&mut sums, line);
            }
        }
        sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
    }

    /// Runs chains of `vpdpbusd` on 64 bytes.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn chains_avx512() -> i32 {
        let one = _mm512_set1_epi32(0x0101_0101);
        // Each chain starts from what the compiler can't know: none can be made of another.
        let mut sums: [__m512i; CHAINS] = std::array::from_fn(|_| black_box(one));
        let x = black_box(one);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, x, x);
            }
        }
        let total = sums.into_iter().fold(one, |a, b| _mm512_add_epi32(a, b));
        _mm512_reduce_add_epi32(total)
    }

    /// Runs chains of `vpdpbusd` on 32 bytes.
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn chains_avx_vnni() -> i32 {
        let one = _mm256_set1_epi8(1);
        let mut sums: [__m256i; CHAINS_AVX2] = std::array::from_fn(|_| black_box(one));
        let x = black_box(one);
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, x, x);
            }
        }
        let total = sums.into_iter().fold(one, |a, b| _mm256_add_epi32(a, b));
        _mm256_cvtsi256_si32(total)
    }

    /// Runs chains of `vpmaddubsw`, `vpmaddwd` and `vpaddd` on 32 bytes: a dot product without
    /// VNNI. Only the addition waits for the one before it.
    #[target_feature(enable = "avx2")]
    pub(super) fn chains_avx2() -> i32 {
        let x = _mm256_set1_epi8(1);
        let ones = _mm256_set1_epi16(1);
        let mut sums = [x; CHAINS_AVX2];
        for _ in 0..TURNS {
            for sum in &mut sums {
                // SAFETY: arithmetic on registers that AVX2 has. Written so because the compiler
                // would compute these equal products once.
                unsafe {
                    asm!(
                        "vpmaddubsw {product}, {x}, {x}",
                        "vpmaddwd {product}, {product}, {ones}",
                        "vpaddd {sum}, {sum}, {product}",
                        product = out(ymm_reg) _,
                        sum = inout(ymm_reg) *sum,
                        x = in(ymm_reg) x,
                        ones = in(ymm_reg) ones,
                        options(nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        let total = sums.into_iter().fold(x, |a, b| _mm256_add_epi32(a, b));
        _mm256_cvtsi256_si32(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_reads_every_byte() {
        let bytes: Vec<u8> = (0..64 * LINE).map(|i| (i % 251) as u8).collect();
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let expected = words.fold(0, u64::wrapping_add);
        for isa in Isa::available() {
            assert_eq!(read(isa, &bytes), expected, "{isa}");
            let odd = &bytes[..63 * LINE];
            assert_eq!(read_two_streams(isa, odd), read(isa, odd), "{isa}");
            assert_eq!(read_two_streams(isa, &bytes), expected, "{isa}");
        }
    }

    #[test]
    fn figures_are_numbers_above_zero() {
        let kernels = Kernels::new(Isa::PORTABLE, 2).unwrap();
        assert!(read_gb_s(&kernels, &[1; 1 << 20]) > 0.0);
        assert!(int8_peak_gmac_s(&kernels).is_none());
        for isa in Isa::available().into_iter().filter(|isa| dot_products(*isa).is_some()) {
            let kernels = Kernels::new(isa, 1).unwrap();
            assert!(int8_peak_gmac_s(&kernels).is_some_and(|peak| peak > 0.0));
        }
    }
}
