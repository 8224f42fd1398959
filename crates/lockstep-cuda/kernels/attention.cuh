// Keys and values in pages, append, and attention of single queries (docs/arithmetic.md 5.6, 5.7).
//
// A page holds one layer's 256 consecutive positions, one chunk of attention: keys [kv head][256]
// [padded], values [kv head][padded][256], key scales [kv head][256], value scales [kv head][256];
// `padded` is the size of a head, filled up with zeros to a multiple of 32.
#include "elements.cuh"

#define PAGE 256u
#define HEAD_MAX 512u
// Bytes between the planes of weights in shared memory: 8 more than a chunk, for its banks.
#define PLANE 264u

struct Page {
  i8* keys;
  i8* values;
  float* key_scales;
  float* value_scales;
};

DI Page page_at(u64 address, u32 kv_heads, u32 padded) {
  u64 codes = (u64)kv_heads * PAGE * padded;
  Page page;
  page.keys = (i8*)address;
  page.values = page.keys + codes;
  page.key_scales = (float*)(page.values + codes);
  page.value_scales = page.key_scales + kv_heads * PAGE;
  return page;
}

struct Norm {
  const float* gain;   // null: none
  float eps;
};

// A head that is about to be quantised: codes are x times the factor. Both are 0 where it is too
// small or too large.
struct Turned {
  float factor, scale;
  bool overflow;
};

// Loads a head to `x`, normalises it, turns it to its position. `bytes` has a place per group.
template <class Team>
DI Turned turn_head(float* x, const float* from, u32 head_dim, Norm norm, const u64* turns,
                    u32 pairs, u32 position, float range, u8* bytes, const Team& team) {
  u32 thread = team.index() * 32 + lane_index(), threads = team.count() * 32;
  // What is read together is on its way before any of it is needed.
  const u32 together = 4;
  u64 turn = thread < pairs ? turns[thread] : 0;
#pragma unroll 1
  for (u32 from_here = thread; from_here < head_dim; from_here += together * threads) {
    float read[together];
#pragma unroll
    for (u32 n = 0; n < together; n++) {
      u32 i = from_here + n * threads;
      read[n] = i < head_dim ? from[i] : 0.0f;
    }
#pragma unroll
    for (u32 n = 0; n < together; n++) {
      u32 i = from_here + n * threads;
      if (i < head_dim) x[i] = read[n];
    }
  }
  team.sync();
  Turned head = {0.0f, 0.0f, false};
  if (norm.gain != 0) head.overflow = normalise(x, head_dim, norm.eps, norm.gain, bytes, team);
  team.sync();
#pragma unroll 1
  for (u32 i = thread; i < pairs; i += threads) {
    float s, c, a = x[i], b = x[i + pairs];
    sin_cos_of_turn(turn * position, s, c);
    turn = i + threads < pairs ? turns[i + threads] : 0;
    x[i] = sub(mul(a, c), mul(b, s));
    x[i + pairs] = add(mul(b, c), mul(a, s));
  }
  team.sync();
  u32 largest = 0;
#pragma unroll 1
  for (u32 i = thread; i < head_dim; i += threads) largest = max(largest, magnitude(x[i]));
  largest = team.largest(largest);
  if (largest >= HUGE_BITS) head.overflow = true;
  if (largest < TINY_BITS || largest >= HUGE_BITS) return head;
  head.factor = quotient(range, from_bits(largest));
  head.scale = quotient(from_bits(largest), range);
  return head;
}

// Code i of a head, 0 for what fills it up.
DI int code_of(const Turned& head, const float* x, u32 i, u32 head_dim) {
  return head.factor != 0.0f && i < head_dim ? rne(mul(x[i], head.factor)) : 0;
}

