// Speed of a model in this process: prefill and decode steps as the server would run them, without server and
// scheduler.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/machine_rates.h"
#include "parallel/plan_cost.h"
#include "tools/offline_model.h"
#include "tools/statistics.h"

namespace shoal {

struct OfflineBenchOptions {
  OfflineModelOptions model;                    // max_sequences and max_context are filled in.
  std::vector<int64_t> prompts = {512};         // Tokens.
  std::vector<int64_t> batches = {1, 2, 4, 8};  // Sequences of a decode step.
  std::vector<int64_t> depths = {0};            // Tokens of context before the first decode step.
  int64_t generate = 32;                        // Decode steps of one repetition; 0: no decoding.
  int64_t repeat = 5;
  uint64_t seed = 1;          // Of the token ids.
  MachineRatesOptions rates;  // `threads` and `isa` are those of the model.
};

// One row of the report. Work is that of one repetition: all chunks of a prompt, or all decode steps.
struct SpeedRow {
  int64_t prompt = 0;  // Prefill: tokens of the prompt. 0: this row is of decoding.
  int64_t batch = 1;
  int64_t depth = 0;
  int64_t steps = 0;   // Of one repetition.
  int64_t tokens = 0;  // Of one repetition, all sequences together.
  StepCost cost;       // Of one repetition.
  Spread seconds;      // Of all repetitions.

  Spread tokens_per_second() const;
  // At the median.
  double bytes_per_second() const { return static_cast<double>(cost.bytes) / seconds.median; }
  double ops_per_second() const { return static_cast<double>(cost.ops) / seconds.median; }
};

struct OfflineReport {
  std::string architecture;
  Plan plan;
  std::string device;              // Device::description.
  double load_seconds = 0;         // Reading (and quantizing) the weights.
  double ready_seconds = 0;        // From the start of the process until the first step could begin.
  double first_token_seconds = 0;  // From the start of the process, with a prompt of prompts[0] tokens.
  int64_t peak_resident_bytes = 0;
  MemoryLedger memory;
  MachineRates rates;
  std::vector<SpeedRow> rows;
};

// Whether all matrices that steps multiply by are quantized, so that int8 products are what they consist of.
bool MultipliesInt8(const FormatPlan& formats);

// Loads the model and measures every row: once to warm up, then `repeat` times. The context of decode steps holds the
// keys and values of random ids, as many for each sequence, in blocks of its own. The machine's rates come last, so
// that the peak of memory is the model's. Errors: kInvalidArgument if a number is more than the model has positions;
// otherwise as OfflineModel and MeasureMachineRates.
absl::StatusOr<OfflineReport> RunOfflineBench(OfflineBenchOptions options);

}  // namespace shoal
