// A decode step of up to 4 * NT sessions, one new position each, through a span of layers and the
// head, in one launch.
//
// A layer is four products. Before each, its input rows are made codes: by every block for itself
// in shared memory, if that is little, else shared out and written to memory. After the first, and
// before the second, comes attention. A *stage* is what lies between two points at which all blocks
// have met; the overflow flag of a row is the first stage that found it, because only later stages
// may act on it: in the same one, not all blocks have seen it.
#include "stream.cuh"

// Elements of all rows that every block quantises for itself, rather than wait once more.
#define ALONE_MAX 16384u

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

// A row of a state is worked on in runs of 8 elements, a thread a run at a time, four threads a
// group of 32; between reductions it lies in the pool, where each thread touches runs of its own.
// What is executed is kept short: a layer's code must stay in the instruction cache. Rows are whole
// groups.
#define RUN 8u
#define FOR_RUNS(run, width) \
  _Pragma("unroll 1") for (u32 run = threadIdx.x; run < (width) / RUN; run += STEP_THREADS)

// Reductions over the block: one point at which all threads meet. `turn` alternates from one to the
// next.
DI u32 row_max(Shared& s, u32 v, u32 turn) {
  u32* largest = s.turns[turn & 1].largest;
  v = warp_max(v);
  if (lane_index() == 0) largest[warp_index()] = v;
  __syncthreads();
  return warp_max(largest[lane_index() & (STEP_WARPS - 1)]);
}

DI u64 row_sum(Shared& s, u64 v, u32 turn) {
  u64* sums = s.turns[turn & 1].sum;
  v = warp_sum(v);
  if (lane_index() == 0) sums[warp_index()] = v;
  __syncthreads();
  return warp_sum(lane_index() < STEP_WARPS ? sums[lane_index()] : 0ull);
}

// Over the four threads of a group; other lanes of the warp may have no run.
DI u32 lanes_of_group() { return 15u << (lane_index() & 28); }

DI u32 group_max(u32 v) {
  v = max(v, __shfl_xor_sync(lanes_of_group(), v, 1));
  return max(v, __shfl_xor_sync(lanes_of_group(), v, 2));
}

DI u64 group_sum(u64 v) {
  v += __shfl_xor_sync(lanes_of_group(), v, 1);
  return v + __shfl_xor_sync(lanes_of_group(), v, 2);
}

// A run of floats or integers from and to memory or the pool.
template <class T>
DI void read_run(const T* row, u32 run, T (&x)[RUN]) {
  uint4 first = ((const uint4*)(row + run * RUN))[0], second = ((const uint4*)(row + run * RUN))[1];
  u32 words[RUN] = {first.x,  first.y,  first.z,  first.w,
                    second.x, second.y, second.z, second.w};
#pragma unroll
  for (u32 i = 0; i < RUN; i++) x[i] = *(const T*)&words[i];
}

template <class T>
DI void write_run(T* row, u32 run, const T (&x)[RUN]) {
  u32 words[RUN];
#pragma unroll
  for (u32 i = 0; i < RUN; i++) words[i] = *(const u32*)&x[i];
  uint4* to = (uint4*)(row + run * RUN);
  to[0] = make_uint4(words[0], words[1], words[2], words[3]);
  to[1] = make_uint4(words[4], words[5], words[6], words[7]);
}

// Makes the thread's part of a group of block-i16; its exponent byte, 256 if one is too large.
DI u32 encode_run(const float (&x)[RUN], int (&mantissas)[RUN]) {
  u32 largest = 0;
#pragma unroll
  for (u32 i = 0; i < RUN; i++) largest = max(largest, magnitude(x[i]));
  int e = block_exponent(group_max(largest));
  bool some = e != NO_EXPONENT && e != TOO_LARGE;
  float factor = pow2(some ? -e : 0);
#pragma unroll
  for (u32 i = 0; i < RUN; i++) mantissas[i] = some ? rne(mul(x[i], factor)) : 0;
  return e == TOO_LARGE ? 256 : some ? (u32)(e + 128) : 0;
}