// One head of a fused row: normalised, rotated, quantised, and put where it belongs. Block
// (head, row). `wanted` has a row's index among the queries, or -1.
KERNEL(128) append(const float* qkv, u32 heads, u32 kv_heads, u32 head_dim, const u64* turns,
                   u32 pairs, const float* query_gain, float query_eps, const float* key_gain,
                   float key_eps, float score_scale, const u32* positions, const u64* pages,
                   const int* wanted, i8* queries, float* query_scales, u32* flags) {
  __shared__ Reduction r;
  __shared__ float x[HEAD_MAX];
  __shared__ u8 bytes[HEAD_MAX / GROUP];
  u32 head = blockIdx.x, row = blockIdx.y, position = positions[row];
  u32 all = heads + 2 * kv_heads, padded = (head_dim + 31) / 32 * 32;
  bool is_query = head < heads, is_key = !is_query && head < heads + kv_heads;
  if (is_query && wanted[row] < 0) return;
  Norm norm = {is_query ? query_gain : is_key ? key_gain : 0, is_query ? query_eps : key_eps};
  Turned turned = turn_head(x, qkv + ((u64)row * all + head) * head_dim, head_dim, norm, turns,
                            is_query || is_key ? pairs : 0, position,
                            is_query ? 32512.0f : 127.0f, bytes, BlockTeam{r});
  Page page = page_at(pages[row], kv_heads, padded);
  u32 place = position % PAGE, kv_head = head - heads - (is_key ? 0 : kv_heads);
  for (u32 i = threadIdx.x; i < padded; i += blockDim.x) {
    int code = code_of(turned, x, i, head_dim);
    if (is_query) {
      int high, low;
      planes(code, high, low);
      i8* to = queries + ((u64)wanted[row] * heads + head) * 2 * padded;
      to[i] = (i8)high;
      to[padded + i] = (i8)low;
    } else if (is_key) {
      page.keys[((u64)kv_head * PAGE + place) * padded + i] = (i8)code;
    } else {
      page.values[((u64)kv_head * padded + i) * PAGE + place] = (i8)code;
    }
  }
  if (threadIdx.x != 0) return;
  if (turned.overflow) flags[row] = 1;
  if (is_query) query_scales[(u64)wanted[row] * heads + head] = mul(turned.scale, score_scale);
  if (is_key) page.key_scales[kv_head * PAGE + place] = turned.scale;
  if (!is_query && !is_key) page.value_scales[kv_head * PAGE + place] = turned.scale;
}

// Canonical rows (4.2) of positions to or from their pages: block per row.
DI void move_rows(u8* rows, u32 kv_heads, u32 head_dim, const u32* positions, const u64* pages,
                  bool to_pages) {
  u32 padded = (head_dim + 31) / 32 * 32, width = kv_heads * head_dim;
  u32 place = positions[blockIdx.x] % PAGE;
  u8* row = rows + (u64)blockIdx.x * (2 * width + 8 * kv_heads);
  Page page = page_at(pages[blockIdx.x], kv_heads, padded);
  for (u32 i = threadIdx.x; i < 2 * width; i += blockDim.x) {
    u32 at = i < width ? i : i - width, head = at / head_dim, k = at % head_dim;
    i8* code = i < width ? page.keys + ((u64)head * PAGE + place) * padded + k
                         : page.values + ((u64)head * padded + k) * PAGE + place;
    if (to_pages) *code = (i8)row[i]; else row[i] = (u8)*code;
  }
  float* scales = (float*)(row + 2 * width);
  for (u32 i = threadIdx.x; i < 2 * kv_heads; i += blockDim.x) {
    float* scale = i < kv_heads ? page.key_scales + i * PAGE + place
                                : page.value_scales + (i - kv_heads) * PAGE + place;
    if (to_pages) *scale = scales[i]; else scales[i] = *scale;
  }
}

KERNEL(256) write_kv(u8* rows, u32 kv_heads, u32 head_dim, const u32* positions,
                     const u64* pages) {
  move_rows(rows, kv_heads, head_dim, positions, pages, true);
}

