// The config of a deployment from any bytes: refused with a line, or read, never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "server/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<shoal::Config> config =
      shoal::ParseConfig(std::string_view(reinterpret_cast<const char*>(data), size), "configs/fuzz.textproto");
  if (config.ok()) {
    SHOAL_CHECK(config->planned_ranks() >= 0);
    shoal::MakeEngineOptions(*config, 64, 2048, 1024);
  } else {
    SHOAL_CHECK(!config.status().message().empty());
  }
  return 0;
}
