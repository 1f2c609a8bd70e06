// Plans for people and for programs.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "parallel/plan.h"

namespace shoal {

// "1.50 GiB", "512 MiB", "0 B": three digits, binary units.
std::string BytesText(int64_t bytes);

// A table: one line per rank with its layers, heads, KV heads, FFN columns, vocabulary rows, and bytes by kind against
// the budget; then the KV capacity.
std::string PlanToText(const Plan& plan);

// The same numbers. {"automatic", "stages": [[rank...]], "kv": {"block_tokens", "blocks", "tokens"}, "max_step_tokens",
// "max_sequences", "max_context", "formats": {...}, "ranks": [{"rank", "stage", "tp_rank", "tp_size",
// "layers": [begin, end], "heads", "kv_heads", "ffn", "vocab", "has_embedding", "cost",
// "memory": {"weights", "kv", "activations", "communication", "reserved", "total", "budget"}}]}; ranges are half-open.
Json PlanToJson(const Plan& plan);

}  // namespace shoal
