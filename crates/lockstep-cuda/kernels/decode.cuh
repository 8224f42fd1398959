// A decode step of up to 4 * NT sessions, one new position each, through a span of layers and the
// head, in one launch.
//
// A layer is four products. Before each, its input rows are made codes: by every block for itself
// in shared memory, if that is little, else shared out and written to memory. After the first, and
// before the second, comes attention. A *stage* is what lies between two points at which all blocks
// have met; the overflow flag of a row is the first stage that found it, because only later stages
// may act on it: in the same one, not all blocks have seen it.
#include "step.cuh"

// Elements of all rows that every block quantises for itself, rather than wait once more.
#define ALONE_MAX 16384u


// A function of its own: what is not in the inner loops of products leaves them their registers.
#define CALL __device__ __noinline__

DI void flag_row(const Step& p, u32 row, u32 stage) { atomicMin(p.flagged + row, stage); }

// The rows that a product takes, as codes.
struct Inputs {
  const u8* codes;
  const float* scales;
  u32 rows;

  // The lane's codes of a span; 0 where a tile has fewer than 4 rows.
  DI uint4 operator()(u32 span, u32 n) const {
    u32 row = n * 4 + (lane_index() >> 3);
    if (row >= rows) return make_uint4(0, 0, 0, 0);
    return ((const uint4*)codes)[(span * rows + row) * 8 + (lane_index() & 7)];
  }
};

// Where the codes of 8 elements go: [span][row][plane][8 columns][half of the span][8].
DI u8* place_of_run(u8* codes, u32 rows, u32 row, u32 run) {
  return codes + ((run >> 3) * rows + row) * 128 + (run & 3) * 16 + ((run >> 2) & 1) * 8;
}

// Groups that a warp reads at a time.
#define TOGETHER 4u

// A state row and what becomes of it: x + delta, the sum's norm, codes.
struct Advance {
  const i16* mantissas;
  const u8* exponents;
  const float* delta;      // null: the state is taken as it is
  Norm after;              // normalises the delta first, if it has gains
  i16* sum_mantissas;
  u8* sum_exponents;
  Norm norm;               // without gains: nothing but the sum is wanted
};

// The products of a layer in their order; after the last layer comes the head's.
enum { QKV, OUTPUT, GATE_UP, DOWN };

// What goes on from a state to the input of a layer's first or third product, or of the head's.
DI Advance advance_of(const Step& p, const LayerPlan& l, const LayerPlan& before, u32 layer,
                      u32 kind, u32 row) {
  u32 groups = (p.hidden + GROUP - 1) / GROUP;
  // States of the network are numbered: those of layers, and between them those of middles.
  u64 at = (u64)layer * p.rows + row, previous = at - p.rows;
  i16* states = p.mantissas;
  i16* middles = p.middle_mantissas;
  const float* delta = p.delta + (u64)row * p.hidden;
  if (kind == GATE_UP) {
    return {states + at * p.hidden,  p.exponents + at * groups,
            delta,                   l.after_attention,
            middles + at * p.hidden, p.middle_exponents + at * groups,
            l.ffn};
  }
  Norm norm = layer == p.layer_count ? p.head_norm : l.attention;
  if (layer == 0) return {states + at * p.hidden, p.exponents + at * groups, 0, {0, 0}, 0, 0, norm};
  return {middles + previous * p.hidden, p.middle_exponents + previous * groups,
          delta,                         before.after_ffn,
          states + at * p.hidden,        p.exponents + at * groups,
          norm};
}

