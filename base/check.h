// CHECK: ends the process with file, line and values when only a bug can have brought us here.
// What operation can bring (files, peers, clients, memory) is an absl::Status instead.
#pragma once

#include <cstdint>
#include <string>

namespace shoal::internal {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const std::string& values);

template <typename A, typename B>
std::string CheckValues(const A& a, const B& b) {
  return std::to_string(a) + " vs " + std::to_string(b);
}

}  // namespace shoal::internal

#define SHOAL_CHECK(condition)                                            \
  do {                                                                    \
    if (!(condition)) [[unlikely]]                                        \
      ::shoal::internal::CheckFailed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

// Both sides must be numbers.
#define SHOAL_CHECK_OP_(a, op, b)                                                         \
  do {                                                                                    \
    const auto check_a_ = (a);                                                            \
    const auto check_b_ = (b);                                                            \
    if (!(check_a_ op check_b_)) [[unlikely]]                                             \
      ::shoal::internal::CheckFailed(__FILE__, __LINE__, #a " " #op " " #b,               \
                                     ::shoal::internal::CheckValues(check_a_, check_b_)); \
  } while (false)

#define SHOAL_CHECK_EQ(a, b) SHOAL_CHECK_OP_(a, ==, b)
#define SHOAL_CHECK_NE(a, b) SHOAL_CHECK_OP_(a, !=, b)
#define SHOAL_CHECK_LT(a, b) SHOAL_CHECK_OP_(a, <, b)
#define SHOAL_CHECK_LE(a, b) SHOAL_CHECK_OP_(a, <=, b)
#define SHOAL_CHECK_GT(a, b) SHOAL_CHECK_OP_(a, >, b)
#define SHOAL_CHECK_GE(a, b) SHOAL_CHECK_OP_(a, >=, b)
