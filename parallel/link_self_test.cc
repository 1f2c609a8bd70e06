#include "parallel/link_self_test.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kSmallBytes = 16 << 10;

// Source: Steele, Lea and Flood 2014, SplitMix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// What rank `rank` brings in round `round`, which every rank can work out.
uint64_t Word(int round, int rank, int64_t i) {
  return Mix(Mix(static_cast<uint64_t>(round) * 64 + static_cast<uint64_t>(rank)) + static_cast<uint64_t>(i));
}
// A multiple of 2^-30 below 2^19, of which sums are exact.
double Part(int round, int rank, int64_t i) {
  return (static_cast<double>(Word(round, rank, i) >> 14) - 0x1p49) * 0x1p-30;
}

// Words of 8 bytes of round `round`: the same on all ranks.
int64_t WordsOf(int round, const LinkTestOptions& options) {
  const int64_t most = round % 10 == 9 ? options.bytes_max : std::min(options.bytes_max, kSmallBytes);
  const int64_t words = std::max<int64_t>(1, most / 8);
  return round == 0 ? 1 : round == 9 ? words : 1 + static_cast<int64_t>(Word(round, 63, 0) % words);
}

absl::Status TestSum(Communicator& communicator, LinkScratch& scratch, int round, int64_t words, absl::Status& wrong) {
  std::vector<uint64_t>& host = scratch.host();
  for (int64_t i = 0; i < words; ++i) {
    const double part = Part(round, communicator.rank(), i);
    std::memcpy(&host[i], &part, sizeof(part));
  }
  RETURN_IF_ERROR(scratch.Upload(words));
  RETURN_IF_ERROR(communicator.AllReduceSum(scratch.View(DType::kF64, words)));
  RETURN_IF_ERROR(scratch.Download(words, 0));
  for (int64_t i = 0; i < words && wrong.ok(); ++i) {
    double sum = 0;
    for (int r = 0; r < communicator.size(); ++r) sum += Part(round, r, i);
    if (std::memcmp(&host[i], &sum, sizeof(sum)) == 0) continue;
    char text[96];
    std::snprintf(text, sizeof(text), "bits %016llx instead of %a", static_cast<unsigned long long>(host[i]), sum);
    wrong =
        absl::DataLossError(StrCat("a sum of ", words * 8, " bytes has ", text, " at element ", i, ", round ", round));
  }
  return absl::OkStatus();
}

// Hands a tensor to the rank `shift` further on. The last ranks receive first: no cycle of senders, since a transport
// may hold one until its receiver comes.
absl::Status HandOn(Communicator& communicator, const LinkScratch& scratch, int shift, int64_t words) {
  const int size = communicator.size(), rank = communicator.rank();
  const int to = (rank + shift) % size, from = (rank + size - shift) % size;
  if (to > rank) RETURN_IF_ERROR(communicator.Send(scratch.View(DType::kU8, words), to));
  RETURN_IF_ERROR(communicator.Receive(scratch.View(DType::kU8, words, 1), from));
  return to < rank ? communicator.Send(scratch.View(DType::kU8, words), to) : absl::OkStatus();
}

absl::Status TestTensor(Communicator& communicator, LinkScratch& scratch, int round, int shift, int64_t words,
                        absl::Status& wrong) {
  const int size = communicator.size(), rank = communicator.rank(), from = (rank + size - shift) % size;
  std::vector<uint64_t>& host = scratch.host();
  for (int64_t i = 0; i < words; ++i) host[i] = Word(round, rank, i);
  RETURN_IF_ERROR(scratch.Upload(words));
  RETURN_IF_ERROR(HandOn(communicator, scratch, shift, words));
  RETURN_IF_ERROR(scratch.Download(words, 1));
  for (int64_t i = 0; i < words && wrong.ok(); ++i) {
    if (host[i] == Word(round, from, i)) continue;
    wrong = absl::DataLossError(StrCat("a tensor of ", words * 8, " bytes from rank ", from,
                                       " of the group has a wrong word at ", i, ", round ", round));
  }
  return absl::OkStatus();
}

// Microseconds of one call of `exchange`: the median of some runs of several calls each.
template <typename Exchange>
absl::StatusOr<double> Time(Device& device, int calls, Exchange exchange) {
  constexpr int kRuns = 5;
  std::vector<double> us;
  for (int run = -1; run < kRuns; ++run) {  // The first one warms up.
    RETURN_IF_ERROR(device.Synchronize());
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) RETURN_IF_ERROR(exchange());
    RETURN_IF_ERROR(device.Synchronize());
    const double all = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    if (run >= 0) us.push_back(all / calls);
  }
  std::sort(us.begin(), us.end());
  return us[kRuns / 2];
}

}  // namespace

absl::StatusOr<LinkScratch> LinkScratch::Create(Device& device, int64_t bytes) {
  const int64_t words = std::max(bytes, LinkTimes::kTensorBytes) / 8;
  ASSIGN_OR_RETURN(auto buffer, device.Allocate(MemoryKind::kCommunication, 2 * words * 8));
  return LinkScratch(device, std::move(buffer), words);
}

Tensor LinkScratch::View(DType type, int64_t words, int place) const {
  SHOAL_CHECK_LE(words, static_cast<int64_t>(host_.size()));
  std::byte* const data = buffer_->data() + place * static_cast<int64_t>(host_.size()) * 8;
  return MakeTensor(data, type, {1, words * 8 / SizeOf(type)});
}

absl::Status LinkScratch::Upload(int64_t words) {
  device_->CopyIn(host_.data(), View(DType::kU8, words));
  return device_->Synchronize();
}

absl::Status LinkScratch::Download(int64_t words, int place) {
  device_->CopyOut(View(DType::kU8, words, place), host_.data());
  return device_->Synchronize();
}

absl::Status TestLink(Communicator& communicator, LinkScratch& scratch, const LinkTestOptions& options) {
  SHOAL_CHECK_GE(options.bytes_max, 8);
  absl::Status wrong;
  for (int round = 0; round < options.rounds; ++round) {
    const int64_t words = WordsOf(round, options);
    if (options.sums) RETURN_IF_ERROR(TestSum(communicator, scratch, round, words, wrong));
    for (int shift = 1; options.tensors && shift < communicator.size(); ++shift) {
      RETURN_IF_ERROR(TestTensor(communicator, scratch, round, shift, words, wrong));
    }
  }
  return wrong;
}

absl::StatusOr<LinkTimes> TimeLink(Communicator& communicator, LinkScratch& scratch, std::span<const int64_t> sizes,
                                   const LinkTestOptions& options) {
  Device& device = scratch.device();
  const int calls = std::clamp(options.rounds / 15, 1, 20);
  LinkTimes times;
  times.sum_us.assign(sizes.size(), 0);
  std::fill(scratch.host().begin(), scratch.host().end(), 0);  // Sums of zeros stay zeros.
  RETURN_IF_ERROR(scratch.Upload(static_cast<int64_t>(scratch.host().size())));
  for (size_t i = 0; options.sums && i < sizes.size(); ++i) {
    const Tensor sum = scratch.View(DType::kF64, sizes[i] / 8);
    ASSIGN_OR_RETURN(times.sum_us[i], Time(device, calls, [&] { return communicator.AllReduceSum(sum); }));
  }
  if (!options.tensors || communicator.size() == 1) return times;
  constexpr int64_t kWords = LinkTimes::kTensorBytes / 8;
  ASSIGN_OR_RETURN(times.tensor_us, Time(device, calls, [&] { return HandOn(communicator, scratch, 1, kWords); }));
  return times;
}

}  // namespace shoal
