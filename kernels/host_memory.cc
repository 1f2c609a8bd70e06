#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kAlignment = 64;
// Weights of this size and more share pages, so many at a time.
constexpr int64_t kRegionWeight = 256 << 10;
constexpr int64_t kRegionBytes = 64 << 20;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class HostBuffer final : public Buffer {
 public:
  HostBuffer(std::shared_ptr<MemoryLedger> ledger, MemoryKind kind, int64_t bytes, std::shared_ptr<std::byte> memory)
      : ledger_(std::move(ledger)), kind_(kind), bytes_(bytes), memory_(std::move(memory)) {
    ledger_->used[static_cast<int>(kind_)] += bytes_;
  }
  ~HostBuffer() override { ledger_->used[static_cast<int>(kind_)] -= bytes_; }
  std::byte* data() const override { return memory_.get(); }

 private:
  std::shared_ptr<MemoryLedger> ledger_;
  MemoryKind kind_;
  int64_t bytes_;
  std::shared_ptr<std::byte> memory_;
};

std::shared_ptr<std::byte> TakeHeap(int64_t bytes) {
  const int64_t rounded = RoundUp(bytes > 0 ? bytes : 1, kAlignment);
  void* const data = std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) return nullptr;
  std::memset(data, 0, rounded);
  return {static_cast<std::byte*>(data), [](std::byte* from) { std::free(from); }};
}

// Pages that begin at a multiple of kHugePage, so that huge pages fit from the first byte to the last. They get their
// memory at the first write.
std::shared_ptr<std::byte> TakePages(int64_t bytes) {
  if (bytes > INT64_MAX - 2 * kHugePage) return nullptr;
  const int64_t rounded = RoundUp(bytes, kHugePage);
  void* const mapped = mmap(nullptr, rounded + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* data = static_cast<std::byte*>(mapped);
  const int64_t before = -reinterpret_cast<intptr_t>(data) & (kHugePage - 1);
  if (before > 0) munmap(data, before);
  data += before;
  munmap(data + rounded, kHugePage - before);
  madvise(data, rounded, MADV_HUGEPAGE);  // Only a wish: without it pages are small.
  return {data, [rounded](std::byte* from) { munmap(from, rounded); }};
}

}  // namespace

const char* MemoryKindName(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kWeights:
      return "weights";
    case MemoryKind::kKv:
      return "kv";
    case MemoryKind::kActivations:
      return "activations";
    case MemoryKind::kCommunication:
      return "communication";
  }
  return "unknown";
}

HostMemory::HostMemory(int64_t budget, ThreadPool* pool) : pool_(pool), ledger_(std::make_shared<MemoryLedger>()) {
  ledger_->budget = budget;
}

absl::StatusOr<std::unique_ptr<Buffer>> HostMemory::Allocate(MemoryKind kind, int64_t bytes) {
  SHOAL_CHECK_GE(bytes, 0);
  const int64_t left = ledger_->budget - ledger_->total();
  if (ledger_->budget > 0 && bytes > left) {
    return absl::ResourceExhaustedError(absl::StrCat("memory budget of ", ledger_->budget, " bytes: ", bytes,
                                                     " bytes of ", MemoryKindName(kind), " wanted, ", left,
                                                     " left; raise the budget, use more ranks or fewer KV blocks"));
  }
  std::shared_ptr<std::byte> memory = Take(kind, bytes);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system refused ", bytes, " bytes of ", MemoryKindName(kind), "; free host memory"));
  }
  return std::make_unique<HostBuffer>(ledger_, kind, bytes, std::move(memory));
}

std::shared_ptr<std::byte> HostMemory::Take(MemoryKind kind, int64_t bytes) {
  // Weights are written at once, by the threads that read them later.
  if (kind == MemoryKind::kWeights && bytes >= kRegionWeight) return TakeOfRegion(bytes);
  if (bytes < kHugePage) return TakeHeap(bytes);
  std::shared_ptr<std::byte> pages = TakePages(bytes);
  // Memory that is not there must show now, not as a killed process while serving.
  if (pages != nullptr && !Populate(pages.get(), RoundUp(bytes, kHugePage))) return nullptr;
  return pages;
}

bool HostMemory::Populate(std::byte* data, int64_t bytes) {
  std::atomic<bool> refused = false;
  const auto populate = [&](int64_t begin, int64_t end, int) {
    // Kernels before 5.14 do not know the request: there pages come at their first use.
    if (madvise(data + begin, end - begin, MADV_POPULATE_WRITE) != 0 && errno != EINVAL) refused = true;
  };
  if (pool_ != nullptr) {
    pool_->ParallelFor(bytes, kHugePage, populate);
  } else {
    populate(0, bytes, 0);
  }
  return !refused;
}

std::shared_ptr<std::byte> HostMemory::TakeOfRegion(int64_t bytes) {
  if (bytes > region_bytes_ - region_used_) {
    const int64_t size = std::max(bytes, kRegionBytes);
    std::shared_ptr<std::byte> pages = TakePages(size);
    if (pages == nullptr) return nullptr;
    region_ = std::move(pages);
    region_bytes_ = size;
    region_used_ = 0;
  }
  std::byte* const data = region_.get() + region_used_;
  region_used_ = RoundUp(region_used_ + bytes, kAlignment);
  return {region_, data};
}

void CheckWeightSource(const WeightSource& source) {
  SHOAL_CHECK(source.rows > 0 && source.cols > 0 && source.read != nullptr);
  SHOAL_CHECK_GT(source.group, 0);
  SHOAL_CHECK_EQ(source.cols % source.group, 0);
  if (!IsQuantized(source.format)) return;
  SHOAL_CHECK(source.group >= kWeightGroup && source.group <= kActivationGroupMax);
  SHOAL_CHECK_EQ(source.group % kWeightGroup, 0);
}

}  // namespace shoal
