// Products of packed matrices with many rows of codes: prompts, and batches of many sessions.
//
// A block of threads takes a panel: eight blocks of 16 matrix rows and 16 tiles of 4 input rows.
// Codes of both come to shared memory, a span of 64 columns a stage, while earlier stages are
// multiplied; each of the eight warps takes 32 matrix rows and eight tiles. So a code of a matrix
// is read from memory once for 64 input rows. Sums are those of `products.cuh`, in another order of
// their parts: integers, which have none.
#pragma once
#include "stream.cuh"

#define PANEL_WARPS 8u
#define PANEL_BLOCKS 8u      // blocks of 16 matrix rows
#define PANEL_TILES 16u      // tiles of 4 input rows
#define WARP_TILES 8         // of a warp
#define PANEL_TOGETHER 2     // tiles whose products a warp has under way together
// Stages in shared memory: what 7.5 has room for, and what keeps memory busy.
#if __CUDA_ARCH__ >= 800
#define PANEL_STAGES 4
#else
#define PANEL_STAGES 3
#endif

// Bytes of a stage: codes of the matrix, then of the inputs, then group scales.
template <int CODEC>
struct Stage {
  static constexpr u32 block = CODEC * 128, scales = CODEC == 8 ? 16 : 64;
  static constexpr u32 inputs_at = block * PANEL_BLOCKS;
  static constexpr u32 scales_at = inputs_at + PANEL_TILES * 512;
  static constexpr u32 bytes = scales_at + scales * PANEL_BLOCKS;
};

// A block of 16 rows of the panel; the matrix's last where it has no more.
DI const u8* panel_block(const Product& p, u32 block) {
  return p.weights + (u64)min(blockIdx.y * PANEL_BLOCKS + block, (p.rows + 15) / 16 - 1) * p.stride;
}

// Where a thread copies from, of the span that is next. Tiles that are not there are left as they
// are: they have no outputs.
template <int CODEC>
struct PanelSource {
  typedef Stage<CODEC> S;
  // Bytes that all threads copy together.
  static constexpr u32 together = PANEL_WARPS * 32 * 16;
  static constexpr u32 pieces = S::inputs_at / together, tiles = PANEL_TILES * 512 / together;
  const u8* codes[pieces];
  const u8* inputs;
  const u8* scales;
  u32 present;     // of the pieces of inputs

  DI PanelSource(const Product& p, u32 span) {
    u32 first = threadIdx.x * 16, tile = blockIdx.x * PANEL_TILES + first / 512;
#pragma unroll
    for (u32 piece = 0; piece < pieces; piece++) {
      u32 at = piece * together + first;
      codes[piece] = panel_block(p, at / S::block) + (u64)span * S::block + at % S::block;
    }
    inputs = p.codes + ((u64)span * p.tiles + tile) * 512 + first % 512;
    u32 left = tile < p.tiles ? p.tiles - tile : 0, step = together / 512;
    present = min(tiles, (left + step - 1) / step);
    u32 block = min(first / S::scales, PANEL_BLOCKS - 1);
    scales = panel_block(p, block) + (u64)p.spans * S::block + (u64)span * S::scales +
             first % S::scales;
  }

  // Has the span copied to a stage, and goes on to the next.
  DI void copy(const Product& p, u8* to) {
    u32 first = threadIdx.x * 16;
#pragma unroll
    for (u32 piece = 0; piece < pieces; piece++) {
      u32 at = piece * together + first, block = at / S::block * S::block;
      copy_16(to + block + place_in_slot<CODEC>(at % S::block), codes[piece]);
      codes[piece] += S::block;
    }
#pragma unroll
    for (u32 piece = 0; piece < tiles; piece++) {
      u32 at = piece * together;
      if (piece < present) copy_16(to + S::inputs_at + at + first, inputs + at);
    }
    inputs += (u64)p.tiles * 512;
    if (first < S::scales * PANEL_BLOCKS) copy_16(to + S::scales_at + first, scales);
    scales += S::scales;
  }
};

// A lane's part of the warp's 32 matrix rows in a stage.
template <int CODEC>
DI Chunk<CODEC> chunk_of(const u8* stage, u32 rows) {
  typedef Stage<CODEC> S;
  u32 lane = lane_index(), block = rows * 2 + (lane >> 4), group = lane >> 2 & 3;
  Chunk<CODEC> chunk;
#pragma unroll
  for (u32 piece = 0; piece < CODEC / 2; piece++) {
    u32 at = place_in_slot<CODEC>(place_of_piece<CODEC>(piece));
    chunk.codes[piece] = *(const uint4*)(stage + block * S::block + at);
  }
  const u8* scales = stage + S::scales_at + block * S::scales;
  if (CODEC == 8) {
    chunk.scales.x = *(const u32*)(scales + group * 4);
  } else {
    chunk.scales = *(const uint2*)(scales + group * 8);
    chunk.shifts = *(const uint2*)(scales + 32 + group * 8);
  }
  return chunk;
}

