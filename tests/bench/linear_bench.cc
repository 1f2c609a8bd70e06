// Matrix products.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

struct Shape {
  const char* name;
  int64_t rows, cols, group;
};

constexpr Shape kShapes[] = {{"qkv", (kHeads + 2 * kKvHeads) * kHeadDim, kHidden, 256},
                             {"attention_out", kHidden, kHeads* kHeadDim, 128},
                             {"gate_up", 2 * kFfn, kHidden, 256},
                             {"down", kHidden, kFfn, 256},
                             {"lm_head", kVocab, kHidden, 256}};

// A matrix whose rows repeat; values matter little for speed.
WeightData RepeatedWeight(WeightFormat format, const Shape& shape) {
  Random random(1);
  WeightData w = RandomWeight(random, format, 16, shape.cols, shape.group, false);
  const auto repeat = [&](auto& values) {
    const auto pattern = values;
    values.resize(values.size() / 16 * static_cast<size_t>(shape.rows));
    for (size_t i = 0; i < values.size(); ++i) values[i] = pattern[i % pattern.size()];
  };
  w.rows = shape.rows;
  repeat(w.f32);
  repeat(w.bf16);
  repeat(w.i8);
  repeat(w.q4);
  repeat(w.scales);
  repeat(w.group_scales);
  repeat(w.group_offsets);
  return w;
}

void Linear(benchmark::State& state, const BenchSettings& settings, WeightFormat format, const Shape& shape,
            int64_t tokens) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  const int64_t bytes = WeightBytes(format, shape.rows, shape.cols, false);
  const int64_t copies = std::max<int64_t>(1, (settings.weight_mib << 20) / bytes);
  std::vector<Weight> weights;
  const WeightData data = RepeatedWeight(format, shape);
  for (int64_t i = 0; i < copies; ++i) weights.push_back(rig->device().LoadWeight(data.host()).value());
  Random random(2);
  const Activation x = Upload(*rig, RandomActivation(random, tokens, shape.cols, shape.group));
  const Tensor out = rig->New(DType::kF32, {tokens, shape.rows});
  size_t next = 0;
  for (auto _ : state) {
    rig->ops().Linear(x, weights[next], out);
    next = (next + 1) % weights.size();
  }
  Count(state, bytes, tokens, 2.0 * static_cast<double>(shape.rows * shape.cols * tokens));
}

}  // namespace

void AddLinearBenchmarks(const BenchSettings& settings) {
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4, WeightFormat::kBF16}) {
    const std::vector<int64_t> tokens = IsQuantized(format)
                                            ? std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 64, 512}
                                            : std::vector<int64_t>{1, 8, 64};
    for (const Shape& shape : kShapes) {
      for (const int64_t n : tokens) {
        if (shape.rows == kVocab && n > 16) continue;  // The head sees sampled rows only.
        AddBenchmark(absl::StrCat("linear/", std::string(WeightFormatName(format)), "/", shape.name, "/rows:", n),
                     [=](benchmark::State& state) { Linear(state, settings, format, shape, n); });
      }
    }
  }
}

}  // namespace shoal