// Warps take groups of 32 elements, the same in every pass; a lane sees its own elements only.
// The sum's mantissas to x as integers, its exponent bytes to s.bytes; the largest byte.
DI u32 sum_of_row(Shared& s, const Advance& a, u32 row, u32 stage, bool keeps) {
  const Step& p = s.step;
  float* x = (float*)s.pool;
  u32 width = p.hidden, groups = (width + GROUP - 1) / GROUP;
  bool broken = p.flagged[row] < stage;
  if (a.delta != 0 && a.after.gain != 0) {
#pragma unroll 1
    for (u32 group = warp_index(); group < groups; group += STEP_WARPS) {
      u32 k = group * GROUP + lane_index();
      if (k < width) x[k] = a.delta[k];
    }
    broken |= normalise(x, width, a.after.eps, a.after.gain, s.bytes, BlockTeam{s.reduction});
    __syncwarp();
  }
  u32 top = broken ? 256 : 0;
#pragma unroll 1
  for (u32 first = warp_index(); first < groups; first += TOGETHER * STEP_WARPS) {
    // What is read of all these groups is on its way before any of it is needed.
    int mantissas[TOGETHER];
    u32 bytes[TOGETHER];
    float deltas[TOGETHER];
#pragma unroll
    for (u32 i = 0; i < TOGETHER; i++) {
      u32 group = first + i * STEP_WARPS, k = group * GROUP + lane_index();
      bytes[i] = group < groups ? a.exponents[group] : 0;
      mantissas[i] = k < width ? a.mantissas[k] : 0;
      deltas[i] = k >= width || a.delta == 0 ? 0.0f : a.after.gain != 0 ? x[k] : a.delta[k];
    }
#pragma unroll
    for (u32 i = 0; i < TOGETHER; i++) {
      u32 group = first + i * STEP_WARPS, k = group * GROUP + lane_index(), byte = bytes[i];
      if (group >= groups) break;
      int mantissa = mantissas[i];
      if (a.delta != 0) {
        float value = add(mul(__int2float_rn(mantissa), pow2(exponent_of(byte))), deltas[i]);
        int e = block_exponent(warp_max(k < width ? magnitude(value) : 0));
        bool some = e != NO_EXPONENT && e != TOO_LARGE;
        mantissa = some ? rne(mul(value, pow2(-e))) : 0;
        byte = some ? (u32)(e + 128) : 0;
        if (e == TOO_LARGE) top = 256;
      } else if (byte == 255) {
        byte = 0;
      }
      if (k < width) ((int*)x)[k] = mantissa;
      if (lane_index() == 0) s.bytes[group] = (u8)byte;
      top = max(top, byte);
    }
  }
  top = block_max(top, s.reduction);
  broken = top == 256;
  if (a.delta == 0) return broken ? 0 : top;
#pragma unroll 1
  for (u32 group = warp_index(); group < groups; group += STEP_WARPS) {
    u32 k = group * GROUP + lane_index();
    if (broken && k < width) ((int*)x)[k] = 0;
    if (broken && lane_index() == 0) s.bytes[group] = 0;
    if (!keeps) continue;
    if (k < width) a.sum_mantissas[k] = (i16)((int*)x)[k];
    if (lane_index() == 0) a.sum_exponents[group] = broken ? 255 : s.bytes[group];
  }
  if (broken && keeps && threadIdx.x == 0) flag_row(p, row, stage);
  __syncwarp();
  return broken ? 0 : top;
}

