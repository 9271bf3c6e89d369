// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/frame.h"

#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::transfer {
namespace {

using testing::HasSubstr;

absl::string_view View(const HeaderBytes& header) { return {header.data(), header.size()}; }

TEST(FrameTest, TheBytesOnTheWireAreThese) {
  const HeaderBytes header = EncodeHeader(FrameType::kCommit, {"{}"});
  EXPECT_EQ(std::string(header.data(), 16), std::string("GDWT\x01\x08\0\0\x02\0\0\0\0\0\0\0", 16));
}

TEST(FrameTest, WhatIsEncodedIsDecodedForEveryTypeAndManyLengths) {
  std::mt19937_64 random(7);
  for (int type = 1; type <= 16; ++type) {
    for (const size_t length : {0, 1, 23, 24, 25, 4096, 65536}) {
      std::string payload(length, '\0');
      for (char& c : payload) c = static_cast<char>(random());
      const size_t cut = length == 0 ? 0 : random() % length;
      const absl::string_view whole = payload;
      const HeaderBytes header =
          EncodeHeader(static_cast<FrameType>(type), {whole.substr(0, cut), whole.substr(cut)});
      absl::StatusOr<FrameHeader> decoded = DecodeHeader(View(header));
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      EXPECT_EQ(static_cast<int>(decoded->type), type);
      EXPECT_EQ(decoded->length, length);
      EXPECT_TRUE(CheckPayload(View(header), *decoded, payload).ok());
    }
  }
}

// Property: no change of a single bit, in header or payload, goes unnoticed.
TEST(FrameTest, EveryFlippedBitIsNoticed) {
  const std::string payload = "some content of a file";
  const HeaderBytes good = EncodeHeader(FrameType::kFileData, {payload});
  for (size_t bit = 0; bit < (good.size() + payload.size()) * 8; ++bit) {
    std::string bytes = absl::StrCat(View(good), payload);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    const absl::string_view header = absl::string_view(bytes).substr(0, kFrameHeaderBytes);
    absl::StatusOr<FrameHeader> decoded = DecodeHeader(header);
    const bool noticed =
        !decoded.ok() ||
        !CheckPayload(header, *decoded, absl::string_view(bytes).substr(kFrameHeaderBytes)).ok();
    EXPECT_TRUE(noticed) << "bit " << bit;
  }
}

TEST(FrameTest, RandomHeadersNeverDecode) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 20'000; ++i) {
    HeaderBytes header;
    for (char& c : header) c = static_cast<char>(random());
    EXPECT_FALSE(DecodeHeader(View(header)).ok());
  }
}

struct BadHeader {
  const char* name;
  size_t at;
  char value;
  const char* message;
};

class BadHeaderTest : public testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaderTest, IsRefusedWithItsReason) {
  HeaderBytes header = EncodeHeader(FrameType::kPing, {});
  header[GetParam().at] = GetParam().value;
  const absl::Status status = DecodeHeader(View(header)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, BadHeaderTest,
                         testing::Values(BadHeader{"Magic", 0, 'X', "not with GDWT"},
                                         BadHeader{"Version", 4, 2, "stream version 2"},
                                         BadHeader{"Type", 5, 0, "unknown type 0"},
                                         BadHeader{"LaterType", 5, 23, "unknown type 23"},
                                         BadHeader{"Flags", 6, 1, "flags or reserved"},
                                         BadHeader{"Reserved", 15, 1, "flags or reserved"},
                                         BadHeader{"MessageTooLong", 10, 2, "at most 65536 are allowed"}),
                         [](const auto& info) { return info.param.name; });

TEST(FrameTest, DataMayBeAMebibyteAndNoMore) {
  const std::string data(kMaxDataBytes, 'x');
  const auto prefix = EncodeFileDataPrefix(0xfffffffe, uint64_t{1} << 40);
  const std::string payload = absl::StrCat(absl::string_view(prefix.data(), prefix.size()), data);
  absl::StatusOr<FileData> decoded = DecodeFileData(payload);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->id, 0xfffffffe);
  EXPECT_EQ(decoded->offset, uint64_t{1} << 40);
  EXPECT_EQ(decoded->bytes.size(), kMaxDataBytes);
  EXPECT_FALSE(DecodeFileData(absl::StrCat(payload, "y")).ok());
  EXPECT_FALSE(DecodeFileData(absl::string_view(payload).substr(0, kFileDataPrefixBytes)).ok());
  EXPECT_FALSE(DecodeFileData("").ok());
}

}  // namespace
}  // namespace godwit::transfer
