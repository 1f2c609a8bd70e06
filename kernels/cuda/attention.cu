// Attention over paged KV. Bound: decode, one read of each sequence's K and V; prefill, 4 * D float operations per
// query head and visible key.
//
// Keys are taken 16 at a time, in order of position, within KV blocks, and in partitions of kAttentionPartition
// positions. Within a partition a (token, head) row keeps an online softmax state; partitions are merged in order.
// Every row sees the operations that kernels/cpu/attention_kernels.h lists, whatever else is in the step: decode
// computes the partitions in blocks of their own and merges them in a second kernel, prefill walks them in one block.
//
// A block holds some rows that read the same KV head, so K and V are read once for all query heads of the group. A warp
// scores its rows two at a time, a lane per (row, key); for the values a lane holds four columns of every row. Tensor
// cores would need K, V and the weights in 16 bits and another order of additions: measured need first.
#include <algorithm>

#include "kernels/attention_partition.h"
#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/kernels.h"

namespace shoal::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 16;  // Keys.
constexpr int kHeadDimMax = 256;

// Shared memory of a block, in floats.
struct Shared {
  float* keys;     // [kTile][head_dim + 4]: rows 16 bytes apart in the banks.
  float* values;   // [kTile][head_dim]
  float* queries;  // [rows][head_dim]
  float* weights;  // [rows][kTile]
};
__device__ __forceinline__ Shared SplitShared(float* memory, int rows, int head_dim) {
  Shared s;
  s.keys = memory;
  s.values = s.keys + kTile * (head_dim + 4);
  s.queries = s.values + kTile * head_dim;
  s.weights = s.queries + rows * head_dim;
  return s;
}
int SharedBytes(int rows, int head_dim) {
  return (kTile * (2 * head_dim + 4) + rows * (head_dim + kTile)) * static_cast<int>(sizeof(float));
}

// Which rows a block works on: (token, head) pairs of one sequence and KV head, tokens first.
struct Rows {
  int sequence;
  int token;    // First token of the sequence, in the step.
  int first;    // First row of this block, counted from there.
  int count;    // Rows of the sequence and KV head.
  int visible;  // Keys that the sequence's first token sees.
  int context;  // Keys that its last token sees.
  int kv_head;
  int head;   // First query head of the KV head.
  int heads;  // Query heads of the KV head.

  __device__ __forceinline__ int TokenOf(int row) const { return token + row / heads; }
  __device__ __forceinline__ int HeadOf(int row) const { return head + row % heads; }
  __device__ __forceinline__ int VisibleOf(int row) const { return visible + row / heads; }
};

__device__ __forceinline__ Rows FindRows(const AttentionArgs& a, int sequence, int kv_head, int first) {
  Rows r;
  r.sequence = sequence;
  r.token = a.query_start[sequence];
  const int tokens = a.query_start[sequence + 1] - r.token;
  r.context = a.context_len[sequence];
  r.visible = r.context - (tokens - 1);
  r.kv_head = kv_head;
  const int begin = (kv_head + a.kv_first) * a.heads_per_kv - a.first;
  r.head = begin > 0 ? begin : 0;
  const int end = begin + a.heads_per_kv < a.heads ? begin + a.heads_per_kv : a.heads;
  r.heads = end - r.head;
  r.first = first;
  r.count = tokens * r.heads;
  return r;
}

// Softmax states of a warp's 2 * kPairs rows. A row's `largest` and `total` live in the 16 lanes that score it; its
// outputs are spread over the warp, four columns a lane.
template <int kPairs, int kChunks>
struct State {
  float largest[kPairs];
  float total[kPairs];
  float outputs[2 * kPairs][kChunks][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      largest[i] = NegativeInfinity();
      total[i] = 0.0f;
    }
#pragma unroll
    for (int r = 0; r < 2 * kPairs; ++r) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) outputs[r][c][e] = 0.0f;
      }
    }
  }
};

