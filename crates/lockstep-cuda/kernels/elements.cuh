// Operations on rows: norm, residual, quantise, gate, embed, and flags.
//
// A block takes a row, a warp a group of 32 elements. A row's flag is set, never cleared, by
// whatever overflows in it.
#pragma once
#include "numbers.cuh"

// The largest number of groups of a row: hidden sizes end at 32,768.
#define GROUPS_MAX 1024u

// One group's share of a row's sum of squares, from one mantissa of each lane; for all lanes.
DI u64 share_of_squares(int mantissa, u32 shift) {
  u32 square = (u32)(mantissa * mantissa);
  u64 squares = ((u64)warp_sum(square >> 16) << 16) + warp_sum(square & 0xffffu);
  return shift >= 64 ? 0 : (squares << 16) >> shift;
}

// 1/sqrt(mean + eps) of a row whose largest exponent byte is `top` (0: all its groups are zero).
DI float reciprocal_root(u64 sum, u32 top, u32 width, float eps) {
  float mean = 0.0f;
  if (top != 0) {
    float whole = mul(__ull2float_rn(sum), pow2(2 * ((int)top - 128) - 16));
    mean = quotient(whole, __uint2float_rn(width));
  }
  return quotient(1.0f, __fsqrt_rn(add(mean, eps)));
}

// out = norm of each state row.
KERNEL(1024) norm(const i16* mantissas, const u8* exponents, u32 width, float eps,
                  const float* gain, float* out) {
  __shared__ Reduction r;
  u32 groups = (width + GROUP - 1) / GROUP;
  mantissas += (u64)blockIdx.x * width;
  exponents += (u64)blockIdx.x * groups;
  out += (u64)blockIdx.x * width;
  u32 top = 0;
  for (u32 group = threadIdx.x; group < groups; group += blockDim.x) {
    u32 byte = exponents[group];
    if (byte != 255) top = max(top, byte);
  }
  top = block_max(top, r);
  u64 sum = 0;
  for (u32 group = warp_index(); group < groups; group += warp_count()) {
    u32 byte = exponents[group], k = group * GROUP + lane_index();
    if (byte == 0 || byte == 255) continue;
    u64 share = share_of_squares(k < width ? mantissas[k] : 0, 2 * (top - byte));
    if (lane_index() == 0) sum += share;
  }
  float root = reciprocal_root(block_sum(sum, r), top, width, eps);
  for (u32 k = threadIdx.x; k < width; k += blockDim.x) {
    float x = mul(__int2float_rn(mantissas[k]), pow2(exponent_of(exponents[k / GROUP])));
    out[k] = mul(mul(x, root), gain[k]);
  }
}

// Who works on a row together: a block's threads or a warp's.
struct BlockTeam {
  Reduction& r;
  DI u32 index() const { return warp_index(); }
  DI u32 count() const { return warp_count(); }
  DI u32 largest(u32 v) const { return block_max(v, r); }
  DI u64 sum(u64 v) const { return block_sum(v, r); }
  DI void sync() const { __syncthreads(); }
};

struct WarpTeam {
  DI u32 index() const { return 0; }
  DI u32 count() const { return 1; }
  // As a block's, these order shared memory.
  DI u32 largest(u32 v) const {
    __syncwarp();
    return warp_max(v);
  }
  DI u64 sum(u64 v) const {
    __syncwarp();
    return warp_sum(v);
  }
  DI void sync() const { __syncwarp(); }
};

// Normalises f32 in place by way of block-i16, zeros if they overflow; says whether they do.
// `bytes` is shared memory for an exponent byte per group. Each thread touches elements of its
// own: the warp's groups, the lane's element.
template <class Team>
DI bool normalise(float* values, u32 width, float eps, const float* gain, u8* bytes,
                  const Team& team) {
  u32 groups = (width + GROUP - 1) / GROUP, top = 0;
#pragma unroll 1
  for (u32 group = team.index(); group < groups; group += team.count()) {
    u32 k = group * GROUP + lane_index();
    int e = block_exponent(warp_max(k < width ? magnitude(values[k]) : 0u));
    u32 byte = e == NO_EXPONENT ? 0u : e == TOO_LARGE ? 256u : (u32)(e + 128);
    if (lane_index() == 0) bytes[group] = (u8)byte;
    top = max(top, byte);
  }
  top = team.largest(top);
  bool overflow = top == 256;
  if (overflow) top = 0;
  u64 sum = 0;
#pragma unroll 1
  for (u32 group = team.index(); group < groups && !overflow; group += team.count()) {
    u32 byte = bytes[group], k = group * GROUP + lane_index();
    if (byte == 0) continue;
    int mantissa = k < width ? rne(mul(values[k], pow2(128 - (int)byte))) : 0;
    u64 share = share_of_squares(mantissa, 2 * (top - byte));
    if (lane_index() == 0) sum += share;
  }
  float root = reciprocal_root(team.sum(sum), top, width, eps);
#pragma unroll 1
  for (u32 group = team.index(); group < groups; group += team.count()) {
    u32 byte = overflow ? 0 : bytes[group], k = group * GROUP + lane_index();
    if (k >= width) continue;
    float x = 0.0f;
    if (byte != 0) {
      int e = (int)byte - 128;
      x = mul(__int2float_rn(rne(mul(values[k], pow2(-e)))), pow2(e));
    }
    values[k] = mul(mul(x, root), gain[k]);
  }
  return overflow;
}

