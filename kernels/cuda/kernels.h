// The kernels as the host sees them: plain arguments, one Launch function per kernel, defined in the .cu file of the
// op.
//
// Pointers are device memory, strides count elements, and everything is queued on `stream`. Shapes were checked by
// CudaOps. Grids depend on shapes alone, never on values in device memory, so that a captured graph serves every step
// of its shapes.
#pragma once

#include <cstdint>

#include "kernels/activation_out.h"

#include "kernels/cuda/link_layout.h"

struct CUstream_st;

namespace shoal::cuda {

using Stream = CUstream_st*;  // cudaStream_t, which this header need not know.

// The instructions that matrix products use. All give the same bits.
enum class Path : uint8_t {
  kDp4a,  // No tensor cores: GTX 16xx, which has mma but runs it slowly.
  kSm75,  // mma.m8n8k16, no cp.async.
  kSm80,  // mma.m16n8k32, cp.async.
};

struct EmbedArgs {
  const void* table;  // [V, cols] f32 or bf16
  bool bf16;
  int64_t table_stride;
  const int32_t* ids;
  float* out;
  int64_t out_stride;
  int rows;
  int cols;
};
void LaunchEmbed(const EmbedArgs& args, Stream stream);

struct GatherRowsArgs {
  const unsigned char* x;
  int64_t x_stride;  // Bytes, here and below.
  const int32_t* ids;
  unsigned char* out;
  int64_t out_stride;
  int rows;
  int row_bytes;
};
void LaunchGatherRows(const GatherRowsArgs& args, Stream stream);

struct RmsNormArgs {
  const double* delta;  // Added to x first, if not null.
  int64_t delta_stride;
  float* x;  // Written only when delta is not null.
  int64_t x_stride;
  const float* gain;
  float eps;
  int rows;
  int cols;
  ActivationOut out;
};
void LaunchRmsNorm(const RmsNormArgs& args, Stream stream);

struct AddResidualArgs {
  const double* delta;
  int64_t delta_stride;
  float* residual;
  int64_t residual_stride;
  int rows;
  int cols;
};
void LaunchAddResidual(const AddResidualArgs& args, Stream stream);

struct HeadRmsNormArgs {
  const float* gain;
  float eps;
  float* heads;
  int64_t stride;
  int rows;
  int heads_per_row;
  int head_dim;
};
void LaunchHeadRmsNorm(const HeadRmsNormArgs& args, Stream stream);

// Makes q, scale and sum of out from floats; out.dense is not looked at.
struct QuantizeArgs {
  const float* x;
  int64_t x_stride;
  int rows;
  int cols;
  ActivationOut out;
};
void LaunchQuantize(const QuantizeArgs& args, Stream stream);

struct RopeTableArgs {
  const int32_t* positions;
  const float* inv_freq;
  float scale;
  float* out;
  int64_t out_stride;
  int rows;
  int half;
};
void LaunchRopeTable(const RopeTableArgs& args, Stream stream);

struct RopeArgs {
  const float* table;
  int64_t table_stride;
  float* heads;
  int64_t stride;
  int rows;
  int heads_per_row;
  int half;
};
void LaunchRope(const RopeArgs& args, Stream stream);

enum class KvType : uint8_t { kF32, kF16, kI8 };

struct StoreKvArgs {
  const float* k;
  const float* v;
  int64_t k_stride;
  int64_t v_stride;
  const int32_t* slots;
  void* k_cache;  // [num_blocks, kv_heads, block, head_dim]
  void* v_cache;
  KvType kv_type;
  uint16_t* k_scale;  // kI8: f16, one per 32 values
  uint16_t* v_scale;
  int rows;
  int kv_heads;
  int block;
  int head_dim;
};
void LaunchStoreKv(const StoreKvArgs& args, Stream stream);

struct QuantizedLinearArgs {
  const uint8_t* values;        // int8: [rows padded][cols]; int4: linear_weights.cuh
  const uint8_t* group_scales;  // int4
  const int8_t* group_offsets;  // int4
  const float* scales;
  const float* bias;  // Or null.
  bool int4;
  int rows;  // Not padded.
  int cols;
  int group;
  const int8_t* q;  // The activation.
  int64_t q_stride;
  const float* x_scale;
  int64_t x_scale_stride;
  const int32_t* x_sum;
  int64_t x_sum_stride;
  int tokens;
  // One of three results. `out`: Linear. `partial_out`: LinearPartial. `silu_out`: silu(gate) * up, with gate in the
  // first half of the rows and up in the second; then out_stride counts its columns.
  float* out;
  double* partial_out;
  float* silu_out;
  int64_t out_stride;
};
void LaunchQuantizedLinear(const QuantizedLinearArgs& args, Path path, Stream stream);

struct DenseLinearArgs {
  const void* values;  // [rows padded][cols] f32 or bf16
  bool bf16;
  const float* bias;
  int rows;
  int cols;
  int group;
  const float* x;
  int64_t x_stride;
  int tokens;
  float* out;
  double* partial_out;
  int64_t out_stride;
};
void LaunchDenseLinear(const DenseLinearArgs& args, Stream stream);

// silu(gate) * up of a product that was written in full.
struct SiluMulArgs {
  const float* gate_up;  // [rows, 2 * cols]
  int64_t stride;
  float* out;
  int64_t out_stride;
  int rows;
  int cols;
};
void LaunchSiluMul(const SiluMulArgs& args, Stream stream);

struct AttentionArgs {
  const float* q;
  int64_t q_stride;
  const void* k;  // [num_blocks, kv_heads, block, head_dim]
  const void* v;
  KvType kv_type;
  const uint16_t* k_scale;  // kI8: f16, one per 32 values
  const uint16_t* v_scale;
  const int32_t* query_start;  // [sequences + 1]
  const int32_t* context_len;  // [sequences]
  const int32_t* block_table;  // [sequences, max_blocks]
  int64_t block_table_stride;
  int sequences;
  int tokens;
  int max_blocks;
  int kv_heads;
  int block;
  int blocks_per_partition;  // BlocksPerPartition(block)
  int head_dim;
  int heads;  // With the next three: HeadMap.
  int first;
  int kv_first;
  int heads_per_kv;
  float scale;
  float* out;
  int64_t out_stride;
  // Decode: softmax states of the partitions, AttentionWorkspaceFloats(...) of them. Null: prefill takes the sequences
  // of one token, too.
  float* workspace;
  int partition_blocks;  // Blocks that share out a sequence's partitions; 0: one each.
};
// Enough for every step of these sizes, as long as no KV block belongs to two sequences.
int64_t AttentionWorkspaceFloats(int sequences, int max_blocks, int64_t num_blocks, int block, int heads, int head_dim);
// The sequences of one token: partitions are computed side by side, then merged.
void LaunchAttentionDecode(const AttentionArgs& args, Stream stream);
// The others, or all: a block walks the partitions of its tokens.
void LaunchAttentionPrefill(const AttentionArgs& args, Stream stream);

struct TopKArgs {
  const float* logits;
  int64_t logits_stride;
  int rows;
  int cols;
  int k;  // 1..kTopKMax
  float* values;
  int64_t values_stride;
  int32_t* ids;
  int64_t ids_stride;
  uint64_t* workspace;  // TopKWorkspaceWords(...)
};
constexpr int kTopKMax = 1024;
int64_t TopKWorkspaceWords(int rows, int cols, int k);
void LaunchTopK(const TopKArgs& args, Stream stream);

// One rank's view of the mailboxes of its peers (kernels/peer_link.h).
struct LinkArgs {
  uint64_t* mailbox[kLinkPeersMax];  // By rank; memory that this device reaches.
  LinkState* state;
  LinkReport* report;
  MailboxLayout layout;
  int rank;
  int ranks;
  uint64_t limit_ns;  // For one wait.
};

// inout: [count], at most layout.sum_elements; becomes the sum over ranks.
struct AllReduceArgs {
  LinkArgs link;
  double* inout;
  int count;
};
void LaunchAllReduce(const AllReduceArgs& args, Stream stream);

// RmsNorm with the sum of delta over ranks in place of delta, which must not be null; rows * cols is at most
// layout.sum_elements.
void LaunchAllReduceRmsNorm(const LinkArgs& link, const RmsNormArgs& args, Stream stream);

// A tensor to or from rank `peer`. data: aligned to 4 bytes.
struct PutArgs {
  LinkArgs link;
  const unsigned char* data;
  int64_t bytes;
  int peer;
};
void LaunchPut(const PutArgs& args, Stream stream);
struct GetArgs {
  LinkArgs link;
  unsigned char* data;
  int64_t bytes;
  int peer;
};
void LaunchGet(const GetArgs& args, Stream stream);

}  // namespace shoal::cuda
