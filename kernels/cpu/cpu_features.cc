#include "kernels/cpu/cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace shoal::cpu {
namespace {

// State components that the operating system saves: bits of XCR0.
uint64_t EnabledState() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return 0;
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool HasAvx2() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return false;
  const bool fma_f16c = (c & bit_FMA) != 0 && (c & bit_F16C) != 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return fma_f16c && (b & bit_AVX2) != 0 && (EnabledState() & 0x6) == 0x6;
}

bool HasAvxVnni() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  constexpr uint32_t kAvxVnni = 1u << 4;
  return HasAvx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvxVnni) != 0;
}

bool HasAvx512() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!HasAvx2() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr uint32_t kWanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  return (b & kWanted) == kWanted && (c & bit_AVX512VNNI) != 0 && (EnabledState() & 0xe6) == 0xe6;
}

// Linux gives a process AMX state only when asked (arch_prctl, since 5.16); children and later threads inherit it.
bool RequestAmx() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!HasAvx512() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr uint32_t kTile = 1u << 24, kInt8 = 1u << 25;
  if ((d & kTile) == 0 || (d & kInt8) == 0 || (EnabledState() & 0x60000) != 0x60000) return false;
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool Always() { return true; }

struct Path {
  std::string_view isa;
  bool (*available)();
  const KernelTable& (*table)();
  bool automatic;  // May be chosen when no path is named.
};

// Best first.
constexpr Path kPaths[] = {
    {"amx", RequestAmx, AmxTable, true},
    {"avx512", HasAvx512, Avx512Table, true},
    {"avxvnni", HasAvxVnni, AvxVnniTable, true},
    {"avx2", HasAvx2, Avx2Table, true},
    {"portable", Always, PortableTable, true},
    {"amx-emulated", Always, AmxEmulatedTable, false},
    {"avxvnni-emulated", HasAvx2, AvxVnniEmulatedTable, false},
};

}  // namespace

absl::StatusOr<const KernelTable*> ChooseKernels(std::string_view isa) {
  for (const Path& path : kPaths) {
    if (isa.empty() ? !path.automatic : isa != path.isa) continue;
    if (path.available()) return &path.table();
    if (!isa.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cpu isa '", std::string(isa), "': this machine lacks it; leave isa empty to use the best it has"));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "cpu isa '", std::string(isa), "' is unknown; use portable, avx2, avxvnni, avx512, amx, or leave it empty"));
}

}  // namespace shoal::cpu
