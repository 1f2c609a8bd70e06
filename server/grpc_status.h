// Our statuses on the wire.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace shoal {

// For errors of what only takes requests while there is room: kResourceExhausted is marked as worth another try.
absl::Status RetryIfFull(absl::Status status);

// The same code and message. A marked status carries a google.rpc.RetryInfo in grpc-status-details-bin.
// Messages are cut to what fits into HTTP/2 trailers and made valid UTF-8.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace shoal
