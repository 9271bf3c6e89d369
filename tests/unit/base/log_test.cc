// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

using ::testing::MatchesRegex;

TEST(LogTest, ValuesAreQuotedOnlyWhereTheyMustBe) {
  EXPECT_EQ(absl::StrCat(Log("froze the pod")
                             .With("migration", "5d9c-1")
                             .With("pod", std::string("shop/cache 0"))
                             .With("took", absl::Milliseconds(87))
                             .With("bytes", int64_t{1} << 40)
                             .With("ratio", 0.5)
                             .With("last", true)
                             .With("empty", "")),
            "froze the pod migration=5d9c-1 pod=\"shop/cache 0\" took=87ms bytes=1099511627776 ratio=0.5 "
            "last=true empty=\"\"");
}

TEST(LogTest, HostileValuesCannotForgeALineOrAPair) {
  EXPECT_EQ(absl::StrCat(Log("refused").With("name", "x\nERROR y=\"1\" \\ \x1b[2J")),
            "refused name=\"x\\nERROR y=\\\"1\\\" \\\\ \\x1b[2J\"");
}

TEST(LogTest, StatusBecomesTheErrorPair) {
  EXPECT_EQ(absl::StrCat(Log("cannot go on").With(absl::NotFoundError("no pod"))),
            "cannot go on error=\"NOT_FOUND: no pod\"");
}

TEST(LogTest, LineHasTimeLevelBinaryAndOneLineOfText) {
  EXPECT_EQ(FormatLogLine(absl::FromUnixMillis(1700000000123), "INFO", "godwit-agent", "two\nlines"),
            "2023-11-14T22:13:20.123Z INFO godwit-agent two\\nlines");
}

TEST(LogTest, InitSendsWholeLinesToTheDescriptor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  InitLog("test", ends[1]);
  LOG(WARNING) << Log("one").With("n", 1);
  char buffer[256];
  const ssize_t n = read(ends[0], buffer, sizeof buffer);
  ASSERT_GT(n, 0);
  EXPECT_THAT(std::string(buffer, static_cast<size_t>(n)),
              MatchesRegex("[0-9T:.-]+Z WARNING test one n=1\n"));
}

}  // namespace
}  // namespace godwit