// Takes a row to the input of a product. Its codes go to those of `rows` rows at index `at`. Whoever
// `keeps` it writes the sum, and flags.
CALL void advance(Shared& s, u32 layer, u32 kind, u32 row, u32 stage, bool keeps,
                  const float* gain, u8* codes, u32 rows, u32 at, float* scales) {
  const Step& p = s.step;
  Advance a = advance_of(p, s.layers[layer & 1], s.layers[(layer + 1) & 1], layer, kind, row);
  float* x = (float*)s.pool;
  u32 width = p.hidden, groups = (width + GROUP - 1) / GROUP;
  u32 top = sum_of_row(s, a, row, stage, keeps);
  if (a.norm.gain == 0) return;
  u64 sum = 0;
#pragma unroll 1
  for (u32 group = warp_index(); group < groups; group += STEP_WARPS) {
    u32 byte = s.bytes[group], k = group * GROUP + lane_index();
    if (byte == 0) continue;
    u64 share = share_of_squares(k < width ? ((int*)x)[k] : 0, 2 * (top - byte));
    if (lane_index() == 0) sum += share;
  }
  float root = reciprocal_root(block_sum(sum, s.reduction), top, width, a.norm.eps);
  u32 largest = 0;
#pragma unroll 1
  for (u32 group = warp_index(); group < groups; group += STEP_WARPS) {
    u32 k = group * GROUP + lane_index();
    if (k >= width) continue;
    float value = mul(__int2float_rn(((int*)x)[k]), pow2(exponent_of(s.bytes[group])));
    x[k] = mul(mul(value, root), gain[k]);
    largest = max(largest, magnitude(x[k]));
  }
  largest = block_max(largest, s.reduction);
  bool some = largest >= TINY_BITS && largest < HUGE_BITS;
  float factor = some ? quotient(32512.0f, from_bits(largest)) : 0.0f;
#pragma unroll 1
  for (u32 run = threadIdx.x; run < (width + 63) / 64 * 8; run += blockDim.x) {
    int code[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      u32 k = run * 8 + i;
      code[i] = some && k < width ? rne(mul(x[k], factor)) : 0;
    }
    put_codes(code, place_of_run(codes, rows, at, run));
  }
  if (threadIdx.x == 0) {
    scales[at] = some ? quotient(from_bits(largest), 32512.0f) : 0.0f;
    if (largest >= HUGE_BITS && keeps) flag_row(p, row, stage);
  }
}

// Quantises all rows, whose largest magnitudes are known; `thread` of `threads` takes its share.
CALL void quantise_rows(const Step& p, const float* from, const u32* largest, u32 width, u32 stage,
                      u8* codes, float* scales, u32 thread, u32 threads) {
  u32 runs = (width + 63) / 64 * 8;
#pragma unroll 1
  for (u32 at = thread; at < p.rows * runs; at += threads) {
    u32 row = at / runs, run = at % runs, amax = largest[row];
    bool some = amax >= TINY_BITS && amax < HUGE_BITS;
    float factor = some ? quotient(32512.0f, from_bits(amax)) : 0.0f;
    int code[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
      u32 k = run * 8 + i;
      code[i] = some && k < width ? rne(mul(from[(u64)row * width + k], factor)) : 0;
    }
    put_codes(code, place_of_run(codes, p.rows, row, run));
    if (run != 0) continue;
    scales[row] = some ? quotient(from_bits(amax), 32512.0f) : 0.0f;
    if (amax >= HUGE_BITS) flag_row(p, row, stage);
  }
}

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
  DI u32 block(u32 item, u32 half) const {
    return inner != 0 ? item + half * (inner / 16)
                      : min(item * 2 + half, (m.rows + 15) / 16 - 1);
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

DI void team_sync(u32 team, u32 workers) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(workers * 32) : "memory");
}

