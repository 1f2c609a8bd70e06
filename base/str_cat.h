// StrCat that takes std::string_view.
//
// Debian builds Abseil with a string_view of its own (ABSL_OPTION_USE_STD_STRING_VIEW 0), which std::string_view does
// not convert to; absl::StrCat alone does not compile with it. Use absl::StrCat again once the two are one type.
#pragma once

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shoal {

// `text` for a function of Abseil that asks for its own string_view.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

namespace internal {
template <typename T>
decltype(auto) StrCatArgument(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return ToAbsl(value);
  } else {
    return (value);
  }
}
}  // namespace internal

// The arguments as text, joined: strings, string_views of both kinds, numbers.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(internal::StrCatArgument(args)...);
}

}  // namespace shoal
