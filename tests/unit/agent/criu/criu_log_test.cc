// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/criu_log.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::criu {
namespace {

using ::testing::HasSubstr;

// As CRIU 4.2.1 writes it.
constexpr char kIoUring[] =
    "(00.000000) Version: 4.2.1 (gitid 0)\n"
    "(00.000012) Running on n1 Linux 6.18.44\n"
    "(00.011021) Warn  (criu/kerndat.c:1103): CPU features are whatever\n"
    "(00.020100) Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (anon [io_uring])\n"
    "(00.020200) ----------------------------------------\n"
    "(00.020300) Error (criu/cr-dump.c:1555): Dump files (pid: 1234) failed with -1\n"
    "(00.031000) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";

TEST(CriuLog, TellsTheFirstCauseAndNotWhatFollowsFromIt) {
  EXPECT_EQ(TellingLines(kIoUring),
            "Can't dump file 5 of that type [600] (anon [io_uring]) [criu/files-ext.c:98]");
  EXPECT_EQ(KnownCause(kIoUring), "the process uses io_uring, which CRIU cannot save");
}

TEST(CriuLog, ReadsTheVersion) {
  EXPECT_EQ(VersionInLog(kIoUring), (Version{4, 2, 1}));
  EXPECT_EQ(VersionInLog("nothing"), Version{});
}

TEST(CriuLog, ShowsConsequencesWhenThereIsNothingElse) {
  EXPECT_EQ(TellingLines("(00.031000) Error (criu/cr-dump.c:2111): Dumping FAILED.\n"),
            "Dumping FAILED. [criu/cr-dump.c:2111]");
}

TEST(CriuLog, SkipsRepeatsAndStopsAtTheLimit) {
  std::string log;
  for (const char* text : {"a", "a", "b", "c", "d"})
    absl::StrAppend(&log, "(00.1) Error (x.c:1): ", text, "\n");
  EXPECT_EQ(TellingLines(log, 3), "a [x.c:1]; b [x.c:1]; c [x.c:1]");
}

TEST(CriuLog, BearsHostileText) {
  EXPECT_EQ(TellingLines("Error (unclosed"), "");
  EXPECT_EQ(TellingLines("(1) Error (x.c:1): \x1b[31mred\x01\n"), "?[31mred? [x.c:1]");
  EXPECT_LT(TellingLines(absl::StrCat("Error (x.c:1): ", std::string(100000, 'x'))).size(), 400u);
}

TEST(CriuLog, SaysWhenThereIsNoLog) {
  EXPECT_THAT(ExplainFailure("/nonexistent/dump.log"), HasSubstr("CRIU left no log"));
}

}  // namespace
}  // namespace godwit::criu