// Norm in place of rows of f32.
KERNEL(1024) norm_rows(float* rows, u32 width, float eps, const float* gain, u32* flags) {
  __shared__ Reduction r;
  __shared__ u8 bytes[GROUPS_MAX];
  bool overflow = normalise(rows + (u64)blockIdx.x * width, width, eps, gain, bytes, BlockTeam{r});
  if (overflow && threadIdx.x == 0) flags[blockIdx.x] = 1;
}

// Writes a warp's group of a state row, a value of each lane; false is overflow.
DI bool encode_group(float value, u32 group, u32 width, i16* mantissas, u8* exponents) {
  u32 k = group * GROUP + lane_index();
  int e = block_exponent(warp_max(k < width ? magnitude(value) : 0u));
  bool some = e != NO_EXPONENT && e != TOO_LARGE;
  if (k < width) mantissas[k] = some ? (i16)rne(mul(value, pow2(-e))) : (i16)0;
  if (lane_index() == 0) exponents[group] = some ? (u8)(e + 128) : (u8)0;
  return e != TOO_LARGE;
}

// Makes the overflow marker of a state row; each warp its own groups.
DI void mark(u32 width, i16* mantissas, u8* exponents) {
  u32 groups = (width + GROUP - 1) / GROUP;
  for (u32 group = warp_index(); group < groups; group += warp_count()) {
    u32 k = group * GROUP + lane_index();
    if (k < width) mantissas[k] = 0;
    if (lane_index() == 0) exponents[group] = 255;
  }
}

// out = state + delta, as states. `out` is not the state.
KERNEL(1024) residual(const i16* mantissas, const u8* exponents, const float* delta, u32 width,
                      i16* out_mantissas, u8* out_exponents, u32* flags) {
  __shared__ Reduction r;
  u32 groups = (width + GROUP - 1) / GROUP, broken = flags[blockIdx.x];
  mantissas += (u64)blockIdx.x * width;
  exponents += (u64)blockIdx.x * groups;
  delta += (u64)blockIdx.x * width;
  out_mantissas += (u64)blockIdx.x * width;
  out_exponents += (u64)blockIdx.x * groups;
  for (u32 group = warp_index(); group < groups; group += warp_count()) {
    u32 k = group * GROUP + lane_index();
    float value = 0.0f;
    if (k < width) {
      float x = mul(__int2float_rn(mantissas[k]), pow2(exponent_of(exponents[group])));
      value = add(x, delta[k]);
    }
    if (!encode_group(value, group, width, out_mantissas, out_exponents)) broken = 1;
  }
  if (block_max(broken, r) == 0) return;
  mark(width, out_mantissas, out_exponents);
  if (threadIdx.x == 0) flags[blockIdx.x] = 1;
}

// The embedding row of a token, times scale, as a state; whether it is the overflow marker.
DI bool embed_row(const u8* table, u64 stride, u32 spans, u32 codec, u32 token, float scale,
                  u32 width, i16* mantissas, u8* exponents, Reduction& r) {
  u32 groups = (width + GROUP - 1) / GROUP, row = token & 15, overflow = 0;
  const u8* block = table + (u64)(token >> 4) * stride;
  const u8* group_scales = block + (u64)spans * (codec == 8 ? 1024 : 512);
  const u8* row_scales = group_scales + (u64)spans * (codec == 8 ? 16 : 64);
  float row_scale = ((const float*)row_scales)[row];
#pragma unroll 1
  for (u32 group = warp_index(); group < groups; group += warp_count()) {
    u32 k = group * GROUP + lane_index();
    int weight = 0;
    if (k < width && codec == 8) {
      int code = (int)block[(u64)(k >> 2) * 64 + row * 4 + (k & 3)] - 128;
      weight = code * (int)group_scales[(k >> 6) * 16 + row];
    } else if (k < width) {
      u32 byte = block[(u64)(k >> 3) * 64 + row * 4 + (k & 3)];
      int code = (int)(k & 4 ? byte >> 4 : byte & 15) - 8;
      const u8* at = group_scales + (u64)(group >> 1) * 64 + row * 2 + (group & 1);
      weight = (int)at[0] * (16 * code + (int)(i8)at[32]);
    }
    float value = mul(mul(__int2float_rn(weight), row_scale), scale);
    if (!encode_group(value, group, width, mantissas, exponents)) overflow = 1;
  }
  overflow = block_max(overflow, r);
  if (overflow != 0) mark(width, mantissas, exponents);
  return overflow != 0;
}

