// Products in panels by the instructions of warpgroups, which multiply 64 rows at a time and which
// compute capability 9.0 alone has; and the kernels of panels.
//
// Panels and sums are those of `panels.cuh`. A block has two warpgroups; each takes two of every
// four of its 128 matrix rows, and all 16 tiles of inputs. Its codes of the matrix go through
// registers, where 128 is taken off; those of the inputs are multiplied where they lie: a tile is 8
// rows of 64 bytes (4 input rows of two planes), whose pieces of 16 bytes `quantise` has exchanged
// as the hardware wants them. Stages are copied in large pieces, by the first warp for all.
#pragma once
#include "panels.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WIDE_STAGES 6u
#define WIDE_TILES 8        // tiles that are multiplied together
// Bytes of a stage: the codes of the inputs, then of the matrix.
#define WIDE_INPUTS (PANEL_TILES * 512)
#define WIDE_BYTES (WIDE_INPUTS + PANEL_BLOCKS * 1024)

// Says where 8 rows of 64 bytes begin in shared memory, and that their pieces are permuted; the next
// 8 are 512 bytes on.
DI u64 describe_rows(u32 address) {
  return (u64)(address >> 4 & 0x3fff) | (u64)1 << 16 | (u64)(512 >> 4) << 32 | (u64)2 << 62;
}

#define R4(at) "+r"(c[at]), "+r"(c[at + 1]), "+r"(c[at + 2]), "+r"(c[at + 3])
#define R16(at) R4(at), R4(at + 4), R4(at + 8), R4(at + 12)

// Products of 64x32 codes with 32x64 codes, added to c, or put there where `adds` is 0. They are
// under way until they are waited for.
DI void multiply_wide(int (&c)[32], const u32 (&a)[4], u64 rows, int adds) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "{%32,%33,%34,%35}, %36, p; }"
      : R16(0), R16(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(rows), "r"(adds));
}

DI void fence_registers() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DI void end_of_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all products; their results are read no earlier.
template <int N>
DI void wait_for_products(int (&c)[N]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(c[i])::"memory");
}

DI u32 shared_address(const void* at) { return (u32)__cvta_generic_to_shared(at); }

// A gate is a point at which threads and copies arrive, and others wait, over and over.
DI void begin_gate(u64* gate, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(count)
               : "memory");
}

DI void arrive_at(u64* gate) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(gate)) : "memory");
}

// Arrives, and has the gate wait for copies of so many bytes.
DI void arrive_with_bytes(u64* gate, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(gate)),
               "r"(bytes)
               : "memory");
}

// Waits until all have arrived for the time that `turn`, 0 or 1 in turn, says.
DI void wait_at(u64* gate, u32 turn) {
  u32 done;
  do {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(done)
        : "r"(shared_address(gate)), "r"(turn)
        : "memory");
  } while (done == 0);
}

// Has bytes copied to shared memory; they arrive at the gate.
DI void copy_bulk(u8* to, const u8* from, u32 bytes, u64* gate) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(gate))
      : "memory");
}

// The stages in turn; whether each is in an even or an odd use.
struct Turn {
  u32 slot, turn;
  DI void next() {
    slot = slot + 1 == WIDE_STAGES ? 0 : slot + 1;
    turn ^= slot == 0;
  }
};

// Where a stage's copies arrive, and where the warps arrive that are through with it.
struct Gates {
  u64 full[WIDE_STAGES], empty[WIDE_STAGES];
};

// What a block's first warp has copied for all: a lane a block of 16 rows, and one the inputs.
struct Copying {
  const u8* codes;       // of the lane's block of rows
  u32 next;              // span
  Turn turn;

  DI Copying(const Product& p, u32 begin) : next(begin), turn{0, 1} {
    u32 last = (p.rows + 15) / 16 - 1, block = blockIdx.y * PANEL_BLOCKS + lane_index();
    codes = p.weights + (u64)min(block, last) * p.stride;
  }

  // Has the next span copied, if there is one, once its stage is free.
  DI void copy(const Product& p, Gates& gates, u8* stages, u32 end) {
    if (next >= end) return;
    u64* gate = &gates.full[turn.slot];
    u8* stage = stages + turn.slot * WIDE_BYTES;
    wait_at(&gates.empty[turn.slot], turn.turn);
    if (lane_index() == 0) {
      u32 first = blockIdx.x * PANEL_TILES, bytes = min(PANEL_TILES, p.tiles - first) * 512;
      arrive_with_bytes(gate, bytes + PANEL_BLOCKS * 1024);
      copy_bulk(stage, p.codes + ((u64)next * p.tiles + first) * 512, bytes, gate);
    }
    __syncwarp();
    if (lane_index() < PANEL_BLOCKS) {
      u32 at = WIDE_INPUTS + lane_index() * 1024;
      copy_bulk(stage + at, codes + (u64)next * 1024, 1024, gate);
    }
    __syncwarp();
    next++;
    turn.next();
  }
};

// A lane's codes of a span's two halves: of its two rows, 4 columns, four times.
struct WideCodes {
  u32 of[2][4];

  DI WideCodes(const u8* from) {
    const u32 flip = 0x80808080u;   // code + 128 to code
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
      uint2 both = *(const uint2*)(from + i * 128);
      of[i / 2][i % 2 * 2] = both.x ^ flip;
      of[i / 2][i % 2 * 2 + 1] = both.y ^ flip;
    }
  }
};

// Has the warpgroup's products of a span with some tiles computed.
template <int N>
DI void begin_products(int (&raw)[N], const WideCodes& a, u64 rows) {
  fence_registers();
  multiply_wide(raw, a.of[0], rows, 0);
  multiply_wide(raw, a.of[1], rows + (32 >> 4), 1);
  end_of_products();
}