KERNEL(256) read_kv(u8* rows, u32 kv_heads, u32 head_dim, const u32* positions,
                    const u64* pages) {
  move_rows(rows, kv_heads, head_dim, positions, pages, false);
}

// What one chunk contributes to a head. `exponent` is e_c + M_c, or one of the two marks.
struct Share {
  int top, exponent;
  u64 denominator;
};
#define NO_NUMERATOR -0x40000000
#define OVERFLOW 0x40000000
#define NO_SCORE -0x40000000

// What the warps of a block tell each other of a chunk.
template <int WARPS>
struct ChunkShared {
  int tops[WARPS][4];
  u32 largest[WARPS][4];
  u64 denominators[WARPS][4];
  __align__(16) u8 weights[8 * PLANE];
};

// Up to 4 heads that share keys, and where what a chunk gives goes: that of head n is n strides on.
struct ChunkHeads {
  const i8* queries;      // [head][plane][padded]
  const float* scales;
  u32 count;
  int* numerators;        // `padded` each
  Share* shares;
  u32 stride;
};

// One chunk of up to 4 heads: 8 columns of products, the two planes of each head. A block of WARPS
// warps, each of which takes 256 / WARPS positions, then 16 dimensions at a time.
template <int WARPS>
DI void attend_chunk(const ChunkHeads& heads, const Page& page, u32 kv_head, u32 padded, u32 chunk,
                     u32 start, u32 position, ChunkShared<WARPS>& s) {
  const int TILES = 16 / WARPS;   // of 16 positions, which a warp takes
  u32 w = warp_index(), g = lane_index() >> 2, t = lane_index() & 3;
  // The head of the lane's column of b is g / 2, the head of its columns of c is t.
  const i8* b_from = heads.queries + ((g >> 1) * 2 + (g & 1)) * padded + t * 8;
  const i8* a_from = page.keys + ((u64)kv_head * PAGE + w * TILES * 16 + g) * padded + t * 8;
  int dots[TILES][4] = {};
  float key_scale[2 * TILES], value_scale[2 * TILES];
#pragma unroll
  for (int j = 0; j < 2 * TILES; j++) {
    u32 place = w * TILES * 16 + (j >> 1) * 16 + (j & 1) * 8 + g;
    key_scale[j] = page.key_scales[kv_head * PAGE + place];
    value_scale[j] = page.value_scales[kv_head * PAGE + place];
  }
#pragma unroll 2
  for (u32 k = 0; k < padded; k += 32) {
    uint2 b = (g >> 1) < heads.count ? *(const uint2*)(b_from + k) : make_uint2(0, 0);
#pragma unroll
    for (int m = 0; m < TILES; m++) {
      uint2 x = *(const uint2*)(a_from + (u64)m * 16 * padded + k);
      uint2 y = *(const uint2*)(a_from + ((u64)m * 16 + 8) * padded + k);
      multiply_signed(dots[m], x.x, y.x, x.y, y.y, b.x, b.y);
    }
  }
  float query_scale = t < heads.count ? heads.scales[t] : 0.0f;
  int n[2 * TILES], top = NO_SCORE;
  float fraction[2 * TILES];
  bool seen[2 * TILES];
#pragma unroll
  for (int j = 0; j < 2 * TILES; j++) {
    u32 place = w * TILES * 16 + (j >> 1) * 16 + (j & 1) * 8 + g, at = chunk * PAGE + place;
    seen[j] = at >= start && at <= position && t < heads.count;
    int dot = 255 * dots[j >> 1][2 * (j & 1)] + dots[j >> 1][2 * (j & 1) + 1];
    float score = mul(__int2float_rn(dot), mul(query_scale, key_scale[j]));
    n[j] = rne(score);
    fraction[j] = exp2_fraction(sub(score, __int2float_rn(n[j])));
    bool large = magnitude(score) >= (127u + 20u) << 23;
    if (seen[j]) top = max(top, large ? OVERFLOW : n[j]);
  }
#pragma unroll
  for (int step = 4; step < 32; step <<= 1) top = max(top, __shfl_xor_sync(~0u, top, step));
  if (g == 0) s.tops[w][t] = top;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < WARPS; i++) top = max(top, s.tops[i][t]);
  bool overflow = top == OVERFLOW;
  u64 denominator = 0;
  u32 amax = 0;
  float weight[2 * TILES];
