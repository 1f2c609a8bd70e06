#include "server/serving.h"

#include "absl/status/status.h"

namespace shoal {

absl::Status Serving::CheckServing() const {
  if (draining.load())
    return absl::UnavailableError("the server is draining and takes no new requests; use another server");
  if (!ready.load()) return absl::UnavailableError("the server is starting; try again when its health says SERVING");
  return absl::OkStatus();
}

v1::ServerState Serving::state() const {
  switch (model.engine->state()) {
    case EngineState::kFailed:
      return v1::SERVER_STATE_FAILED;
    case EngineState::kStopped:
      return v1::SERVER_STATE_STOPPED;
    case EngineState::kDraining:
      return v1::SERVER_STATE_DRAINING;
    case EngineState::kServing:
      break;
  }
  if (draining.load()) return v1::SERVER_STATE_DRAINING;
  return ready.load() ? v1::SERVER_STATE_SERVING : v1::SERVER_STATE_STARTING;
}

void Serving::Drain(double deadline_seconds) {
  draining = true;
  model.engine->Drain(deadline_seconds);
}

}  // namespace shoal
