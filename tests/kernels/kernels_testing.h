// Implementations under test, random inputs, and copies between host vectors and devices.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kernels/device.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/kernels/cuda_variants.h"

namespace shoal {

// Every back end and kernel path. A new back end joins the suite by one entry.
inline const std::vector<std::string>& Implementations() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all = {"reference",        "portable", "avx2", "avxvnni",
                                    "avxvnni-emulated", "avx512",   "amx",  "amx-emulated"};
    for (const std::string& variant : CudaVariants()) all.push_back(variant);
    return all;
  }();
  return names;
}

// Those for all but matrix products, where CUDA's paths do not differ: the one that every GPU has stands for all.
inline std::vector<std::string> WithoutPaths(std::vector<std::string> names) {
  std::erase_if(names, [](const std::string& name) { return name.starts_with("cuda-sm"); });
  return names;
}

// kFailedPrecondition where this machine lacks it.
inline absl::StatusOr<std::unique_ptr<Device>> MakeImplementation(const std::string& name, int threads = 3) {
  if (name == "reference") return CreateReferenceDevice();
  if (name.starts_with("cuda-")) return MakeCudaVariant(name);
  CpuDeviceOptions options;
  options.threads = threads;
  options.isa = name;
  return CreateCpuDevice(options);
}

inline std::string TestName(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

// The same numbers, NaN where the other has NaN; else says where the first difference is.
template <typename T>
testing::AssertionResult SameValues(const std::vector<T>& values, const std::vector<T>& expected) {
  if (values.size() != expected.size()) {
    return testing::AssertionFailure() << values.size() << " values instead of " << expected.size();
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] == expected[i] || (values[i] != values[i] && expected[i] != expected[i])) continue;
    return testing::AssertionFailure() << "value " << i << " is " << testing::PrintToString(values[i]) << " instead of "
                                       << testing::PrintToString(expected[i]);
  }
  return testing::AssertionSuccess();
}

// Seeded by each test, so that a failure repeats.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  std::vector<float> Normal(int64_t n, float deviation = 1.0f) {
    std::normal_distribution<float> values(0.0f, deviation);
    std::vector<float> out(n);
    for (float& x : out) x = values(engine_);
    return out;
  }
  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }

 private:
  std::mt19937 engine_;
};

