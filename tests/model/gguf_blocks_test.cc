#include "model/gguf_blocks.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/model/model_folder.h"
#include "tests/support/gguf_encode.h"
#include "tests/support/shared_data.h"

namespace shoal {
namespace {

using Bytes = std::vector<uint8_t>;

// Bits [first, first + count) of the block, least significant first.
int Bits(const Bytes& block, int first, int count) {
  int value = 0;
  for (int i = 0; i < count; ++i) value |= (block[(first + i) / 8] >> ((first + i) % 8) & 1) << i;
  return value;
}

double Half(const Bytes& block, int byte) {
  return HalfToFloat(static_cast<uint16_t>(block[byte] | block[byte + 1] << 8));
}

// 6-bit scale and minimum of group g of a block of 256, whose packed bytes begin at byte 4: the first four groups have
// bytes of their own, whose upper two bits belong to the last four.
int GroupScale(const Bytes& b, int g) { return g < 4 ? b[4 + g] & 63 : (b[8 + g] & 15) | (b[g] >> 6) << 4; }
int GroupMinimum(const Bytes& b, int g) { return g < 4 ? b[8 + g] & 63 : b[8 + g] >> 4 | (b[4 + g] >> 6) << 4; }

// Where the 4 bits of value i lie in blocks of 256: in runs of 64 values over 32 bytes, first the low nibbles.
int NibbleAt(int first_byte, int i) { return 8 * (first_byte + i / 64 * 32 + i % 32) + (i % 64 < 32 ? 0 : 4); }

// One value by the format's definition, in double: exact but for the last subtraction or addition.
double ValueAt(std::string_view type, const Bytes& b, int i) {
  const int nibble = 8 * (i % 16) + (i < 16 ? 0 : 4);
  if (type == "Q8_0") return Half(b, 0) * static_cast<int8_t>(b[2 + i]);
  if (type == "Q4_0") return Half(b, 0) * (Bits(b, 16 + nibble, 4) - 8);
  if (type == "Q4_1") return Half(b, 0) * Bits(b, 32 + nibble, 4) + Half(b, 2);
  if (type == "Q5_0") return Half(b, 0) * ((Bits(b, 48 + nibble, 4) | Bits(b, 16 + i, 1) << 4) - 16);
  if (type == "Q5_1") return Half(b, 0) * (Bits(b, 64 + nibble, 4) | Bits(b, 32 + i, 1) << 4) + Half(b, 2);
  const int g = i / 32;
  if (type == "Q4_K") {
    return Half(b, 0) * GroupScale(b, g) * Bits(b, NibbleAt(16, i), 4) - Half(b, 2) * GroupMinimum(b, g);
  }
  if (type == "Q5_K") {
    const int q = Bits(b, NibbleAt(48, i), 4) | (b[16 + i % 32] >> g & 1) << 4;
    return Half(b, 0) * GroupScale(b, g) * q - Half(b, 2) * GroupMinimum(b, g);
  }
  // Q6_K: runs of 128 values over 64 bytes of low and 32 of high bits.
  const int run = i / 128, in_run = i % 128;
  const int low = Bits(b, 8 * (64 * run + in_run % 64) + (in_run < 64 ? 0 : 4), 4);
  const int high = b[128 + 32 * run + in_run % 32] >> (in_run / 32 * 2) & 3;
  return Half(b, 208) * static_cast<int8_t>(b[192 + i / 16]) * ((low | high << 4) - 32);
}

class GgufBlockTest : public testing::TestWithParam<const char*> {
 protected:
  GgufBlockTest() {
    for (uint32_t id = 0; id < 64; ++id) {
      const auto type = GgufTypeOf(id, "t");
      if (type.ok() && type->name == GetParam()) type_ = *type;
    }
  }
  StoredType type_;
};

TEST_P(GgufBlockTest, EveryValueIsTheDefinitionsRoundedOnce) {
  std::mt19937 random(7);
  const auto block_bytes = static_cast<size_t>(type_.bits / 8);
  ASSERT_GT(block_bytes, 0u);
  for (int round = 0; round < 500; ++round) {
    Bytes bytes(3 * block_bytes);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    std::vector<float> out(3 * static_cast<size_t>(type_.block));
    DecodeBlocks(type_, reinterpret_cast<const std::byte*>(bytes.data()), static_cast<int64_t>(out.size()), out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t n = i / static_cast<size_t>(type_.block);
      const Bytes block(bytes.begin() + static_cast<int64_t>(n * block_bytes),
                        bytes.begin() + static_cast<int64_t>((n + 1) * block_bytes));
      const auto expected = static_cast<float>(ValueAt(GetParam(), block, static_cast<int>(i) % type_.block));
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(out[i]));
      } else {
        ASSERT_EQ(out[i], expected) << "value " << i << " of round " << round;
      }
    }
  }
}

