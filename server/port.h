// An early look at the front end's port.
#pragma once

#include "absl/status/status.h"
#include "server/config.h"

namespace shoal {

// Binds the address for a moment, so that a port in use is reported before a model is loaded. The server's own bind
// decides. Errors: kAlreadyExists if it is in use; kInvalidArgument if this host cannot bind it.
absl::Status CheckPortIsFree(const ListenAddress& address);

}  // namespace shoal
