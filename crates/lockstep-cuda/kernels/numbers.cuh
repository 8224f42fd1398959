// Sections 2 and 3 of docs/arithmetic.md on a GPU: the element-wise functions, the edges of
// quantisation, reductions over a block.
//
// Every float step is an intrinsic that rounds once; nothing here can be contracted or flushed.
// The text is compiled by NVRTC, which has no headers of its own: integer types are said here.
#pragma once
typedef unsigned char u8;
typedef signed char i8;
typedef short i16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;
#define DI __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
#define TINY_BITS ((127u - 40u) << 23)
#define HUGE_BITS ((127u + 55u) << 23)
// What block_exponent says of a group that is flushed to zero, and of one that overflows.
#define NO_EXPONENT -1000
#define TOO_LARGE 1000
#define GROUP 32u

DI float mul(float a, float b) { return __fmul_rn(a, b); }
DI float add(float a, float b) { return __fadd_rn(a, b); }
DI float sub(float a, float b) { return __fsub_rn(a, b); }
DI float quotient(float a, float b) { return __fdiv_rn(a, b); }
DI float from_bits(u32 bits) { return __uint_as_float(bits); }
DI u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }
DI int rne(float x) { return __float2int_rn(x); }
DI float pow2(int k) { return k < -126 ? 0.0f : __int_as_float((k + 127) << 23); }

DI float exp2_fraction(float f) {
  float s = from_bits(0x392209c5u);
  s = add(from_bits(0x3aaf8448u), mul(f, s));
  s = add(from_bits(0x3c1d952au), mul(f, s));
  s = add(from_bits(0x3d6357b6u), mul(f, s));
  s = add(from_bits(0x3e75fdf0u), mul(f, s));
  s = add(from_bits(0x3f317218u), mul(f, s));
  return add(1.0f, mul(f, s));
}

DI float exp_of_negative(float x) {
  if (!(x >= -87.0f)) return 0.0f;
  float t = mul(x, from_bits(0x3fb8aa3bu));
  int n = rne(t);
  return mul(exp2_fraction(sub(t, __int2float_rn(n))), pow2(n));
}

DI float sigmoid(float x) {
  float e = exp_of_negative(from_bits(__float_as_uint(x) | 0x80000000u));
  return quotient(x < 0.0f ? e : 1.0f, add(1.0f, e));
}

DI float silu(float x) { return mul(x, sigmoid(x)); }

DI float gelu_tanh(float x) {
  float slope = add(from_bits(0x3fcc422au), mul(from_bits(0x3d922279u), mul(x, x)));
  return mul(x, sigmoid(mul(x, slope)));
}

DI void sin_cos_of_turn(u64 phase, float& sine, float& cosine) {
  u32 octant = (u32)(phase >> 61), place = (u32)(phase >> 37) & 0xffffffu;
  if (octant & 1) place = (1u << 24) - place;
  float u = mul(__uint2float_rn(place), pow2(-24)), q = mul(u, u);
  float s = from_bits(0x34a83c1au);
  s = add(from_bits(0xb8196966u), mul(q, s));
  s = add(from_bits(0x3b2335e3u), mul(q, s));
  s = add(from_bits(0xbda55de7u), mul(q, s));
  s = add(from_bits(0x3f490fdbu), mul(q, s));
  s = mul(s, u);
  float c = from_bits(0xb2d368f9u);
  c = add(from_bits(0x3670fa83u), mul(q, c));
  c = add(from_bits(0xb9aae9e4u), mul(q, c));
  c = add(from_bits(0x3c81e0f8u), mul(q, c));
  c = add(from_bits(0xbe9de9e6u), mul(q, c));
  c = add(from_bits(0x3f800000u), mul(q, c));
  bool swap = ((octant + 1) & 2) != 0;
  sine = swap ? c : s;
  cosine = swap ? s : c;
  if (octant >= 4) sine = -sine;
  if (octant >= 2 && octant <= 5) cosine = -cosine;
}

// The exponent of a block-i16 group whose largest magnitude has these bits.
DI int block_exponent(u32 amax) {
  if (amax < TINY_BITS) return NO_EXPONENT;
  u32 rounded = amax + 0x100u;
  return rounded >= HUGE_BITS ? TOO_LARGE : (int)(rounded >> 23) - 141;
}