template <int N>
DI void add_scaled(int (&sums)[N], const int (&raw)[N], int even, int odd) {
#pragma unroll
  for (int i = 0; i < N; i++) sums[i] += (i & 2 ? odd : even) * raw[i];
}

DI void multiply_panel_wide(const Product& p, const Meeting& meeting) {
  const u32 parts = PANEL_TILES / WIDE_TILES;
  const int numbers = WIDE_TILES * 4;
  __shared__ Gates gates;
  // Tiles begin at multiples of what the hardware permutes.
  u32 start = shared_address(rings), aligned = (start + 1023) & ~1023u;
  u8* stages = rings + (aligned - start);
  if (threadIdx.x == 0) {
#pragma unroll
    for (u32 i = 0; i < WIDE_STAGES; i++) {
      begin_gate(&gates.full[i], 1);
      begin_gate(&gates.empty[i], PANEL_WARPS);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  u32 begin = (u32)((u64)p.spans * blockIdx.z / gridDim.z);
  u32 end = (u32)((u64)p.spans * (blockIdx.z + 1) / gridDim.z);
  Copying copying(p, begin);
  if (warp_index() == 0) {
#pragma unroll 1
    for (u32 i = 0; i < WIDE_STAGES - 2; i++) copying.copy(p, gates, stages, end);
  }
  u32 lane = lane_index(), g = lane >> 2, t = lane & 3, pair = warp_index() >> 2 & 1;
  u32 block = (warp_index() >> 3) * 8 + (warp_index() & 3) * 2 + (g >> 2);
  u32 row_in_block = (g & 3) * 4 + pair * 2;
  int sums[parts][numbers] = {}, raw[numbers] = {};
  Stored totals(p);
  auto pair_of = [&](u32 i) {
    int (&of_part)[numbers] = sums[i / (numbers / 2)];
    u32 at = i % (numbers / 2) * 2;
    return (i64)of_part[at] * 255 + of_part[at + 1];
  };
  u32 codes_at = WIDE_INPUTS + block * 1024 + (g & 3) * 16 + pair * 8 + (t & 1) * 64 +
                 (t >> 1) * 512;
  u32 last = (p.rows + 15) / 16 - 1, there = min(blockIdx.y * PANEL_BLOCKS + block, last);
  const u8* of_block = p.weights + (u64)there * p.stride + (u64)p.spans * 1024;
  const unsigned short* scales = (const unsigned short*)(of_block + begin * 16 + row_in_block);
  u32 since = 0, next_scales = __ldg(scales);
  Turn turn = {0, 0};
#pragma unroll 1
  for (u32 span = begin; span < end; span++) {
    int even = next_scales & 255, odd = next_scales >> 8;
    scales += 8;
    if (span + 1 < end) next_scales = __ldg(scales);
    if (warp_index() == 0) copying.copy(p, gates, stages, end);
    wait_at(&gates.full[turn.slot], turn.turn);
    WideCodes a(stages + turn.slot * WIDE_BYTES + codes_at);
    u64 rows = describe_rows(aligned + turn.slot * WIDE_BYTES);
#pragma unroll
    for (u32 part = 0; part < parts; part++) {
      begin_products(raw, a, rows + part * (WIDE_TILES * 512 >> 4));
      wait_for_products(raw);
      if (part + 1 == parts && lane == 0) arrive_at(&gates.empty[turn.slot]);
      add_scaled(sums[part], raw, even, odd);
    }
    turn.next();
    if (++since != SPANS_W8 || span + 1 == end) continue;
    since = 0;
    totals.add(pair_of);
#pragma unroll
    for (u32 part = 0; part < parts; part++) {
#pragma unroll
      for (int i = 0; i < numbers; i++) sums[part][i] = 0;
    }
  }
  i64 all[LANE_SUMS];
  totals.finish(all, pair_of);
  if (gridDim.z > 1 && !is_last_of_panel<PANEL_WARPS * 32>(meeting, all)) return;
  u32 row = (blockIdx.y * PANEL_BLOCKS + block) * 16 + row_in_block;
  if (row >= p.rows) return;
  const float* row_scales = (const float*)(of_block + (u64)p.spans * 16) + row_in_block;
#pragma unroll
  for (u32 n = 0; n < PANEL_TILES; n++) {
    u32 input = (blockIdx.x * PANEL_TILES + n) * 4 + t;
    i64 two[2] = {all[2 * n], all[2 * n + 1]};
    if (input < p.inputs) write_panel(p, row, input, row_scales, two);
  }
}
#define MULTIPLY_W8 multiply_panel_wide
#else
#define MULTIPLY_W8 multiply_panel<8, Stored>
#endif

#define PANEL(name, BLOCKS, ...)                                                                 \
  extern "C" __global__ void __launch_bounds__(32 * PANEL_WARPS, BLOCKS)                         \
      name(const u8* weights, u64 stride, u32 spans, u32 rows, const u8* codes,                  \
           const float* scales, u32 tiles, u32 inputs, const float* bias, float* out,            \
           i64* sums, i64* shared_sums, u32* done) {                                             \
    __VA_ARGS__(                                                                                 \
        Product{weights, stride, spans, rows, codes, scales, tiles, inputs, bias, out, sums},    \
        Meeting{shared_sums, done});                                                             \
  }
PANEL(panel_w8, FITTING(2), MULTIPLY_W8)
PANEL(panel_w4, 1, multiply_panel<4, Kept>)