template <int NT, int CODEC>
CALL void multiply(Shared& s, u32 layer, u32 kind, const u8* codes, const float* scales) {
  Multiply of = product_of(s.step, s.layers[layer & 1], layer, kind);
  Inputs in = {codes, scales, s.step.rows};
  Parts<NT, STEP_WARPS>& parts = *(Parts<NT, STEP_WARPS>*)s.pool;
  u32 workers = of.workers(), team = warp_index() / workers, worker = warp_index() % workers;
  u32 spans = of.m.spans, lane = lane_index(), items = of.items();
#pragma unroll 1
  for (u32 item = blockIdx.x + gridDim.x * team; item < items;
       item += gridDim.x * (STEP_WARPS / workers)) {
    const u8* block = of.m.bytes + of.block(item, lane >> 4) * of.m.stride;
    // The matrix row whose sum the lane finishes.
    u32 row = of.inner != 0 ? item * 16 + (lane & 15) + (lane >> 4) * of.inner : item * 32 + lane;
    bool there = row < of.m.rows;
    float row_scale = ((const float*)(block + row_scales_at(CODEC, spans)))[lane & 15];
    float bias = of.m.bias != 0 && there ? of.m.bias[row] : 0.0f;
    if (CODEC == 8) {
      sum_w8<NT, 2>(block, spans, worker, workers, in, parts);
    } else {
      sum_w4<NT, NT == 1 ? 2 : 1>(block, spans, worker, workers, in, parts);
    }
    team_sync(team, workers);
#pragma unroll 1
    for (u32 input = worker; input < in.rows; input += workers) {
      i64 sum = 0;
      for (u32 warp = 0; warp < workers; warp++) {
        sum += parts.of[team * workers + warp][input][lane];
      }
      float z = mul(__ll2float_rn(sum), mul(row_scale, in.scales[input]));
      if (of.m.bias != 0) z = add(z, bias);
      u64 place = (u64)input * of.m.rows + row;
      if (of.inner != 0) {
        float up = __shfl_down_sync(~0u, z, 16);
        z = mul(of.activation == 0 ? silu(z) : gelu_tanh(z), up);
        place = (u64)input * of.inner + row;
        there = lane < 16;
      }
      if (there) of.out[place] = z;
      if (of.largest == 0) continue;
      u32 largest = warp_max(there ? magnitude(z) : 0u);
      if (lane == 0) atomicMax(of.largest + input, largest);
    }
    team_sync(team, workers);
  }
}

// Shared memory of attention: a head of floats for each warp, then these.
struct AttentionPool {
  float* x;
  i8* queries;
  float* scales;
  ChunkShared<STEP_WARPS>* chunk;

  DI AttentionPool(Shared& s, const LayerPlan& l) {
    u32 group = l.heads / l.kv_heads, padded = (l.head_dim + 31) / 32 * 32;
    chunk = (ChunkShared<STEP_WARPS>*)s.pool;
    queries = (i8*)s.pool + sizeof(ChunkShared<STEP_WARPS>);
    scales = (float*)(queries + group * 2 * padded);
    x = scales + group + warp_index() * l.head_dim;
  }
};

// Makes queries of the heads that share a kv head and, where the chunk has the row's own position,
// appends its key and value. A warp takes a head.
DI void prepare_heads(Shared& s, const LayerPlan& l, u32 row, u32 kv_head, const Page& page,
                      bool appends, u32 stage) {
  const Step& p = s.step;
  AttentionPool pool(s, l);
  u32 group = l.heads / l.kv_heads, padded = (l.head_dim + 31) / 32 * 32, lane = lane_index();
  u32 all = l.heads + 2 * l.kv_heads, position = p.positions[row], place = position % PAGE;
  u32 width = l.kv_heads * l.head_dim;
  u8* canonical = l.kv_rows + (u64)row * (2 * width + 8 * l.kv_heads);
  float* canonical_scales = (float*)(canonical + 2 * width);
#pragma unroll 1
  for (u32 i = warp_index(); i < group + (appends ? 2 : 0); i += STEP_WARPS) {
    bool is_query = i < group, is_key = i == group;
    u32 head = is_query ? kv_head * group + i : l.heads + (is_key ? 0 : l.kv_heads) + kv_head;
    Norm none = {0, 0.0f};
    Turned turned = turn_head(pool.x, p.qkv + ((u64)row * all + head) * l.head_dim, l.head_dim,
                              is_query ? l.query : is_key ? l.key : none, l.turns,
                              is_query || is_key ? l.pairs : 0, position,
                              is_query ? 32512.0f : 127.0f, s.bytes + warp_index() * 16,
                              WarpTeam());
#pragma unroll 1
    for (u32 k = lane; k < padded; k += 32) {
      int code = code_of(turned, pool.x, k, l.head_dim);
      if (is_query) {
        int high, low;
        planes(code, high, low);
        pool.queries[i * 2 * padded + k] = (i8)high;
        pool.queries[(i * 2 + 1) * padded + k] = (i8)low;
        continue;
      }
      if (is_key) {
        page.keys[((u64)kv_head * PAGE + place) * padded + k] = (i8)code;
      } else {
        page.values[((u64)kv_head * padded + k) * PAGE + place] = (i8)code;
      }
      if (k < l.head_dim) canonical[(is_key ? 0 : width) + kv_head * l.head_dim + k] = (u8)code;
    }
    if (lane == 0) {
      if (turned.overflow) flag_row(p, row, stage);
      if (is_query) pool.scales[i] = mul(turned.scale, l.score_scale);
      if (is_key) page.key_scales[kv_head * PAGE + place] = turned.scale;
      if (is_key) canonical_scales[kv_head] = turned.scale;
      if (!is_query && !is_key) page.value_scales[kv_head * PAGE + place] = turned.scale;
      if (!is_query && !is_key) canonical_scales[l.kv_heads + kv_head] = turned.scale;
    }
    __syncwarp();
  }
}

