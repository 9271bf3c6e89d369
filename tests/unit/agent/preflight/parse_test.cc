// SPDX-License-Identifier: Apache-2.0
#include "agent/preflight/parse.h"

#include <set>
#include <string>

#include "absl/strings/match.h"
#include "agent/api/findings.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::preflight {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PrintableTest, EscapesAndBounds) {
  EXPECT_EQ(Printable("plain (deleted)", 100), "plain (deleted)");
  EXPECT_EQ(Printable("a\nb\x1b[0m\xff", 100), "a\\x0ab\\x1b[0m\\xff");
  EXPECT_EQ(Printable(std::string(600, 'x'), 10), "xxxxxxx...");
  EXPECT_LE(Printable(std::string(600, '\n'), 10).size(), 10u);
  EXPECT_EQ(Printable("abc", 0), "...") << "never less than that something was cut off";
}

TEST(ParseMapsTest, TellsWhatIsMapped) {
  const MapsFacts facts = ParseMaps(
      "1000-2000 r-xp 00000000 08:01 11       /usr/bin/x\n"
      "2000-3000 rw-s 00000000 00:05 12       /dev/dri/card0\n"
      "3000-4000 rw-p 00000000 00:0f 13       /anon_hugepage (deleted)\n"
      "4000-5000 rw-s 00000000 00:01 14       /SYSV00000000 (deleted)\n"
      "5000-6000 --xp 00000000 00:00 0        [uprobes]\n");
  EXPECT_EQ(facts.device, "/dev/dri/card0");
  EXPECT_EQ(facts.huge_pages, "/anon_hugepage (deleted)");
  EXPECT_EQ(facts.in_freeze, "/SYSV00000000 (deleted)");
  EXPECT_TRUE(facts.uprobes);
}

TEST(ParseMapsTest, OrdinaryMappingsAndNamesLikeOthersAreNoFacts) {
  const MapsFacts facts = ParseMaps(
      "1000-2000 rw-s 00000000 00:01 11       /dev/zero (deleted)\n"
      "2000-3000 rw-p 00000000 00:01 12       /memfd:private (deleted)\n"
      "3000-4000 rw-p 00000000 08:01 13       /data/[uprobes]\n"
      "4000-5000 rw-p 00000000 08:01 14       /a\\0125000-6000 rw-s 0 0:0 0 /dev/nvidia0\n"
      "5000-6000 rw-p 00000000 00:00 0\n"
      "nonsense\n\n");
  EXPECT_EQ(facts.device, "");
  EXPECT_EQ(facts.huge_pages, "");
  EXPECT_EQ(facts.in_freeze, "");
  EXPECT_FALSE(facts.uprobes);
}

TEST(ParseStatusTest, TellsStateThreadsSeccompAndUser) {
  const StatusFacts facts =
      ParseStatus("Name:\tx\nState:\tZ (zombie)\nUid:\t0\t0\t0\t0\nThreads:\t12\nSeccomp:\t2\n");
  EXPECT_EQ(facts.state, 'Z');
  EXPECT_EQ(facts.threads, 12);
  EXPECT_EQ(facts.seccomp, 2);
  EXPECT_TRUE(facts.root);
  EXPECT_FALSE(ParseStatus("Uid:\t0\t1000\t0\t0\n").root);
  EXPECT_FALSE(ParseStatus("Uid:\t1000\t1000\t1000\t1000\n").root);
  EXPECT_TRUE(ParseStatus("").root);
}

TEST(ParseTcpTest, CountsByState) {
  const TcpFacts facts = ParseTcp(
      "  sl  local_address rem_address   st tx_queue\n"
      "   0: 0100007F:1B58 00000000:0000 0A 0\n   1: 0100007F:1B58 0100007F:8888 01 0\n"
      "   2: 0100007F:1B58 0100007F:8889 02 0\n   3: 0100007F:1B58 0100007F:8889 03 0\n garbage\n");
  EXPECT_EQ(facts.established, 1);
  EXPECT_EQ(facts.in_flight, 2);
}

TEST(ParseCpuFeaturesTest, TakesInstructionsThatAllProcessorsHave) {
  EXPECT_THAT(ParseCpuFeatures("processor\t: 0\nflags\t\t: fpu vme sse2 avx512f constant_tsc\n\n"
                               "processor\t: 1\nflags\t\t: fpu sse2 hypervisor\n"),
              ElementsAre("fpu", "sse2"));
  EXPECT_THAT(ParseCpuFeatures("Features\t: fp asimd sve\n"), ElementsAre("asimd", "fp", "sve"));
  EXPECT_THAT(ParseCpuFeatures("nothing of the kind"), IsEmpty());
}

// What is printed as a table, and looked up by its name.
TEST(FindingKindsTest, AreCompleteAndUnique) {
  std::set<std::string> ids;
  for (const agent_api::FindingKind& kind : agent_api::kFindingKinds) {
    EXPECT_TRUE(ids.insert(std::string(kind.id)).second) << kind.id << " is there twice";
    EXPECT_TRUE(absl::EndsWith(kind.meaning, ".")) << kind.id;
    EXPECT_TRUE(absl::EndsWith(kind.remedy, ".") || absl::EndsWith(kind.remedy, ").")) << kind.id;
    EXPECT_FALSE(absl::StrContains(kind.meaning, "|") || absl::StrContains(kind.remedy, "|"))
        << kind.id << " would break the table in docs/preflight.md";
  }
}

}  // namespace
}  // namespace godwit::preflight
