// shoal info, shoal loads, shoal drain.
#include <cstdio>
#include <string>

#include "base/status_macros.h"
#include "base/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "tools/client.h"
#include "tools/commands.h"

namespace shoal {
namespace {

// Field names as in the .proto file; every field of numbers and switches is there, also when zero.
absl::Status PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  if (!google::protobuf::util::MessageToJsonString(message, &json, options).ok()) {
    return absl::InternalError("the server's answer cannot be written as JSON");
  }
  std::fputs(json.c_str(), stdout);
  return absl::OkStatus();
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
  return PrintJson(loads);
}

absl::Status RunDrain(const Arguments& arguments) {
  v1::DrainRequest request;
  if (arguments.Has("deadline")) {
    ASSIGN_ARGUMENT(const double seconds, arguments.Number("deadline", 0));
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