__device__ __forceinline__ float4 LoadFour(KvType type, const void* cache, const uint16_t* scales, int64_t at) {
  if (type == KvType::kF32) return *reinterpret_cast<const float4*>(static_cast<const float*>(cache) + at);
  if (type == KvType::kI8) {
    const uint32_t q = *reinterpret_cast<const uint32_t*>(static_cast<const int8_t*>(cache) + at);
    const float scale = HalfBitsToFloat(scales[at / 32]);
    return {static_cast<float>(static_cast<int8_t>(q)) * scale, static_cast<float>(static_cast<int8_t>(q >> 8)) * scale,
            static_cast<float>(static_cast<int8_t>(q >> 16)) * scale,
            static_cast<float>(static_cast<int8_t>(q >> 24)) * scale};
  }
  const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(cache) + at);
  return {HalfBitsToFloat(static_cast<uint16_t>(bits.x)), HalfBitsToFloat(static_cast<uint16_t>(bits.x >> 16)),
          HalfBitsToFloat(static_cast<uint16_t>(bits.y)), HalfBitsToFloat(static_cast<uint16_t>(bits.y >> 16))};
}

// n keys and values from element `at` on, to shared memory.
__device__ __forceinline__ void LoadTile(const AttentionArgs& a, const Shared& s, int64_t at, int n) {
  const int chunks = a.head_dim / 4;
  for (int i = threadIdx.x; i < n * chunks; i += kThreads) {
    const int key = i / chunks, d = i % chunks * 4;
    *reinterpret_cast<float4*>(s.keys + key * (a.head_dim + 4) + d) =
        LoadFour(a.kv_type, a.k, a.k_scale, at + key * a.head_dim + d);
    *reinterpret_cast<float4*>(s.values + key * a.head_dim + d) =
        LoadFour(a.kv_type, a.v, a.v_scale, at + key * a.head_dim + d);
  }
}

// One tile of keys from `position` on, in shared memory, for this warp's rows.
template <int kPairs, int kChunks>
__device__ __forceinline__ void AttendTile(const AttentionArgs& a, const Shared& s, const Rows& rows, int position,
                                           int n, State<kPairs, kChunks>& state) {
  const int lane = threadIdx.x % 32, key = lane % 16;
  const int warp_row = threadIdx.x / 32 * (2 * kPairs);  // In the block.
  float sums[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) sums[i] = 0.0f;
  const float* key_row = s.keys + key * (a.head_dim + 4);
  const float* query_row = s.queries + (warp_row + lane / 16) * a.head_dim;
  for (int d = 0; d < a.head_dim; d += 4) {
    const float4 k = *reinterpret_cast<const float4*>(key_row + d);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float4 q = *reinterpret_cast<const float4*>(query_row + 2 * i * a.head_dim + d);
      sums[i] = fmaf(q.x, k.x, sums[i]);
      sums[i] = fmaf(q.y, k.y, sums[i]);
      sums[i] = fmaf(q.z, k.z, sums[i]);
      sums[i] = fmaf(q.w, k.w, sums[i]);
    }
  }
  float factors[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const int row = rows.first + warp_row + 2 * i + lane / 16;
    const int left = rows.VisibleOf(row) - position;
    const int seen = row >= rows.count ? 0 : left < n ? left : n;
    const float score = key < seen ? sums[i] * a.scale : NegativeInfinity();
    const float fresh = MaxLanes<16>(score);
    const float old = state.largest[i];
    const float largest = fresh > old ? fresh : old;
    const float weight = key < seen ? Exp(score - largest) : 0.0f;
    const float sum = SumLanes<16>(weight);
    factors[i] = 1.0f;
    if (seen > 0) {
      if (largest != old) factors[i] = Exp(old - largest);
      state.total[i] = state.total[i] * factors[i] + sum;
      state.largest[i] = largest;
    }
    s.weights[(warp_row + 2 * i + lane / 16) * kTile + key] = weight;
  }
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 2 * kPairs; ++r) {
    const float factor = __shfl_sync(kAllLanes, factors[r / 2], r % 2 * 16);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) state.outputs[r][c][e] *= factor;
    }
  }
  for (int v = 0; v < n; ++v) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int d = (c * 32 + lane) * 4;
      if (d >= a.head_dim) break;
      const float4 value = *reinterpret_cast<const float4*>(s.values + v * a.head_dim + d);
