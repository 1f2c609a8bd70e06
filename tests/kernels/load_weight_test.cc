// Matrices that are made row by row while a device takes them in: what the CPU packs, what is asked of the source, and
// what becomes of its errors.
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "gmock/gmock.h"
#include "kernels/weight_source.h"
#include "tests/kernels/kernels_testing.h"

namespace shoal {
namespace {

using testing::HasSubstr;

constexpr WeightFormat kFormats[] = {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4};

int Nibble(const WeightData& w, int64_t row, int64_t k) { return w.q4[row * (w.cols / 2) + k / 2] >> (k % 2 * 4) & 15; }

// The layout that pack.h describes, element by element.
void ExpectLayout(const WeightData& w, const Weight& packed) {
  const int64_t blocks = (w.rows + 15) / 16, groups = w.cols / kWeightGroup;
  const auto* bytes = packed.values.As<uint8_t>();
  for (int64_t row = 0; row < blocks * 16; ++row) {
    const int64_t block = row / 16, r = row % 16;
    const bool padding = row >= w.rows;
    for (int64_t k = 0; k < w.cols; ++k) {
      const int64_t dense = (block * w.cols + k) * 16 + r, at = row * w.cols + k;
      if (w.format == WeightFormat::kF32) {
        ASSERT_EQ(packed.values.As<float>()[dense], padding ? 0 : w.f32[at]) << row << " " << k;
      } else if (w.format == WeightFormat::kBF16) {
        ASSERT_EQ(packed.values.As<uint16_t>()[dense], padding ? 0 : w.bf16[at]) << row << " " << k;
      } else if (w.format == WeightFormat::kInt8) {
        const int64_t place = block * 16 * w.cols + k / 4 * 64 + r * 4 + k % 4;
        ASSERT_EQ(bytes[place] - 128, padding ? 0 : w.i8[at]) << row << " " << k;
      } else {
        const int64_t place = (block * groups + k / 32) * 256 + k % 32 / 8 * 64 + r * 4 + k % 4;
        const int found = k % 8 < 4 ? bytes[place] & 15 : bytes[place] >> 4;
        ASSERT_EQ(found, padding ? 0 : Nibble(w, row, k)) << row << " " << k;
      }
    }
    if (IsQuantized(w.format)) {
      ASSERT_EQ(packed.scales.As<float>()[row], padding ? 0 : w.scales[row]);
    }
    if (!packed.bias.empty()) {
      ASSERT_EQ(packed.bias.As<float>()[row], padding ? 0 : w.bias[row]);
    }
    for (int64_t g = 0; w.format == WeightFormat::kInt4 && g < groups; ++g) {
      const int64_t at = block * groups + g;
      const int two = packed.group_scales.As<uint8_t>()[at * 8 + r % 8];
      ASSERT_EQ((r < 8 ? two & 15 : two >> 4) + 1, padding ? 1 : w.group_scales[row * groups + g]);
      ASSERT_EQ(packed.group_offsets.As<int8_t>()[at * 16 + r], padding ? 0 : w.group_offsets[row * groups + g]);
    }
  }
}

TEST(LoadWeightTest, TheCpuPacksEveryFormatAsItsLayoutSays) {
  Random random(1);
  for (int threads : {1, 3}) {
    const auto device = MakeImplementation("portable", threads).value();
    for (WeightFormat format : kFormats) {
      for (int64_t rows : {1, 15, 16, 17, 37, 100}) {
        // One group, some, more than the sixteen that are transposed together; dense ones of odd widths, too.
        for (int64_t cols : {32, 96, 544, 1056}) {
          SCOPED_TRACE(testing::Message() << WeightFormatName(format) << " " << rows << "x" << cols);
          const WeightData w = RandomWeight(random, format, rows, cols, 32, rows % 2 == 1);
          ExpectLayout(w, device->LoadWeight(w.host()).value());
        }
        if (IsQuantized(format)) continue;
        for (int64_t cols : {1, 3, 9, 31}) {
          const WeightData w = RandomWeight(random, format, rows, cols, 1, false);
          ExpectLayout(w, device->LoadWeight(w.host()).value());
        }
      }
    }
  }
}

TEST(LoadWeightTest, TablesAndVectorsKeepTheirRows) {
  Random random(2);
  for (const char* name : {"portable", "reference"}) {
    const auto device = MakeImplementation(name, 2).value();
    std::vector<float> values = random.Normal(1001 * 300);
    const Tensor table = device->LoadTensor(MakeTensor(values.data(), DType::kF32, {1001, 300})).value();
    EXPECT_EQ(std::memcmp(table.data, values.data(), table.bytes()), 0);
    EXPECT_EQ(table.rows(), 1001);
    const Tensor vector = device->LoadTensor(MakeTensor(values.data(), DType::kF32, {77})).value();
    EXPECT_EQ(std::memcmp(vector.data, values.data(), 77 * 4), 0);
    EXPECT_EQ(device->ledger().total(), (1001 * 300 + 77) * 4);
  }
}

TEST(LoadWeightTest, EveryRowIsAskedForOnceInSmallPieces) {
  Random random(3);
  for (WeightFormat format : kFormats) {
    const auto device = MakeImplementation("portable", 2).value();
    const WeightData w = RandomWeight(random, format, 2001, 1024, 32, false);
    const HostWeight host = w.host();
    WeightSource source = SourceOf(host);
    std::vector<std::atomic<int>> asked(w.rows);
    std::atomic<int64_t> most = 0;
    source.read = [&, read = source.read](int64_t begin, int64_t end, const HostRows& out) {
      for (int64_t row = begin; row < end; ++row) ++asked[row];
      int64_t seen = most;
      while (end - begin > seen && !most.compare_exchange_weak(seen, end - begin)) {
      }
      return read(begin, end, out);
    };
    ASSERT_TRUE(device->LoadWeight(source).ok());
    for (const auto& times : asked) ASSERT_EQ(times, 1);
    // What lies in host memory beside the device's: at most so much for each thread.
    EXPECT_LE(most * RowBytes(format, w.cols), 256 << 10) << WeightFormatName(format);
  }
}

TEST(LoadWeightTest, TheFirstErrorOfTheSourceComesBackAndNothingIsKept) {
  Random random(4);
  const WeightData w = RandomWeight(random, WeightFormat::kInt8, 4000, 1024, 32, false);
  const HostWeight host = w.host();
  for (const char* name : {"portable", "reference"}) {
    const auto device = MakeImplementation(name, 3).value();
    WeightSource source = SourceOf(host);
    source.read = [&, read = source.read](int64_t begin, int64_t end, const HostRows& out) {
      for (int64_t bad : {700, 701, 3999}) {
        if (bad >= begin && bad < end) return absl::DataLossError(absl::StrCat("row ", bad, " is broken"));
      }
      return read(begin, end, out);
    };
    const absl::Status status = device->LoadWeight(source).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("row 700 is broken"));
    EXPECT_EQ(device->ledger().total(), 0);
    TableSource table;
    table.shape = MakeTensor(nullptr, DType::kF32, {4000, 1024});
    table.read = [](int64_t, int64_t, std::byte*) { return absl::DataLossError("no table"); };
    EXPECT_EQ(device->LoadTensor(table).status().code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(device->ledger().total(), 0);
  }
}

TEST(LoadWeightTest, EveryThreadMakesTheRowsThatItMultiplies) {
  const auto device = MakeImplementation("portable", 2).value();
  Random random(5);
  const WeightData w = RandomWeight(random, WeightFormat::kInt8, 1600, 1024, 32, false);
  const HostWeight host = w.host();
  WeightSource source = SourceOf(host);
  std::mutex mutex;
  std::map<std::thread::id, std::vector<int64_t>> rows;
  source.read = [&, read = source.read](int64_t begin, int64_t end, const HostRows& out) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      for (int64_t row = begin; row < end; ++row) rows[std::this_thread::get_id()].push_back(row);
    }
    return read(begin, end, out);
  };
  ASSERT_TRUE(device->LoadWeight(source).ok());
  ASSERT_EQ(rows.size(), 2u);
  for (const auto& [thread, mine] : rows) {
    EXPECT_EQ(mine.size(), 800u);
    EXPECT_EQ(mine.back() - mine.front(), 799);
    EXPECT_EQ(mine.front(), thread == std::this_thread::get_id() ? 0 : 800);
  }
}

TEST(LoadWeightTest, WeightsBehindOneAnotherAreZeroedAlignedAndOutliveTheirNeighbours) {
  const auto device = MakeImplementation("portable", 1).value();
  std::vector<std::unique_ptr<Buffer>> kept;
  for (int64_t bytes : {300'001, 5, 64 << 20, 1 << 20, (64 << 20) + 77, 400'000, 60 << 20}) {
    auto buffer = device->Allocate(MemoryKind::kWeights, bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    for (int64_t i = 0; i < bytes; i += 4093) ASSERT_EQ(buffer->data()[i], std::byte{0}) << bytes;
    ASSERT_EQ(buffer->data()[bytes - 1], std::byte{0});
    std::memset(buffer->data(), 0x5a, bytes);
    if (kept.size() % 2 == 0 || bytes < 1000) kept.push_back(std::move(buffer));
    kept.push_back(device->Allocate(MemoryKind::kWeights, 300'000).value());
  }
  for (size_t i = 0; i < kept.size(); i += 2) kept[i].reset();
  for (size_t i = 1; i < kept.size(); i += 2) kept[i]->data()[0] = std::byte{1};
  kept.clear();
  EXPECT_EQ(device->ledger().total(), 0);
}

}  // namespace
}  // namespace shoal
