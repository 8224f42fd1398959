// Products of packed matrices (docs/arithmetic.md 4.3) with a few rows of codes, by tensor cores.
//
// A block of threads takes two blocks of 16 matrix rows and NT tiles of 4 input rows; its warps, as
// many as are launched up to WARPS, share the columns. A lane reads 16 bytes: 4 columns (w8) or 8
// (w4) of 4 rows, as they are stored. Sums of planes stay inside i32 for 32 spans of 64 columns in
// w8 (32 * 64*127*127*63 < 2^31) and for 4 in w4 (8 groups * 32*127*255*255 < 2^31), then go to
// i64.
#include "numbers.cuh"

struct Product {
  const u8* weights;
  u64 stride;            // bytes of a block of 16 rows
  u32 spans;             // of 64 columns
  u32 rows;              // of the matrix
  const u8* codes;       // as `quantise` orders them
  const float* scales;   // of input rows
  u32 tiles, inputs;     // tiles of 4 input rows; input rows
  const float* bias;     // or null
  float* out;            // [inputs][rows]
  i64* sums;             // the exact sums, or null
};

// Weights are read once: they need no place in the first cache.
DI uint4 read_once(const u8* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}

DI u32 word(uint4 v, int at) { return at == 0 ? v.x : at == 1 ? v.y : at == 2 ? v.z : v.w; }

// Sums of the block's warps in shared memory: [warp][input row of NT tiles][matrix row of 32].
template <int NT, int WARPS>
struct Parts {
  i64 of[WARPS][4 * NT][32];
};

// Moves a lane's sums of both planes to its places of the warp's part, or adds them to what is
// there. They are its own: matrix rows 4g..4g+3, input row t of each tile.
template <int NT, int WARPS>
DI void flush(Parts<NT, WARPS>& parts, int (&sums)[4][NT][2], bool first) {
  u32 g = lane_index() >> 2, t = lane_index() & 3;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int n = 0; n < NT; n++) {
      i64 sum = (i64)sums[j][n][0] * 255 + sums[j][n][1];
      i64& place = parts.of[warp_index()][n * 4 + t][4 * g + j];
      place = first ? sum : place + sum;
      sums[j][n][0] = sums[j][n][1] = 0;
    }
}

// Adds up the warps' sums, and dequantises.
template <int NT, int WARPS>
DI void finish(const Product& p, u32 scales_at, Parts<NT, WARPS>& parts) {
  __syncthreads();
  for (u32 at = threadIdx.x; at < 32 * 4 * NT; at += blockDim.x) {
    u32 input = blockIdx.y * 4 * NT + at / 32, row = blockIdx.x * 32 + at % 32;
    if (input >= p.inputs || row >= p.rows) continue;
    i64 sum = 0;
    for (u32 warp = 0; warp < warp_count(); warp++) sum += parts.of[warp][at / 32][at % 32];
    const u8* block = p.weights + (u64)(row >> 4) * p.stride;
    float row_scale = ((const float*)(block + scales_at))[row & 15];
    float z = mul(__ll2float_rn(sum), mul(row_scale, p.scales[input]));
    u64 place = (u64)input * p.rows + row;
    if (p.sums != 0) p.sums[place] = sum;
    p.out[place] = p.bias != 0 ? add(z, p.bias[row]) : z;
  }
}

// The block of 16 rows that the lane reads of the two; the last one twice if there is no second.
DI const u8* lane_block(const Product& p) {
  u32 last = (p.rows + 15) / 16 - 1, block = blockIdx.x * 2 + (lane_index() >> 4);
  return p.weights + (u64)min(block, last) * p.stride;
}

// Which 16 bytes of a tile a lane multiplies, as `quantise` orders them.
DI u32 piece_of_lane() { return lane_index() ^ lane_index() >> 3; }

// Inputs as `quantise` leaves them.
struct Launched {
  const Product& p;
  u32 first_tile;

  // The lane's codes of a span; 0 where a tile has fewer than 4 rows.
  DI uint4 operator()(u32 span, u32 n) const {
    u32 tile = first_tile + n;
    if (tile * 4 + (lane_index() >> 3) >= p.inputs) return make_uint4(0, 0, 0, 0);
    return ((const uint4*)p.codes)[((u64)span * p.tiles + tile) * 32 + piece_of_lane()];
  }
};

