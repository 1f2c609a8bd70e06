// The row quantizers for any CPU.
#include "kernels/quantize_rows.h"

namespace shoal::internal {
namespace {

struct Register {
  typedef float Native __attribute__((vector_size(16)));
  static constexpr int kWidth = 4;

  SHOAL_INLINE static Native All(float value) { return Native{} + value; }
  SHOAL_INLINE static Native Load(const float* from) {
    Native out;
    std::memcpy(&out, from, sizeof(out));
    return out;
  }
  SHOAL_INLINE static void Store(Native x, float* to) { std::memcpy(to, &x, sizeof(x)); }
  SHOAL_INLINE static Native Max(Native a, Native b) { return a > b ? a : b; }
  SHOAL_INLINE static Native Min(Native a, Native b) { return a < b ? a : b; }
  SHOAL_INLINE static Native Round(Native x) {
    constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
    return (x + kMagic) - kMagic;
  }
  SHOAL_INLINE static Native Less(Native a, Native q, Native n) { return a - q * n; }
  SHOAL_INLINE static Native Half(Native x, int n) {
    return n == 2 ? Native{x[2], x[3], x[2], x[3]} : Native{x[1], x[1], x[3], x[3]};
  }
  SHOAL_INLINE static unsigned Equal(Native a, Native b) {
    unsigned mask = 0;
    for (int i = 0; i < kWidth; ++i) mask |= (a[i] == b[i] ? 1u : 0u) << i;
    return mask;
  }
  SHOAL_INLINE static void StoreInt8(Native x, int8_t* to) {
    for (int i = 0; i < kWidth; ++i) to[i] = static_cast<int8_t>(static_cast<int32_t>(x[i]));
  }
  SHOAL_INLINE static void StoreNibbles(Native x, uint8_t* to) {
    for (int i = 0; i < kWidth; i += 2) {
      to[i / 2] = static_cast<uint8_t>(static_cast<int32_t>(x[i]) | static_cast<int32_t>(x[i + 1]) << 4);
    }
  }
};

}  // namespace

const QuantizerPath kQuantizerPortable = {"portable", Int8Row<Register>, Int4Row<Register>};

}  // namespace shoal::internal
