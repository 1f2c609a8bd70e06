#include "kernels/host_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kAlignment = 64;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

class HostBuffer final : public Buffer {
 public:
  HostBuffer(std::shared_ptr<MemoryLedger> ledger, MemoryKind kind, int64_t bytes, void* data, int64_t mapped_bytes)
      : ledger_(std::move(ledger)), kind_(kind), bytes_(bytes), data_(data), mapped_bytes_(mapped_bytes) {
    ledger_->used[static_cast<int>(kind_)] += bytes_;
  }
  ~HostBuffer() override {
    ledger_->used[static_cast<int>(kind_)] -= bytes_;
    if (mapped_bytes_ > 0) {
      munmap(data_, mapped_bytes_);
    } else {
      std::free(data_);
    }
  }
  std::byte* data() const override { return static_cast<std::byte*>(data_); }

 private:
  std::shared_ptr<MemoryLedger> ledger_;
  MemoryKind kind_;
  int64_t bytes_;
  void* data_;
  int64_t mapped_bytes_;  // 0: from the heap.
};

// Gives every page its memory; false if there is none left.
bool Populate(void* data, int64_t bytes) {
  // Kernels before 5.14 do not know the request: there pages come at their first use.
  return madvise(data, bytes, MADV_POPULATE_WRITE) == 0 || errno == EINVAL;
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

HostMemory::HostMemory(int64_t budget) : ledger_(std::make_shared<MemoryLedger>()) { ledger_->budget = budget; }

absl::StatusOr<std::unique_ptr<Buffer>> HostMemory::Allocate(MemoryKind kind, int64_t bytes) {
  SHOAL_CHECK_GE(bytes, 0);
  const int64_t left = ledger_->budget - ledger_->total();
  if (ledger_->budget > 0 && bytes > left) {
    return absl::ResourceExhaustedError(absl::StrCat("memory budget of ", ledger_->budget, " bytes: ", bytes,
                                                     " bytes of ", MemoryKindName(kind), " wanted, ", left,
                                                     " left; raise the budget, use more ranks or fewer KV blocks"));
  }
  void* data = nullptr;
  int64_t mapped_bytes = 0;
  if (bytes >= kHugePage && bytes <= INT64_MAX - kHugePage) {
    mapped_bytes = RoundUp(bytes, kHugePage);
    data = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) data = nullptr;
    if (data != nullptr) madvise(data, mapped_bytes, MADV_HUGEPAGE);  // Only a wish: without it pages are small.
  } else if (bytes < kHugePage) {
    const int64_t rounded = RoundUp(bytes > 0 ? bytes : 1, kAlignment);
    data = std::aligned_alloc(kAlignment, rounded);
    if (data != nullptr) std::memset(data, 0, rounded);
  }
  // Memory that is not there must show now, not as a killed process while serving. Weights are written at once anyway.
  if (mapped_bytes > 0 && kind != MemoryKind::kWeights && !Populate(data, mapped_bytes)) {
    munmap(data, mapped_bytes);
    data = nullptr;
  }
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system refused ", bytes, " bytes of ", MemoryKindName(kind), "; free host memory"));
  }
  return std::make_unique<HostBuffer>(ledger_, kind, bytes, data, mapped_bytes);
}

void CheckHostWeight(const HostWeight& host) {
  SHOAL_CHECK(host.rows > 0 && host.cols > 0 && host.values != nullptr);
  SHOAL_CHECK_GT(host.group, 0);
  SHOAL_CHECK_EQ(host.cols % host.group, 0);
  if (!IsQuantized(host.format)) return;
  SHOAL_CHECK(host.group >= kWeightGroup && host.group <= kActivationGroupMax);
  SHOAL_CHECK_EQ(host.group % kWeightGroup, 0);
  SHOAL_CHECK(host.scales != nullptr);
  if (host.format == WeightFormat::kInt4) SHOAL_CHECK(host.group_scales != nullptr && host.group_offsets != nullptr);
}

}  // namespace shoal
