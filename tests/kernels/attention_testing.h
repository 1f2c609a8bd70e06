// Paged attention over made-up sequences, for the tests of every back end.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "tests/kernels/kernels_testing.h"

namespace shoal {

// Sequences with their queries and paged keys.
struct AttentionScene {
  HeadMap heads;
  int64_t block = 16;
  DType kv = DType::kF32;
  std::vector<int> lengths;  // Tokens of each sequence.
};

// All sequences' tokens in order, stored in scattered blocks of one device.
class AttentionCache {
 public:
  AttentionCache(Rig& rig, const AttentionScene& s, uint32_t seed) : rig_(rig), setup_(s) {
    Random random(seed);
    const int64_t total = std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0});
    const int64_t kv_width = s.heads.kv_heads * s.heads.head_dim, width = s.heads.heads * s.heads.head_dim;
    for (int n : s.lengths) max_blocks_ = std::max<int64_t>(max_blocks_, (n + s.block - 1) / s.block);
    const int64_t sequences = static_cast<int64_t>(s.lengths.size());
    const int64_t num_blocks = max_blocks_ * sequences + 1;
    std::vector<int32_t> free(num_blocks);
    std::iota(free.begin(), free.end(), 0);
    for (int64_t i = num_blocks - 1; i > 0; --i) std::swap(free[i], free[random.Int(0, static_cast<int>(i))]);
    std::vector<int32_t> slots;
    for (int64_t q = 0; q < sequences; ++q) {
      std::vector<int32_t> table(max_blocks_, -1);  // Past the end: never read.
      for (int64_t b = 0; b * s.block < s.lengths[q]; ++b) table[b] = free[q * max_blocks_ + b];
      for (int i = 0; i < s.lengths[q]; ++i) {
        slots.push_back(static_cast<int32_t>(table[i / s.block] * s.block + i % s.block));
      }
      tables_.push_back(table);
    }
    view_.k = rig.New(s.kv, {num_blocks, s.heads.kv_heads, s.block, s.heads.head_dim});
    view_.v = rig.New(s.kv, {num_blocks, s.heads.kv_heads, s.block, s.heads.head_dim});
    if (s.kv == DType::kI8) {
      const int64_t groups = s.heads.head_dim / kKvGroup;
      view_.k_scale = rig.New(DType::kF16, {num_blocks, s.heads.kv_heads, s.block, groups});
      view_.v_scale = rig.New(DType::kF16, {num_blocks, s.heads.kv_heads, s.block, groups});
    }
    q_ = rig.Floats(random.Normal(total * width), {total, width});
    const Tensor k = rig.Floats(random.Normal(total * kv_width), {total, kv_width});
    const Tensor v = rig.Floats(random.Normal(total * kv_width), {total, kv_width});
    rig.ops().StoreKv(k, v, rig.Ints(slots), view_);
  }

  struct Chunk {
    int sequence, begin, end;  // Tokens of the sequence.
  };

  // Attention of these chunks as one step; rows in their order.
  Activation Attend(const std::vector<Chunk>& chunks, int64_t group = 0, bool dense = true) {
    std::vector<int32_t> start = {0}, context, rows, table;
    for (const Chunk& c : chunks) {
      int first = 0;
      for (int q = 0; q < c.sequence; ++q) first += setup_.lengths[q];
      for (int i = c.begin; i < c.end; ++i) rows.push_back(first + i);
      start.push_back(static_cast<int32_t>(rows.size()));
      context.push_back(c.end);
      table.insert(table.end(), tables_[c.sequence].begin(), tables_[c.sequence].end());
    }
    const int64_t tokens = static_cast<int64_t>(rows.size());
    const Tensor q = rig_.New(DType::kF32, {tokens, q_.cols()});
    rig_.ops().GatherRows(q_, rig_.Ints(rows), q);
    AttentionPlan plan;
    plan.query_start = rig_.Ints(start);
    plan.context_len = rig_.Ints(context);
    plan.block_table = rig_.In(table, DType::kI32, {static_cast<int64_t>(chunks.size()), max_blocks_});
    const Activation out = rig_.NewActivation(tokens, q_.cols(), group, dense);
    rig_.ops().Attention(q, view_, plan, setup_.heads, out);
    return out;
  }

  std::vector<Chunk> Everything() const {
    std::vector<Chunk> chunks;
    for (size_t q = 0; q < setup_.lengths.size(); ++q) chunks.push_back({static_cast<int>(q), 0, setup_.lengths[q]});
    return chunks;
  }

 private:
  Rig& rig_;
  AttentionScene setup_;
  KvView view_;
  Tensor q_;
  std::vector<std::vector<int32_t>> tables_;
  int64_t max_blocks_ = 0;
};

inline HeadMap Heads(int heads, int kv_heads, int per_kv, int head_dim, int first = 0, int kv_first = 0) {
  HeadMap map;
  map.heads = heads;
  map.kv_heads = kv_heads;
  map.heads_per_kv = per_kv;
  map.head_dim = head_dim;
  map.first = first;
  map.kv_first = kv_first;
  return map;
}

}  // namespace shoal
