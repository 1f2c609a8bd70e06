// Writes GGUF files for tests. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/half.h"
#include "model/gguf.h"
#include "model/gguf_blocks.h"

namespace shoal {

template <typename T>
std::string RawBytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

inline std::string GgufText(std::string_view text) { return RawBytes<uint64_t>(text.size()) + std::string(text); }

// Collects keys and tensors; Bytes() is the file.
class GgufWriter {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;  // Written as a key unless it is the format's default.

  void Add(std::string_view key, GgufValueType type, const std::string& value) {
    pairs_ += GgufText(key) + RawBytes(static_cast<uint32_t>(type)) + value;
    ++pair_count_;
  }
  void Add(std::string_view key, uint32_t value) { Add(key, GgufValueType::kUint32, RawBytes(value)); }
  void Add(std::string_view key, float value) { Add(key, GgufValueType::kFloat32, RawBytes(value)); }
  void Add(std::string_view key, bool value) { Add(key, GgufValueType::kBool, std::string(1, value ? 1 : 0)); }
  void Add(std::string_view key, const char* value) { Add(key, GgufValueType::kString, GgufText(value)); }
  void Add(std::string_view key, const std::string& value) { Add(key, GgufValueType::kString, GgufText(value)); }
  void Add(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& value : values) bytes += GgufText(value);
    AddArray(key, GgufValueType::kString, values.size(), bytes);
  }
  template <typename T>
  void AddNumbers(std::string_view key, GgufValueType type, const std::vector<T>& values) {
    AddArray(key, type, values.size(), {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
  }

  // `shape` as rows and columns; the file has the columns first.
  void AddTensor(std::string_view name, uint32_t type, const std::vector<uint64_t>& shape, const std::string& bytes) {
    tensors_ += GgufText(name) + RawBytes(static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) tensors_ += RawBytes(shape[i]);
    tensors_ += RawBytes(type) + RawBytes<uint64_t>(data_.size());
    ++tensor_count_;
    data_ += bytes;
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
  }

  std::string Bytes() const {
    GgufWriter with_alignment = *this;
    if (alignment != 32) with_alignment.Add("general.alignment", static_cast<uint32_t>(alignment));
    std::string bytes = "GGUF" + RawBytes(version) + RawBytes(tensor_count_) + RawBytes(with_alignment.pair_count_) +
                        with_alignment.pairs_ + tensors_;
    if (tensor_count_ > 0) bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    return bytes + data_;
  }

 private:
  void AddArray(std::string_view key, GgufValueType type, uint64_t count, const std::string& bytes) {
    Add(key, GgufValueType::kArray, RawBytes(static_cast<uint32_t>(type)) + RawBytes(count) + bytes);
  }

  std::string pairs_, tensors_, data_;
  uint64_t pair_count_ = 0, tensor_count_ = 0;
};

}  // namespace shoal
