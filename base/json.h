// JSON files read with bounds and clear errors, over nlohmann::json with exceptions kept inside.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shoal {

using Json = nlohmann::json;

// Parses `text`. `where` (a path) starts every message. Duplicate keys are refused, and so is nesting deeper than 64.
// Errors: kInvalidArgument with the byte offset.
absl::StatusOr<Json> ParseJson(std::string_view text, std::string_view where);

// Reads and parses a file of at most `bytes_max` bytes.
absl::StatusOr<Json> ReadJsonFile(const std::string& path, size_t bytes_max);

// Typed access to an object's field. Errors: kInvalidArgument "<where>: field 'x' is missing / must be an integer ...".
absl::StatusOr<int64_t> JsonInt(const Json& object, std::string_view key, std::string_view where);
absl::StatusOr<double> JsonNumber(const Json& object, std::string_view key, std::string_view where);
absl::StatusOr<bool> JsonBool(const Json& object, std::string_view key, std::string_view where);
absl::StatusOr<std::string> JsonString(const Json& object, std::string_view key, std::string_view where);

// The field is there and not null.
bool JsonHas(const Json& object, std::string_view key);

}  // namespace shoal
