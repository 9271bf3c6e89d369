// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "metrics/metrics.h"

namespace godwit::metrics {
namespace {

using testing::HasSubstr;

// A folder that stands for /proc: 7.5 s of CPU, started 100 s after boot, 3 pages resident, 2 open files.
class FakeProc : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(proc_ + "/self/fd");
    const long ticks = sysconf(_SC_CLK_TCK);
    Write("/self/stat",
          absl::StrCat("7 (odd ) name) S 1 7 7 0 -1 4194560 100 0 0 0 ", 5 * ticks, " ", 5 * ticks / 2,
                       " 0 0 20 0 4 0 ", 100 * ticks, " 1048576 3 18446744073709551615\n"));
    Write("/stat", "cpu  1 2 3\nbtime 1700000000\nprocesses 5\n");
    Write("/self/fd/0", "");
    Write("/self/fd/1", "");
  }
  void TearDown() override { std::filesystem::remove_all(proc_); }
  void Write(const std::string& name, const std::string& text) { std::ofstream(proc_ + name) << text; }

  const std::string proc_ = absl::StrCat(testing::TempDir(), "/proc-", getpid());
};

TEST_F(FakeProc, IsReadAsProcSays) {
  Registry registry;
  AddProcessMetrics(registry, proc_);
  registry.Exposition();  // a counter that is set twice would count twice
  const std::string text = registry.Exposition();
  EXPECT_THAT(text, HasSubstr("process_cpu_seconds_total 7.5\n"));
  EXPECT_THAT(text,
              HasSubstr(absl::StrCat("process_resident_memory_bytes ", 3 * sysconf(_SC_PAGESIZE), "\n")));
  EXPECT_THAT(text, HasSubstr("process_virtual_memory_bytes 1048576\n"));
  EXPECT_THAT(text, HasSubstr("process_open_fds 2\n"));
  EXPECT_THAT(text, HasSubstr("process_start_time_seconds 1700000100\n"));
}

TEST_F(FakeProc, GarbageIsSurvived) {
  Write("/self/stat", "no parenthesis at all");
  Write("/stat", "");
  Registry registry;
  AddProcessMetrics(registry, proc_);
  EXPECT_THAT(registry.Exposition(), HasSubstr("process_open_fds 2\n"));
}

TEST(Process, OfThisTestIsResident) {
  Registry registry;
  AddProcessMetrics(registry);
  EXPECT_THAT(registry.Exposition(), testing::ContainsRegex("process_resident_memory_bytes [1-9][0-9]{5,}"));
}

}  // namespace
}  // namespace godwit::metrics
