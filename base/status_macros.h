// Early returns for absl::Status and absl::StatusOr.
//
// Newer Abseil releases ship their own (absl/status/status_macros.h); delete this file once ours does.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the error of `expr` (a Status) from the enclosing function, if it is one.
#define RETURN_IF_ERROR(expr)                                         \
  do {                                                                \
    if (absl::Status status_ = (expr); !status_.ok()) return status_; \
  } while (false)

// Evaluates `expr` (a StatusOr<T>); returns its error, or moves its value to `lhs`.
#define ASSIGN_OR_RETURN(lhs, expr) SHOAL_ASSIGN_OR_RETURN_(SHOAL_CONCAT_(statusor_, __LINE__), lhs, expr)

#define SHOAL_CONCAT_IMPL_(a, b) a##b
#define SHOAL_CONCAT_(a, b) SHOAL_CONCAT_IMPL_(a, b)
#define SHOAL_ASSIGN_OR_RETURN_(tmp, lhs, expr)  \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return std::move(tmp).status(); \
  lhs = *std::move(tmp)
