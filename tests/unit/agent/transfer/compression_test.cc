// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/compression.h"

#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::transfer {
namespace {

std::string RandomText(size_t size, int seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Property: content of any length and any share of randomness comes back.
TEST(CompressionTest, WhatIsEncodedIsDecoded) {
  std::mt19937_64 random(6);
  Compressor compressor;
  Decompressor decompressor;
  for (int i = 0; i < 100; ++i) {
    std::string content = RandomText(4096 * (1 + random() % 64), i);
    content.resize(content.size() * (2 + random() % 20), 'z');
    for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
      const absl::string_view encoded = compressor.Encode(encoding, content);
      ASSERT_FALSE(encoded.empty());
      ASSERT_LT(encoded.size(), content.size());
      absl::StatusOr<absl::string_view> decoded = decompressor.Decode(encoding, encoded, content.size());
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      ASSERT_TRUE(*decoded == content);
    }
  }
}

TEST(CompressionTest, WhatDoesNotShrinkIsLeftAsItIs) {
  Compressor compressor;
  const std::string content = RandomText(1 << 20, 1);
  for (const Encoding encoding : {Encoding::kRaw, Encoding::kLz4, Encoding::kZstd}) {
    EXPECT_TRUE(compressor.Encode(encoding, content).empty());
  }
}

TEST(CompressionTest, ALengthThatLiesIsDataLoss) {
  Compressor compressor;
  Decompressor decompressor;
  const std::string content(100'000, 'x');
  for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
    const std::string encoded(compressor.Encode(encoding, content));
    for (const size_t lie : {size_t{0}, content.size() - 1, content.size() + 1}) {
      EXPECT_TRUE(absl::IsDataLoss(decompressor.Decode(encoding, encoded, lie).status())) << lie;
    }
    EXPECT_TRUE(absl::IsDataLoss(decompressor.Decode(encoding, encoded.substr(1), content.size()).status()));
    EXPECT_TRUE(absl::IsDataLoss(decompressor.Decode(encoding, "", content.size()).status()));
    EXPECT_TRUE(
        absl::IsDataLoss(decompressor.Decode(encoding, RandomText(5000, 2), content.size()).status()));
  }
  EXPECT_TRUE(absl::IsDataLoss(decompressor.Decode(Encoding::kRaw, content, content.size() + 1).status()));
}

// Speeds in MB/s; part: what is left of a byte.
struct Choice {
  const char* name;
  double link, lz4_speed, lz4_part, zstd_speed, zstd_part;
  int64_t limit;
  Encoding best;
};
class EncodingChoiceTest : public testing::TestWithParam<Choice> {};

TEST_P(EncodingChoiceTest, IsWhatGetsTheContentOverSoonest) {
  constexpr int64_t kBytes = 100'000'000;
  const auto took = [](double speed) { return absl::Seconds(static_cast<double>(kBytes) / 1e6 / speed); };
  const Choice& c = GetParam();
  EncodingChoice choice;
  choice.Sent(kBytes, took(1500));
  choice.Carried(kBytes, took(c.link));
  choice.Encoded(Encoding::kLz4, kBytes, static_cast<size_t>(kBytes * c.lz4_part), took(c.lz4_speed));
  choice.Encoded(Encoding::kZstd, kBytes, static_cast<size_t>(kBytes * c.zstd_part), took(c.zstd_speed));
  EXPECT_EQ(choice.Best(c.limit), c.best);
}

INSTANTIATE_TEST_SUITE_P(
    All, EncodingChoiceTest,
    testing::Values(Choice{"OneGigabit", 118, 700, 0.5, 450, 0.35, 0, Encoding::kZstd},
                    Choice{"FourGigabit", 500, 700, 0.5, 450, 0.35, 0, Encoding::kLz4},
                    Choice{"FastLink", 5000, 700, 0.5, 450, 0.35, 0, Encoding::kRaw},
                    Choice{"FastLinkWithALimit", 5000, 700, 0.5, 450, 0.35, 50'000'000, Encoding::kZstd},
                    Choice{"LimitAboveTheLink", 118, 700, 0.5, 450, 0.35, 2'000'000'000, Encoding::kZstd},
                    Choice{"DoesNotShrink", 118, 3000, 1.0, 1000, 1.0, 0, Encoding::kRaw},
                    Choice{"ShrinksToNothing", 5000, 4000, 0.01, 1500, 0.01, 0, Encoding::kLz4}),
    [](const auto& info) { return info.param.name; });

TEST(EncodingChoiceTest, NothingMeasuredIsRaw) {
  EXPECT_EQ(EncodingChoice().Best(0), Encoding::kRaw);
  EXPECT_EQ(EncodingChoice().Best(1000), Encoding::kRaw);
}

TEST(EncodingChoiceTest, WhatChangedIsNoticed) {
  EncodingChoice choice;
  choice.Encoded(Encoding::kZstd, 1 << 20, 1 << 18, absl::Milliseconds(2));
  EXPECT_EQ(choice.Best(50'000'000), Encoding::kZstd);
  for (int i = 0; i < 40; ++i) choice.Encoded(Encoding::kZstd, 1 << 16, 1 << 16, absl::Microseconds(100));
  choice.Encoded(Encoding::kLz4, 1 << 16, 1 << 15, absl::Microseconds(100));
  EXPECT_EQ(choice.Best(50'000'000), Encoding::kLz4);
}

}  // namespace
}  // namespace godwit::transfer