#pragma unroll
  for (int j = 0; j < 2 * TILES; j++) {
    int below = top - n[j];
    bool counts = seen[j] && below <= 40 && !overflow;
    denominator += counts ? (u64)rne(mul(fraction[j], pow2(30 - below))) : 0;
    weight[j] = counts ? mul(mul(fraction[j], pow2(-below)), value_scale[j]) : 0.0f;
    amax = max(amax, magnitude(weight[j]));
  }
#pragma unroll
  for (int step = 4; step < 32; step <<= 1) {
    amax = max(amax, __shfl_xor_sync(~0u, amax, step));
    denominator += __shfl_xor_sync(~0u, denominator, step);
  }
  if (g == 0) {
    s.largest[w][t] = amax;
    s.denominators[w][t] = denominator;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < WARPS; i++) amax = max(amax, s.largest[i][t]);
  int e = block_exponent(amax);
  bool some = e != NO_EXPONENT && e != TOO_LARGE;
  float factor = some ? pow2(-e) : 0.0f;
#pragma unroll
  for (int j = 0; j < 2 * TILES; j++) {
    u32 place = w * TILES * 16 + (j >> 1) * 16 + (j & 1) * 8 + g;
    int p = some ? rne(mul(weight[j], factor)) : 0;
    s.weights[2 * t * PLANE + place] = (u8)(p >> 8);
    s.weights[(2 * t + 1) * PLANE + place] = (u8)(p & 255);
  }
  if (w == 0 && g == 0 && t < heads.count) {
    Share share = {top, overflow || e == TOO_LARGE ? OVERFLOW : some ? e + top : NO_NUMERATOR, 0};
#pragma unroll
    for (int i = 0; i < WARPS; i++) share.denominator += s.denominators[i][t];
    heads.shares[(u64)t * heads.stride] = share;
  }
  __syncthreads();
  for (u32 d = w * 16; d < padded; d += WARPS * 16) {
    const i8* from = page.values + ((u64)kv_head * padded + d + g) * PAGE + t * 8;
    int c[4] = {0, 0, 0, 0};
#pragma unroll
    for (u32 k = 0; k < PAGE; k += 32) {
      uint2 x = *(const uint2*)(from + k), y = *(const uint2*)(from + 8 * PAGE + k);
      uint2 b = *(const uint2*)(s.weights + g * PLANE + k + t * 8);
      multiply_unsigned(c, x.x, y.x, x.y, y.y, b.x, b.y);
    }
    int* to = heads.numerators + (u64)t * heads.stride * padded + d + g;
    if (t < heads.count) {
      to[0] = 256 * c[0] + c[1];
      to[8] = 256 * c[2] + c[3];
    }
  }
}

// The first position that a window sees.
DI u32 first_seen(u32 window, u32 position) {
  return window == 0 || window > position ? 0 : position + 1 - window;
}

