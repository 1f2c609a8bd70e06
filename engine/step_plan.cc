#include "engine/step_plan.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little,
              "the wire format is the memory format of little-endian machines");

// The last byte is the version of the layout.
constexpr uint32_t kPlanMagic = 0x4e4c5001;
constexpr uint32_t kResultMagic = 0x53455201;
constexpr size_t kStatusBytesMax = 64 << 10;

class Writer {
 public:
  template <typename T>
  void Put(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    Append(&value, sizeof(T));
  }

  template <typename T>
  void PutArray(const std::vector<T>& values) {
    SHOAL_CHECK_LE(values.size(), std::numeric_limits<uint32_t>::max());
    Put(static_cast<uint32_t>(values.size()));
    Append(values.data(), values.size() * sizeof(T));
  }

  void PutText(absl::string_view text) {
    text = text.substr(0, kStatusBytesMax);
    Put(static_cast<uint32_t>(text.size()));
    Append(text.data(), text.size());
  }

  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  void Append(const void* data, size_t size) {
    if (size == 0) return;  // An empty vector's data() may be null.
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }

  std::vector<std::byte> bytes_;
};

// Every count is compared with the bytes that are left before anything is allocated for it.
class Reader {
 public:
  Reader(absl::string_view what, std::span<const std::byte> bytes) : what_(what), bytes_(bytes) {}

  absl::Status Bad(absl::string_view field, absl::string_view problem) const {
    return absl::InvalidArgumentError(absl::StrCat(what_, ": ", field, ": ", problem));
  }

  template <typename T>
  absl::Status Get(absl::string_view field, T& value) {
    if (bytes_.size() < sizeof(T)) {
      return Bad(field, absl::StrCat("needs ", sizeof(T), " bytes, ", bytes_.size(), " are left"));
    }
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return absl::OkStatus();
  }

  absl::Status GetCount(absl::string_view field, size_t element_bytes, size_t& count) {
    uint32_t raw = 0;
    RETURN_IF_ERROR(Get(field, raw));
    if (raw > bytes_.size() / element_bytes) {
      return Bad(field, absl::StrCat("says ", raw, " entries, ", bytes_.size(), " bytes are left"));
    }
    count = raw;
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status GetArray(absl::string_view field, std::vector<T>& values) {
    size_t count = 0;
    RETURN_IF_ERROR(GetCount(field, sizeof(T), count));
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
    return absl::OkStatus();
  }

  absl::Status GetText(absl::string_view field, std::string& text) {
    size_t count = 0;
    RETURN_IF_ERROR(GetCount(field, 1, count));
    if (count > kStatusBytesMax) return Bad(field, absl::StrCat(count, " bytes, at most ", kStatusBytesMax));
    text.assign(reinterpret_cast<const char*>(bytes_.data()), count);
    bytes_ = bytes_.subspan(count);
    return absl::OkStatus();
  }

  absl::Status GetMagic(uint32_t expected) {
    uint32_t magic = 0;
    RETURN_IF_ERROR(Get("magic", magic));
    if (magic != expected) return Bad("magic", "another kind or version of message; run the same build on every rank");
    return absl::OkStatus();
  }

  absl::Status Finish() const {
    if (!bytes_.empty()) return Bad("end", absl::StrCat(bytes_.size(), " bytes too many"));
    return absl::OkStatus();
  }

 private:
  absl::string_view what_;
  std::span<const std::byte> bytes_;
};

// `starts` must be [0, ..., total] with `sequences` + 1 entries that grow with every sequence.
absl::Status CheckStarts(const Reader& reader, absl::string_view field, const std::vector<int32_t>& starts,
                         size_t sequences, size_t total) {
  if (starts.size() != sequences + 1) {
    return reader.Bad(field, absl::StrCat(starts.size(), " entries for ", sequences, " sequences, wants one more"));
  }
  if (starts.front() != 0 || static_cast<size_t>(starts.back()) != total) {
    return reader.Bad(field, absl::StrCat("runs from ", starts.front(), " to ", starts.back(), ", wants 0 to ", total));
  }
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    if (starts[i + 1] <= starts[i]) return reader.Bad(field, absl::StrCat("does not grow at entry ", i + 1));
  }
  return absl::OkStatus();
}