// What the norm of the pool's row of mantissas multiplies with, `top` being the largest exponent
// byte.
DI float root_of_row(Shared& s, u32 width, u32 top, float eps, u32 turn) {
  const int* row = (const int*)s.pool;
  u64 sum = 0;
  FOR_RUNS(run, width) {
    int mantissas[RUN];
    read_run(row, run, mantissas);
    u64 squares = 0;
#pragma unroll
    for (u32 i = 0; i < RUN; i++) squares += (u32)(mantissas[i] * mantissas[i]);
    squares = group_sum(squares);
    u32 byte = s.bytes[run / 4], shift = 2 * (top - byte);
    if (byte != 0 && shift < 64 && (run & 3) == 0) sum += (squares << 16) >> shift;
  }
  return reciprocal_root(row_sum(s, sum, turn), top, width, eps);
}

// The norm of a run of the pool's row, in its place.
DI void norm_run(Shared& s, u32 run, float root, const float* gain, float (&x)[RUN]) {
  int mantissas[RUN];
  float gains[RUN];
  read_run((const int*)s.pool, run, mantissas);
  read_run(gain, run, gains);
  float unit = pow2(exponent_of(s.bytes[run / 4]));
#pragma unroll
  for (u32 i = 0; i < RUN; i++) {
    x[i] = mul(mul(mul(__int2float_rn(mantissas[i]), unit), root), gains[i]);
  }
  write_run((float*)s.pool, run, x);
}

// Normalises what is added to a state by way of block-i16, to the pool; whether it overflows.
CALL bool normalise_added(Shared& s, const float* delta, const Norm& norm) {
  u32 width = s.step.hidden, top = 0;
  FOR_RUNS(run, width) {
    float x[RUN];
    int mantissas[RUN];
    read_run(delta, run, x);
    u32 byte = encode_run(x, mantissas);
    write_run((int*)s.pool, run, mantissas);
    if ((run & 3) == 0) s.bytes[run / 4] = (u8)byte;
    top = max(top, byte);
  }
  top = row_max(s, top, 1);
  // The sums of zeros are zero: a row that overflows counts as zeros.
  bool broken = top == 256;
  float root = root_of_row(s, width, broken ? 0 : top, norm.eps, 0);
  FOR_RUNS(run, width) {
    float x[RUN];
    norm_run(s, run, root, norm.gain, x);
  }
  __syncthreads();
  return broken;
}

// The state's sum with what is added, as integers in the pool and exponent bytes; the largest byte,
// 256 if it overflows.
DI u32 sum_of_row(Shared& s, const Advance& a, bool broken) {
  u32 width = s.step.hidden, top = broken ? 256 : 0;
  const float* added = a.after.gain != 0 ? (const float*)s.pool : a.delta;
  FOR_RUNS(run, width) {
    float x[RUN] = {};
    int mantissas[RUN];
    uint4 words = *(const uint4*)(a.mantissas + run * RUN);
    u32 byte = a.exponents[run / 4];
    if (a.delta != 0) read_run(added, run, x);
    float unit = pow2(exponent_of(byte));
#pragma unroll
    for (u32 i = 0; i < RUN; i++) {
      mantissas[i] = (int)(word(words, i / 2) << (i & 1 ? 0 : 16)) >> 16;
      x[i] = add(mul(__int2float_rn(mantissas[i]), unit), x[i]);
    }
    if (a.delta != 0) {
      byte = encode_run(x, mantissas);
    } else if (byte == 255) {
      byte = 0;
    }
    write_run((int*)s.pool, run, mantissas);
    if ((run & 3) == 0) s.bytes[run / 4] = (u8)byte;
    top = max(top, byte);
  }
  return row_max(s, top, 1);
}

// Writes the pool's row as a state; the overflow marker if it is broken.
DI void keep_sum(const Shared& s, const Advance& a, bool broken) {
  FOR_RUNS(run, s.step.hidden) {
    int mantissas[RUN];
    u32 words[RUN / 2];
    read_run((const int*)s.pool, run, mantissas);
#pragma unroll
    for (u32 i = 0; i < RUN / 2; i++) {
      u32 pair = ((u32)mantissas[2 * i] & 0xffff) | (u32)mantissas[2 * i + 1] << 16;
      words[i] = broken ? 0 : pair;
    }
    *(uint4*)(a.sum_mantissas + run * RUN) = make_uint4(words[0], words[1], words[2], words[3]);
    if ((run & 3) == 0) a.sum_exponents[run / 4] = broken ? 255 : s.bytes[run / 4];
  }
}

