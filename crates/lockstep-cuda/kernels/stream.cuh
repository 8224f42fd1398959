// The products of a decode step, in their order, and the stream of their weights.
//
// Which weights a warp multiplies is known before the step begins. So each warp keeps the next few
// pieces of them on their way to a ring of its own in shared memory, past the end of a product and
// past points at which blocks wait for each other: memory goes on being read meanwhile.
#pragma once
#include "step.cuh"

// The products of a layer in their order; after the last layer comes the head's.
enum { QKV, OUTPUT, GATE_UP, DOWN };
#define PRODUCTS 4u

// A product, and what becomes of its outputs.
struct Multiply {
  const Weights& m;
  float* out;
  u32* largest;      // of each row's outputs, or null
  u32 inner;         // 0; or the size of a gate, whose rows are multiplied with those of `up`
  u32 activation;

  // Items of work: two blocks of 16 matrix rows, beside each other or a gate's and up's.
  DI u32 items() const { return inner != 0 ? inner / 16 : (m.rows + 31) / 32; }
  // Warps that share an item: as many as there are, if there are few items.
  DI u32 workers() const {
    u32 count = items();
    return count <= gridDim.x ? STEP_WARPS : count <= 2 * gridDim.x ? STEP_WARPS / 2
                                                                    : STEP_WARPS / 4;
  }
  // The block of rows that a half of a warp reads.
  DI const u8* block(u32 item, u32 half) const {
    u32 index = inner != 0 ? item + half * (inner / 16)
                           : min(item * 2 + half, (m.rows + 15) / 16 - 1);
    return m.bytes + index * m.stride;
  }
};

DI Multiply product_of(const Step& p, const LayerPlan& l, u32 layer, u32 kind) {
  u32* largest = p.largest + (layer * 2 + 1) * p.rows;
  if (layer == p.layer_count) return {p.head, p.logits, p.largest_logits, 0, 0};
  if (kind == QKV) return {l.qkv, p.qkv, 0, 0, 0};
  if (kind == OUTPUT) return {l.output, p.delta, 0, 0, 0};
  if (kind == GATE_UP) return {l.gate_up, p.gated, largest, l.inner, l.activation};
  return {l.down, p.delta, 0, 0, 0};
}

// Goes to the first span of the warp's next item, of a product before that of index `ahead`. The
// stream in shared memory is changed, which all lanes see.
CALL void seek(Shared& s, u32 ahead) {
  Stream& f = s.streams[warp_index()];
  u32 product = f.product, item = f.item;
  __syncwarp();
#pragma unroll 1
  for (; product < ahead; product++, item = NEVER) {
    Multiply of = product_of(s.step, s.layers[product / PRODUCTS & 1], product / PRODUCTS,
                             product % PRODUCTS);
    u32 workers = of.workers(), worker = warp_index() % workers, teams = STEP_WARPS / workers;
    item = item == NEVER ? blockIdx.x + gridDim.x * (warp_index() / workers)
                         : item + gridDim.x * teams;
    if (item >= of.items() || worker >= of.m.spans) continue;
    if (lane_index() == 0) {
      bool last = item + gridDim.x * teams >= of.items();
      f.source = {of.block(item, 0), of.block(item, 1), worker, of.m.spans, workers,
                  (u32)of.m.codec, last ? product + 1 : 0};
    }
    break;
  }
  if (lane_index() == 0) {
    f.product = product;
    f.item = item;
    if (item == NEVER) {
      f.source.span = f.source.spans;
      f.source.until = product;
    }
  }
  __syncwarp();
}

#if __CUDA_ARCH__ >= 800
// Has 16 bytes copied to shared memory, past the first cache: they are read once.
DI void copy_16(u8* to, const u8* from) {
  u32 address = (u32)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(address), "l"(from)
               : "memory");
}

// Marks the end of what is copied for a chunk.
DI void end_of_chunk() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the lane's last LATER chunks have arrived.
template <int LATER>
DI void wait_for_stages() {
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}
#else
// 7.5 has no such copies: these are done at once.
DI void copy_16(u8* to, const u8* from) { *(uint4*)to = *(const uint4*)from; }
DI void end_of_chunk() {}
template <int LATER>
DI void wait_for_stages() {}
#endif

// Where 16 bytes of a chunk lie in its slot: moved within their 128 bytes, so that lanes take from
// different banks what is a line apart.
template <int CODEC>
DI u32 place_in_slot(u32 at) {
  return at ^ (at >> 7 & (CODEC == 8 ? 3 : 1)) * 32;
}

#if __CUDA_ARCH__ >= 800
// Waits until all but the last few chunks of the lane have arrived: those of a ring of up to 3.
DI void wait_for_chunks(u32 later) {
  if (later == 0) {
    wait_for_stages<0>();
  } else if (later == 1) {
    wait_for_stages<1>();
  } else {
    wait_for_stages<2>();
  }
}

// Has a chunk copied to a slot of the ring: a span of two blocks of rows, their codes and then the
// scales of both. Each copy takes 512 consecutive bytes.
template <int CODEC>
DI void copy_chunk(const Source& f, u32 span, u8* to) {
  const u32 codes = CODEC * 128, scales = CODEC == 8 ? 16 : 64;   // of one block
  u32 lane = lane_index();
  u8* place = to + place_in_slot<CODEC>(lane * 16);
  u64 at = (u64)span * codes + lane * 16;
#pragma unroll
  for (u32 from = 0; from < codes; from += 512) {
    copy_16(place + from, f.first + at + from);
    copy_16(place + codes + from, f.second + at + from);
  }
  if (lane < 2 * scales / 16) {
    u32 half = lane / (scales / 16), piece = lane % (scales / 16);
    copy_16(to + 2 * codes + lane * 16,
            f.block(half) + (u64)f.spans * codes + span * scales + piece * 16);
  }
}