// Spans whose sums of planes stay inside i32.
#define SPANS_W8 32u
#define SPANS_W4 4u

// Adds a span of tile n to a lane's sums. The lane has 4 columns, 4 times, of the rows 4g..4g+3:
// `a`; their scales, a byte each; and its codes of the inputs.
template <int NT>
DI void add_span_w8(int (&sums)[4][NT][2], int n, const uint4 (&a)[4], u32 scales, uint4 b) {
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    int raw[4] = {0, 0, 0, 0};
    const u32 flip = 0x80808080u;   // code + 128 to code
    multiply_signed(raw, word(a[0], 2 * pair) ^ flip, word(a[0], 2 * pair + 1) ^ flip,
                    word(a[1], 2 * pair) ^ flip, word(a[1], 2 * pair + 1) ^ flip, b.x, b.y);
    multiply_signed(raw, word(a[2], 2 * pair) ^ flip, word(a[2], 2 * pair + 1) ^ flip,
                    word(a[3], 2 * pair) ^ flip, word(a[3], 2 * pair + 1) ^ flip, b.z, b.w);
    int even = (scales >> 16 * pair) & 255, odd = (scales >> (16 * pair + 8)) & 255;
    sums[2 * pair][n][0] += even * raw[0];
    sums[2 * pair][n][1] += even * raw[1];
    sums[2 * pair + 1][n][0] += odd * raw[2];
    sums[2 * pair + 1][n][1] += odd * raw[3];
  }
}

// As `add_span_w8`, of 8 columns, twice; scales and shifts are those of both groups of the span.
template <int NT>
DI void add_span_w4(int (&sums)[4][NT][2], int n, const uint4 (&a)[2], uint2 scales, uint2 shifts,
                    uint4 b) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 b0 = half ? b.z : b.x, b1 = half ? b.w : b.y, one = 0x01010101u;
    int x[4] = {0, 0, 0, 0};        // the inputs' sums over the group, for every row
    multiply_signed(x, one, one, one, one, b0, b1);
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      u32 scale = pair ? scales.y : scales.x, shift = pair ? shifts.y : shifts.x;
      int even = (int)(shift << (24 - 8 * half)) >> 24;
      int odd = (int)(shift << (8 - 8 * half)) >> 24;
      int raw[4] = {even * x[0], even * x[1], odd * x[0], odd * x[1]};
      // 16 * code as a byte: code + 8 in the upper half, minus 128.
      const u32 upper = 0xf0f0f0f0u, flip = 0x80808080u;
      u32 first_row = word(a[half], 2 * pair), second_row = word(a[half], 2 * pair + 1);
      multiply_signed(raw, ((first_row << 4) & upper) ^ flip, ((second_row << 4) & upper) ^ flip,
                      (first_row & upper) ^ flip, (second_row & upper) ^ flip, b0, b1);
      int even_scale = (scale >> 8 * half) & 255, odd_scale = (scale >> (16 + 8 * half)) & 255;
      sums[2 * pair][n][0] += even_scale * raw[0];
      sums[2 * pair][n][1] += even_scale * raw[1];
      sums[2 * pair + 1][n][0] += odd_scale * raw[2];
      sums[2 * pair + 1][n][1] += odd_scale * raw[3];
    }
  }
}

