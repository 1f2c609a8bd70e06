#include "tools/arguments.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/str_cat.h"
#include "server/text_config.h"

namespace shoal {
namespace {

const Flag* FindFlag(std::span<const Flag> flags, std::string_view name) {
  for (const Flag& flag : flags) {
    if (name == flag.name) return &flag;
  }
  return nullptr;
}

absl::Status UnknownFlag(std::span<const Flag> flags, std::string_view name) {
  std::vector<std::string> known;
  for (const Flag& flag : flags) known.push_back(StrCat("--", flag.name));
  return absl::InvalidArgumentError(StrCat("unknown flag --", name, DidYouMean(StrCat("--", name), known)));
}

}  // namespace

absl::StatusOr<Arguments> Arguments::Parse(std::span<const Flag> flags, std::span<const std::string> words) {
  Arguments arguments;
  for (size_t i = 0; i < words.size(); ++i) {
    std::string_view word = words[i];
    if (word.substr(0, 2) != "--") return absl::InvalidArgumentError(StrCat("unexpected argument '", word, "'"));
    word.remove_prefix(2);
    const size_t equals = word.find('=');
    const std::string_view name = word.substr(0, equals);
    const Flag* flag = FindFlag(flags, name);
    if (flag == nullptr) return UnknownFlag(flags, name);
    std::string value;
    if (flag->kind == FlagKind::kSwitch) {
      if (equals != std::string_view::npos) return absl::InvalidArgumentError(StrCat("--", name, " takes no value"));
    } else if (equals != std::string_view::npos) {
      value = std::string(word.substr(equals + 1));
    } else if (i + 1 < words.size()) {
      value = words[++i];
    } else {
      return absl::InvalidArgumentError(StrCat("--", name, " needs a value: --", name, " ", flag->value_name));
    }
    std::vector<std::string>& values = arguments.values_[std::string(name)];
    if (!values.empty() && flag->kind != FlagKind::kTexts) {
      return absl::InvalidArgumentError(StrCat("--", name, " is given twice"));
    }
    values.push_back(std::move(value));
  }
  for (const Flag& flag : flags) {
    if (flag.required && !arguments.Has(flag.name)) {
      return absl::InvalidArgumentError(StrCat("--", flag.name, " ", flag.value_name, " is missing"));
    }
  }
  return arguments;
}

std::string Arguments::Text(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? "" : found->second.front();
}

std::vector<std::string> Arguments::Texts(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

absl::StatusOr<int64_t> Arguments::Integer(std::string_view name, int64_t otherwise, int64_t low, int64_t high) const {
  if (!Has(name)) return otherwise;
  int64_t value = 0;
  if (!absl::SimpleAtoi(Text(name), &value) || value < low || value > high) {
    return absl::InvalidArgumentError(
        StrCat("--", name, " is '", Text(name), "'; it must be an integer from ", low, " to ", high));
  }
  return value;
}

absl::StatusOr<std::vector<int64_t>> Arguments::Integers(std::string_view name, std::vector<int64_t> otherwise,
                                                         int64_t low, int64_t high) const {
  if (!Has(name)) return otherwise;
  constexpr size_t kIntegersMax = 64;
  std::vector<int64_t> values;
  for (const absl::string_view word : absl::StrSplit(Text(name), ',')) {
    int64_t value = 0;
    if (values.size() == kIntegersMax || !absl::SimpleAtoi(word, &value) || value < low || value > high) {
      return absl::InvalidArgumentError(StrCat("--", name, " is '", Text(name), "'; it must be up to ", kIntegersMax,
                                               " integers from ", low, " to ", high, ", with commas between them"));
    }
    values.push_back(value);
  }
  return values;
}

absl::StatusOr<uint64_t> Arguments::Seed(std::string_view name, uint64_t otherwise) const {
  if (!Has(name)) return otherwise;
  uint64_t value = 0;
  if (!absl::SimpleAtoi(Text(name), &value)) {
    return absl::InvalidArgumentError(
        StrCat("--", name, " is '", Text(name), "'; it must be an integer from 0 to 2^64 - 1"));
  }
  return value;
}

absl::StatusOr<double> Arguments::Number(std::string_view name, double otherwise, double low, double high) const {
  if (!Has(name)) return otherwise;
  double value = 0;
  // Written so that NaN fails.
  if (!absl::SimpleAtod(Text(name), &value) || !(value >= low && value <= high)) {
    return absl::InvalidArgumentError(
        StrCat("--", name, " is '", Text(name), "'; it must be a number from ", low, " to ", high));
  }
  return value;
}

std::string FlagsHelp(std::span<const Flag> flags) {
  size_t width = 0;
  const auto form = [](const Flag& flag) {
    return flag.kind == FlagKind::kSwitch ? StrCat("--", flag.name) : StrCat("--", flag.name, " ", flag.value_name);
  };
  for (const Flag& flag : flags) width = std::max(width, form(flag).size());
  std::string text;
  for (const Flag& flag : flags) {
    std::string left = form(flag);
    left.resize(width, ' ');
    text += StrCat("  ", left, "  ", flag.help, flag.required ? " (required)" : "", "\n");
  }
  return text;
}

}  // namespace shoal