#pragma unroll
      for (int r = 0; r < 2 * kPairs; ++r) {
        const int row = rows.first + warp_row + r;
        // What lies past a row's last key may be anything, NaN too.
        if (row >= rows.count || v >= rows.VisibleOf(row) - position) continue;
        const float w = s.weights[(warp_row + r) * kTile + v];
        float* out = state.outputs[r][c];
        out[0] = fmaf(w, value.x, out[0]);
        out[1] = fmaf(w, value.y, out[1]);
        out[2] = fmaf(w, value.z, out[2]);
        out[3] = fmaf(w, value.w, out[3]);
      }
    }
  }
}

// Keys of blocks [first_block, last_block) that the block's last row sees.
template <int kPairs, int kChunks>
__device__ __forceinline__ void AttendPartition(const AttentionArgs& a, const Shared& s, const Rows& rows,
                                                int first_block, int last_block, int visible,
                                                State<kPairs, kChunks>& state) {
  state.Clear();
  const int32_t* blocks = a.block_table + rows.sequence * a.block_table_stride;
  for (int block = first_block; block < last_block && block * a.block < visible; ++block) {
    const int left = visible - block * a.block;
    const int in_block = left < a.block ? left : a.block;
    const int64_t base = (static_cast<int64_t>(blocks[block]) * a.kv_heads + rows.kv_head) * a.block * a.head_dim;
    for (int offset = 0; offset < in_block; offset += kTile) {
      const int n = in_block - offset < kTile ? in_block - offset : kTile;
      __syncthreads();  // The tile before has been read.
      LoadTile(a, s, base + static_cast<int64_t>(offset) * a.head_dim, n);
      __syncthreads();
      AttendTile(a, s, rows, block * a.block + offset, n, state);
    }
  }
}

template <int kPairs>
__device__ __forceinline__ void LoadQueries(const AttentionArgs& a, const Shared& s, const Rows& rows) {
  constexpr int kRows = 2 * kPairs * kWarps;
  for (int i = threadIdx.x; i < kRows * a.head_dim; i += kThreads) {
    const int row = rows.first + i / a.head_dim;
    s.queries[i] =
        row < rows.count ? a.q[rows.TokenOf(row) * a.q_stride + rows.HeadOf(row) * a.head_dim + i % a.head_dim] : 0.0f;
  }
}

// ---- decode ----

// A state in the workspace, of one head: outputs [head_dim], then largest and total. The states of a sequence's
// partitions follow those of the sequences before it.
__device__ __forceinline__ float* Partial(const AttentionArgs& a, int first, int partition, int head) {
  return a.workspace + (static_cast<int64_t>(first + partition) * a.heads + head) * (a.head_dim + 2);
}

__device__ __forceinline__ int PartitionsOf(const AttentionArgs& a, int sequence) {
  const int positions = a.blocks_per_partition * a.block;
  return (a.context_len[sequence] + positions - 1) / positions;
}

// Partitions of all sequences before this one, by one whole warp.
__device__ __forceinline__ int PartitionsBefore(const AttentionArgs& a, int sequence) {
  int sum = 0;
  for (int s = threadIdx.x % 32; s < sequence; s += 32) sum += PartitionsOf(a, s);
  return SumLanes<32>(sum);
}

// Leaves a partition's state in the workspace.
template <int kPairs, int kChunks>
__device__ __forceinline__ void StoreState(const AttentionArgs& a, const Rows& rows, int before, int partition,
                                           const State<kPairs, kChunks>& state) {
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * (2 * kPairs);
#pragma unroll
  for (int r = 0; r < 2 * kPairs; ++r) {
    const float largest = __shfl_sync(kAllLanes, state.largest[r / 2], r % 2 * 16);
    const float total = __shfl_sync(kAllLanes, state.total[r / 2], r % 2 * 16);
    const int row = rows.first + warp_row + r;
    if (row >= rows.count) continue;
    float* out = Partial(a, before, partition, rows.HeadOf(row));
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int d = (c * 32 + lane) * 4;
      if (d >= a.head_dim) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) out[d + e] = state.outputs[r][c][e];
    }
    if (lane == 0) {
      out[a.head_dim] = largest;
      out[a.head_dim + 1] = total;
    }
  }
}