// Combines the chunks of the heads that share a kv head, a warp a head.
DI void combine_heads(Shared& s, const LayerPlan& l, u32 layer, u32 row, u32 kv_head, u32 used,
                      u32 stage) {
  const Step& p = s.step;
  u32 group = l.heads / l.kv_heads, padded = (l.head_dim + 31) / 32 * 32;
#pragma unroll 1
  for (u32 i = warp_index(); i < group; i += STEP_WARPS) {
    u64 head = (u64)row * l.heads + kv_head * group + i;
    float* out = p.attended + head * l.head_dim;
    bool fits = combine_head(p.numerators + head * p.chunks * padded, p.shares + head * p.chunks,
                             used, l.head_dim, out, WarpTeam());
    u32 largest = 0;
#pragma unroll 1
    for (u32 d = lane_index(); d < l.head_dim; d += 32) largest = max(largest, magnitude(out[d]));
    largest = warp_max(largest);
    if (lane_index() != 0) continue;
    atomicMax(p.largest + layer * 2 * p.rows + row, largest);
    if (!fits) flag_row(p, row, stage);
  }
}

// An item of the work of attention: a chunk of a row's kv head.
struct Item {
  u32 row, kv_head, index, chunk, used, start, position;

  DI Item(const Step& p, const LayerPlan& l, u32 item, u32 chunks) {
    index = item % chunks;
    kv_head = item / chunks % l.kv_heads;
    row = item / (chunks * l.kv_heads);
    position = p.positions[row];
    start = first_seen(l.window, position);
    chunk = start / PAGE + index;
    used = position / PAGE - start / PAGE + 1;
  }
};

// The most chunks that a row sees.
DI u32 chunks_of(const Step& p, const LayerPlan& l) {
  u32 chunks = 0;
#pragma unroll 1
  for (u32 row = 0; row < p.rows; row++) {
    u32 position = p.positions[row];
    chunks = max(chunks, position / PAGE - first_seen(l.window, position) / PAGE + 1);
  }
  return chunks;
}

// Fetches the keys and values that the block will begin with.
DI void prefetch_chunk(const Step& p, const LayerPlan& l) {
  u32 chunks = chunks_of(p, l), padded = (l.head_dim + 31) / 32 * 32;
  if (blockIdx.x >= chunks * l.kv_heads * p.rows) return;
  Item item(p, l, blockIdx.x, chunks);
  if (item.index >= item.used) return;
  Page page = page_at(l.tables[item.row * p.pages_max + item.chunk], l.kv_heads, padded);
  u64 codes = (u64)item.kv_head * PAGE * padded, scales = item.kv_head * PAGE;
  prefetch(page.keys + codes, PAGE * padded, threadIdx.x, blockDim.x);
  prefetch(page.values + codes, PAGE * padded, threadIdx.x, blockDim.x);
  prefetch(page.key_scales + scales, PAGE * 4, threadIdx.x, blockDim.x);
  prefetch(page.value_scales + scales, PAGE * 4, threadIdx.x, blockDim.x);
}