// Takes a row to the input of a product. Its codes go to those of `rows` rows at index `at`.
// Whoever `keeps` it writes the sum, and flags.
CALL void advance(Shared& s, u32 layer, u32 kind, u32 row, u32 stage, bool keeps,
                  const float* gain, u8* codes, u32 rows, u32 at, float* scales) {
  const Step& p = s.step;
  Advance a = advance_of(p, s.layers[layer & 1], s.layers[(layer + 1) & 1], layer, kind, row);
  u32 width = p.hidden;
  bool broken = p.flagged[row] < stage;
  if (a.delta != 0 && a.after.gain != 0) broken |= normalise_added(s, a.delta, a.after);
  u32 top = sum_of_row(s, a, broken);
  broken = top == 256;
  if (a.delta != 0 && keeps) {
    keep_sum(s, a, broken);
    if (broken && threadIdx.x == 0) flag_row(p, row, stage);
  }
  if (a.norm.gain == 0) return;
  float root = root_of_row(s, width, broken ? 0 : top, a.norm.eps, 0);
  u32 largest = 0;
  FOR_RUNS(run, width) {
    float x[RUN];
    norm_run(s, run, root, gain, x);
#pragma unroll
    for (u32 i = 0; i < RUN; i++) largest = max(largest, magnitude(x[i]));
  }
  // A broken row is zeros.
  largest = row_max(s, broken ? 0 : largest, 1);
  bool some = largest >= TINY_BITS && largest < HUGE_BITS;
  float factor = some ? quotient(32512.0f, from_bits(largest)) : 0.0f;
  // Half a span may be left over at the end.
  FOR_RUNS(run, (width + 63) / 64 * 64) {
    float x[RUN] = {};
    int code[RUN];
    if (some && run < width / RUN) read_run((const float*)s.pool, run, x);
#pragma unroll
    for (u32 i = 0; i < RUN; i++) code[i] = rne(mul(x[i], factor));
    put_codes(code, place_of_run(codes, rows, at, run));
  }
  if (threadIdx.x == 0) {
    scales[at] = some ? quotient(from_bits(largest), 32512.0f) : 0.0f;
    if (largest >= HUGE_BITS && keeps) flag_row(p, row, stage);
  }
}

// Runs that a thread reads before it quantises them.
#define TOGETHER 4u

// Quantises a row whose largest magnitude is known; `thread` of `threads` takes its share.
CALL void quantise_row(const Step& p, const float* from, const u32* largest, u32 width, u32 row,
                       u32 stage, u8* codes, float* scales, u32 thread, u32 threads) {
  u32 runs = (width + 63) / 64 * 8, amax = largest[row];
  from += (u64)row * width;
  bool some = amax >= TINY_BITS && amax < HUGE_BITS;
  float factor = some ? quotient(32512.0f, from_bits(amax)) : 0.0f;
#pragma unroll 1
  for (u32 first = thread; first < runs; first += TOGETHER * threads) {
    float x[TOGETHER][RUN] = {};
#pragma unroll
    for (u32 n = 0; n < TOGETHER; n++) {
      u32 run = first + n * threads;
      if (width % RUN == 0) {
        if (run < width / RUN) read_run(from, run, x[n]);
      } else {
#pragma unroll
        for (u32 i = 0; i < RUN; i++) {
          x[n][i] = run * RUN + i < width ? from[run * RUN + i] : 0.0f;
        }
      }
    }
#pragma unroll
    for (u32 n = 0; n < TOGETHER; n++) {
      u32 run = first + n * threads;
      int code[RUN];
#pragma unroll
      for (u32 i = 0; i < RUN; i++) code[i] = some ? rne(mul(x[n][i], factor)) : 0;
      if (run < runs) put_codes(code, place_of_run(codes, p.rows, row, run));
    }
  }
  if (thread != 0) return;
  scales[row] = some ? quotient(from_bits(amax), 32512.0f) : 0.0f;
  if (amax >= HUGE_BITS) flag_row(p, row, stage);
}

DI void team_sync(u32 team, u32 workers) {
  asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "r"(workers * 32) : "memory");
}