// Adds a span of the warp's tiles to a lane's sums; `inputs` are the lane's codes of the first. The
// products of some tiles are under way together.
DI void add_tiles(int (&sums)[4][WARP_TILES][2], Chunk<8>& a, const uint4* inputs) {
  const u32 flip = 0x80808080u;   // code + 128 to code
#pragma unroll
  for (u32 i = 0; i < 4; i++) {
    a.codes[i].x ^= flip;
    a.codes[i].y ^= flip;
    a.codes[i].z ^= flip;
    a.codes[i].w ^= flip;
  }
#pragma unroll
  for (u32 first = 0; first < WARP_TILES; first += PANEL_TOGETHER) {
    uint4 b[PANEL_TOGETHER];
    int raw[PANEL_TOGETHER][2][4] = {};
#pragma unroll
    for (u32 n = 0; n < PANEL_TOGETHER; n++) b[n] = inputs[(first + n) * 32];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint4 x = a.codes[2 * half], y = a.codes[2 * half + 1];
#pragma unroll
      for (u32 n = 0; n < PANEL_TOGETHER; n++) {
#pragma unroll
        for (int pair = 0; pair < 2; pair++) {
          multiply_signed(raw[n][pair], word(x, 2 * pair), word(x, 2 * pair + 1),
                          word(y, 2 * pair), word(y, 2 * pair + 1), half ? b[n].z : b[n].x,
                          half ? b[n].w : b[n].y);
        }
      }
    }
#pragma unroll
    for (u32 n = 0; n < PANEL_TOGETHER; n++) {
#pragma unroll
      for (u32 i = 0; i < 8; i++) {
        int scale = (a.scales.x >> 8 * (i / 2)) & 255;
        sums[i / 2][first + n][i % 2] += scale * raw[n][i / 4][i % 4];
      }
    }
  }
}

DI void add_tiles(int (&sums)[4][WARP_TILES][2], const Chunk<4>& a, const uint4* inputs) {
#pragma unroll
  for (u32 n = 0; n < WARP_TILES; n++) add_span(sums, n, a, inputs[n * 32]);
}

// Writes the outputs of a lane for one input row: four matrix rows beside each other.
DI void write_panel(const Product& p, u32 row, u32 input, const float* row_scales,
                    const i64 (&sums)[4]) {
  float scale = p.scales[input], z[4];
  u64 place = (u64)input * p.rows + row;
#pragma unroll
  for (u32 j = 0; j < 4; j++) {
    z[j] = mul(__ll2float_rn(sums[j]), mul(row_scales[j], scale));
    if (p.bias != 0 && row + j < p.rows) z[j] = add(z[j], p.bias[row + j]);
  }
  if (p.rows % 4 == 0) {
    *(float4*)(p.out + place) = make_float4(z[0], z[1], z[2], z[3]);
  } else {
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
      if (row + j < p.rows) p.out[place + j] = z[j];
    }
  }
  if (p.sums == 0) return;
#pragma unroll
  for (u32 j = 0; j < 4; j++) {
    if (row + j < p.rows) p.sums[place + j] = sums[j];
  }
}

// Where blocks of threads that share a panel's columns meet: the sums of each, and how many of them
// are done, 0 before and after a launch.
struct Meeting {
  i64* sums;
  u32* done;
};

// A lane's sums in its own memory, for which registers have no room: seldom touched. Where they
// begin is not known to the compiler, which else would keep them in registers after all.
struct Totals {
  volatile i64 of[4 * WARP_TILES + 1];
  u32 from;

  DI volatile i64& operator[](u32 i) { return of[from + i]; }
};

