// Tokens to tree. What is not supported (include, import, extends, unknown filters and tests) is refused here.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "model/jinja_ast.h"

namespace shoal::jinja {

// Blocks and parentheses may be nested this deep.
inline constexpr int kNestingMax = 64;
// Expressions may be this many operators deep ("a + b + c" is two).
inline constexpr int kExpressionDepthMax = 200;

// Errors: kInvalidArgument "template line N: ...".
absl::StatusOr<Body> ParseTemplate(std::string_view source);

}  // namespace shoal::jinja
