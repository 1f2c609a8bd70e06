// GgufMetadata: typed access to values that the parser has checked.
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "base/utf8.h"
#include "model/gguf.h"

namespace shoal {
namespace {

using Type = GgufValueType;

template <typename T>
T Load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

// Calls use(value) with a number of the type's own C++ type; false if it is no number.
template <typename Use>
bool WithNumber(Type type, const char* bytes, Use use) {
  switch (type) {
    case Type::kUint8:
      return use(Load<uint8_t>(bytes));
    case Type::kInt8:
      return use(Load<int8_t>(bytes));
    case Type::kUint16:
      return use(Load<uint16_t>(bytes));
    case Type::kInt16:
      return use(Load<int16_t>(bytes));
    case Type::kUint32:
      return use(Load<uint32_t>(bytes));
    case Type::kInt32:
      return use(Load<int32_t>(bytes));
    case Type::kUint64:
      return use(Load<uint64_t>(bytes));
    case Type::kInt64:
      return use(Load<int64_t>(bytes));
    case Type::kFloat32:
      return use(Load<float>(bytes));
    case Type::kFloat64:
      return use(Load<double>(bytes));
    default:
      return false;
  }
}

size_t SizeOf(Type type) {
  size_t size = 0;
  const char zeros[8] = {};
  WithNumber(type, zeros, [&](auto value) { return (size = sizeof(value)) > 0; });
  return size;
}

bool ToInteger(Type type, const char* bytes, int64_t* out) {
  return WithNumber(type, bytes, [&](auto value) {
    if constexpr (std::is_floating_point_v<decltype(value)>) {
      return false;
    } else {
      if constexpr (std::is_same_v<decltype(value), uint64_t>) {
        if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
      }
      *out = static_cast<int64_t>(value);
      return true;
    }
  });
}

template <typename T>
bool ToFloating(Type type, const char* bytes, T* out) {
  return WithNumber(type, bytes, [&](auto value) {
    *out = static_cast<T>(value);
    return true;
  });
}

}  // namespace

absl::Status GgufMetadata::WrongType(std::string_view key, std::string_view wanted) const {
  return absl::InvalidArgumentError(StrCat(where_, ": key '", key, "' must be ", wanted, "; convert the model again"));
}

absl::StatusOr<const GgufMetadata::Value*> GgufMetadata::Find(std::string_view key, bool array,
                                                              std::string_view wanted) const {
  const auto it = values_.find(key);
  if (it == values_.end()) {
    return absl::InvalidArgumentError(StrCat(where_, ": key '", key, "' is missing; convert the model again"));
  }
  if (it->second.array != array) return WrongType(key, wanted);
  return &it->second;
}

absl::StatusOr<int64_t> GgufMetadata::Integer(std::string_view key) const {
  constexpr std::string_view kWanted = "an integer";
  ASSIGN_OR_RETURN(const Value* value, Find(key, false, kWanted));
  int64_t out = 0;
  if (!ToInteger(value->type, bytes_.data() + value->begin, &out)) return WrongType(key, kWanted);
  return out;
}

absl::StatusOr<double> GgufMetadata::Number(std::string_view key) const {
  constexpr std::string_view kWanted = "a number";
  ASSIGN_OR_RETURN(const Value* value, Find(key, false, kWanted));
  double out = 0;
  if (!ToFloating(value->type, bytes_.data() + value->begin, &out)) return WrongType(key, kWanted);
  return out;
}

absl::StatusOr<bool> GgufMetadata::Bool(std::string_view key) const {
  constexpr std::string_view kWanted = "true or false";
  ASSIGN_OR_RETURN(const Value* value, Find(key, false, kWanted));
  if (value->type != Type::kBool) return WrongType(key, kWanted);
  return bytes_[value->begin] != 0;
}

absl::StatusOr<std::string_view> GgufMetadata::Text(std::string_view key) const {
  constexpr std::string_view kWanted = "a text in UTF-8";
  ASSIGN_OR_RETURN(const Value* value, Find(key, false, kWanted));
  if (value->type != Type::kString) return WrongType(key, kWanted);
  const size_t begin = value->begin + sizeof(uint64_t);
  const std::string_view text = std::string_view(bytes_).substr(begin, value->end - begin);
  if (!IsValidUtf8(text)) return WrongType(key, kWanted);
  return text;
}

absl::StatusOr<std::vector<std::string_view>> GgufMetadata::Texts(std::string_view key) const {
  constexpr std::string_view kWanted = "an array of texts in UTF-8";
  ASSIGN_OR_RETURN(const Value* value, Find(key, true, kWanted));
  if (value->type != Type::kString) return WrongType(key, kWanted);
  std::vector<std::string_view> out;
  out.reserve(value->count);
  for (size_t pos = value->begin; pos < value->end;) {
    const auto length = Load<uint64_t>(bytes_.data() + pos);
    pos += sizeof(length);
    out.push_back(std::string_view(bytes_).substr(pos, length));
    if (!IsValidUtf8(out.back())) return WrongType(key, kWanted);
    pos += length;
  }
  return out;
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::Integers(std::string_view key) const {
  constexpr std::string_view kWanted = "an array of integers";
  ASSIGN_OR_RETURN(const Value* value, Find(key, true, kWanted));
  std::vector<int64_t> out(value->count);
  const size_t size = SizeOf(value->type);
  for (size_t i = 0; i < out.size(); ++i) {
    if (!ToInteger(value->type, bytes_.data() + value->begin + i * size, &out[i])) return WrongType(key, kWanted);
  }
  return out;
}

absl::StatusOr<std::vector<float>> GgufMetadata::Floats(std::string_view key) const {
  constexpr std::string_view kWanted = "an array of numbers";
  ASSIGN_OR_RETURN(const Value* value, Find(key, true, kWanted));
  std::vector<float> out(value->count);
  const size_t size = SizeOf(value->type);
  for (size_t i = 0; i < out.size(); ++i) {
    if (!ToFloating(value->type, bytes_.data() + value->begin + i * size, &out[i])) return WrongType(key, kWanted);
  }
  return out;
}

std::string GgufMetadata::FileWithoutTensors() const {
  const uint32_t version = 3;
  const uint64_t counts[2] = {0, values_.size()};
  std::string out = "GGUF";
  out.append(reinterpret_cast<const char*>(&version), sizeof(version));
  out.append(reinterpret_cast<const char*>(counts), sizeof(counts));
  out.append(bytes_, pairs_begin_, pairs_end_ - pairs_begin_);
  return out;
}

}  // namespace shoal
