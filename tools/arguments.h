// Command line arguments: a table of flags per command, no globals.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shoal {

enum class FlagKind { kSwitch, kText, kTexts };  // --json; --prompt TEXT; --stop TEXT, any number of times.

struct Flag {
  const char* name;        // Without the dashes.
  const char* value_name;  // "HOST:PORT"; empty for a switch.
  const char* help;
  FlagKind kind = FlagKind::kText;
  bool required = false;
};

class Arguments {
 public:
  // Understands "--name value" and "--name=value". `flags` must outlive the result.
  // Errors: kInvalidArgument in one line: an unknown flag (with the nearest known one), a missing value, a missing
  // required flag, a word that belongs to no flag.
  static absl::StatusOr<Arguments> Parse(std::span<const Flag> flags, std::span<const std::string> words);

  bool Has(std::string_view name) const { return values_.contains(name); }
  // Empty if the flag was not given.
  std::string Text(std::string_view name) const;
  std::vector<std::string> Texts(std::string_view name) const;
  // Errors: kInvalidArgument naming flag, value and range.
  absl::StatusOr<int64_t> Integer(std::string_view name, int64_t otherwise, int64_t low, int64_t high) const;
  // "1,2,4". Errors: as Integer; also for none, for more than 64 and for an empty place.
  absl::StatusOr<std::vector<int64_t>> Integers(std::string_view name, std::vector<int64_t> otherwise, int64_t low,
                                                int64_t high) const;
  absl::StatusOr<uint64_t> Seed(std::string_view name, uint64_t otherwise) const;
  absl::StatusOr<double> Number(std::string_view name, double otherwise, double low, double high) const;

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

// One line per flag.
std::string FlagsHelp(std::span<const Flag> flags);

}  // namespace shoal