// Block (chunk of what the query sees, kv head and tile of 4 heads, query).
// `tables[first_page[query] + n]` is the address of the session's page n. numerators
// [query][head][chunk][padded], shares [query][head][chunk].
KERNEL(256) attend(const i8* queries, const float* query_scales, u32 heads, u32 kv_heads,
                   u32 head_dim, u32 window, const u32* positions, const u64* tables,
                   const u32* first_page, int* numerators, Share* shares) {
  __shared__ ChunkShared<8> s;
  u32 query = blockIdx.z, position = positions[query], group = heads / kv_heads;
  u32 tile_count = (group + 3) / 4, kv_head = blockIdx.y / tile_count, tile = blockIdx.y % tile_count;
  u32 start = first_seen(window, position), padded = (head_dim + 31) / 32 * 32;
  u32 chunk = start / PAGE + blockIdx.x;
  if (chunk > position / PAGE) return;
  Page page = page_at(tables[first_page[query] + chunk], kv_heads, padded);
  u64 first = (u64)query * heads + (u64)kv_head * group + tile * 4;
  u64 share = first * gridDim.x + blockIdx.x;
  ChunkHeads of = {queries + first * 2 * padded, query_scales + first, min(4, group - tile * 4),
                   numerators + share * padded, shares + share, gridDim.x};
  attend_chunk(of, page, kv_head, padded, chunk, start, position, s);
}

// Combines the chunks of a head, `used` of them; false is overflow.
template <class Team>
DI bool combine_head(const int* numerators, const Share* shares, u32 used, u32 head_dim, float* out,
                     const Team& team) {
  // Signed numbers in the order of unsigned ones, above 0.
  const u32 bias = 0x80000000u;
  u32 top = 0, largest = 0, thread = team.index() * 32 + lane_index(), threads = team.count() * 32;
  u32 padded = (head_dim + 31) / 32 * 32;
#pragma unroll 1
  for (u32 c = thread; c < used; c += threads) {
    top = max(top, (u32)shares[c].top + bias);
    largest = max(largest, (u32)shares[c].exponent + bias);
  }
  int m = (int)(team.largest(top) - bias), x = (int)(team.largest(largest) - bias);
  bool overflow = x == OVERFLOW, some = !overflow && x != NO_NUMERATOR && x - m + 22 >= -100;
  u64 denominator = 0;
#pragma unroll 1
  for (u32 c = thread; c < used && some; c += threads) {
    denominator += (shares[c].denominator << 12) >> min(63, m - shares[c].top);
  }
  denominator = team.sum(denominator);
  // A thread takes 4 dimensions, and reads them of several chunks at a time.
#pragma unroll 1
  for (u32 d = thread * 4; d < head_dim; d += threads * 4) {
    i64 sums[4] = {0, 0, 0, 0};
#pragma unroll 4
    for (u32 c = 0; c < used; c++) {
      int4 of_chunk = *(const int4*)(numerators + (u64)c * padded + d);
      int exponent = shares[c].exponent;
      bool counts = some && exponent != NO_NUMERATOR;
      int shift = counts ? min(63, x - exponent) : 0;
      int four[4] = {of_chunk.x, of_chunk.y, of_chunk.z, of_chunk.w};
#pragma unroll
      for (u32 i = 0; i < 4; i++) sums[i] += counts ? ((i64)four[i] << 20) >> shift : 0;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      float share = quotient(__ll2float_rn(sums[i]), __ull2float_rn(denominator));
      if (d + i < head_dim) out[d + i] = some ? mul(share, pow2(x - m + 22)) : 0.0f;
    }
  }
  return !overflow;
}

// Block (head, query). `chunks` is how many `attend` was given.
KERNEL(128) combine(const int* numerators, const Share* shares, u32 heads, u32 head_dim,
                    u32 window, u32 chunks, const u32* positions, float* out, u32* flags) {
  __shared__ Reduction r;
  u32 head = blockIdx.x, query = blockIdx.y, position = positions[query];
  u32 padded = (head_dim + 31) / 32 * 32;
  u32 used = position / PAGE - first_seen(window, position) / PAGE + 1;
  u64 first = ((u64)query * heads + head) * chunks;
  bool fits = combine_head(numerators + first * padded, shares + first, used, head_dim,
                           out + ((u64)query * heads + head) * head_dim, BlockTeam{r});
  if (!fits && threadIdx.x == 0) flags[query] = 1;
}
