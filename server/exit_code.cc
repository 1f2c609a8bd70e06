#include "server/exit_code.h"

namespace shoal {

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kResourceExhausted:
      return kExitMemory;
    case absl::StatusCode::kAlreadyExists:
      return kExitPort;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kDataLoss:    // A damaged file.
    case absl::StatusCode::kOutOfRange:  // A number in one.
      return kExitRefused;
    default:
      return kExitFault;
  }
}

}  // namespace shoal
