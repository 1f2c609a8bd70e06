// shoal info, shoal loads, shoal drain.
#include <cstdio>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "base/str_cat.h"
#include "google/protobuf/message.h"
#include "tools/client.h"
#include "tools/commands.h"

namespace shoal {
namespace {

using OrderedJson = nlohmann::ordered_json;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

OrderedJson ToJson(const Message& message);

// An element of a repeated field, or with index -1 a single field.
OrderedJson FieldToJson(const Message& message, const FieldDescriptor* field, int index) {
  const google::protobuf::Reflection& get = *message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? get.GetInt32(message, field) : get.GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? get.GetInt64(message, field) : get.GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? get.GetUInt64(message, field) : get.GetRepeatedUInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? get.GetDouble(message, field) : get.GetRepeatedDouble(message, field, index);
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? get.GetString(message, field) : get.GetRepeatedString(message, field, index);
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(one ? get.GetMessage(message, field) : get.GetRepeatedMessage(message, field, index));
    default:
      SHOAL_CHECK(false);  // No message that we print has other types.
      return {};
  }
}

// Field names as in the .proto file, every field, also when zero. Not protobuf's own JSON, which makes strings of
// 64-bit numbers.
OrderedJson ToJson(const Message& message) {
  OrderedJson json = OrderedJson::object();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    if (!field->is_repeated()) {
      json[field->name()] = FieldToJson(message, field, -1);
      continue;
    }
    OrderedJson list = OrderedJson::array();
    const int size = message.GetReflection()->FieldSize(message, field);
    for (int n = 0; n < size; ++n) list.push_back(FieldToJson(message, field, n));
    json[field->name()] = std::move(list);
  }
  return json;
}

absl::Status RunInfo(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto client, Client::Connect(arguments.Text("server")));
  ASSIGN_OR_RETURN(const v1::GetModelInfoResponse model, client->GetModelInfo());
  ASSIGN_OR_RETURN(const v1::GetServerInfoResponse server, client->GetServerInfo());
  ASSIGN_OR_RETURN(const v1::GetPlanResponse plan, client->GetPlan());
  std::string state = v1::ServerState_Name(server.state());
  if (state.rfind("SERVER_STATE_", 0) == 0) state.erase(0, 13);
  std::fputs(StrCat("model    ", model.served_model_name(), " (", model.architecture(), ", ", model.weight_formats(),
                    ")\n", "folder   ", model.model_path(), "\n",  //
                    "context  ", model.max_context_length(), " tokens\n", "chat     ",
                    model.has_chat_template() ? "yes" : "no template", "\n",  //
                    "server   ", server.version(), ", ", state, ", ", server.active_requests(), " active requests, up ",
                    static_cast<int64_t>(server.uptime_seconds()), " s\n\n", plan.text())
                 .c_str(),
             stdout);
  return absl::OkStatus();
}

absl::Status RunLoads(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const auto client, Client::Connect(arguments.Text("server")));
  ASSIGN_OR_RETURN(const v1::GetLoadsResponse loads, client->GetLoads());
  std::fputs((ToJson(loads).dump(2) + "\n").c_str(), stdout);
  return absl::OkStatus();
}

absl::Status RunDrain(const Arguments& arguments) {
  v1::DrainRequest request;
  if (arguments.Has("deadline")) {
    ASSIGN_ARGUMENT(const double seconds, arguments.Number("deadline", 0, 0, kSecondsMax));
    request.set_deadline_seconds(seconds);
  }
  ASSIGN_OR_RETURN(const auto client, Client::Connect(arguments.Text("server")));
  ASSIGN_OR_RETURN(const v1::DrainResponse response, client->Drain(request));
  std::fputs(StrCat("draining; ", response.active_requests(), " requests are left\n").c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ServerCommands() {
  const Flag server = {"server", "HOST:PORT", "address of the server", FlagKind::kText, true};
  return {
      {"info", "say what a server serves and how it is cut over its ranks", "", {server}, RunInfo},
      {"loads", "print a server's queue, KV cache, stages and memory as JSON", "", {server}, RunLoads},
      {"drain",
       "let a server finish its requests and stop",
       "New requests are refused from now on. The command returns at once; the server's ranks exit with 0 when the "
       "last\n"
       "request has ended.",
       {server, {"deadline", "SECONDS", "end requests that still run after this; default: the server's drain_seconds"}},
       RunDrain}};
}

}  // namespace shoal