// The embedding rows of tokens. `codec` is 8 or 4.
KERNEL(1024) embed(const u8* table, u64 stride, u32 spans, u32 codec, const u32* tokens,
                   float scale, u32 width, i16* mantissas, u8* exponents) {
  __shared__ Reduction r;
  u64 row = blockIdx.x, groups = (width + GROUP - 1) / GROUP;
  embed_row(table, stride, spans, codec, tokens[row], scale, width, mantissas + row * width,
            exponents + row * groups, r);
}

// Writes the codes of 8 elements: `to` is their place in the upper plane, 64 bytes on is the lower.
DI void put_codes(const int (&x)[8], u8* to) {
  u32 highs[2] = {0, 0}, lows[2] = {0, 0};
#pragma unroll
  for (u32 i = 0; i < 8; i++) {
    int high, low;
    planes(x[i], high, low);
    highs[i >> 2] |= ((u32)high & 255) << (i & 3) * 8;
    lows[i >> 2] |= ((u32)low & 255) << (i & 3) * 8;
  }
  *(uint2*)to = make_uint2(highs[0], highs[1]);
  *(uint2*)(to + 64) = make_uint2(lows[0], lows[1]);
}

// Quantises rows to codes in +-32512 with one scale a row. Codes are two planes, x = 255*high + low,
// in the order in which products read them: [span of 64 columns][tile of 4 rows][row][plane]
// [8 columns][half of the span][8 bytes], but the four pieces of 16 bytes of row n are exchanged:
// piece k is k ^ n, as warpgroups read them. Columns that fill up the last span are 0.
KERNEL(1024) quantise(const float* rows, u32 width, u32 tiles, u8* codes, float* scales,
                      u32* flags) {
  __shared__ Reduction r;
  u32 row = blockIdx.x, runs = (width + 63) / 64 * 8, largest = 0;
  rows += (u64)row * width;
  for (u32 k = threadIdx.x; k < width; k += blockDim.x) {
    largest = max(largest, magnitude(rows[k]));
  }
  largest = block_max(largest, r);
  bool some = largest >= TINY_BITS && largest < HUGE_BITS;
  float factor = some ? quotient(32512.0f, from_bits(largest)) : 0.0f;
  for (u32 run = threadIdx.x; run < runs; run += blockDim.x) {
    int x[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      u32 k = run * 8 + i;
      x[i] = some && k < width ? rne(mul(rows[k], factor)) : 0;
    }
    u32 span = run >> 3, half = (run >> 2) & 1, lane = (row & 3) * 8 + ((run ^ row) & 3);
    u64 at = (((u64)span * tiles + (row >> 2)) * 32 + lane) * 16 + half * 8;
    put_codes(x, codes + at);
  }
  if (threadIdx.x == 0) {
    scales[row] = some ? quotient(from_bits(largest), 32512.0f) : 0.0f;
    if (largest >= HUGE_BITS) flags[row] = 1;
  }
}

// out = activation(gate) * up of rows of gate and up; activation 0 is silu, 1 is gelu_tanh.
KERNEL(256) gate(const float* gate_up, u32 inner, u32 activation, float* out) {
  const float* row = gate_up + (u64)blockIdx.y * 2 * inner;
  u32 k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= inner) return;
  float x = row[k];
  x = activation == 0 ? silu(x) : gelu_tanh(x);
  out[(u64)blockIdx.y * inner + k] = mul(x, row[inner + k]);
}

// flags = which state rows are the overflow marker.
KERNEL(256) flag_markers(const u8* exponents, u32 groups, u32 rows, u32* flags) {
  u32 row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row < rows) flags[row] = exponents[(u64)row * groups] == 255;
}

// Flags rows of logits of which one is 2^55 or more, infinite or not a number.
KERNEL(1024) flag_large(const float* rows, u32 width, u32* flags) {
  __shared__ Reduction r;
  rows += (u64)blockIdx.x * width;
  u32 largest = 0;
  for (u32 k = threadIdx.x; k < width; k += blockDim.x) {
    largest = max(largest, magnitude(rows[k]));
  }
  largest = block_max(largest, r);
  if (threadIdx.x == 0 && largest >= HUGE_BITS) flags[blockIdx.x] = 1;
}
