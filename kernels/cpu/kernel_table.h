// The inner loops of the CPU back end, once per instruction set, behind plain function pointers.
//
// The files that fill a table are compiled with instruction-set flags. They include this header, the lanes_*.h of their
// instruction set and the *_kernels.h loops, and nothing else: an inline function of a shared header compiled there
// could be the copy the linker keeps for the whole program, which would then fault on older CPUs. Hence raw pointers
// here.
#pragma once

#include <cstdint>

#include "kernels/activation_out.h"

namespace shoal::cpu {

struct RmsNormArgs {
  const double* delta;  // Added to x first, if not null.
  int64_t delta_stride;
  float* x;  // Written only when delta is not null.
  int64_t x_stride;
  const float* gain;
  float eps;
  int64_t cols;
  ActivationOut out;
};

struct SiluMulArgs {
  const float* gate_up;  // [T, 2 * cols]: gate, then up.
  int64_t stride;
  int64_t cols;
  ActivationOut out;
};

struct QuantizedLinearArgs {
  const uint8_t* values;  // See pack.h.
  const uint8_t* group_scales;
  const int8_t* group_offsets;
  const float* scales;
  const float* bias;  // Or null.
  bool int4;
  int64_t rows;  // Of the matrix, not padded.
  int64_t cols;
  int64_t group;
  const int8_t* q;  // The activation.
  int64_t q_stride;
  const float* x_scale;
  int64_t x_scale_stride;
  const int32_t* x_sum;
  int64_t x_sum_stride;
  const int32_t* byte_bias;  // [tokens, cols / group]: -128 * sum of the group's q. Stored bytes are w8 + 128.
  int64_t tokens;
  float* out;           // Linear; else null.
  double* partial_out;  // LinearPartial; else null.
  int64_t out_stride;
};

// Consecutive groups of 32 columns x 16 rows of 4-bit weights, see pack.h.
struct PackedInt4 {
  const uint8_t* q;
  const uint8_t* scales;  // n - 1
  const int8_t* offsets;  // m
};

// Sums of the activations of tokens, by token.
struct GroupSums {
  const int32_t* parts;  // Of 32 columns each: those of the weight groups.
  int64_t parts_stride;
  const int32_t* bias;  // -128 times the sum of all: what unsigned bytes 128 too large add.
  int64_t bias_stride;
};

struct DenseLinearArgs {
  const void* values;  // See pack.h.
  bool bf16;
  const float* bias;  // Or null.
  int64_t rows;
  int64_t cols;
  int64_t group;
  const float* x;
  int64_t x_stride;
  int64_t tokens;
  float* out;
  double* partial_out;
  int64_t out_stride;
};

enum class KvType : uint8_t { kF32, kF16, kI8 };

struct AttentionArgs {
  const float* q;
  int64_t q_stride;
  const void* k;  // [num_blocks, kv_heads, block, head_dim]
  const void* v;
  KvType kv_type;
  const uint16_t* k_scale;  // kI8: f16 per 32 values.
  const uint16_t* v_scale;
  int64_t kv_heads;
  int64_t block;
  int64_t blocks_per_partition;
  int64_t head_dim;
  float scale;
  float* out;
  int64_t out_stride;
};

// Query rows of one attention work item at most: tokens of one tile times query heads of one KV head.
constexpr int64_t kAttentionRows = 64;

// Some consecutive tokens of one sequence, and some query heads that read the same KV head.
struct AttentionItem {
  const int32_t* blocks;  // The sequence's block table.
  int64_t token;          // First row of q.
  int64_t tokens;
  int64_t visible;  // Keys that the first token sees; each next token sees one more.
  int64_t kv_head;
  int64_t head;  // First query head.
  int64_t heads;
};

// Floats of scratch that an attention item needs.
constexpr int64_t AttentionScratch(int64_t head_dim) {
  const int64_t padded = (head_dim + 15) / 16 * 16;
  return 34 * padded + kAttentionRows * (2 * padded + 16 + 4);
}

// Operands of KernelTable::multiply_int8: together they fit into the smallest L1 cache.
constexpr int64_t kRateBlocks = 2;
constexpr int64_t kRateTokens = 32;
constexpr int64_t kRateCols = 256;

struct KernelTable {
  const char* name;
  // Rows [begin, end) each.
  void (*rms_norm)(const RmsNormArgs&, int64_t begin, int64_t end);
  void (*silu_mul)(const SiluMulArgs&, int64_t begin, int64_t end);
  void (*quantize)(const float* x, int64_t x_stride, int64_t cols, const ActivationOut&, int64_t begin, int64_t end);
  void (*add_residual)(const double* delta, float* residual, int64_t n);
  void (*head_rms_norm)(const float* gain, float eps, int64_t head_dim, int64_t heads, float* row);
  void (*rope)(const float* cos_sin, int64_t head_dim, int64_t heads, float* row);
  void (*bf16_to_float)(const uint16_t* in, float* out, int64_t n);
  void (*float_to_f16)(const float* in, uint16_t* out, int64_t n);
  // One head of n values, as Ops::StoreKv says of i8.
  void (*quantize_kv)(const float* in, int64_t n, int8_t* q, uint16_t* scales);
  // Blocks of 16 weight rows [begin, end), all tokens.
  void (*quantized_linear)(const QuantizedLinearArgs&, int64_t begin, int64_t end);
  void (*dense_linear)(const DenseLinearArgs&, int64_t begin, int64_t end);
  void (*attention)(const AttentionArgs&, const AttentionItem&, float* scratch);
  void (*top_k)(const float* logits, int64_t n, int64_t k, float* values, int32_t* ids);
  // For kernels/machine_rates.h. Adds up `bytes` bytes (a multiple of 256, aligned to 64) as int32.
  int32_t (*read_memory)(const uint8_t* p, int64_t bytes, bool prefetch);
  // Multiplies packed int8 [kRateBlocks * 16, kRateCols], or the part of it that is the kernels' tile, by so much of
  // x [kRateTokens, kRateCols] `repeats` times, and returns the number of multiplications and additions. `sums` [16]
  // receives what depends on all of them.
  int64_t (*multiply_int8)(const uint8_t* weights, const int8_t* x, int64_t repeats, int32_t* sums);
};

const KernelTable& PortableTable();
const KernelTable& Avx2Table();
const KernelTable& AvxVnniTable();
const KernelTable& Avx512Table();
const KernelTable& AmxTable();
// The AMX kernels over tiles made of plain loops: the same code path on any machine, for tests.
const KernelTable& AmxEmulatedTable();
// The AVX-VNNI kernels over AVX2 instructions, for tests on machines with AVX2.
const KernelTable& AvxVnniEmulatedTable();

}  // namespace shoal::cpu
