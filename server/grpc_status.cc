#include "server/grpc_status.h"

#include <string>

#include "base/utf8.h"
#include "proto/shoal/v1/rpc_status.pb.h"

namespace shoal {
namespace {

constexpr size_t kMessageBytesMax = 2000;
constexpr int64_t kRetrySeconds = 1;

std::string RetryDetails(int code, const std::string& message) {
  v1::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
  v1::RpcStatus details;
  details.set_code(code);
  details.set_message(message);
  google::protobuf::Any* any = details.add_details();
  any->set_type_url("type.googleapis.com/google.rpc.RetryInfo");
  any->set_value(retry.SerializeAsString());
  return details.SerializeAsString();
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = ReplaceInvalidUtf8(std::string(status.message().substr(0, kMessageBytesMax)));
  if (code != grpc::StatusCode::RESOURCE_EXHAUSTED) return grpc::Status(code, message);
  return grpc::Status(code, message, RetryDetails(code, message));
}

}  // namespace shoal
