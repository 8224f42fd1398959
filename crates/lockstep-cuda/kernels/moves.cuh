// Operations that move, scale or add rows: dequant, bias, gather, flags, and the sums of experts.
//
// A thread takes an element of a row; grids are (blocks of elements, rows).
#include "elements.cuh"

#define ELEMENT_THREADS 256

DI u32 element_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// out = f32(sum) * (row scale * token scale).
KERNEL(ELEMENT_THREADS) dequant(const i64* sums, const float* token_scales, const float* row_scales,
                                u32 width, float* out) {
  u32 k = element_index();
  if (k >= width) return;
  u64 at = (u64)blockIdx.y * width + k;
  out[at] = mul(__ll2float_rn(sums[at]), mul(row_scales[k], token_scales[blockIdx.y]));
}

// Adds one number per column to every row.
KERNEL(ELEMENT_THREADS) add_bias(const float* bias, u32 width, float* rows) {
  u32 k = element_index();
  if (k >= width) return;
  u64 at = (u64)blockIdx.y * width + k;
  rows[at] = add(rows[at], bias[k]);
}

// out[i] = the row of `from` at indexes[i]; rows of `bytes` bytes.
KERNEL(ELEMENT_THREADS) gather(const u8* from, const u32* indexes, u32 bytes, u8* out) {
  u32 k = element_index();
  if (k >= bytes) return;
  out[(u64)blockIdx.y * bytes + k] = from[(u64)indexes[blockIdx.y] * bytes + k];
}

// Flags the row indexes[i] of `out` where row i is flagged.
KERNEL(ELEMENT_THREADS) merge_flags(const u32* flags, const u32* indexes, u32 rows, u32* out) {
  u32 row = element_index();
  if (row < rows && flags[row] != 0) out[indexes[row]] = 1;
}

// out[indexes[i]] += weights[i] * rows[i]; no index comes twice.
KERNEL(ELEMENT_THREADS) accumulate(const float* rows, const u32* indexes, const float* weights,
                                   u32 width, float* out) {
  u32 k = element_index();
  if (k >= width) return;
  u64 to = (u64)indexes[blockIdx.y] * width + k;
  out[to] = add(out[to], mul(weights[blockIdx.y], rows[(u64)blockIdx.y * width + k]));
}

// out[i] += sigmoid(gates[i]) * rows[i].
KERNEL(ELEMENT_THREADS) accumulate_gated(const float* rows, const float* gates, u32 width,
                                         float* out) {
  u32 k = element_index();
  if (k >= width) return;
  u64 at = (u64)blockIdx.y * width + k;
  out[at] = add(out[at], mul(sigmoid(gates[blockIdx.y]), rows[at]));
}
