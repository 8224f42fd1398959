//! Products with 4-bit codes: `W = scale · (16 · code + shift)`, both per 32 columns.
//!
//! A byte holds the codes of a row for a column of four and for the one four columns further, as
//! `code + 8`; a line of 64 bytes is 16 rows × 8 columns. Where there are dot products of bytes,
//! `Σ code·x` comes from both planes of the inputs, as for w8, and what shifts add,
//! `Σ scale·shift · Σx`, from 16-bit multiplies of `scale·shift` with the sums of the inputs'
//! groups, which are split in a coarse and a fine part. Elsewhere `16 · code + shift` is multiplied
//! as it is.

use lockstep_exact::matrix::{Codec, GROUP, SHIFT_MAX};

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx_vnni;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

use super::CHUNK_GROUPS;
use super::activations::COARSE_MAX;

/// Columns that share a scale and a shift.
const HALF: usize = Codec::W4.group();
/// The number of groups in 64 columns.
const HALVES: usize = GROUP / HALF;
/// The number of lines of codes in a group.
const LINES: usize = HALF / 8;

const SCALE_MAX: i32 = Codec::W4.group_scale_max();
const GROUPS: i64 = (CHUNK_GROUPS * HALVES) as i64;
// What one step adds up in 32 bits: scaled plane sums, and shifts with coarse parts.
const _: () = assert!(GROUPS * SCALE_MAX as i64 * 8 * 127 * (HALF as i64) < i32::MAX as i64);
const _: () =
    assert!(GROUPS * (SCALE_MAX * SHIFT_MAX) as i64 * (COARSE_MAX as i64) < i32::MAX as i64);
// A scale times a shift is i16, and a group's sum with i16 inputs is i32.
const _: () = assert!(SCALE_MAX * SHIFT_MAX < i16::MAX as i32);
const _: () = assert!(255 * 32_512 * (HALF as i64) < i32::MAX as i64);
