// The configuration file of a deployment (proto/shoal/v1/config.proto), read, checked and with its texts turned into
// numbers.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "proto/shoal/v1/config.pb.h"

namespace shoal {

// HOST:PORT, taken apart.
struct ListenAddress {
  std::string host;  // Without brackets.
  int port = 0;      // 0: any free one.
  bool loopback = false;

  // "127.0.0.1:50051", "[::1]:50051".
  std::string ToString() const;
};

// Errors: kInvalidArgument, without the name of the field.
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

// "3700MiB", "4GiB", "1.5GiB", "4000000000", "4GB"; KiB/MiB/GiB count 1024, KB/MB/GB 1000.
// Errors: kInvalidArgument, without the name of the field.
absl::StatusOr<int64_t> ParseBytes(std::string_view text);

struct Config {
  v1::ServerConfig proto;  // Every number is inside its range.
  std::string path;        // Of the file.
  std::string model_dir;   // proto.model, a folder or GGUF file, counted from the folder of the file.
  std::string served_model_name;
  std::vector<int64_t> memory_budget;  // Bytes: empty, one for all ranks, or one per rank.
  int64_t reserved_bytes = 0;
  int64_t workspace_bytes = 0;  // Of a GPU.
  ListenAddress listen;
  int64_t message_bytes = 0;
  int64_t prompt_bytes = 0;
  int64_t network_bytes = 0;

  // Ranks that the explicit plan asks for; 0 if the plan is automatic.
  int planned_ranks() const;
};

// Reads and checks a file. Errors: kNotFound; kInvalidArgument with one line "path:line:column: what; what to do" per
// error.
absl::StatusOr<Config> LoadConfig(const std::string& path);

// The same for a text; `path` starts the error lines and gives the folder of relative paths.
absl::StatusOr<Config> ParseConfig(std::string_view text, const std::string& path);

// Puts another address in place of the file's (`--listen`). Errors: kInvalidArgument, also for a host that is not
// loopback without allow_insecure_remote.
absl::Status OverrideListen(std::string_view text, Config* config);

// The limits of one engine; `kv_blocks`, `max_context` and `vocab_size` come from the plan.
EngineOptions MakeEngineOptions(const Config& config, int64_t kv_blocks, int64_t max_context, int64_t vocab_size);

}  // namespace shoal
