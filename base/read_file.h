// Files that a user names, opened and read with bounds.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace shoal {

// Opens a regular file for reading, through links: FIFOs, devices and folders are refused, also behind a link, and
// nothing is waited for. Returns the descriptor, which the caller closes.
// Errors: kNotFound; kInvalidArgument if it is not a regular file or a link that leads nowhere; kPermissionDenied;
// kInternal with errno's text.
absl::StatusOr<int> OpenRegularFile(const std::string& path);

// Reads a whole small file (configuration, tokenizer). It is read, not mapped: one cut short meanwhile is no SIGBUS.
// Errors: as OpenRegularFile; kInvalidArgument if larger than `bytes_max`; kDataLoss if it is cut short meanwhile.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t bytes_max);

}  // namespace shoal
