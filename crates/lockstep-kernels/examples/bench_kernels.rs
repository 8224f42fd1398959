//! Bench.
#![allow(clippy::print_stdout)]
use lockstep_exact::blob::Blob;
use lockstep_exact::matrix::{Packed, Shape};
use lockstep_kernels::Isa;
use lockstep_kernels::matmul::{Activations, multiply};
use std::hint::black_box;
use std::time::Instant;

fn rng(s: &mut u64) -> u64 {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    *s
}

fn packed(n: usize, k: usize, copies: usize) -> Vec<u8> {
    let mut s = 88172645463325252u64;
    let mut v: Vec<u8> =
        (0..Shape { rows: n, columns: k }.packed_bytes() * copies).map(|_| 0).collect();
    for c in v.chunks_mut(8) {
        let r = rng(&mut s).to_le_bytes();
        for (a, b) in c.iter_mut().zip(r) {
            *a = b.max(1);
        }
    }
    let sh = Shape { rows: n, columns: k };
    for b in v.chunks_mut(sh.block_bytes()) {
        for s in &mut b[sh.group_scales_offset()..sh.row_scales_offset()] {
            *s = 1 + *s % 63;
        }
        let at = sh.row_scales_offset();
        b[at..].fill(0);
        for r in 0..16 {
            b[at + r * 4..at + r * 4 + 4].copy_from_slice(&1f32.to_le_bytes());
        }
    }
    v
}
fn best(n: usize, mut f: impl FnMut()) -> f64 {
    let mut b = f64::MAX;
    for _ in 0..n {
        let t = Instant::now();
        f();
        b = b.min(t.elapsed().as_secs_f64());
    }
    b
}
fn read_bw(v: &[u8]) -> f64 {
    let t = best(7, || {
        let mut a = [0u64; 32];
        for c in v.chunks_exact(256) {
            for i in 0..32 {
                a[i] =
                    a[i].wrapping_add(u64::from_le_bytes(c[i * 8..i * 8 + 8].try_into().unwrap()));
            }
        }
        black_box(a);
    });
    v.len() as f64 / t / 1e9
}
#[target_feature(enable = "avx512f,avx512vnni")]
fn peak_loop(n: usize) -> i32 {
    use std::arch::x86_64::*;
    let mut a = [_mm512_set1_epi32(1); 20];
    let x = black_box(_mm512_set1_epi32(0x01010101));
    for _ in 0..n {
        for v in &mut a {
            *v = _mm512_dpbusd_epi32(*v, x, x);
        }
    }
    let mut s = a[0];
    for v in a {
        s = _mm512_add_epi32(s, v);
    }
    _mm512_reduce_add_epi32(s)
}
fn main() {
    let isa = Isa::detect().unwrap();
    let t = best(7, || {
        black_box(unsafe { peak_loop(2_000_000) });
    });
    let peak = 2_000_000.0 * 20.0 * 64.0 / t / 1e9;
    println!("{isa}: peak {peak:.0} GMAC/s");
    for (n, k) in [
        (8192, 2048),
        (2048, 8192),
        (2048, 2048),
        (1536, 576),
        (576, 1536),
        (576, 576),
        (49152, 576),
    ] {
        let one = Shape { rows: n, columns: k }.packed_bytes();
        let copies = (1usize << 30).div_ceil(one);
        let big = Blob::new(packed(n, k, copies));
        let bw = read_bw(big.as_slice());
        let ws: Vec<Packed> = (0..copies)
            .map(|i| {
                Packed::new(Shape { rows: n, columns: k }, big.slice(i * one, one).unwrap())
                    .unwrap()
            })
            .collect();
        let mut s = 1u64;
        for m in if isa.name() == "avx512" {
            vec![1, 2, 3, 4, 5, 6, 8, 16, 128, 512]
        } else {
            vec![1, 2, 4, 16, 64]
        } {
            let x: Vec<i16> = (0..m * k)
                .map(|_| (rng(&mut s) % 65025) as i32 - 32512)
                .map(|v| v as i16)
                .collect();
            let x = Activations::from_codes(isa, k, &x);
            let mut out = vec![[0i64; 16]; n / 16 * m];
            let mut i = 0;
            let per =
                (copies / 4).clamp(1, (if isa.name() == "portable" { 64 } else { 512 } / m).max(1));
            let t = best(5, || {
                for _ in 0..per {
                    multiply(isa, &ws[i], 0..n / 16, &x, &mut out);
                    i = (i + 1) % copies;
                }
            }) / per as f64;
            black_box(&out);
            let macs = 2.0 * (n * k * m) as f64 / t / 1e9;
            println!(
                "{n}x{k} M={m:3}: {:6.1} GB/s of {bw:.1} ({:.0} %)  {macs:6.1} GMAC/s ({:.0} %)",
                one as f64 / t / 1e9,
                one as f64 / t / 1e7 / bw,
                100.0 * macs / peak
            );
        }
    }
}
