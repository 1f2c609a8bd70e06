// Shard arithmetic: which part of a model's heads, widths, vocabulary and layers each rank holds.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/plan.h"

namespace shoal {

// Rows of the vocabulary head are cut at multiples of this.
constexpr int64_t kVocabUnit = 16;

// Cuts units [0, units) into one range per share, in order, without gaps, none empty, sizes as close to the shares as
// whole units allow (largest remainder, ties to the first). 5 units in 2 equal shares: 3, 2; 70 in 4: 18, 18, 17, 17.
// Errors: kInvalidArgument if there are fewer units than shares: "cannot cut 5 <what> over 7 ranks; use at most 5
// ranks".
absl::StatusOr<std::vector<Range>> CutUnits(int64_t units, std::span<const double> shares, std::string_view what);

// Query heads of each rank; with equal shares, the larger parts are placed so that no rank reads more KV heads than it
// must. Errors: as CutUnits.
absl::StatusOr<std::vector<Range>> CutHeads(const ModelShape& shape, std::span<const double> shares);

// KV heads that query heads `heads` read; neighbours that cut a group of query heads both hold its KV head.
Range KvHeadsOf(const ModelShape& shape, const Range& heads);

// FFN columns of each rank, in multiples of FfnGroup. Errors: as CutUnits.
absl::StatusOr<std::vector<Range>> CutFfn(const ModelShape& shape, std::span<const double> shares);

// Rows of the head of each rank, in multiples of kVocabUnit (the last range may end with a part of one). Errors: as
// CutUnits.
absl::StatusOr<std::vector<Range>> CutVocab(const ModelShape& shape, std::span<const double> shares);

}  // namespace shoal