// Has the next chunk of the stream copied to a slot, if there is one so far: the span of the
// source.
DI bool fetch(Shared& s, u32& span, u32 ahead, u8* to) {
  const Source& f = s.streams[warp_index()].source;
  if (span >= f.spans) {
    if (f.until >= ahead) return false;
    seek(s, ahead);
    span = f.span;
    if (span >= f.spans) return false;
  }
  if (f.codec == 8) copy_chunk<8>(f, span, to); else copy_chunk<4>(f, span, to);
  span += f.step;
  end_of_chunk();
  return true;
}
#endif

// A lane's part of a chunk.
template <int CODEC>
struct Chunk {
  uint4 codes[CODEC / 2];
  uint2 scales, shifts;    // w8 has scales.x alone
};

template <int NT>
DI void add_span(int (&sums)[4][NT][2], int n, const Chunk<8>& a, uint4 b) {
  add_span_w8(sums, n, a.codes, a.scales.x, b);
}

template <int NT>
DI void add_span(int (&sums)[4][NT][2], int n, const Chunk<4>& a, uint4 b) {
  add_span_w4(sums, n, a.codes, a.scales, a.shifts, b);
}

// The stream while a product takes from it.
struct Taking {
  u32 span;          // the next of the source
  u32 slot, held;
  u32 ahead;         // the product that the stream does not go to yet; 0 at its end

  DI Taking(const Stream& stream, u32 ahead)
      : span(stream.source.span), slot(stream.slot), held(stream.held), ahead(ahead) {}

  // Fills the ring as far as the stream goes so far.
  DI void fill(Shared& s) {
#if __CUDA_ARCH__ >= 800
    u32 slots = s.step.slots;
#pragma unroll 1
    while (ahead != 0 && held < slots) {
      u32 free = slot + held < slots ? slot + held : slot + held - slots;
      if (fetch(s, span, ahead, ring_of_warp(s) + free * CHUNK)) held++; else ahead = 0;
    }
#endif
  }

  // Leaves the stream to the next product.
  DI void leave(Shared& s) const {
    Stream& stream = s.streams[warp_index()];
    __syncwarp();
    if (lane_index() == 0) {
      stream.source.span = span;
      stream.slot = slot;
      stream.held = held;
    }
    __syncwarp();
  }
};

// Begins the stream of the warp.
DI void start_stream(Shared& s) {
  if (lane_index() == 0) s.streams[warp_index()] = {{0, 0, 0, 0, 0, 0, 0}, 0, NEVER, 0, 0, 0};
  __syncwarp();
}

// Fills the ring of the warp between two products.
CALL void fill_ring(Shared& s, u32 ahead) {
  Taking stream(s.streams[warp_index()], ahead);
  stream.fill(s);
  stream.leave(s);
}

// Where a lane's codes are in a span of a block: 4 columns of w8, 8 of w4, of 4 rows.
template <int CODEC>
DI u32 place_of_piece(u32 piece) {
  u32 place = CODEC == 8 ? (piece >> 1) * 512 + (lane_index() & 3) * 128 + (piece & 1) * 64
                         : piece * 256 + (lane_index() & 3) * 64;
  return place + (lane_index() >> 2 & 3) * 16;
}

// Takes the stream's oldest chunk.
template <int CODEC>
DI Chunk<CODEC> take(Shared& s, Taking& f) {
  u32 lane = lane_index(), half = lane >> 4, group = lane >> 2 & 3;
  Chunk<CODEC> chunk;
#if __CUDA_ARCH__ >= 800
  u8* from = ring_of_warp(s) + f.slot * CHUNK;
  wait_for_chunks(f.held - 1);
  __syncwarp();
#pragma unroll
  for (u32 piece = 0; piece < CODEC / 2; piece++) {
    u32 at = half * (CODEC * 128) + place_of_piece<CODEC>(piece);
    chunk.codes[piece] = *(const uint4*)(from + place_in_slot<CODEC>(at));
  }
  if (CODEC == 8) {
    chunk.scales.x = *(const u32*)(from + 2048 + half * 16 + group * 4);
  } else {
    const u8* scales = from + 1024 + half * 64 + group * 8;
    chunk.scales = *(const uint2*)scales;
    chunk.shifts = *(const uint2*)(scales + 32);
  }
  __syncwarp();
  f.held--;
  f.slot = f.slot + 1 == s.step.slots ? 0 : f.slot + 1;
#else
  // Nothing is copied ahead: there are no such copies, and no room for them.
  const Source& source = s.streams[warp_index()].source;
  if (f.span >= source.spans) {
    seek(s, f.ahead);
    f.span = source.span;
  }
  const u8* block = source.block(half);
  u64 span = f.span, all = source.spans;
#pragma unroll
  for (u32 piece = 0; piece < CODEC / 2; piece++) {
    chunk.codes[piece] = read_once(block + span * (CODEC * 128) + place_of_piece<CODEC>(piece));
  }
  if (CODEC == 8) {
    chunk.scales.x = *(const u32*)(block + all * 1024 + span * 16 + group * 4);
  } else {
    const u8* scales = block + all * 512 + span * 64 + group * 8;
    chunk.scales = *(const uint2*)scales;
    chunk.shifts = *(const uint2*)(scales + 32);
  }
  f.span += source.step;
#endif
  return chunk;
}
