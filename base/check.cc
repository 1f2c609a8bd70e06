#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace shoal::internal {

void CheckFailed(const char* file, int line, const char* condition, const std::string& values) {
  std::fprintf(stderr, "shoal: %s:%d: CHECK failed: %s%s%s\n", file, line, condition, values.empty() ? "" : " with ",
               values.c_str());
  std::abort();
}

}  // namespace shoal::internal
