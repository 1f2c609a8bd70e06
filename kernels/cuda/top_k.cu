// The k largest of each row; NaN counts as -infinity. Bound: one read of the logits, then the latency of two or three
// launches.
//
// A value and its id make one 64-bit key, larger for a larger value and, among equals, a lower id. Chunks of a row are
// sorted in shared memory and leave their k best; chunks of those follow, until one chunk is left.
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 2 * kTopKMax;  // So that every round at least halves what is left.

__device__ __forceinline__ uint64_t MakeKey(float value, int id) {
  if (value != value) value = NegativeInfinity();
  if (value == 0.0f) value = 0.0f;  // -0 ties with 0.
  const uint32_t bits = __float_as_uint(value);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ float KeyValue(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}
__device__ __forceinline__ int KeyId(uint64_t key) { return static_cast<int>(~static_cast<uint32_t>(key)); }

// Bitonic sort, largest first, of n (a power of two) keys by the whole block.
__device__ __forceinline__ void SortDescending(uint64_t* keys, int n) {
  for (int size = 2; size <= n; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int pair = threadIdx.x; pair < n / 2; pair += kThreads) {
        const int i = 2 * pair - (pair & (stride - 1));
        const uint64_t a = keys[i], b = keys[i + stride];
        if ((a < b) == ((i & size) == 0)) {
          keys[i] = b;
          keys[i + stride] = a;
        }
      }
      __syncthreads();
    }
  }
}

// Block (chunk, row). kFirst: keys are made of the logits; else `in` holds them, n per row.
template <bool kFirst>
__global__ void __launch_bounds__(kThreads) TopKChunk(TopKArgs a, const uint64_t* in, int n, uint64_t* out) {
  SHOAL_DYNAMIC_SHARED(uint64_t, keys);  // [sorted]
  const int first = blockIdx.x * kChunk;
  const int count = n - first < kChunk ? n - first : kChunk;
  int sorted = 2;
  while (sorted < count || sorted < a.k) sorted *= 2;
  for (int i = threadIdx.x; i < sorted; i += kThreads) {
    uint64_t key = 0;  // Below every real one.
    if (i < count) {
      key = kFirst ? MakeKey(a.logits[blockIdx.y * a.logits_stride + first + i], first + i)
                   : in[static_cast<int64_t>(blockIdx.y) * n + first + i];
    }
    keys[i] = key;
  }
  __syncthreads();
  SortDescending(keys, sorted);
  for (int i = threadIdx.x; i < a.k; i += kThreads) {
    if (gridDim.x == 1) {
      a.values[blockIdx.y * a.values_stride + i] = KeyValue(keys[i]);
      a.ids[blockIdx.y * a.ids_stride + i] = KeyId(keys[i]);
    } else {
      out[(static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * a.k + i] = keys[i];
    }
  }
}

int Chunks(int n) { return (n + kChunk - 1) / kChunk; }

}  // namespace

int64_t TopKWorkspaceWords(int rows, int cols, int k) {
  const int left = Chunks(cols) * k;
  return static_cast<int64_t>(rows) * (left + Chunks(left) * k);
}

void LaunchTopK(const TopKArgs& args, Stream stream) {
  constexpr size_t kSharedBytes = kChunk * sizeof(uint64_t);
  int chunks = Chunks(args.cols);
  uint64_t* out = args.workspace;
  uint64_t* other = args.workspace + static_cast<int64_t>(args.rows) * chunks * args.k;
  SHOAL_LAUNCH(TopKChunk<true>, dim3(chunks, args.rows), dim3(kThreads), kSharedBytes, stream, args,
               static_cast<const uint64_t*>(nullptr), args.cols, out);
  while (chunks > 1) {
    const int n = chunks * args.k;
    chunks = Chunks(n);
    SHOAL_LAUNCH(TopKChunk<false>, dim3(chunks, args.rows), dim3(kThreads), kSharedBytes, stream, args,
                 static_cast<const uint64_t*>(out), n, other);
    uint64_t* const used = out;
    out = other;
    other = used;
  }
}

}  // namespace shoal::cuda
