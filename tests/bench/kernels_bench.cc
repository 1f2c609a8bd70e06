// Speed of the CPU kernels: `kernels_bench [isa [threads]]`. Prints a table; run it on a quiet machine.
//
// Decode rows stream 256 MiB of weights; the last column relates them to a plain read of as much memory.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Median of several runs, in seconds.
template <typename Fn>
double Measure(Fn fn, int runs = 7) {
  fn();
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const double start = Seconds();
    fn();
    times.push_back(Seconds() - start);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// GB/s of adding up 256 MiB.
double ReadSpeed(Device& device, int threads) {
  constexpr int64_t kBytes = 256 << 20;
  auto buffer = device.Allocate(MemoryKind::kKv, kBytes).value();
  const auto* data = reinterpret_cast<const uint64_t*>(buffer->data());
  std::fill_n(reinterpret_cast<uint64_t*>(buffer->data()), kBytes / 8, 1);
  ThreadPool pool(threads);
  std::vector<uint64_t> sums(threads * 8);
  const double time = Measure([&] {
    pool.ParallelFor(kBytes / 8, 8, [&](int64_t begin, int64_t end, int worker) {
      uint64_t sum[8] = {};
      for (int64_t i = begin; i < end; i += 8) {
        for (int j = 0; j < 8; ++j) sum[j] += data[i + j];
      }
      for (uint64_t s : sum) sums[worker * 8] += s;
    });
  });
  return sums[0] == 0 ? 0 : kBytes / time / 1e9;
}

// One big random matrix; values matter little for speed.
WeightData MakeWeight(WeightFormat format, int64_t rows, int64_t cols, int64_t group) {
  Random random(1);
  WeightData w = RandomWeight(random, format, 16, cols, group, false);
  const auto repeat = [&](auto& values) {
    if (values.empty()) return;
    const auto pattern = values;
    values.resize(values.size() / 16 * rows);
    for (size_t i = 0; i < values.size(); ++i) values[i] = pattern[i % pattern.size()];
  };
  w.rows = rows;
  repeat(w.f32);
  repeat(w.bf16);
  repeat(w.i8);
  repeat(w.q4);
  repeat(w.scales);
  repeat(w.group_scales);
  repeat(w.group_offsets);
  return w;
}

void BenchLinear(const std::string& isa, int threads, WeightFormat format, int64_t rows, int64_t cols, int64_t group,
                 const std::vector<int64_t>& tokens, double read_speed) {
  auto device = MakeImplementation(isa, threads);
  if (!device.ok()) {
    std::printf("%s\n", std::string(device.status().message()).c_str());
    return;
  }
  Rig rig(std::move(*device));
  const Weight weight = rig.device().LoadWeight(MakeWeight(format, rows, cols, group).host()).value();
  const double bytes = static_cast<double>(WeightBytes(format, rows, cols, false));
  Random random(2);
  for (int64_t n : tokens) {
    const Activation x = Upload(rig, RandomActivation(random, n, cols, group));
    const Tensor out = rig.New(DType::kF32, {n, rows});
    const double time = Measure([&] { rig.ops().Linear(x, weight, out); }, n > 64 ? 3 : 7);
    std::printf("%-5s %s %6ldx%-5ld group %3ld rows %4ld: %8.2f ms %6.1f GB/s (%3.0f %% of read) %7.1f GOPS\n",
                std::string(WeightFormatName(format)).c_str(), rig.device().description().c_str(), rows, cols, group, n,
                time * 1e3, bytes / time / 1e9, bytes / time / 1e7 / read_speed,
                2e-9 * static_cast<double>(rows * cols * n) / time);
  }
}

void BenchAttention(const std::string& isa, int threads, int64_t context, int64_t tokens, DType kv) {
  auto device = MakeImplementation(isa, threads);
  if (!device.ok()) return;
  Rig rig(std::move(*device));
  const HeadMap heads{12, 2, 0, 0, 6, 128};
  const int64_t blocks = (context + 15) / 16;
  KvView view{rig.New(kv, {blocks, 2, 16, 128}), rig.New(kv, {blocks, 2, 16, 128})};
  std::vector<int32_t> table(blocks);
  for (int64_t i = 0; i < blocks; ++i) table[i] = static_cast<int32_t>(i);
  const AttentionPlan plan{rig.Ints({0, static_cast<int32_t>(tokens)}), rig.Ints({static_cast<int32_t>(context)}),
                           rig.In(table, DType::kI32, {1, blocks})};
  Random random(3);
  const Tensor q = rig.Floats(random.Normal(tokens * 12 * 128), {tokens, 12 * 128});
  const Activation out = rig.NewActivation(tokens, 12 * 128, 128);
  const double time = Measure([&] { rig.ops().Attention(q, view, plan, heads, out); });
  std::printf("attention %s %s context %ld tokens %ld: %.3f ms\n", rig.device().description().c_str(),
              kv == DType::kF16 ? "f16" : "f32", context, tokens, time * 1e3);
}

void Run(const std::string& isa, int threads) {
  double read_speed = 0;
  {
    auto device = MakeImplementation("portable", 1).value();
    read_speed = ReadSpeed(*device, threads);
    std::printf("memory read, %d threads: %.1f GB/s\n", threads, read_speed);
  }
  BenchLinear(isa, threads, WeightFormat::kInt8, 174080, 1536, 256, {1, 2, 4, 8, 16}, read_speed);
  BenchLinear(isa, threads, WeightFormat::kInt4, 319488, 1536, 256, {1, 2, 4, 8, 16}, read_speed);
  for (int64_t group : {32, 128, 256}) {
    BenchLinear(isa, threads, WeightFormat::kInt8, 8960, 1536, group, {512}, read_speed);
    BenchLinear(isa, threads, WeightFormat::kInt4, 8960, 1536, group, {512}, read_speed);
  }
  BenchLinear(isa, threads, WeightFormat::kBF16, 8960, 1536, 256, {1, 8, 512}, read_speed);
  BenchLinear(isa, threads, WeightFormat::kF32, 8960, 1536, 256, {1, 8, 512}, read_speed);
  for (DType kv : {DType::kF32, DType::kF16}) {
    BenchAttention(isa, threads, 4096, 1, kv);
    BenchAttention(isa, threads, 512, 512, kv);
  }
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  const std::string isa = argc > 1 ? argv[1] : "";
  for (int threads : argc > 2 ? std::vector<int>{std::atoi(argv[2])} : std::vector<int>{1, 2}) shoal::Run(isa, threads);
  return 0;
}
