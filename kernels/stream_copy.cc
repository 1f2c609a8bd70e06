#include "kernels/stream_copy.h"

#include <algorithm>
#include <cstring>

// The thread sanitizer does not see such stores, but shall see what ranks share.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)

#include <immintrin.h>

namespace shoal {

void StreamCopy(void* to, const void* from, int64_t bytes) {
  auto* out = static_cast<std::byte*>(to);
  const auto* in = static_cast<const std::byte*>(from);
  const auto head = std::min<int64_t>(bytes, -static_cast<int64_t>(reinterpret_cast<uintptr_t>(to)) & 15);
  if (head > 0) std::memcpy(out, in, static_cast<size_t>(head));
  int64_t i = head;
  for (; i + 16 <= bytes; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(out + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
  }
  if (i < bytes) std::memcpy(out + i, in + i, static_cast<size_t>(bytes - i));
}

void StreamFence() { _mm_sfence(); }

}  // namespace shoal

#else

namespace shoal {

void StreamCopy(void* to, const void* from, int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
}

void StreamFence() {}

}  // namespace shoal

#endif