// What the warp, one of `workers`, adds to the sums of an item, whose weights are next in the
// stream.
template <int NT, int CODEC>
DI void sum_streamed(Shared& s, Taking& stream, u32 spans, u32 worker, u32 workers,
                     const Inputs& in, Parts<NT, STEP_WARPS>& parts) {
  const u32 most = CODEC == 8 ? SPANS_W8 : SPANS_W4;
  int sums[4][NT][2] = {};
  u32 since = 0;
  bool none = true;
#pragma unroll 1
  for (u32 span = worker; span < spans; span += workers) {
    uint4 b[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) b[n] = in(span, n);
    stream.fill(s);
    Chunk<CODEC> a = take<CODEC>(s, stream);
#pragma unroll
    for (int n = 0; n < NT; n++) add_span(sums, n, a, b[n]);
    since++;
    if (since == most || span + workers >= spans) {
      since = 0;
      flush(parts, sums, none);
      none = false;
    }
  }
  if (none) flush(parts, sums, true);
}

template <int NT, int CODEC>
CALL void multiply(Shared& s, u32 layer, u32 kind, const u8* codes, const float* scales) {
  Multiply of = product_of(s.step, s.layers[layer & 1], layer, kind);
  Inputs in = {codes, scales, s.step.rows};
  Parts<NT, STEP_WARPS>& parts = *(Parts<NT, STEP_WARPS>*)s.pool;
  u32 workers = of.workers(), team = warp_index() / workers, worker = warp_index() % workers;
  u32 spans = of.m.spans, lane = lane_index(), items = of.items();
  Taking stream(s.streams[warp_index()], layer * PRODUCTS + kind + 1);
#pragma unroll 1
  for (u32 item = blockIdx.x + gridDim.x * team; item < items;
       item += gridDim.x * (STEP_WARPS / workers)) {
    const u8* block = of.block(item, lane >> 4);
    // The matrix row whose sum the lane finishes.
    u32 row = of.inner != 0 ? item * 16 + (lane & 15) + (lane >> 4) * of.inner : item * 32 + lane;
    bool there = row < of.m.rows;
    float row_scale = ((const float*)(block + row_scales_at(CODEC, spans)))[lane & 15];
    float bias = of.m.bias != 0 && there ? of.m.bias[row] : 0.0f;
    sum_streamed<NT, CODEC>(s, stream, spans, worker, workers, in, parts);
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
  stream.leave(s);
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

// Makes the input rows of a product from states. Alone, a block needs room for its row of numbers,
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
    for (u32 k = threadIdx.x; k < p.hidden / 4; k += blockDim.x) {
      ((float4*)here)[k] = ((const float4*)gain)[k];
    }
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
#pragma unroll 1
    for (u32 row = 0; row < p.rows; row++) {
      quantise_row(p, from, largest, width, row, stage, s.pool + behind, s.scales, threadIdx.x,
                   blockDim.x);
    }
    __syncthreads();
    return {s.pool + behind, s.scales, p.rows};
  }
  // As many blocks for each row; those that are left over have none.
  u32 blocks = gridDim.x / p.rows, row = blockIdx.x / blocks;
  if (row < p.rows) {
    quantise_row(p, from, largest, width, row, stage, p.codes, p.scales,
                 blockIdx.x % blocks * blockDim.x + threadIdx.x, blocks * blockDim.x);
  }
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
  __syncthreads();
  start_stream(s);
  fill_ring(s, 1);
  begin(s);
  arrive(s);
#pragma unroll 1
  for (u32 n = 0; n <= p.layer_count * PRODUCTS; n++) {
    // Two stages a product; the first is 1, because 0 marks what is flagged from the start.
    u32 layer = n / PRODUCTS, kind = n % PRODUCTS, stage = 2 * n + 1;
    const LayerPlan& l = s.layers[layer & 1];
    const u32* largest = p.largest + layer * 2 * p.rows;
    Inputs in;
    if (kind == OUTPUT) {
      // The layer before is done with: its place is the next one's.
      if (layer + 1 < p.layer_count) copy_words(s.layers[(layer + 1) & 1], p.layers + layer + 1);
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
    arrive(s);
    // The product after this one is begun with while others arrive; its plan is here.
    fill_ring(s, min(n + 2, p.layer_count * PRODUCTS + (p.head.bytes != 0)));
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
