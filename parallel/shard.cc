#include "parallel/shard.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

int64_t MostKvHeads(const ModelShape& shape, const std::vector<Range>& ranges) {
  int64_t most = 0;
  for (const Range& heads : ranges) most = std::max(most, KvHeadsOf(shape, heads).size());
  return most;
}

}  // namespace

absl::StatusOr<std::vector<Range>> CutUnits(int64_t units, std::span<const double> shares, std::string_view what) {
  const auto parts = static_cast<int64_t>(shares.size());
  SHOAL_CHECK_GE(parts, 1);
  if (units < parts) {
    return absl::InvalidArgumentError(StrCat("cannot cut ", units, " ", what, " over ", parts,
                                             " tensor-parallel ranks; use at most ", units, " or add pipeline stages"));
  }
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  // Every part has one unit for sure; what its share is worth beyond that is rounded down, and the largest remainders
  // are rounded up until all units are out.
  std::vector<int64_t> sizes(parts);
  std::vector<std::pair<double, int64_t>> remainders;
  int64_t left = units;
  for (int64_t i = 0; i < parts; ++i) {
    SHOAL_CHECK(shares[i] > 0);
    const double ideal = static_cast<double>(units) * (shares[i] / sum);
    sizes[i] = std::max<int64_t>(1, static_cast<int64_t>(std::floor(ideal + 1e-9)));
    remainders.emplace_back(ideal - static_cast<double>(sizes[i]), i);
    left -= sizes[i];
  }
  std::stable_sort(remainders.begin(), remainders.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  for (int64_t i = 0; left > 0; i = (i + 1) % parts, --left) ++sizes[remainders[i].second];
  // The guaranteed units of tiny shares come from those who are furthest above theirs.
  for (int64_t i = parts - 1; left < 0; i = i == 0 ? parts - 1 : i - 1) {
    int64_t& size = sizes[remainders[i].second];
    if (size > 1) {
      --size;
      ++left;
    }
  }
  std::vector<Range> ranges;
  int64_t begin = 0;
  for (int64_t size : sizes) {
    ranges.push_back({begin, begin + size});
    begin += size;
  }
  return ranges;
}

absl::StatusOr<std::vector<Range>> CutHeads(const ModelShape& shape, std::span<const double> shares) {
  ASSIGN_OR_RETURN(std::vector<Range> ranges, CutUnits(shape.heads, shares, "query heads"));
  const bool equal = std::adjacent_find(shares.begin(), shares.end(), std::not_equal_to<>()) == shares.end();
  if (!equal) return ranges;
  // Parts of the same two sizes in another order may cut fewer groups of query heads: 40 heads of 8 KV heads over 6
  // ranks as 7, 7, 7, 7, 6, 6 need 3 KV heads on one rank; as 6, 7, 7, 6, 7, 7 all need 2, and the KV cache is half as
  // large again.
  const auto parts = static_cast<int64_t>(shares.size());
  std::vector<Range> spread;
  for (int64_t i = 0; i < parts; ++i) spread.push_back({shape.heads * i / parts, shape.heads * (i + 1) / parts});
  return MostKvHeads(shape, spread) < MostKvHeads(shape, ranges) ? spread : ranges;
}

Range KvHeadsOf(const ModelShape& shape, const Range& heads) {
  const int64_t heads_per_kv = shape.heads / shape.kv_heads;
  return {heads.begin / heads_per_kv, (heads.end - 1) / heads_per_kv + 1};
}

absl::StatusOr<std::vector<Range>> CutFfn(const ModelShape& shape, std::span<const double> shares) {
  const int64_t group = FfnGroup(shape);
  ASSIGN_OR_RETURN(std::vector<Range> ranges,
                   CutUnits(shape.ffn / group, shares, StrCat("groups of ", group, " FFN columns")));
  for (Range& range : ranges) range = {range.begin * group, range.end * group};
  return ranges;
}

absl::StatusOr<std::vector<Range>> CutVocab(const ModelShape& shape, std::span<const double> shares) {
  const int64_t units = (shape.vocab + kVocabUnit - 1) / kVocabUnit;
  ASSIGN_OR_RETURN(std::vector<Range> ranges,
                   CutUnits(units, shares, StrCat("blocks of ", kVocabUnit, " vocabulary rows")));
  for (Range& range : ranges) range = {range.begin * kVocabUnit, std::min(range.end * kVocabUnit, shape.vocab)};
  return ranges;
}

}  // namespace shoal
