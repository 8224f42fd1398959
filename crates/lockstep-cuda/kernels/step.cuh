// What one launch of a decode step works on, and how its blocks wait for each other.
//
// The blocks of a step are all on the device at once (the launch is a cooperative one), a block per
// multiprocessor. They go through the products of the network together; what a block needs of
// others lies in memory, and counters say when it is there. Nothing here decides a bit: sums are
// integers, and every float is computed by the functions of the launches one by one.
#pragma once
#include "attention.cuh"
#include "products.cuh"

#define STEP_WARPS 16u
#define STEP_THREADS (32u * STEP_WARPS)
// Groups of a state row: what `row_in_shared_memory` allows.
#define STEP_GROUPS 352u
#define POOL 45056u
#define NEVER 0xffffffffu
// Bytes of a chunk of the stream of weights.
#define CHUNK 2080u
// A function of its own: what is not in the inner loops of products leaves them their registers.
#define CALL __device__ __noinline__

// A weight matrix; `codec` is 8 or 4. The host writes these structures word by word.
struct Weights {
  const u8* bytes;
  u64 stride;
  const float* bias;   // or null
  u32 spans, rows;
  u64 codec;
};

struct LayerPlan {
  Weights qkv, output, gate_up, down;
  Norm attention, ffn, query, key, after_attention, after_ffn;
  const u64* turns;
  const u64* tables;   // [row][pages_max], addresses of pages
  u8* kv_rows;         // [row][canonical row]
  u32 pairs, window, heads, kv_heads, head_dim, activation;
  float score_scale;
  u32 inner;
};

struct Step {
  const LayerPlan* layers;
  Weights embedding;        // without bytes: the states of `mantissas` are given
  Weights head;             // without bytes: the span ends with a state
  Norm head_norm;
  const u32* tokens;
  const u32* positions;
  u32* arrived;             // counters and largest magnitudes, 0 at the start
  u32* rows_done;
  u32* chunks_done;         // [layer][row][kv_heads]
  u32* largest;             // [layer][2][row]: of attention's outputs, of the gated rows
  u32* largest_logits;      // [row]
  u32* flagged;             // [row]: the first stage that knows of an overflow
  i16* mantissas;           // [layer + 1][row][hidden]: states before and after each layer
  u8* exponents;
  i16* middle_mantissas;    // [layer][row][hidden]: states between attention and feed-forward part
  u8* middle_exponents;
  float* qkv;
  float* attended;
  float* delta;
  float* gated;
  float* logits;
  u8* codes;                // [span][row][128]
  float* scales;
  int* numerators;          // [row][head][chunks][padded]
  Share* shares;
  u32 layer_count, rows, hidden, pages_max, chunks, kv_heads;
  float embedding_scale;
  u32 slots;                // chunks of weights that a warp's ring has room for
};

// As `words.rs` writes them.
static_assert(sizeof(LayerPlan) == 39 * 8 && sizeof(Step) == 38 * 8, "the host counts words");

// What the stream of a warp's weights is in: an item's two blocks of 16 rows.
struct Source {
  const u8 *first, *second;
  u32 span, spans, step;         // the next span of the blocks, all, and from one to the next
  u32 codec;
  u32 until;                     // the product before which the warp has no other item

  DI const u8* block(u32 half) const { return half == 0 ? first : second; }
};

// The stream of a warp's weights (`stream.cuh`), as it is between products.
struct Stream {
  Source source;
  u32 product, item;             // what the source is of
  u32 slot, held;                // the oldest chunk's place in the ring; chunks in it
  u32 reserved;
};

// A block's shared memory.
struct Shared {
  Step step;
  LayerPlan layers[2];
  Reduction reduction;
  Reduction turns[2];            // of `row_max` and `row_sum`, in turn
  u32 last;                      // whether the block is the last of a head's chunks
  u32 arrivals, rows_done;       // what the counters will be at; thread 0's
  Stream streams[STEP_WARPS];
  float scales[4];
  u8 bytes[STEP_GROUPS];
  __align__(16) u8 pool[POOL];
};

// The ring of the warp's chunks, behind the memory that is known when a kernel is compiled.
extern __shared__ __align__(16) u8 rings[];
DI u8* ring_of_warp(const Shared& s) { return rings + warp_index() * s.step.slots * CHUNK; }

template <class T>
DI void copy_words(T& to, const T* from) {
#pragma unroll 1
  for (u32 i = threadIdx.x; i < sizeof(T) / 4; i += blockDim.x) {
    ((u32*)&to)[i] = ((const u32*)from)[i];
  }
}

DI void add_released(u32* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// Waits until a counter has reached `goal`, which is thread 0's alone, and sees what was written
// before it was counted up.
DI void wait_for(const u32* counter, const u32& goal) {
  if (threadIdx.x == 0) {
    u32 seen, target = *(const volatile u32*)&goal;
    do {
      asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    } while (seen < target);
    __threadfence();
  }
  __syncthreads();
}

// Says that the block has done its share so far.
DI void arrive(Shared& s) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  add_released(s.step.arrived);
  s.arrivals += gridDim.x;
}

// Waits for the shares of all blocks.
DI void wait(const Shared& s) { wait_for(s.step.arrived, s.arrivals); }

// Fetches the start of a range to the second cache: `thread` of `threads` takes its lines.
DI void prefetch(const void* from, u32 bytes, u32 thread, u32 threads) {
#pragma unroll 1
  for (u32 at = thread * 128; at < bytes; at += threads * 128) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"((const u8*)from + at));
  }
}