// Appends and attends. Of the items of a row's kv head, the last that is done combines all.
CALL void attention(Shared& s, const LayerPlan& l, u32 layer, u32 stage) {
  const Step& p = s.step;
  AttentionPool pool(s, l);
  u32 group = l.heads / l.kv_heads, padded = (l.head_dim + 31) / 32 * 32;
  u32 chunks = chunks_of(p, l);
#pragma unroll 1
  for (u32 at = blockIdx.x; at < chunks * l.kv_heads * p.rows; at += gridDim.x) {
    Item item(p, l, at, chunks);
    u32 index = item.index, used = item.used, row = item.row, kv_head = item.kv_head;
    if (index >= used) continue;
    Page page = page_at(l.tables[row * p.pages_max + item.chunk], l.kv_heads, padded);
    prepare_heads(s, l, row, kv_head, page, index + 1 == used, stage);
    __syncthreads();
#pragma unroll 1
    for (u32 tile = 0; tile < group; tile += 4) {
      u64 head = (u64)row * l.heads + kv_head * group + tile, share = head * p.chunks + index;
      ChunkHeads heads = {pool.queries + tile * 2 * padded, pool.scales + tile,
                          min(4, group - tile), p.numerators + share * padded, p.shares + share,
                          p.chunks};
      attend_chunk(heads, page, kv_head, padded, item.chunk, item.start, item.position,
                   *pool.chunk);
      __syncthreads();
    }
    if (used > 1) {
      if (threadIdx.x == 0) {
        __threadfence();
        u32* done = p.chunks_done + ((u64)layer * p.rows + row) * p.kv_heads + kv_head;
        s.last = atomicAdd(done, 1) + 1 == used;
        __threadfence();
      }
      __syncthreads();
    }
    if (used == 1 || s.last != 0) combine_heads(s, l, layer, row, kv_head, used, stage);
    __syncthreads();
  }
}

// The gains with which a state becomes the input of a product; null without a head.
DI const float* gain_of(const Step& p, const LayerPlan& l, u32 layer, u32 kind) {
  if (layer == p.layer_count) return p.head_norm.gain;
  return kind == GATE_UP ? l.ffn.gain : l.attention.gain;
}

// Makes the input rows of a product from states. Alone, a block needs room for its row of floats,
// or its sums, and behind it for the codes.
template <int NT>
DI Inputs inputs_of_states(Shared& s, u32 layer, u32 kind, u32 stage) {
  const Step& p = s.step;
  u32 behind = max((u32)sizeof(Parts<NT, STEP_WARPS>), (p.hidden * 4 + 15) / 16 * 16);
  u32 bytes = (p.hidden + 63) / 64 * 128;
  const float* gain = gain_of(p, s.layers[layer & 1], layer, kind);
  if ((p.rows == 1 || blockIdx.x < p.rows) && gain != 0 && behind + bytes + p.hidden * 4 <= POOL) {
    // The gains can be fetched before the others are done.
    float* here = (float*)(s.pool + behind + bytes);
#pragma unroll 1
    for (u32 k = threadIdx.x; k < p.hidden; k += blockDim.x) here[k] = gain[k];
    gain = here;
  }
  if (p.rows == 1 && behind + bytes <= POOL) {
    wait(s);
    advance(s, layer, kind, 0, stage, blockIdx.x == 0, gain, s.pool + behind, 1, 0, s.scales);
    __syncthreads();
    return {s.pool + behind, s.scales, 1};
  }
  if (threadIdx.x == 0) s.rows_done += p.rows;
  if (blockIdx.x < p.rows) {
    wait(s);
    u32 row = blockIdx.x;
    advance(s, layer, kind, row, stage, true, gain, p.codes, p.rows, row, p.scales);
    __syncthreads();
    if (threadIdx.x == 0) add_released(p.rows_done);
  }
  wait_for(p.rows_done, s.rows_done);
  return {p.codes, p.scales, p.rows};
}

