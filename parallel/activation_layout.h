// The buffers a rank needs to run steps: one table for the planner, which sums it, and the runner, which allocates it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/plan.h"

namespace shoal {

// Candidates kept per sampled row, at most; a row that needs more is asked for whole.
constexpr int64_t kCandidatesMax = 64;

// Buffers of every kind start at multiples of this.
constexpr int64_t kBufferAlignment = 64;

constexpr int64_t AlignedBytes(int64_t bytes) {
  return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
}

// One buffer, [rows, cols]. An Activation `a` has up to four: "a.dense", "a.q", "a.scale", "a.sum".
struct BufferSpec {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
  int64_t bytes() const { return AlignedBytes(rows * cols * SizeOf(dtype)); }
};

// All buffers of one rank, in a fixed order. Letters as in kernels/ops.h; S is max_sequences, T max_step_tokens.
std::vector<BufferSpec> ActivationBuffers(const ModelShape& shape, const FormatPlan& formats, const RankPlan& rank,
                                          int max_step_tokens, int max_sequences, int64_t max_context,
                                          int kv_block_tokens);

}  // namespace shoal
