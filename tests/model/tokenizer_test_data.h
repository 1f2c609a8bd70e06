// Files that the tokenizer and chat template tests read.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace shoal {

// The folder of test data beside the repository, or $SHOAL_TEST_DATA; empty if there is none.
inline std::string SharedData() {
  if (const char* path = std::getenv("SHOAL_TEST_DATA"); path != nullptr) return path;
  const std::string beside = std::string(SHOAL_SOURCE_DIR) + "/../shared/data";
  return std::filesystem::exists(beside) ? beside : "";
}

inline std::string ReadTestFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A folder that disappears with the object.
class TestFolder {
 public:
  TestFolder() {
    std::string path = std::filesystem::temp_directory_path() / "shoal_tok_XXXXXX";
    path_ = mkdtemp(path.data());
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }

 private:
  std::string path_;
};

}  // namespace shoal
