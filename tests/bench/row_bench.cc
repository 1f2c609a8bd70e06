// What is done to each row on its own.
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/activation_out.h"
#include "kernels/cpu/cpu_features.h"
#include "tests/bench/kernels_bench.h"

namespace shoal {
namespace {

constexpr int64_t kGroup = 256;

// Of a quantized row: values, scales and sums.
int64_t QuantizedBytes(int64_t cols) { return cols + cols / kGroup * 4 + cols / kWeightGroup * 4; }

void RmsNorm(benchmark::State& state, const BenchSettings& settings, int64_t rows) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  Random random(1);
  const Tensor x = rig->Floats(random.Normal(rows * kHidden), {rows, kHidden});
  const Tensor gain = rig->Floats(random.Normal(kHidden), {kHidden});
  const Activation out = rig->NewActivation(rows, kHidden, kGroup, /*dense=*/false);
  for (auto _ : state) rig->ops().RmsNorm(x, gain, 1e-6f, out);
  Count(state, rows * (kHidden * 4 + QuantizedBytes(kHidden)), rows, 0);
}

void AddRmsNorm(benchmark::State& state, const BenchSettings& settings, int64_t rows) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  Random random(1);
  const Tensor x = rig->Floats(random.Normal(rows * kHidden), {rows, kHidden});
  const Tensor gain = rig->Floats(random.Normal(kHidden), {kHidden});
  const Tensor delta = rig->New(DType::kF64, {rows, kHidden});
  const Activation out = rig->NewActivation(rows, kHidden, kGroup, /*dense=*/false);
  for (auto _ : state) rig->ops().AddRmsNorm(delta, gain, 1e-6f, x, out);
  Count(state, rows * (kHidden * (8 + 4 + 4) + QuantizedBytes(kHidden)), rows, 0);
}

void Rope(benchmark::State& state, const BenchSettings& settings, int64_t rows) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  Random random(1);
  constexpr int64_t kCols = (kHeads + kKvHeads) * kHeadDim;
  const Tensor heads = rig->Floats(random.Normal(rows * kCols), {rows, kCols});
  const Tensor table = rig->New(DType::kF32, {rows, kHeadDim});
  const Tensor inv_freq = rig->Floats(std::vector<float>(kHeadDim / 2, 0.1f), {kHeadDim / 2});
  rig->ops().RopeTable(rig->Ints(std::vector<int32_t>(static_cast<size_t>(rows), 7)), inv_freq, 1.0f, table);
  for (auto _ : state) rig->ops().Rope(table, heads);
  Count(state, rows * (kCols * 8 + kHeadDim * 4), rows, 0);
}

// These two are part of other ops, hence the kernels themselves, on one thread.
void Quantize(benchmark::State& state, const BenchSettings& settings, int64_t rows) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  const cpu::KernelTable& kernels = *cpu::ChooseKernels(settings.isa).value();
  Random random(1);
  const Tensor x = rig->Floats(random.Normal(rows * kHidden), {rows, kHidden});
  const Activation out = rig->NewActivation(rows, kHidden, kGroup, /*dense=*/false);
  const ActivationOut view = MakeActivationOut(out, rows, kHidden);
  for (auto _ : state) kernels.quantize(x.As<float>(), x.row_stride, kHidden, view, 0, rows);
  Count(state, rows * (kHidden * 4 + QuantizedBytes(kHidden)), rows, 0);
}

void SiluMul(benchmark::State& state, const BenchSettings& settings, int64_t rows) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  const cpu::KernelTable& kernels = *cpu::ChooseKernels(settings.isa).value();
  Random random(1);
  const Tensor gate_up = rig->Floats(random.Normal(rows * 2 * kFfn), {rows, 2 * kFfn});
  const Activation out = rig->NewActivation(rows, kFfn, kGroup, /*dense=*/false);
  const cpu::SiluMulArgs args{gate_up.As<float>(), gate_up.row_stride, kFfn, MakeActivationOut(out, rows, kFfn)};
  for (auto _ : state) kernels.silu_mul(args, 0, rows);
  Count(state, rows * (2 * kFfn * 4 + QuantizedBytes(kFfn)), rows, 0);
}

void TopK(benchmark::State& state, const BenchSettings& settings, int64_t rows, int64_t k) {
  const std::unique_ptr<Rig> rig = NewRig(settings);
  Random random(1);
  const Tensor logits = rig->Floats(random.Normal(rows * kVocab), {rows, kVocab});
  const Tensor values = rig->New(DType::kF32, {rows, k}), ids = rig->New(DType::kI32, {rows, k});
  for (auto _ : state) rig->ops().TopK(logits, values, ids);
  Count(state, rows * kVocab * 4, rows, 0);
}

}  // namespace

void AddRowBenchmarks(const BenchSettings& settings) {
  using RowBenchmark = void (*)(benchmark::State&, const BenchSettings&, int64_t rows);
  constexpr std::pair<const char*, RowBenchmark> kAll[] = {{"rms_norm", RmsNorm},
                                                           {"add_rms_norm", AddRmsNorm},
                                                           {"rope", Rope},
                                                           {"quantize", Quantize},
                                                           {"silu_mul", SiluMul}};
  for (const auto& [name, run] : kAll) {
    for (const int64_t rows : {1, 8, 64, 512}) {
      AddBenchmark(absl::StrCat(name, "/rows:", rows),
                   [=, run = run](benchmark::State& state) { run(state, settings, rows); });
    }
  }
  for (const int64_t rows : {1, 8}) {
    for (const int64_t k : {1, 64}) {
      AddBenchmark(absl::StrCat("top_k/rows:", rows, "/k:", k),
                   [=](benchmark::State& state) { TopK(state, settings, rows, k); });
    }
  }
}

}  // namespace shoal