// Block (partition, KV head and tile of its rows, sequence); a block may take every gridDim.x-th partition.
template <int kPairs, int kChunks>
__global__ void __launch_bounds__(kThreads, 5) DecodePartition(const __grid_constant__ AttentionArgs a, int row_tiles) {
  constexpr int kRows = 2 * kPairs * kWarps;
  SHOAL_DYNAMIC_SHARED(float, memory);
  const Rows rows = FindRows(a, blockIdx.z, blockIdx.y / row_tiles, blockIdx.y % row_tiles * kRows);
  if (a.query_start[rows.sequence + 1] - rows.token != 1) return;
  const int partitions = PartitionsOf(a, rows.sequence);
  if (rows.first >= rows.count || static_cast<int>(blockIdx.x) >= partitions) return;
  const int before = PartitionsBefore(a, rows.sequence);
  const Shared s = SplitShared(memory, kRows, a.head_dim);
  LoadQueries<kPairs>(a, s, rows);
  for (int partition = blockIdx.x; partition < partitions; partition += gridDim.x) {
    const int first_block = partition * a.blocks_per_partition;
    State<kPairs, kChunks> state;
    AttendPartition(a, s, rows, first_block, first_block + a.blocks_per_partition, rows.context, state);
    StoreState(a, rows, before, partition, state);
  }
}

// Block (head, sequence), a thread per column.
__global__ void __launch_bounds__(kHeadDimMax) DecodeMerge(const __grid_constant__ AttentionArgs a) {
  const int head = blockIdx.x, sequence = blockIdx.y, d = threadIdx.x;
  const int token = a.query_start[sequence];
  if (a.query_start[sequence + 1] - token != 1) return;
  const int partitions = PartitionsOf(a, sequence);
  const float* part = Partial(a, PartitionsBefore(a, sequence), 0, head);
  if (d >= a.head_dim) return;
  float largest = part[a.head_dim], total = part[a.head_dim + 1], out = part[d];
  for (int p = 1; p < partitions; ++p) {
    part += a.heads * (a.head_dim + 2);
    const float other = part[a.head_dim];
    const float top = largest > other ? largest : other;
    const float mine = Exp(largest - top), theirs = Exp(other - top);
    total = fmaf(part[a.head_dim + 1], theirs, total * mine);
    out = fmaf(part[d], theirs, out * mine);
    largest = top;
  }
  a.out[token * a.out_stride + head * a.head_dim + d] = out * (1.0f / total);
}

// ---- prefill ----

// Adds a partition's state to that of the ones before, for the rows that saw one of its keys.
template <int kPairs, int kChunks>
__device__ __forceinline__ void Merge(const Rows& rows, int position, const State<kPairs, kChunks>& part,
                                      State<kPairs, kChunks>& all) {
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * (2 * kPairs);
  float mine[kPairs], theirs[kPairs];
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const bool seen = rows.VisibleOf(rows.first + warp_row + 2 * i + lane / 16) > position;
    const float top = all.largest[i] > part.largest[i] ? all.largest[i] : part.largest[i];
    mine[i] = seen ? Exp(all.largest[i] - top) : 1.0f;
    theirs[i] = seen ? Exp(part.largest[i] - top) : 0.0f;
    if (seen) {
      all.total[i] = fmaf(part.total[i], theirs[i], all.total[i] * mine[i]);
      all.largest[i] = top;
    }
  }
#pragma unroll
  for (int r = 0; r < 2 * kPairs; ++r) {
    const float scale = __shfl_sync(kAllLanes, mine[r / 2], r % 2 * 16);
    const float part_scale = __shfl_sync(kAllLanes, theirs[r / 2], r % 2 * 16);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        all.outputs[r][c][e] = fmaf(part.outputs[r][c][e], part_scale, all.outputs[r][c][e] * scale);
      }
    }
  }
}

// Finds the sequence that holds row tile `tile`, where a sequence has ceil(rows / kRows) of them; false past the last.
template <int kRows>
__device__ __forceinline__ bool FindTile(const AttentionArgs& a, int kv_head, int tile, bool leave_single, Rows* rows) {
  for (int s = 0; s < a.sequences; ++s) {
    const int tokens = a.query_start[s + 1] - a.query_start[s];
    if (leave_single && tokens == 1) continue;
    *rows = FindRows(a, s, kv_head, tile * kRows);
    const int tiles = (rows->count + kRows - 1) / kRows;
    if (tile < tiles) return true;
    tile -= tiles;
  }
  return false;
}

