#include "base/json.h"

#include <set>
#include <vector>

#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/str_cat.h"

namespace shoal {
namespace {

constexpr int kDepthMax = 64;

// Watches the parse for what nlohmann::json accepts silently: duplicate keys and deep nesting.
struct ParseGuard {
  std::vector<std::set<std::string>> keys_;
  std::string error_;

  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        keys_.emplace_back();
        if (depth >= kDepthMax && error_.empty()) error_ = StrCat("nesting is deeper than ", kDepthMax);
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        if (!keys_.empty()) keys_.pop_back();
        break;
      case Json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys_.empty() && !keys_.back().insert(key).second && error_.empty()) {
          error_ = StrCat("key '", key.substr(0, 64), "' appears twice");
        }
        break;
      }
      case Json::parse_event_t::value:
        break;
    }
    return error_.empty();  // false drops the value: nothing more is kept after an error.
  }
};

absl::Status FieldError(std::string_view where, std::string_view key, std::string_view what) {
  return absl::InvalidArgumentError(StrCat(where, ": field '", key, "' ", what));
}

// Null and absent are the same: a file says "no value" both ways.
const Json* Find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view where) {
  ParseGuard guard;
  try {
    // The parser keeps a heap stack, so depth cannot overflow ours; the guard stops keeping values beyond the limit.
    Json json = Json::parse(
        text, [&](int depth, Json::parse_event_t event, Json& parsed) { return guard(depth, event, parsed); });
    if (!guard.error_.empty()) return absl::InvalidArgumentError(StrCat(where, ": ", guard.error_));
    return json;
  } catch (const Json::parse_error& e) {
    return absl::InvalidArgumentError(StrCat(where, ": is not valid JSON near byte ", e.byte));
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError(StrCat(where, ": is not valid JSON"));
  }
}

absl::StatusOr<Json> ReadJsonFile(const std::string& path, size_t bytes_max) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path, bytes_max));
  return ParseJson(text, path);
}

absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = Find(object, key);
  if (field == nullptr) return FieldError(where, key, "is missing");
  if (!field->is_number_integer()) return FieldError(where, key, "must be an integer");
  if (field->is_number_unsigned() && field->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return FieldError(where, key, "is too large");
  }
  return field->get<int64_t>();
}

absl::StatusOr<double> JsonNumber(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = Find(object, key);
  if (field == nullptr) return FieldError(where, key, "is missing");
  if (!field->is_number()) return FieldError(where, key, "must be a number");
  return field->get<double>();
}

absl::StatusOr<bool> JsonBool(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = Find(object, key);
  if (field == nullptr) return FieldError(where, key, "is missing");
  if (!field->is_boolean()) return FieldError(where, key, "must be true or false");
  return field->get<bool>();
}

absl::StatusOr<std::string> JsonString(const Json& object, std::string_view key, std::string_view where) {
  const Json* field = Find(object, key);
  if (field == nullptr) return FieldError(where, key, "is missing");
  if (!field->is_string()) return FieldError(where, key, "must be a string");
  return field->get<std::string>();
}

bool JsonHas(const Json& object, std::string_view key) { return Find(object, key) != nullptr; }

}  // namespace shoal