// What the warp, one of `workers`, adds to the sums of two blocks of rows: `block` is the one that
// the lane reads. `input(span, n)` gives the lane's codes of tile n. SPANS are read ahead at a
// time.
template <int NT, int SPANS, int WARPS, class Input>
DI void sum_w8(const u8* block, u32 spans, u32 worker, u32 workers, const Input& input,
               Parts<NT, WARPS>& parts) {
  u32 g = lane_index() >> 2, t = lane_index() & 3, since = 0, step = workers * SPANS;
  const u8* codes = block + (g & 3) * 16 + t * 128;
  const u8* group_scales = block + (u64)spans * 1024 + (g & 3) * 4;
  int sums[4][NT][2] = {};
  bool none = true;
  for (u32 first = worker * SPANS; first < spans; first += step) {
    uint4 a[SPANS][4];
    u32 scales[SPANS];
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
      u32 span = min(first + i, spans - 1);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        a[i][j] = read_once(codes + (u64)span * 1024 + (j >> 1) * 512 + (j & 1) * 64);
      }
      scales[i] = first + i < spans ? *(const u32*)(group_scales + (u64)span * 16) : 0;
    }
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
      u32 span = min(first + i, spans - 1);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        uint4 b = input(span, n);
        add_span_w8(sums, n, a[i], scales[i], b);
      }
    }
    since += SPANS;
    if (since + SPANS > SPANS_W8 || first + step >= spans) {
      since = 0;
      flush(parts, sums, none);
      none = false;
    }
  }
  if (none) flush(parts, sums, true);
}

template <int NT, int SPANS, int WARPS, class Input>
DI void sum_w4(const u8* block, u32 spans, u32 worker, u32 workers, const Input& input,
               Parts<NT, WARPS>& parts) {
  u32 g = lane_index() >> 2, t = lane_index() & 3, since = 0, step = workers * SPANS;
  const u8* codes = block + (g & 3) * 16 + t * 64;
  const u8* group_scales = block + (u64)spans * 512 + (g & 3) * 8;
  int sums[4][NT][2] = {};
  bool none = true;
  for (u32 first = worker * SPANS; first < spans; first += step) {
    uint4 a[SPANS][2];
    uint2 scales[SPANS], shifts[SPANS];
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
      u32 span = min(first + i, spans - 1);
      a[i][0] = read_once(codes + (u64)span * 512);
      a[i][1] = read_once(codes + (u64)span * 512 + 256);
      const u8* at = group_scales + (u64)span * 64;
      scales[i] = first + i < spans ? *(const uint2*)at : make_uint2(0, 0);
      shifts[i] = *(const uint2*)(at + 32);
    }
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
      u32 span = min(first + i, spans - 1);
#pragma unroll
      for (int n = 0; n < NT; n++) {
        uint4 b = input(span, n);
        add_span_w4(sums, n, a[i], scales[i], shifts[i], b);
      }
    }
    since += SPANS;
    if (since + SPANS > SPANS_W4 || first + step >= spans) {
      since = 0;
      flush(parts, sums, none);
      none = false;
    }
  }
  if (none) flush(parts, sums, true);
}

// Bytes of a block before its row scales.
DI u32 row_scales_at(u32 codec, u32 spans) { return spans * (codec == 8 ? 1024 + 16 : 512 + 64); }

// A kernel for up to WARPS warps a block, of which BLOCKS fit a multiprocessor's registers; on 7.5,
// where the parts of a product are four times as many, one.
#if __CUDA_ARCH__ < 800
#define FITTING(BLOCKS) 1
#else
#define FITTING(BLOCKS) BLOCKS
#endif
#define PRODUCT(name, codec, NT, SPANS, WARPS, BLOCKS)                                           \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, FITTING(BLOCKS))                      \
      name(const u8* weights, u64 stride, u32 spans, u32 rows, const u8* codes,                  \
           const float* scales, u32 tiles, u32 inputs, const float* bias, float* out,            \
           i64* sums) {                                                                          \
    Product p = {weights, stride, spans, rows, codes, scales, tiles, inputs, bias, out, sums};   \
    __shared__ Parts<NT, WARPS> parts;                                                           \
    Launched input = {p, blockIdx.y * NT};                                                       \
    sum_w##codec<NT, SPANS>(lane_block(p), spans, warp_index(), warp_count(), input, parts);     \
    finish(p, row_scales_at(codec, spans), parts);                                               \
  }
PRODUCT(product_w8_tiles1, 8, 1, 2, 12, 2)
PRODUCT(product_w8_tiles2, 8, 2, 2, 12, 1)
PRODUCT(product_w8_tiles4, 8, 4, 2, 6, 2)
PRODUCT(product_w4_tiles1, 4, 1, 2, 12, 2)
PRODUCT(product_w4_tiles2, 4, 2, 2, 12, 1)
PRODUCT(product_w4_tiles4, 4, 4, 2, 6, 1)