// A device with memory for the tensors of one test.
class Rig {
 public:
  explicit Rig(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  Device& device() { return *device_; }
  Ops& ops() { return device_->ops(); }

  Tensor New(DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t = MakeTensor(nullptr, dtype, shape);
    auto buffer = device_->Allocate(MemoryKind::kActivations, t.bytes());
    SHOAL_CHECK(buffer.ok());
    t.data = (*buffer)->data();
    buffers_.push_back(std::move(*buffer));
    return t;
  }
  template <typename T>
  Tensor In(const std::vector<T>& values, DType dtype, std::initializer_list<int64_t> shape) {
    const Tensor t = New(dtype, shape);
    SHOAL_CHECK_EQ(static_cast<size_t>(t.bytes()), values.size() * sizeof(T));
    device_->CopyIn(values.data(), t);
    SHOAL_CHECK(device_->Synchronize().ok());
    return t;
  }
  Tensor Floats(const std::vector<float>& values, std::initializer_list<int64_t> shape) {
    return In(values, DType::kF32, shape);
  }
  Tensor Ints(const std::vector<int32_t>& values) {
    return In(values, DType::kI32, {static_cast<int64_t>(values.size())});
  }
  template <typename T>
  std::vector<T> Out(const Tensor& t) {
    std::vector<T> values(t.bytes() / sizeof(T));
    device_->CopyOut(t, values.data());
    SHOAL_CHECK(device_->Synchronize().ok());
    return values;
  }

  // An activation of both forms; only dense if group is 0.
  Activation NewActivation(int64_t rows, int64_t cols, int64_t group, bool dense = true) {
    Activation a;
    if (dense) a.dense = New(DType::kF32, {rows, cols});
    if (group == 0) return a;
    a.q = New(DType::kI8, {rows, cols});
    a.scale = New(DType::kF32, {rows, cols / group});
    a.sum = New(DType::kI32, {rows, cols / kWeightGroup});
    a.group = group;
    return a;
  }

 private:
  std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// A quantized activation in host memory.
struct HostActivation {
  int64_t rows = 0, cols = 0, group = 0;
  std::vector<float> dense, scale;
  std::vector<int8_t> q;
  std::vector<int32_t> sum;
};

// Dense values too: the ones that q and scale stand for.
inline HostActivation RandomActivation(Random& random, int64_t rows, int64_t cols, int64_t group) {
  HostActivation a{rows, cols, group, std::vector<float>(rows * cols), {}, std::vector<int8_t>(rows * cols), {}};
  for (int64_t i = 0; i < rows * cols / group; ++i) a.scale.push_back(0.001f * static_cast<float>(random.Int(1, 999)));
  for (int64_t i = 0; i < rows * cols; ++i) {
    a.q[i] = static_cast<int8_t>(random.Int(0, 9) == 0 ? (random.Int(0, 1) ? 127 : -127) : random.Int(-127, 127));
    a.dense[i] = static_cast<float>(a.q[i]) * a.scale[i / group];
  }
  for (int64_t i = 0; i < rows * cols; i += kWeightGroup) {
    int32_t sum = 0;
    for (int64_t j = 0; j < kWeightGroup; ++j) sum += a.q[i + j];
    a.sum.push_back(sum);
  }
  return a;
}

inline Activation Upload(Rig& rig, const HostActivation& h) {
  Activation a;
  a.dense = rig.Floats(h.dense, {h.rows, h.cols});
  a.q = rig.In(h.q, DType::kI8, {h.rows, h.cols});
  a.scale = rig.Floats(h.scale, {h.rows, h.cols / h.group});
  a.sum = rig.In(h.sum, DType::kI32, {h.rows, h.cols / kWeightGroup});
  a.group = h.group;
  return a;
}

// A matrix in host memory, with the vectors its HostWeight points to.
struct WeightData {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0, cols = 0, group = 0;
  std::vector<float> f32, scales, bias;
  std::vector<uint16_t> bf16;
  std::vector<int8_t> i8, group_offsets;
  std::vector<uint8_t> q4, group_scales;

  HostWeight host() const {
    HostWeight h;
    h.format = format;
    h.rows = rows;
    h.cols = cols;
    h.group = group;
    h.values = format == WeightFormat::kF32    ? static_cast<const void*>(f32.data())
               : format == WeightFormat::kBF16 ? static_cast<const void*>(bf16.data())
               : format == WeightFormat::kInt8 ? static_cast<const void*>(i8.data())
                                               : static_cast<const void*>(q4.data());
    if (IsQuantized(format)) h.scales = scales.data();
    if (format == WeightFormat::kInt4) {
      h.group_scales = group_scales.data();
      h.group_offsets = group_offsets.data();
    }
    h.bias = bias.empty() ? nullptr : bias.data();
    return h;
  }
};

inline WeightData RandomWeight(Random& random, WeightFormat format, int64_t rows, int64_t cols, int64_t group,
                               bool bias) {
  WeightData w;
  w.format = format;
  w.rows = rows;
  w.cols = cols;
  w.group = group;
  if (format == WeightFormat::kF32) w.f32 = random.Normal(rows * cols, 0.05f);
  if (format == WeightFormat::kBF16) {
    for (float x : random.Normal(rows * cols, 0.05f)) w.bf16.push_back(FloatToBf16(x));
  }
  if (format == WeightFormat::kInt8) {
    for (int64_t i = 0; i < rows * cols; ++i) w.i8.push_back(static_cast<int8_t>(random.Int(-127, 127)));
  }
  if (format == WeightFormat::kInt4) {
    for (int64_t i = 0; i < rows * cols / 2; ++i) w.q4.push_back(static_cast<uint8_t>(random.Int(0, 255)));
    for (int64_t i = 0; i < rows * cols / kWeightGroup; ++i) {
      const int n = random.Int(1, 16);
      w.group_scales.push_back(static_cast<uint8_t>(n));
      w.group_offsets.push_back(static_cast<int8_t>(random.Int(-127, 127 - 15 * n)));
    }
  }
  if (IsQuantized(format)) {
    for (int64_t i = 0; i < rows; ++i) w.scales.push_back(0.0001f * static_cast<float>(random.Int(1, 99)));
  }
  if (bias) w.bias = random.Normal(rows);
  return w;
}

// Columns [begin, begin + n) of every row, without bias; begin and n are multiples of the group.
inline WeightData SliceColumns(const WeightData& w, int64_t begin, int64_t n) {
  WeightData s;
  s.format = w.format;
  s.rows = w.rows;
  s.cols = n;
  s.group = w.group;
  s.scales = w.scales;
  const auto cut = [&](const auto& from, auto& to, int64_t per) {
    if (from.empty()) return;
    const int64_t stride = w.cols / per;
    for (int64_t r = 0; r < w.rows; ++r) {
      to.insert(to.end(), from.begin() + r * stride + begin / per, from.begin() + r * stride + (begin + n) / per);
    }
  };
  cut(w.f32, s.f32, 1);
  cut(w.bf16, s.bf16, 1);
  cut(w.i8, s.i8, 1);
  cut(w.q4, s.q4, 2);
  cut(w.group_scales, s.group_scales, kWeightGroup);
  cut(w.group_offsets, s.group_offsets, kWeightGroup);
  return s;
}

// One row of a matrix as doubles, times its scale.
inline std::vector<double> WeightRow(const WeightData& w, int64_t row) {
  std::vector<double> out(w.cols);
  for (int64_t k = 0; k < w.cols; ++k) {
    const int64_t at = row * w.cols + k;
    switch (w.format) {
      case WeightFormat::kF32:
        out[k] = w.f32[at];
        break;
      case WeightFormat::kBF16:
        out[k] = Bf16ToFloat(w.bf16[at]);
        break;
      case WeightFormat::kInt8:
        out[k] = static_cast<double>(w.scales[row]) * w.i8[at];
        break;
      case WeightFormat::kInt4: {
        const int q = w.q4[at / 2] >> (k % 2 * 4) & 15;
        const int64_t g = at / kWeightGroup;
        out[k] = static_cast<double>(w.scales[row]) * (w.group_scales[g] * q + w.group_offsets[g]);
        break;
      }
    }
  }
  return out;
}

// Base of the parameterized suites: makes the implementation, or skips where the machine lacks it.
class ImplementationTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto device = MakeImplementation(GetParam());
    if (device.status().code() == absl::StatusCode::kFailedPrecondition) GTEST_SKIP() << device.status().message();
    ASSERT_TRUE(device.ok()) << device.status();
    rig_ = std::make_unique<Rig>(std::move(*device));
    oracle_ = std::make_unique<Rig>(CreateReferenceDevice());
  }
  Rig& rig() { return *rig_; }
  Rig& oracle() { return *oracle_; }

 private:
  std::unique_ptr<Rig> rig_, oracle_;
};

#define SHOAL_FOR_ALL_IMPLEMENTATIONS(Suite) \
  INSTANTIATE_TEST_SUITE_P(All, Suite, testing::ValuesIn(Implementations()), TestName)
#define SHOAL_FOR_ALL_WITHOUT_PATHS(Suite) \
  INSTANTIATE_TEST_SUITE_P(All, Suite, testing::ValuesIn(WithoutPaths(Implementations())), TestName)

}  // namespace shoal
