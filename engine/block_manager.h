// Which blocks of the KV cache are free. It knows numbers only: the memory is the runner's.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

// Not thread-safe. Every call is O(blocks it moves).
class BlockManager {
 public:
  // num_blocks * block_tokens must fit an int32, as KV slots do.
  BlockManager(int64_t num_blocks, int block_tokens);

  int64_t num_blocks() const { return static_cast<int64_t>(taken_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int block_tokens() const { return block_tokens_; }

  // Blocks that hold `tokens` tokens.
  int64_t BlocksFor(int64_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }

  // Appends blocks to a sequence's list until it holds `tokens` tokens. False, and nothing taken, if too few are free.
  bool Grow(int64_t tokens, std::vector<int32_t>& blocks);

  // Gives all blocks of a sequence's list back and empties it. Giving back a block that is not taken is a bug (CHECK).
  void Free(std::vector<int32_t>& blocks);

 private:
  int block_tokens_;
  std::vector<int32_t> free_;   // A stack: the block used last is the warmest.
  std::vector<uint8_t> taken_;  // [num_blocks]
};

}  // namespace shoal