// Blocks that ggml made of given floats: what they stand for must be near those floats.
TEST_P(GgufBlockTest, BlocksOfTheReferenceEncoderDecodeNearTheirInput) {
  const std::string data = SharedTestData();
  if (data.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: blocks of ggml are not tested";
  std::string name = GetParam();
  for (char& c : name) c = static_cast<char>(std::tolower(c));
  const int count = type_.block == 256 ? 1024 : 128;  // Two rows.
  for (const char* kind : {"_im", "_noim"}) {
    const std::string base = data + "/ggml_quants/" + name + (count == 1024 ? "_512" : "_64") + kind;
    const std::string input = ReadFile(base + "_input.bin"), blocks = ReadFile(base + "_expected.bin");
    ASSERT_EQ(blocks.size(), static_cast<size_t>(type_.Bytes(count))) << base;
    ASSERT_EQ(input.size(), count * sizeof(float));
    std::vector<float> given(count), decoded(count);
    std::memcpy(given.data(), input.data(), count * sizeof(float));
    DecodeBlocks(type_, reinterpret_cast<const std::byte*>(blocks.data()), count, decoded.data());
    double error = 0, square = 0;
    for (int i = 0; i < count; ++i) {
      error += (decoded[i] - given[i]) * (decoded[i] - given[i]);
      square += given[i] * given[i];
    }
    // Steps are about range / 2^bits; a wrong nibble or scale anywhere makes the error ten times as large.
    const double bound = name == "q8_0" ? 1e-4 : name.starts_with("q4") ? 0.012 : name.starts_with("q5") ? 0.003 : 8e-4;
    EXPECT_LT(error / square, bound) << base;
    EXPECT_GT(error, 0) << base;
    if (type_.block == 32 && std::string_view(kind) == "_noim") {
      EXPECT_EQ(EncodeGguf(GetParam(), given), blocks) << "the tests' encoder is not ggml's: " << base;
    }
    if (name == "q4_k") {  // The tests' own search must be about as good as ggml's.
      const std::string own = EncodeGguf("Q4_K", given);
      DecodeBlocks(type_, reinterpret_cast<const std::byte*>(own.data()), count, decoded.data());
      double own_error = 0;
      for (int i = 0; i < count; ++i) own_error += (decoded[i] - given[i]) * (decoded[i] - given[i]);
      EXPECT_LT(own_error, 1.1 * error) << base;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlockTest,
                         testing::Values("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GgufTypeTest, TypesThatAreNotSupportedAreRefusedByName) {
  const auto q2 = GgufTypeOf(10, "f: tensor 'a'");
  EXPECT_EQ(q2.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(q2.status().message()),
              testing::HasSubstr("f: tensor 'a' has type Q2_K; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
                                 "Q5_1, Q4_K, Q5_K, Q6_K"));
  for (const auto& [id, name] :
       {std::pair(16, "IQ2_XXS"), {20, "IQ4_NL"}, {23, "IQ4_XS"}, {11, "Q3_K"}, {39, "MXFP4"}}) {
    EXPECT_THAT(std::string(GgufTypeOf(id, "t").status().message()), testing::HasSubstr(name));
  }
  EXPECT_EQ(GgufTypeOf(4, "t").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(GgufTypeOf(4000, "t").status().message()), testing::HasSubstr("type number 4000"));
}

}  // namespace
}  // namespace shoal
