// A model of a known shape with random weights that are made in memory, ready to run steps on one device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "model/activations.h"
#include "model/decoder.h"
#include "model/kv_cache.h"
#include "parallel/plan.h"

namespace shoal {

struct BenchModelOptions {
  std::string shape;  // Of RandomModelShapes().
  WeightFormat format = WeightFormat::kInt8;
  int64_t memory_budget = 0;  // Bytes; 0: no limit, and then kv_tokens tokens of KV.
  int64_t reserved_bytes = 0;
  int64_t kv_tokens = 16384;
  int max_step_tokens = 512;
  int max_sequences = 32;
  int64_t max_context = 4096;
};

// The plan of one rank that holds all of the model. Errors: as MakePlan and ParseModelConfig.
struct BenchPlan {
  ModelConfig config;
  Plan plan;
};
absl::StatusOr<BenchPlan> MakeBenchPlan(const BenchModelOptions& options);

class BenchModel {
 public:
  // All layers get the same numbers, which are made once. Errors: kResourceExhausted.
  static absl::StatusOr<std::unique_ptr<BenchModel>> Create(const BenchModelOptions& options, Device& device);

  const Plan& plan() const { return plan_; }
  const ModelShape& shape() const { return plan_.shape; }
  // Time from the first byte of the weights to the last, packing included, and their bytes.
  double upload_seconds() const { return upload_seconds_; }
  int64_t upload_bytes() const { return upload_bytes_; }
  // What a decode step reads of the weights: everything but the embedding's other rows.
  int64_t step_weight_bytes() const;
  // What attention reads for `sequences` tokens with `context` keys each.
  int64_t step_kv_bytes(int sequences, int64_t context) const;
  // Operations (two per product) of the matrices for `tokens` tokens of which one is sampled.
  double step_operations(int64_t tokens) const;

  // Puts a step into the device's buffers: `sequences` sequences of `tokens` new tokens each, which end at `context`
  // keys; the last token of each is sampled. Waits until it is there.
  absl::Status SetStep(int sequences, int tokens, int64_t context);
  // Queues the inputs of that step anew, as a server does for every step.
  void QueueInputs();
  // Queues the forward pass of that step. With a key: by Device::Replay.
  absl::Status QueueForward();
  absl::Status QueueReplay(uint64_t key);
  // Queues the k best of every sampled row, and their copies to the host.
  void QueueTopK(int k);
  void QueueCandidates(int k);
  // All logits of the step. Waits for them.
  absl::StatusOr<std::vector<float>> Logits();

 private:
  BenchModel(BenchPlan plan, Device& device);
  absl::Status Load(WeightFormat format);
  absl::Status Start();

  ModelConfig config_;
  Plan plan_;
  Device& device_;
  DecoderWeights weights_;
  KvCache kv_;
  OwnedActivations activations_;
  std::unique_ptr<Communicator> alone_;
  std::unique_ptr<DecoderContext> context_;
  double upload_seconds_ = 0;
  int64_t upload_bytes_ = 0;
  // The step, on the host and on the device.
  std::vector<int32_t> ids_, positions_, slots_, query_start_, context_len_, block_table_, sample_rows_;
  StepInput input_;
  std::vector<float> top_values_;
  std::vector<int32_t> top_ids_;
};

}  // namespace shoal