absl::Status CheckAtLeast(const Reader& reader, absl::string_view field, const std::vector<int32_t>& values,
                          int32_t least) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < least) return reader.Bad(field, absl::StrCat("entry ", i, " is ", values[i], ", below ", least));
  }
  return absl::OkStatus();
}

absl::Status CheckSampleRows(const Reader& reader, const StepPlan& plan) {
  int32_t previous = -1;
  for (const int32_t row : plan.sample_rows) {
    if (row <= previous || row >= plan.num_tokens()) {
      return reader.Bad("sample_rows", absl::StrCat("row ", row, " after ", previous, " of ", plan.num_tokens(),
                                                    " tokens; wants ascending rows of the step"));
    }
    previous = row;
  }
  return absl::OkStatus();
}

absl::Status CheckPlan(const Reader& reader, const StepPlan& plan) {
  if (plan.shutdown) {
    if (!plan.ids.empty() || !plan.positions.empty() || !plan.kv_slots.empty() || !plan.query_start.empty() ||
        !plan.context_len.empty() || !plan.blocks.empty() || !plan.block_start.empty() || !plan.sample_rows.empty()) {
      return reader.Bad("shutdown", "set, but the plan has work");
    }
    return absl::OkStatus();
  }
  const size_t tokens = plan.ids.size();
  const size_t sequences = plan.context_len.size();
  if (plan.positions.size() != tokens) return reader.Bad("positions", "wants one entry per token");
  if (plan.kv_slots.size() != tokens) return reader.Bad("kv_slots", "wants one entry per token");
  RETURN_IF_ERROR(CheckAtLeast(reader, "ids", plan.ids, 0));
  RETURN_IF_ERROR(CheckAtLeast(reader, "positions", plan.positions, 0));
  RETURN_IF_ERROR(CheckAtLeast(reader, "kv_slots", plan.kv_slots, 0));
  RETURN_IF_ERROR(CheckAtLeast(reader, "context_len", plan.context_len, 1));
  RETURN_IF_ERROR(CheckAtLeast(reader, "blocks", plan.blocks, 0));
  RETURN_IF_ERROR(CheckStarts(reader, "query_start", plan.query_start, sequences, tokens));
  RETURN_IF_ERROR(CheckStarts(reader, "block_start", plan.block_start, sequences, plan.blocks.size()));
  RETURN_IF_ERROR(CheckSampleRows(reader, plan));
  if (plan.candidates < 0) return reader.Bad("candidates", absl::StrCat(plan.candidates, " is negative"));
  return absl::OkStatus();
}

absl::Status CheckResult(const Reader& reader, const StepResult& result) {
  if (result.rank < 0) return reader.Bad("rank", absl::StrCat(result.rank, " is negative"));
  if (result.vocab_begin < 0) return reader.Bad("vocab_begin", absl::StrCat(result.vocab_begin, " is negative"));
  if (result.columns < 0) return reader.Bad("columns", absl::StrCat(result.columns, " is negative"));
  if (result.columns == 0 ? !result.values.empty() : result.values.size() % result.columns != 0) {
    return reader.Bad("values", absl::StrCat(result.values.size(), " entries are not rows of ", result.columns));
  }
  if (!result.ids.empty() && result.ids.size() != result.values.size()) {
    return reader.Bad("ids", absl::StrCat(result.ids.size(), " entries for ", result.values.size(), " values"));
  }
  return CheckAtLeast(reader, "ids", result.ids, 0);
}

}  // namespace

int DecodeBucket(int sequences, int max) {
  int bucket = 1;
  while (bucket < sequences) bucket += bucket < 8 ? bucket : bucket < 32 ? 8 : 16;
  return std::min(bucket, max);
}

StepPlan PadDecodeStep(const StepPlan& plan, int bucket) {
  StepPlan padded = plan;
  while (padded.num_sequences() < bucket) {
    padded.ids.push_back(0);
    padded.positions.push_back(0);
    padded.kv_slots.push_back(-1);
    padded.query_start.push_back(padded.num_tokens());
    padded.context_len.push_back(1);
    padded.blocks.push_back(0);
    padded.block_start.push_back(static_cast<int32_t>(padded.blocks.size()));
  }
  if (!plan.sample_rows.empty()) padded.sample_rows.resize(bucket, 0);
  return padded;
}

