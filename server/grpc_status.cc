#include "server/grpc_status.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/types/optional.h"
#include "base/utf8.h"
#include "proto/shoal/v1/rpc_status.pb.h"

namespace shoal {
namespace {

constexpr size_t kMessageBytesMax = 2000;
constexpr int64_t kRetrySeconds = 1;
constexpr char kRetryUrl[] = "type.googleapis.com/google.rpc.RetryInfo";

std::string RetryDetails(int code, const std::string& message, const absl::Cord& retry) {
  v1::RpcStatus details;
  details.set_code(code);
  details.set_message(message);
  google::protobuf::Any* any = details.add_details();
  any->set_type_url(kRetryUrl);
  any->set_value(std::string(retry));
  return details.SerializeAsString();
}

}  // namespace

absl::Status RetryIfFull(absl::Status status) {
  if (!absl::IsResourceExhausted(status)) return status;
  v1::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
  status.SetPayload(kRetryUrl, absl::Cord(retry.SerializeAsString()));
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = ReplaceInvalidUtf8(std::string(status.message().substr(0, kMessageBytesMax)));
  const absl::optional<absl::Cord> retry = status.GetPayload(kRetryUrl);
  if (!retry.has_value()) return grpc::Status(code, message);
  return grpc::Status(code, message, RetryDetails(code, message, *retry));
}

}  // namespace shoal