// Leaves the block's sums for the last block of the panel; whether this is the last one, which then
// has the sums of all.
DI bool is_last_of_panel(const Meeting& meeting, Totals& totals) {
  __shared__ u32 last;
  u32 panel = blockIdx.y * gridDim.x + blockIdx.x;
  const u32 threads = PANEL_WARPS * 32, numbers = threads * 4 * WARP_TILES;
  i64* all = meeting.sums + (u64)panel * gridDim.z * numbers + threadIdx.x;
#pragma unroll
  for (u32 i = 0; i < 4 * WARP_TILES; i++) {
    __stcg(all + (u64)blockIdx.z * numbers + i * threads, totals[i]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(meeting.done + panel, 1) + 1 == gridDim.z;
    if (last != 0) meeting.done[panel] = 0;
  }
  __syncthreads();
  if (last == 0) return false;
  __threadfence();
#pragma unroll 1
  for (u32 part = 0; part < gridDim.z; part++) {
    if (part == blockIdx.z) continue;
#pragma unroll
    for (u32 i = 0; i < 4 * WARP_TILES; i++) {
      totals[i] += __ldcg(all + (u64)part * numbers + i * threads);
    }
  }
  return true;
}

template <int CODEC>
DI void multiply_panel(const Product& p, const Meeting& meeting) {
  typedef Stage<CODEC> S;
  const u32 most = CODEC == 8 ? SPANS_W8 : SPANS_W4;
  u32 lane = lane_index(), rows = warp_index() & 3, tile = (warp_index() >> 2) * WARP_TILES;
  // The block's share of the columns.
  u32 begin = (u32)((u64)p.spans * blockIdx.z / gridDim.z);
  u32 end = (u32)((u64)p.spans * (blockIdx.z + 1) / gridDim.z), next = begin;
  int sums[4][WARP_TILES][2] = {};
  Totals totals;
  totals.from = p.spans >> 31;
#pragma unroll
  for (u32 i = 0; i < 4 * WARP_TILES; i++) totals[i] = 0;
  PanelSource<CODEC> source(p, begin);
#pragma unroll
  for (u32 stage = 0; stage + 1 < PANEL_STAGES; stage++) {
    if (next++ < end) source.copy(p, rings + stage * S::bytes);
    end_of_chunk();
  }
  u32 since = 0, slot = 0;
#pragma unroll 1
  for (u32 span = begin; span < end; span++) {
    wait_for_stages<PANEL_STAGES - 2>();
    __syncthreads();
    u32 free = slot == 0 ? PANEL_STAGES - 1 : slot - 1;
    if (next++ < end) source.copy(p, rings + free * S::bytes);
    end_of_chunk();
    const u8* stage = rings + slot * S::bytes;
    slot = slot + 1 == PANEL_STAGES ? 0 : slot + 1;
    Chunk<CODEC> a = chunk_of<CODEC>(stage, rows);
    add_tiles(sums, a, (const uint4*)(stage + S::inputs_at) + tile * 32 + lane);
    if (++since != most && span + 1 != end) continue;
    since = 0;
#pragma unroll
    for (u32 n = 0; n < WARP_TILES; n++) {
#pragma unroll
      for (u32 j = 0; j < 4; j++) {
        totals[j * WARP_TILES + n] += (i64)sums[j][n][0] * 255 + sums[j][n][1];
        sums[j][n][0] = sums[j][n][1] = 0;
      }
    }
  }
  if (gridDim.z > 1 && !is_last_of_panel(meeting, totals)) return;
  u32 block = rows * 2 + (lane >> 4), first = (lane >> 2 & 3) * 4;
  u32 row = (blockIdx.y * PANEL_BLOCKS + block) * 16 + first;
  if (row >= p.rows) return;
  const float* scales = (const float*)(panel_block(p, block) + row_scales_at(CODEC, p.spans));
#pragma unroll
  for (u32 n = 0; n < WARP_TILES; n++) {
    u32 input = (blockIdx.x * PANEL_TILES + tile + n) * 4 + (lane & 3);
    i64 all[4];
#pragma unroll
    for (u32 j = 0; j < 4; j++) all[j] = totals[j * WARP_TILES + n];
    if (input < p.inputs) write_panel(p, row, input, scales + first, all);
  }
}

#define PANEL(name, codec, BLOCKS)                                                               \
  extern "C" __global__ void __launch_bounds__(32 * PANEL_WARPS, FITTING(BLOCKS))                \
      name(const u8* weights, u64 stride, u32 spans, u32 rows, const u8* codes,                  \
           const float* scales, u32 tiles, u32 inputs, const float* bias, float* out,            \
           i64* sums, i64* shared_sums, u32* done) {                                             \
    multiply_panel<codec>(                                                                       \
        Product{weights, stride, spans, rows, codes, scales, tiles, inputs, bias, out, sums},    \
        Meeting{shared_sums, done});                                                             \
  }
PANEL(panel_w8, 8, 2)
PANEL(panel_w4, 4, 2)
