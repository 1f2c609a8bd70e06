// A ring of page-locked host memory through which weights reach the device: the host fills one slot while others are on
// their way.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "kernels/cuda/runtime.h"

namespace shoal::cuda {

class Staging {
 public:
  static constexpr int64_t kSlotBytes = int64_t{4} << 20;

  explicit Staging(Runtime& runtime) : runtime_(runtime) {}
  ~Staging() {
    if (memory_ != nullptr) runtime_.FreeHost(memory_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Copies `bytes` to `to`, at most kSlotBytes at a time: fill(begin, n, slot) makes bytes [begin, begin + n).
  // Returns once the last piece is queued. Errors: kResourceExhausted.
  template <typename Fill>
  absl::Status Copy(std::byte* to, int64_t bytes, Fill fill) {
    RETURN_IF_ERROR(Reserve());
    for (int64_t begin = 0; begin < bytes; begin += kSlotBytes) {
      const int64_t n = std::min(kSlotBytes, bytes - begin);
      std::byte* const slot = memory_ + next_ * kSlotBytes;
      runtime_.WaitFor(next_);
      fill(begin, n, slot);
      runtime_.Copy(to + begin, slot, n);
      runtime_.Mark(next_);
      next_ = (next_ + 1) % Runtime::kMarks;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Reserve() {
    if (memory_ == nullptr) {
      ASSIGN_OR_RETURN(memory_, runtime_.AllocateHost(Runtime::kMarks * kSlotBytes));
    }
    return absl::OkStatus();
  }

  Runtime& runtime_;
  std::byte* memory_ = nullptr;
  int next_ = 0;
};

}  // namespace shoal::cuda
