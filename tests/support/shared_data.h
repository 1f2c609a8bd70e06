// Where tests find real files: tokenizers, trained weights, published vectors.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace shoal {

// The folder of test data beside the repository, or $SHOAL_TEST_DATA; empty if there is none: then the test is skipped.
inline std::string SharedTestData() {
  if (const char* path = std::getenv("SHOAL_TEST_DATA"); path != nullptr) return path;
  const std::string beside = std::string(SHOAL_SOURCE_DIR) + "/../shared/data";
  return std::filesystem::exists(beside) ? beside : "";
}

}  // namespace shoal
