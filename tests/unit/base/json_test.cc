// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <limits>
#include <string>

#include "agent/api/host_protocol.h"
#include "agent/api/messages.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::json {
namespace {

using ::testing::HasSubstr;

struct Small {
  int32_t n = 0;
  template <class Self, class Visitor>
  static void Fields(Self& self, Visitor& field) {
    field("n", self.n);
  }
};

TEST(JsonTest, StructRoundTrips) {
  agent_api::SourceStatus status;
  status.state = agent_api::SourceState::kCeded;
  status.freeze = absl::Milliseconds(87);
  status.frozen_at = absl::FromUnixMillis(1700000000123);
  status.steps.push_back({.name = "dump", .container = "app", .offset = absl::Milliseconds(3)});
  status.memory_bytes = int64_t{1} << 40;
  const std::string text = Encode(status);
  auto back = Decode<agent_api::SourceStatus>(text);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Encode(*back), text);
  EXPECT_EQ(back->steps, status.steps);
  EXPECT_EQ(back->frozen_at, status.frozen_at);
}

TEST(JsonTest, NumbersKeepTheirValueAtTheEdges) {
  const std::string text =
      R"([0,-0,0e40,0.1,1e-400,-9223372036854775808,18446744073709551615,1.7976931348623157e308])";
  auto document = Parse(text);
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_EQ((*document)[2].GetDouble(), 0);
  EXPECT_EQ((*document)[3].GetDouble(), 0.1);
  EXPECT_EQ((*document)[4].GetDouble(), 0);
  EXPECT_EQ((*document)[5].GetInt64(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ((*document)[6].GetUint64(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ((*document)[7].GetDouble(), std::numeric_limits<double>::max());
  const absl::Status status = Parse("[1e400]").status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("Number too big"));
  for (const char* bad : {"01", "1.", ".5", "+1", "1e", "--1", "0x10", "NaN", "Infinity"}) {
    EXPECT_FALSE(Parse(bad).ok()) << bad;
  }
}

TEST(JsonTest, EmptyFieldsAreNotWritten) {
  EXPECT_EQ(Encode(agent_api::TargetStatus{}), R"({"state":"None"})");
}

TEST(JsonTest, ErrorsNameThePath) {
  auto decoded = Decode<agent_api::PreflightRequest>(
      R"({"pod":{"namespace":"a","name":"b","uid":"c"},"containers":[{"name":"x"},{"name":7}]})");
  ASSERT_FALSE(decoded.ok());
  EXPECT_THAT(std::string(decoded.status().message()),
              HasSubstr("containers[1].name: expected a string, got a number"));
}

TEST(JsonTest, MissingRequiredFieldIsAnError) {
  auto decoded = Decode<agent_api::GuardCommand>("{}");
  ASSERT_FALSE(decoded.ok());
  EXPECT_THAT(std::string(decoded.status().message()), HasSubstr("op: required, but absent"));
}

TEST(JsonTest, UnknownEnumNameListsTheKnownOnes) {
  auto decoded = Decode<agent_api::GuardCommand>(R"({"op":"Melt"})");
  ASSERT_FALSE(decoded.ok());
  EXPECT_THAT(std::string(decoded.status().message()), HasSubstr("\"Melt\" is none of Arm, Freeze, Dump"));
}

TEST(JsonTest, HostileTextIsRefused) {
  EXPECT_FALSE(Parse(std::string(100000, '[')).ok());
  EXPECT_FALSE(Parse("{} trailing").ok());
  EXPECT_FALSE(Parse("\"\xff\"").ok());
  EXPECT_FALSE(Parse("").ok());
  EXPECT_FALSE(Parse(R"({"a":1})", {.max_bytes = 3}).ok());
}

TEST(JsonTest, RawKeepsAnyValue) {
  agent_api::CheckpointSpec spec;
  spec.pod_manifest.text = R"({"spec":{"containers":[{"image":"a"}]}})";
  auto back = Decode<agent_api::CheckpointSpec>(Encode(spec));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->pod_manifest.text, spec.pod_manifest.text);
}

TEST(JsonTest, IntegersAreCheckedAgainstTheirType) {
  EXPECT_TRUE(Decode<Small>(R"({"n":-5})").ok());
  EXPECT_FALSE(Decode<Small>(R"({"n":3000000000})").ok());
  EXPECT_FALSE(Decode<Small>(R"({"n":1.5})").ok());
}

}  // namespace
}  // namespace godwit::json
