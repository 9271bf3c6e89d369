// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/error_log.h"

#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "gtest/gtest.h"

namespace godwit::godwit_runtime {
namespace {

const absl::Time kWhen = absl::FromUnixSeconds(1'800'000'000);

TEST(FormatLineTest, WritesTheTwoFormatsOfRunc) {
  EXPECT_EQ(FormatLine(true, "error", "no \"state\"\nfor it", kWhen),
            R"({"level":"error","msg":"no \"state\"\nfor it","time":"2027-01-15T08:00:00+00:00"})");
  EXPECT_EQ(FormatLine(false, "error", "no state", kWhen),
            R"(time="2027-01-15T08:00:00+00:00" level=error msg="no state")");
}

TEST(FormatLineTest, StaysJsonWhateverTheMessageHolds) {
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every.push_back(static_cast<char>(byte));
  EXPECT_TRUE(json::Parse(FormatLine(true, "error", every, kWhen)).ok());
}

TEST(ErrorLogTest, AppendsAndFindsTheLastError) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/log-", getpid(), ".json");
  std::ofstream(path) << R"({"level":"error","msg":"runc's own","time":"x"})" << "\n" << "no json\n";
  const ErrorLog log(path, true);
  log.Info("waiting");
  EXPECT_EQ(log.LastError(), "runc's own");
  log.Error("cannot restore");
  EXPECT_EQ(log.LastError(), "cannot restore");
  EXPECT_EQ(ErrorLog("/no/such/folder/log", true).LastError(), "");
}

}  // namespace
}  // namespace godwit::godwit_runtime