std::vector<std::byte> EncodeStepPlan(const StepPlan& plan) {
  Writer writer;
  writer.Put(kPlanMagic);
  writer.Put(plan.step);
  writer.Put(static_cast<uint8_t>(plan.shutdown));
  writer.PutArray(plan.ids);
  writer.PutArray(plan.positions);
  writer.PutArray(plan.kv_slots);
  writer.PutArray(plan.query_start);
  writer.PutArray(plan.context_len);
  writer.PutArray(plan.blocks);
  writer.PutArray(plan.block_start);
  writer.PutArray(plan.sample_rows);
  writer.Put(plan.candidates);
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(std::span<const std::byte> bytes) {
  Reader reader("step plan", bytes);
  StepPlan plan;
  uint8_t shutdown = 0;
  RETURN_IF_ERROR(reader.GetMagic(kPlanMagic));
  RETURN_IF_ERROR(reader.Get("step", plan.step));
  RETURN_IF_ERROR(reader.Get("shutdown", shutdown));
  if (shutdown > 1) return reader.Bad("shutdown", absl::StrCat(shutdown, " is neither 0 nor 1"));
  plan.shutdown = shutdown == 1;
  RETURN_IF_ERROR(reader.GetArray("ids", plan.ids));
  RETURN_IF_ERROR(reader.GetArray("positions", plan.positions));
  RETURN_IF_ERROR(reader.GetArray("kv_slots", plan.kv_slots));
  RETURN_IF_ERROR(reader.GetArray("query_start", plan.query_start));
  RETURN_IF_ERROR(reader.GetArray("context_len", plan.context_len));
  RETURN_IF_ERROR(reader.GetArray("blocks", plan.blocks));
  RETURN_IF_ERROR(reader.GetArray("block_start", plan.block_start));
  RETURN_IF_ERROR(reader.GetArray("sample_rows", plan.sample_rows));
  RETURN_IF_ERROR(reader.Get("candidates", plan.candidates));
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(CheckPlan(reader, plan));
  return plan;
}

std::vector<std::byte> EncodeStepResult(const StepResult& result) {
  Writer writer;
  writer.Put(kResultMagic);
  writer.Put(result.step);
  writer.Put(result.rank);
  writer.Put(result.busy_ns);
  writer.Put(result.wall_ns);
  writer.Put(static_cast<int32_t>(result.status.code()));
  writer.PutText(result.status.message());
  writer.Put(result.vocab_begin);
  writer.Put(result.columns);
  writer.PutArray(result.values);
  writer.PutArray(result.ids);
  return writer.Take();
}

absl::StatusOr<StepResult> DecodeStepResult(std::span<const std::byte> bytes) {
  Reader reader("step result", bytes);
  StepResult result;
  int32_t code = 0;
  std::string message;
  RETURN_IF_ERROR(reader.GetMagic(kResultMagic));
  RETURN_IF_ERROR(reader.Get("step", result.step));
  RETURN_IF_ERROR(reader.Get("rank", result.rank));
  RETURN_IF_ERROR(reader.Get("busy_ns", result.busy_ns));
  RETURN_IF_ERROR(reader.Get("wall_ns", result.wall_ns));
  RETURN_IF_ERROR(reader.Get("status", code));
  if (code < 0 || code > static_cast<int32_t>(absl::StatusCode::kUnauthenticated)) {
    return reader.Bad("status", absl::StrCat(code, " is no status code"));
  }
  RETURN_IF_ERROR(reader.GetText("status message", message));
  result.status = absl::Status(static_cast<absl::StatusCode>(code), message);
  RETURN_IF_ERROR(reader.Get("vocab_begin", result.vocab_begin));
  RETURN_IF_ERROR(reader.Get("columns", result.columns));
  RETURN_IF_ERROR(reader.GetArray("values", result.values));
  RETURN_IF_ERROR(reader.GetArray("ids", result.ids));
  RETURN_IF_ERROR(reader.Finish());
  RETURN_IF_ERROR(CheckResult(reader, result));
  return result;
}

}  // namespace shoal
