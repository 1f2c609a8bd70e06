#include "engine/block_manager.h"

#include <limits>

#include "base/check.h"

namespace shoal {

BlockManager::BlockManager(int64_t num_blocks, int block_tokens) : block_tokens_(block_tokens) {
  SHOAL_CHECK_GT(num_blocks, 0);
  SHOAL_CHECK_GT(block_tokens, 0);
  SHOAL_CHECK_LE(num_blocks, std::numeric_limits<int32_t>::max() / block_tokens);
  taken_.resize(num_blocks, 0);
  free_.reserve(num_blocks);
  for (int64_t block = num_blocks - 1; block >= 0; --block) free_.push_back(static_cast<int32_t>(block));
}

bool BlockManager::Grow(int64_t tokens, std::vector<int32_t>& blocks) {
  const int64_t missing = BlocksFor(tokens) - static_cast<int64_t>(blocks.size());
  if (missing > num_free()) return false;
  for (int64_t i = 0; i < missing; ++i) {
    const int32_t block = free_.back();
    free_.pop_back();
    SHOAL_CHECK(!taken_[block]);
    taken_[block] = 1;
    blocks.push_back(block);
  }
  return true;
}

void BlockManager::Free(std::vector<int32_t>& blocks) {
  for (; !blocks.empty(); blocks.pop_back()) {
    const int32_t block = blocks.back();
    SHOAL_CHECK(block >= 0 && block < num_blocks());
    SHOAL_CHECK(taken_[block]);
    taken_[block] = 0;
    free_.push_back(block);
  }
}

}  // namespace shoal
