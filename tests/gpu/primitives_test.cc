// Each primitive of kernels/cuda/primitives_ptx.cuh once against plain loops: on hardware this is the only check of the
// PTX itself; in the emulation it checks the probes.
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "kernels/cuda/runtime.h"
#include "kernels/half.h"
#include "tests/gpu/probes.h"

namespace shoal::cuda {
namespace {

class PrimitivesTest : public testing::Test {
 protected:
  void SetUp() override {
    auto runtime = CreateRuntime(0);
    if (runtime.status().code() == absl::StatusCode::kFailedPrecondition) GTEST_SKIP() << runtime.status().message();
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    runtime_ = *std::move(runtime);
  }
  void TearDown() override {
    for (std::byte* memory : device_) runtime_->Free(memory);
    for (std::byte* memory : host_) runtime_->FreeHost(memory);
  }

  Stream stream() { return runtime_->stream(); }
  bool has80() { return runtime_->info().compute_capability >= 80; }

  template <typename T>
  T* New(size_t n) {
    device_.push_back(runtime_->Allocate(static_cast<int64_t>(n * sizeof(T))).value());
    return reinterpret_cast<T*>(device_.back());
  }
  template <typename T>
  T* In(const std::vector<T>& values) {
    T* const memory = New<T>(values.size());
    runtime_->Copy(memory, values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
    return memory;
  }
  template <typename T>
  std::vector<T> Out(const T* memory, size_t n) {
    std::vector<T> values(n);
    runtime_->Copy(values.data(), memory, static_cast<int64_t>(n * sizeof(T)));
    const absl::Status status = runtime_->Synchronize();
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  uint64_t* HostWords(size_t n) {
    host_.push_back(runtime_->AllocateHost(static_cast<int64_t>(n * sizeof(uint64_t))).value());
    std::memset(host_.back(), 0, n * sizeof(uint64_t));
    return reinterpret_cast<uint64_t*>(host_.back());
  }

  std::unique_ptr<Runtime> runtime_;
  std::mt19937 random_{5};

 private:
  std::vector<std::byte*> device_, host_;
};

TEST_F(PrimitivesTest, MmaMultipliesInt8InBothForms) {
  constexpr int kCount = 64;
  std::vector<int8_t> a(kCount * 16 * 32), b(kCount * 32 * 8);
  for (int8_t& x : a) x = static_cast<int8_t>(random_());
  for (int8_t& x : b) x = static_cast<int8_t>(random_());
  std::fill_n(a.begin(), 16 * 32, int8_t{-128});  // The largest sums.
  std::fill_n(b.begin(), 32 * 8, int8_t{-128});
  std::vector<int32_t> expected(kCount * 16 * 8);
  for (int i = 0; i < kCount; ++i) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int sum = 0;
        for (int k = 0; k < 32; ++k) sum += a[(i * 16 + row) * 32 + k] * b[(i * 32 + k) * 8 + column];
        expected[(i * 16 + row) * 8 + column] = sum;
      }
    }
  }
  for (const bool form80 : {false, true}) {
    if (form80 && !has80()) continue;
    int32_t* const d = New<int32_t>(expected.size());
    LaunchMmaProbe(In(a), In(b), d, kCount, form80, stream());
    EXPECT_EQ(Out(d, expected.size()), expected) << "form of sm_" << (form80 ? 80 : 75);
  }
}

TEST_F(PrimitivesTest, Dp4aAddsFourSignedProducts) {
  constexpr int kCount = 1000;
  std::vector<uint32_t> a(kCount), b(kCount);
  std::vector<int32_t> c(kCount), expected(kCount);
  for (int i = 0; i < kCount; ++i) {
    a[i] = i == 0 ? 0x80808080u : random_();
    b[i] = i == 0 ? 0x80808080u : random_();
    c[i] = static_cast<int32_t>(random_()) / 4;
    expected[i] = c[i];
    for (int j = 0; j < 4; ++j) expected[i] += static_cast<int8_t>(a[i] >> 8 * j) * static_cast<int8_t>(b[i] >> 8 * j);
  }
  int32_t* const out = New<int32_t>(kCount);
  LaunchDp4aProbe(In(a), In(b), In(c), out, kCount, stream());
  EXPECT_EQ(Out(out, kCount), expected);
}

TEST_F(PrimitivesTest, EveryHalfBecomesItsFloat) {
  std::vector<uint16_t> halves(1 << 16);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
  float* const out = New<float>(halves.size());
  LaunchHalfToFloatProbe(In(halves), out, static_cast<int>(halves.size()), stream());
  const std::vector<float> floats = Out(out, halves.size());
  for (size_t i = 0; i < halves.size(); ++i) {
    const float expected = HalfToFloat(halves[i]);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(floats[i])) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST_F(PrimitivesTest, FloatsBecomeTheNearestHalf) {
  std::vector<float> floats;
  for (int bits = 0; bits < 0x7c00;
       ++bits) {  // Every finite half, its midpoint to the next, and both neighbours of it.
    const float low = HalfToFloat(static_cast<uint16_t>(bits)), high = HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = std::isinf(high) ? 65520.0f : low + (high - low) / 2;
    for (const float x : {low, std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e9f)}) {
      floats.push_back(x);
      floats.push_back(-x);
    }
  }
  for (const float x : {INFINITY, -INFINITY, NAN, 1e30f, -1e30f, 1e-30f, 1e-45f}) floats.push_back(x);
  uint16_t* const out = New<uint16_t>(floats.size());
  LaunchFloatToHalfProbe(In(floats), out, static_cast<int>(floats.size()), stream());
  const std::vector<uint16_t> halves = Out(out, floats.size());
  for (size_t i = 0; i < floats.size(); ++i) {
    if (std::isnan(floats[i])) {
      ASSERT_TRUE(std::isnan(HalfToFloat(halves[i])));
    } else {
      ASSERT_EQ(halves[i], FloatToHalf(floats[i])) << floats[i];
    }
  }
}

TEST_F(PrimitivesTest, CopiesThroughSharedMemoryArriveBeforeTheirWaitEnds) {
  std::vector<unsigned char> bytes(kCopyProbeRounds * kCopyProbeBytes);
  for (unsigned char& x : bytes) x = static_cast<unsigned char>(random_());
  for (const bool form80 : {false, true}) {
    if (form80 && !has80()) continue;
    unsigned char* const out = New<unsigned char>(bytes.size());
    LaunchCopyAsyncProbe(In(bytes), out, form80, stream());
    EXPECT_EQ(Out(out, bytes.size()), bytes) << "form of sm_" << (form80 ? 80 : 75);
  }
}

TEST_F(PrimitivesTest, KernelAndHostSeeEachOthersWordsWhileTheKernelRuns) {
  constexpr uint64_t kHello = 0x0123456789abcdef, kAnswer = 0xfedcba9876543210;
  uint64_t* const to_host = HostWords(2);
  uint64_t* const from_host = HostWords(1);
  std::atomic<bool> stop = false;
  std::thread host([&] {
    while (!stop && std::atomic_ref(*to_host).load() != kHello) std::this_thread::yield();
    std::atomic_ref(*from_host).store(kAnswer);
  });
  LaunchHandshakeProbe(to_host, from_host, kHello, kAnswer, uint64_t{5'000'000'000}, stream());
  const absl::Status status = runtime_->Synchronize();
  stop = true;
  host.join();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(to_host[0], kHello);
  EXPECT_EQ(to_host[1], kAnswer) << "1: the kernel waited in vain";
}

TEST_F(PrimitivesTest, TheFirstFaultStays) {
  if (runtime_->info().name == "emulated") GTEST_SKIP() << "the emulation ends the program";
  LaunchMmaProbe(nullptr, nullptr, nullptr, 0, false, stream());  // An empty grid.
  const absl::Status first = runtime_->Synchronize();
  EXPECT_EQ(first.code(), absl::StatusCode::kInternal);
  EXPECT_NE(std::string(first.message()).find("kernel launch"), std::string::npos) << first;
  EXPECT_EQ(runtime_->Synchronize(), first);
  EXPECT_EQ(CreateRuntime(0).value()->Synchronize(), absl::OkStatus());  // Another runtime has no part in it.
}

}  // namespace
}  // namespace shoal::cuda
