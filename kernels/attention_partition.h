// How attention cuts a sequence's keys, on every back end: the cuts decide the order of additions, hence the bits.
#pragma once

namespace shoal {

// Positions of a partition: softmax states of partitions are computed on their own, possibly side by side, and merged
// in order. Small enough to occupy a GPU at batch 1, large enough that merging costs little.
constexpr int kAttentionPartition = 128;

// Whole KV blocks of `block` tokens.
constexpr int BlocksPerPartition(int block) { return block < kAttentionPartition ? kAttentionPartition / block : 1; }

}  // namespace shoal