// The exponent of an exponent byte; of bytes 0 and 255 it counts as 0.
DI int exponent_of(u32 byte) { return byte == 0 || byte == 255 ? 0 : (int)byte - 128; }

// x = 255*high + low with both in [-127, 127], for |x| <= 32512.
DI void planes(int x, int& high, int& low) {
  u32 v = (u32)(x + 32767);       // x + 127 + 128*255, not negative and below 2^16
  high = (int)((v * 32897u) >> 23) - 128;  // v / 255, exact below 2^16
  low = x - 255 * high;
}

DI u32 lane_index() { return threadIdx.x & 31; }
DI u32 warp_index() { return threadIdx.x >> 5; }
DI u32 warp_count() { return blockDim.x >> 5; }

#if __CUDA_ARCH__ >= 800
DI u32 warp_max(u32 v) { return __reduce_max_sync(~0u, v); }
DI u32 warp_sum(u32 v) { return __reduce_add_sync(~0u, v); }
#else
DI u32 warp_max(u32 v) {
#pragma unroll
  for (int step = 16; step; step >>= 1) v = max(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

DI u32 warp_sum(u32 v) {
#pragma unroll
  for (int step = 16; step; step >>= 1) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
#endif

DI u64 warp_sum(u64 v) {
#pragma unroll
  for (int step = 16; step; step >>= 1) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// One place per warp for reductions over a block, whose threads are whole warps.
struct Reduction {
  u32 largest[32];
  u64 sum[32];
};

// The largest value of the block's threads, for all of them. Orders shared memory like a barrier.
DI u32 block_max(u32 v, Reduction& r) {
  v = warp_max(v);
  __syncthreads();
  if (lane_index() == 0) r.largest[warp_index()] = v;
  __syncthreads();
  return warp_max(lane_index() < warp_count() ? r.largest[lane_index()] : 0u);
}

// The sum of the values of the block's threads, for all of them.
DI u64 block_sum(u64 v, Reduction& r) {
  v = warp_sum(v);
  __syncthreads();
  if (lane_index() == 0) r.sum[warp_index()] = v;
  __syncthreads();
  return warp_sum(lane_index() < warp_count() ? r.sum[lane_index()] : 0ull);
}

// Products of 16x32 codes with 32x8 codes, added to c. Lane 4g+t holds of a: rows g (x0, x1) and
// g+8 (y0, y1), of b: column g, each columns 4t..4t+3 (0) and 16+4t..19+4t (1) of the 32; of c: rows
// g and g+8 of columns 2t and 2t+1. Any order of the 32 will do that a and b share.
#if __CUDA_ARCH__ >= 800
#define DEFINE_MMA(name, b_type)                                                          \
  DI void name(int (&c)[4], u32 x0, u32 y0, u32 x1, u32 y1, u32 b0, u32 b1) {             \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8." b_type ".s32 "               \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                  \
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                         \
                 : "r"(x0), "r"(y0), "r"(x1), "r"(y1), "r"(b0), "r"(b1));                 \
  }
#else
// Compute capability 7.5 has 8x16 with 16x8 only, and its parts lie in the same lanes.
#define DEFINE_MMA(name, b_type)                                                          \
  DI void name##_part(int& c0, int& c1, u32 a, u32 b) {                                   \
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8." b_type ".s32 "                \
                 "{%0,%1}, {%2}, {%3}, {%0,%1};"                                          \
                 : "+r"(c0), "+r"(c1)                                                     \
                 : "r"(a), "r"(b));                                                       \
  }                                                                                       \
  DI void name(int (&c)[4], u32 x0, u32 y0, u32 x1, u32 y1, u32 b0, u32 b1) {             \
    name##_part(c[0], c[1], x0, b0);                                                      \
    name##_part(c[2], c[3], y0, b0);                                                      \
    name##_part(c[0], c[1], x1, b1);                                                      \
    name##_part(c[2], c[3], y1, b1);                                                      \
  }
#endif
DEFINE_MMA(multiply_signed, "s8")
DEFINE_MMA(multiply_unsigned, "u8")
