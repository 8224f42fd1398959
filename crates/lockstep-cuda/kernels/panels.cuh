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

// Writes the outputs of a lane for one input row: matrix rows beside each other, 2 or 4.
template <u32 COUNT>
DI void write_panel(const Product& p, u32 row, u32 input, const float* row_scales,
                    const i64 (&sums)[COUNT]) {
  float scale = p.scales[input], z[COUNT];
  u64 place = (u64)input * p.rows + row;
#pragma unroll
  for (u32 j = 0; j < COUNT; j++) {
    z[j] = mul(__ll2float_rn(sums[j]), mul(row_scales[j], scale));
    if (p.bias != 0 && row + j < p.rows) z[j] = add(z[j], p.bias[row + j]);
  }
  if (p.rows % 4 == 0) {
#pragma unroll
    for (u32 j = 0; j < COUNT; j += 2) *(float2*)(p.out + place + j) = make_float2(z[j], z[j + 1]);
  } else {
#pragma unroll
    for (u32 j = 0; j < COUNT; j++) {
      if (row + j < p.rows) p.out[place + j] = z[j];
    }
  }
  if (p.sums == 0) return;
#pragma unroll
  for (u32 j = 0; j < COUNT; j++) {
    if (row + j < p.rows) p.sums[place + j] = sums[j];
  }
}

// Where blocks of threads that share a panel's columns meet: the sums of each, and how many of them
// are done, 0 before and after a launch.
struct Meeting {
  i64* sums;
  u32* done;
};

// Sums that a lane has: of 4 matrix rows and WARP_TILES input rows, or half and twice as many.
#define LANE_SUMS (4 * WARP_TILES)
// Of these, so many are on their way from memory together.
#define SUMS_TOGETHER 16

// A lane's sums in its own memory, for which registers have no room while there is something to
// multiply: touched once in as many spans as i32 has room for, and not at all if there are no more.
// `pair(i)` is what there is of sum i in i32.
struct Stored {
  i64 of[LANE_SUMS + 1];
  u32 from;      // not known to the compiler, which else would keep the sums in registers after all
  bool any;

  DI Stored(const Product& p) : from(p.spans >> 31), any(false) {}

  template <class Pair>
  DI void add(const Pair& pair) {
    asm volatile("" ::"l"(of) : "memory");
#pragma unroll
    for (u32 first = 0; first < LANE_SUMS; first += SUMS_TOGETHER) {
      i64 before[SUMS_TOGETHER] = {};
      if (any) {
#pragma unroll
        for (u32 i = 0; i < SUMS_TOGETHER; i++) before[i] = of[from + first + i];
      }
#pragma unroll
      for (u32 i = 0; i < SUMS_TOGETHER; i++) of[from + first + i] = before[i] + pair(first + i);
    }
    any = true;
    asm volatile("" ::"l"(of) : "memory");
  }

  template <class Pair>
  DI void finish(i64 (&all)[LANE_SUMS], const Pair& pair) {
#pragma unroll
    for (u32 i = 0; i < LANE_SUMS; i++) all[i] = pair(i);
    if (!any) return;
#pragma unroll
    for (u32 i = 0; i < LANE_SUMS; i++) all[i] += of[from + i];
  }
};

// A lane's sums in registers.
struct Kept {
  i64 of[LANE_SUMS];

  DI Kept(const Product&) {
#pragma unroll
    for (u32 i = 0; i < LANE_SUMS; i++) of[i] = 0;
  }

  template <class Pair>
  DI void add(const Pair& pair) {
#pragma unroll
    for (u32 i = 0; i < LANE_SUMS; i++) of[i] += pair(i);
  }

  template <class Pair>
  DI void finish(i64 (&all)[LANE_SUMS], const Pair& pair) {
#pragma unroll
    for (u32 i = 0; i < LANE_SUMS; i++) all[i] = of[i] + pair(i);
  }
};

// The point at which the threads of a panel meet; those that copy for them have gone.
template <u32 THREADS>
DI void sync_of_panel() {
  asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
}