// Makes the input rows of a product from floats.
template <int NT>
DI Inputs inputs_of_rows(Shared& s, const float* from, const u32* largest, u32 width,
                         u32 stage) {
  const Step& p = s.step;
  u32 behind = sizeof(Parts<NT, STEP_WARPS>), bytes = (width + 63) / 64 * 128 * p.rows;
  wait(s);
  if (p.rows <= 4 && p.rows * width <= ALONE_MAX && behind + bytes <= POOL) {
    quantise_rows(p, from, largest, width, stage, s.pool + behind, s.scales, threadIdx.x,
                  blockDim.x);
    __syncthreads();
    return {s.pool + behind, s.scales, p.rows};
  }
  quantise_rows(p, from, largest, width, stage, p.codes, p.scales,
                blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x);
  arrive(s);
  wait(s);
  return {p.codes, p.scales, p.rows};
}

// The states that the step begins with, a block a row.
CALL void begin(Shared& s) {
  const Step& p = s.step;
  u32 row = blockIdx.x, groups = (p.hidden + GROUP - 1) / GROUP;
  if (row >= p.rows) return;
  u8* exponents = p.exponents + (u64)row * groups;
  bool overflow;
  if (p.embedding.bytes != 0) {
    const Weights& m = p.embedding;
    overflow = embed_row(m.bytes, m.stride, m.spans, (u32)m.codec, p.tokens[row],
                         p.embedding_scale, p.hidden, p.mantissas + (u64)row * p.hidden, exponents,
                         s.reduction);
  } else {
    overflow = exponents[0] == 255;
  }
  if (threadIdx.x != 0) return;
  p.flagged[row] = overflow ? 0 : NEVER;
  p.largest_logits[row] = 0;
}

template <int NT>
DI void decode(const Step* step) {
  __shared__ Shared s;
  copy_words(s.step, step);
  __syncthreads();
  const Step& p = s.step;
  copy_words(s.layers[0], p.layers);
  if (threadIdx.x == 0) s.arrivals = s.rows_done = 0;
  begin(s);
  arrive(s);
  // Two stages a product; the first is 1, because 0 marks what is flagged from the start.
  u32 products = p.layer_count * 4 + 1;
#pragma unroll 1
  for (u32 n = 0; n < products; n++) {
    u32 layer = n / 4, kind = n % 4, stage = 2 * n + 1;
    const LayerPlan& l = s.layers[layer & 1];
    const u32* largest = p.largest + layer * 2 * p.rows;
    Inputs in;
    if (kind == OUTPUT) {
      in = inputs_of_rows<NT>(s, p.attended, largest, l.heads * l.head_dim, stage);
    } else if (kind == DOWN) {
      in = inputs_of_rows<NT>(s, p.gated, largest + p.rows, l.inner, stage);
    } else {
      in = inputs_of_states<NT>(s, layer, kind, stage);
    }
    if (layer == p.layer_count && p.head.bytes == 0) return;
    if (product_of(p, l, layer, kind).m.codec == 8) {
      multiply<NT, 8>(s, layer, kind, in.codes, in.scales);
    } else {
      multiply<NT, 4>(s, layer, kind, in.codes, in.scales);
    }
    if (layer == p.layer_count) return;
    if (kind == DOWN && layer + 1 < p.layer_count) {
      copy_words(s.layers[(layer + 1) & 1], p.layers + layer + 1);
    }
    arrive(s);
    if (kind != QKV) continue;
    prefetch_chunk(p, l);
    wait(s);
    attention(s, l, layer, stage + 1);
    arrive(s);
  }
}

extern "C" __global__ void __launch_bounds__(STEP_THREADS, 1) decode_rows4(const Step* step) {
  decode<1>(step);
}

extern "C" __global__ void __launch_bounds__(STEP_THREADS, 1) decode_rows8(const Step* step) {
  decode<2>(step);
}