// Block (tile of rows, KV head). leave_single: sequences of one token are decode's.
template <int kPairs, int kChunks>
__global__ void __launch_bounds__(kThreads, 2) Prefill(const __grid_constant__ AttentionArgs a, bool leave_single) {
  constexpr int kRows = 2 * kPairs * kWarps;
  SHOAL_DYNAMIC_SHARED(float, memory);
  Rows rows;
  // The last tiles see the most keys: they begin first.
  if (!FindTile<kRows>(a, blockIdx.y, gridDim.x - 1 - blockIdx.x, leave_single, &rows)) return;
  const Shared s = SplitShared(memory, kRows, a.head_dim);
  LoadQueries<kPairs>(a, s, rows);
  const int last = rows.first + kRows < rows.count ? rows.first + kRows : rows.count;
  const int visible = rows.VisibleOf(last - 1);
  const int per_partition = a.blocks_per_partition;
  State<kPairs, kChunks> all, part;
  AttendPartition(a, s, rows, 0, per_partition, visible, all);
  for (int block = per_partition; block * a.block < visible; block += per_partition) {
    AttendPartition(a, s, rows, block, block + per_partition, visible, part);
    Merge(rows, block * a.block, part, all);
  }
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * (2 * kPairs);
#pragma unroll
  for (int r = 0; r < 2 * kPairs; ++r) {
    const float inverse = 1.0f / __shfl_sync(kAllLanes, all.total[r / 2], r % 2 * 16);
    const int row = rows.first + warp_row + r;
    if (row >= rows.count) continue;
    float* out = a.out + rows.TokenOf(row) * a.out_stride + rows.HeadOf(row) * a.head_dim;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int d = (c * 32 + lane) * 4;
      if (d >= a.head_dim) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) out[d + e] = all.outputs[r][c][e] * inverse;
    }
  }
}

template <int kPairs, int kChunks>
void Decode(const AttentionArgs& a, Stream stream) {
  constexpr int kRows = 2 * kPairs * kWarps;
  const int row_tiles = (a.heads_per_kv + kRows - 1) / kRows;
  const int partitions = (a.max_blocks + a.blocks_per_partition - 1) / a.blocks_per_partition;
  const int blocks = a.partition_blocks == 0 || a.partition_blocks > partitions ? partitions : a.partition_blocks;
  SHOAL_LAUNCH((DecodePartition<kPairs, kChunks>), dim3(blocks, a.kv_heads * row_tiles, a.sequences), dim3(kThreads),
               SharedBytes(kRows, a.head_dim), stream, a, row_tiles);
  SHOAL_LAUNCH(DecodeMerge, dim3(a.heads, a.sequences), dim3((a.head_dim + 31) / 32 * 32), 0, stream, a);
}

template <int kPairs, int kChunks>
void PrefillTiles(const AttentionArgs& a, Stream stream) {
  constexpr int kRows = 2 * kPairs * kWarps;
  const int heads = a.heads_per_kv < a.heads ? a.heads_per_kv : a.heads;
  const int tiles = (a.tokens * heads + kRows - 1) / kRows + a.sequences;
  SHOAL_LAUNCH((Prefill<kPairs, kChunks>), dim3(tiles, a.kv_heads), dim3(kThreads), SharedBytes(kRows, a.head_dim),
               stream, a, a.workspace != nullptr);
}

}  // namespace

int64_t AttentionWorkspaceFloats(int sequences, int max_blocks, int64_t num_blocks, int block, int heads,
                                 int head_dim) {
  const int per_partition = BlocksPerPartition(block);
  const int64_t each = (max_blocks + per_partition - 1) / per_partition;
  // A sequence's last partition may be begun only.
  const int64_t partitions = std::min(sequences * each, num_blocks / per_partition + sequences);
  return partitions * heads * (head_dim + 2);
}

void LaunchAttentionDecode(const AttentionArgs& args, Stream stream) {
  args.head_dim <= 128 ? Decode<1, 1>(args, stream) : Decode<1, 2>(args, stream);
}

void LaunchAttentionPrefill(const AttentionArgs& args, Stream stream) {
  args.head_dim <= 128 ? PrefillTiles<4, 1>(args, stream)
                       : PrefillTiles<1, 2>(args, stream);  // 42 KB of shared memory; two pairs need 50.
}

}  // namespace shoal::cuda