// Leaves the block's sums for the last block of the panel; whether this is the last one, which then
// has the sums of all.
template <u32 THREADS>
DI bool is_last_of_panel(const Meeting& meeting, i64 (&sums)[LANE_SUMS]) {
  __shared__ u32 last;
  u32 panel = blockIdx.y * gridDim.x + blockIdx.x;
  const u32 numbers = THREADS * LANE_SUMS;
  i64* all = meeting.sums + (u64)panel * gridDim.z * numbers + threadIdx.x;
#pragma unroll
  for (u32 i = 0; i < LANE_SUMS; i++) {
    __stcg(all + (u64)blockIdx.z * numbers + i * THREADS, sums[i]);
  }
  __threadfence();
  sync_of_panel<THREADS>();
  if (threadIdx.x == 0) {
    last = atomicAdd(meeting.done + panel, 1) + 1 == gridDim.z;
    if (last != 0) meeting.done[panel] = 0;
  }
  sync_of_panel<THREADS>();
  if (last == 0) return false;
  __threadfence();
#pragma unroll 1
  for (u32 part = 0; part < gridDim.z; part++) {
    if (part == blockIdx.z) continue;
    const i64* from = all + (u64)part * numbers;
#pragma unroll
    for (u32 first = 0; first < LANE_SUMS; first += SUMS_TOGETHER) {
      i64 others[SUMS_TOGETHER];
#pragma unroll
      for (u32 i = 0; i < SUMS_TOGETHER; i++) others[i] = __ldcg(from + (first + i) * THREADS);
#pragma unroll
      for (u32 i = 0; i < SUMS_TOGETHER; i++) sums[first + i] += others[i];
    }
  }
  return true;
}

template <int CODEC, class Totals>
DI void multiply_panel(const Product& p, const Meeting& meeting) {
  typedef Stage<CODEC> S;
  const u32 most = CODEC == 8 ? SPANS_W8 : SPANS_W4;
  u32 lane = lane_index(), rows = warp_index() & 3, tile = (warp_index() >> 2) * WARP_TILES;
  // The block's share of the columns.
  u32 begin = (u32)((u64)p.spans * blockIdx.z / gridDim.z);
  u32 end = (u32)((u64)p.spans * (blockIdx.z + 1) / gridDim.z), next = begin;
  int sums[4][WARP_TILES][2] = {};
  Totals totals(p);
  auto pair = [&](u32 i) {
    int (&planes)[2] = sums[i / WARP_TILES][i % WARP_TILES];
    return (i64)planes[0] * 255 + planes[1];
  };
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
    add_tiles(sums, a, (const uint4*)(stage + S::inputs_at) + tile * 32 + piece_of_lane());
    if (++since != most || span + 1 == end) continue;
    since = 0;
    totals.add(pair);
#pragma unroll
    for (u32 n = 0; n < WARP_TILES; n++) {
#pragma unroll
      for (u32 j = 0; j < 4; j++) sums[j][n][0] = sums[j][n][1] = 0;
    }
  }
  i64 all[LANE_SUMS];
  totals.finish(all, pair);
  if (gridDim.z > 1 && !is_last_of_panel<PANEL_WARPS * 32>(meeting, all)) return;
  u32 block = rows * 2 + (lane >> 4), first = (lane >> 2 & 3) * 4;
  u32 row = (blockIdx.y * PANEL_BLOCKS + block) * 16 + first;
  if (row >= p.rows) return;
  const float* scales = (const float*)(panel_block(p, block) + row_scales_at(CODEC, p.spans));
#pragma unroll
  for (u32 n = 0; n < WARP_TILES; n++) {
    u32 input = (blockIdx.x * PANEL_TILES + tile + n) * 4 + (lane & 3);
    i64 four[4];
#pragma unroll
    for (u32 j = 0; j < 4; j++) four[j] = all[j * WARP_TILES + n];
    if (input < p.inputs) write_panel(p, row, input, scales + first, four);
  }
}
