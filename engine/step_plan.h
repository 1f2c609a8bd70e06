// What goes down to all ranks each step, and what comes back up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

// One micro-batch. Example in every field: sequence A prefills 3 tokens of its prompt from position 4, sequence B
// decodes one token at position 9; B = 4 tokens per KV block.
struct StepPlan {
  uint64_t step = 0;
  // The ranks leave their loops; all else is empty.
  bool shutdown = false;
  std::vector<int32_t> ids;          // [T] token ids: [a4, a5, a6, b9]
  std::vector<int32_t> positions;    // [T] from the start of the sequence: [4, 5, 6, 9]
  std::vector<int32_t> kv_slots;     // [T] block * B + offset: [8, 9, 10, 21] with A in blocks 7, 2 and B in 1, 3, 5
  std::vector<int32_t> query_start;  // [S + 1] first token of each sequence, then T: [0, 3, 4]
  std::vector<int32_t> context_len;  // [S] keys visible to its last token: [7, 10]
  // Block ids of all sequences, one after the other: [7, 2, 1, 3, 5]
  std::vector<int32_t> blocks;
  std::vector<int32_t> block_start;  // [S + 1] first entry of each sequence in `blocks`: [0, 2, 5]
  // Rows of T whose logits are wanted, ascending: [3] (A's prompt is not finished).
  std::vector<int32_t> sample_rows;
  // Candidates wanted per sampled row: the k best, or 0 for all logits.
  int32_t candidates = 0;

  int num_tokens() const { return static_cast<int>(ids.size()); }
  int num_sequences() const { return static_cast<int>(context_len.size()); }
};

// Steps of decoding come in few sizes, so that a device can keep a record of each: the smallest that holds `sequences`,
// at most `max`.
int DecodeBucket(int sequences, int max);

// A step in which every sequence has one token, made up to `bucket` sequences with ones that leave no trace: token 0 at
// position 0, whose key goes nowhere. If any row is sampled, `bucket` rows are; the first ones are the plan's.
StepPlan PadDecodeStep(const StepPlan& plan, int bucket);

// One rank's answer to one StepPlan.
struct StepResult {
  uint64_t step = 0;
  int32_t rank = 0;
  // Monotonic clock of the rank: spent computing (not exchanging with other ranks), and from the end of its previous
  // step to the end of this one.
  int64_t busy_ns = 0;
  int64_t wall_ns = 0;
  // Not OK: the rank cannot go on (a device fault, a broken link).
  absl::Status status;
  // Last stage only. For sampled row i (of n): its k best candidates of this rank's vocabulary range, largest first,
  // ties to the lowest id; with StepPlan::candidates 0, all of the range in order of id and `ids` is empty.
  int32_t vocab_begin = 0;
  int32_t columns = 0;        // k, or the width of the range.
  std::vector<float> values;  // [n, columns] logits
  std::vector<int32_t> ids;   // [n, columns] ids, counted from vocab_begin
};

// Flat little-endian bytes with every length checked on the way in.
// Errors of Decode: kInvalidArgument naming the field. Checks lengths against one another (T, S), not ids against a
// model.
std::vector<std::byte> EncodeStepPlan(const StepPlan& plan);
absl::StatusOr<StepPlan> DecodeStepPlan(std::span<const std::byte> bytes);
std::vector<std::byte> EncodeStepResult(const StepResult& result);
absl::StatusOr<StepResult> DecodeStepResult(std::span<const std::byte> bytes);

}  // namespace shoal
