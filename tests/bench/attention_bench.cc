// Attention over a paged cache, and filling that cache.
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

constexpr int64_t kBlock = 32;

const char* KvName(DType kv) { return kv == DType::kI8 ? "int8" : kv == DType::kF16 ? "f16" : "f32"; }

int64_t TokenBytes(DType kv) {
  const int64_t values = 2 * kKvHeads * kHeadDim;
  return values * SizeOf(kv) + (kv == DType::kI8 ? values / kKvGroup * SizeOf(DType::kF16) : 0);
}

KvView NewCache(Rig& rig, DType kv, int64_t blocks) {
  KvView view{rig.New(kv, {blocks, kKvHeads, kBlock, kHeadDim}), rig.New(kv, {blocks, kKvHeads, kBlock, kHeadDim})};
  if (kv == DType::kI8) {
    view.k_scale = rig.New(DType::kF16, {blocks, kKvHeads, kBlock, kHeadDim / kKvGroup});
    view.v_scale = rig.New(DType::kF16, {blocks, kKvHeads, kBlock, kHeadDim / kKvGroup});
  }
  return view;
}

// Random keys and values of `tokens` tokens in the slots from `first` on.
void Fill(Rig& rig, const KvView& cache, int64_t first, int64_t tokens) {
  Random random(static_cast<uint32_t>(first));
  const Tensor k = rig.Floats(random.Normal(tokens * kKvHeads * kHeadDim), {tokens, kKvHeads * kHeadDim});
  std::vector<int32_t> slots(static_cast<size_t>(tokens));
  std::iota(slots.begin(), slots.end(), static_cast<int32_t>(first));
  rig.ops().StoreKv(k, k, rig.Ints(slots), cache);
}

// `sequences` of `tokens` new tokens each, the last of which sees `context` keys.
void Attend(benchmark::State& state, const BenchSettings& settings, DType kv, int64_t sequences, int64_t tokens,
            int64_t context) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  const int64_t blocks_each = (context + kBlock - 1) / kBlock;
  const KvView cache = NewCache(*rig, kv, sequences * blocks_each);
  std::vector<int32_t> query_start = {0}, context_len, table;
  for (int64_t s = 0; s < sequences; ++s) {
    Fill(*rig, cache, s * blocks_each * kBlock, context);
    query_start.push_back(static_cast<int32_t>((s + 1) * tokens));
    context_len.push_back(static_cast<int32_t>(context));
    for (int64_t b = 0; b < blocks_each; ++b) table.push_back(static_cast<int32_t>(s * blocks_each + b));
  }
  const AttentionPlan plan{rig->Ints(query_start), rig->Ints(context_len),
                           rig->In(table, DType::kI32, {sequences, blocks_each})};
  const HeadMap heads{kHeads, kKvHeads, 0, 0, kHeads / kKvHeads, kHeadDim};
  Random random(3);
  const int64_t rows = sequences * tokens;
  const Tensor q = rig->Floats(random.Normal(rows * kHeads * kHeadDim), {rows, kHeads * kHeadDim});
  const Activation out = rig->NewActivation(rows, kHeads * kHeadDim, 128, /*dense=*/false);
  for (auto _ : state) rig->ops().Attention(q, cache, plan, heads, out);
  // Token i of a sequence sees context - tokens + 1 + i keys.
  const double seen = static_cast<double>(rows) * (static_cast<double>(context) - static_cast<double>(tokens - 1) / 2);
  Count(state, sequences * context * TokenBytes(kv), rows, 4.0 * kHeads * kHeadDim * seen);
}

void StoreKv(benchmark::State& state, const BenchSettings& settings, DType kv, int64_t tokens) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  const KvView cache = NewCache(*rig, kv, (tokens + kBlock - 1) / kBlock);
  Random random(4);
  const Tensor k = rig->Floats(random.Normal(tokens * kKvHeads * kHeadDim), {tokens, kKvHeads * kHeadDim});
  std::vector<int32_t> slots(static_cast<size_t>(tokens));
  std::iota(slots.begin(), slots.end(), 0);
  const Tensor slots_tensor = rig->Ints(slots);
  for (auto _ : state) rig->ops().StoreKv(k, k, slots_tensor, cache);
  Count(state, tokens * (TokenBytes(kv) + 2 * kKvHeads * kHeadDim * 4), tokens, 0);
}

}  // namespace

void AddAttentionBenchmarks(const BenchSettings& settings) {
  for (const DType kv : {DType::kF16, DType::kI8, DType::kF32}) {
    const std::string name = KvName(kv);
    for (const int64_t sequences : {1, 8}) {
      for (const int64_t context : {512, 4096}) {
        AddBenchmark(absl::StrCat("attention/decode/", name, "/batch:", sequences, "/context:", context),
                     [=](benchmark::State& state) { Attend(state, settings, kv, sequences, 1, context); });
      }
    }
    for (const int64_t context : {512, 4096}) {
      AddBenchmark(absl::StrCat("attention/prefill/", name, "/tokens:512/context:", context),
                   [=](benchmark::State& state) { Attend(state, settings, kv, 1, 512, context); });
    }
    for (const int64_t tokens : {1, 512}) {
      AddBenchmark(absl::StrCat("store_kv/", name, "/tokens:", tokens),
                   [=](benchmark::State& state) { StoreKv(state, settings, kv, tokens); });
    }
  }
}

}  // namespace shoal
