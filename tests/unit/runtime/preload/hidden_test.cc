// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/hidden.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/preload/settings.h"

// What the library has of its process; nothing of it matters here.
namespace godwit::preload {
const Settings* Active() { return nullptr; }
void Say(const char*, const char*, int) {}
}  // namespace godwit::preload

namespace godwit::preload {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kContent = 0x18, kGuard = 0x100;

// A kernel that finds a page of its own in each even hundred, and remembers what it was asked.
std::vector<std::pair<uint64_t, uint64_t>> asked;
long failure = 0;
long Kernel(int, PagemapScan* scan) {
  asked.push_back({scan->start, scan->end});
  if (failure != 0) {
    errno = static_cast<int>(failure);
    return -1;
  }
  auto* out = reinterpret_cast<PageRegion*>(scan->vec);
  uint64_t found = 0;
  scan->walk_end = scan->end;
  for (uint64_t at = scan->start; at < scan->end; ++at) {
    if (at / 100 % 2 != 0) continue;
    if (found > 0 && out[found - 1].end == at) {
      out[found - 1].end = at + 1;
      continue;
    }
    if (found == scan->vec_len) {
      scan->walk_end = at;
      break;
    }
    out[found++] = {at, at + 1, scan->return_mask};
  }
  return static_cast<long>(found);
}

struct Answer {
  std::vector<std::pair<uint64_t, uint64_t>> regions;
  uint64_t walk_end;
};

class HiddenTest : public testing::Test {
 protected:
  void SetUp() override {
    asked.clear();
    failure = 0;
  }
  Answer Scan(const std::vector<HiddenRange>& hidden, uint64_t pid, uint64_t start, uint64_t end,
              size_t room = 10, uint64_t any = kContent) {
    std::vector<PageRegion> regions(room);
    PagemapScan scan{};
    scan.size = sizeof(scan);
    scan.start = start;
    scan.end = end;
    scan.vec = reinterpret_cast<uint64_t>(regions.data());
    scan.vec_len = room;
    scan.category_anyof_mask = any;
    result_ = ScanAround(hidden.data(), hidden.size(), pid, 3, &scan, Kernel);
    Answer answer{{}, scan.walk_end};
    for (long i = 0; i < result_; ++i)
      answer.regions.push_back({regions[static_cast<size_t>(i)].start, regions[static_cast<size_t>(i)].end});
    return answer;
  }
  long result_ = 0;
};

TEST_F(HiddenTest, HiddenRangesHoldNoPages) {
  const std::vector<HiddenRange> hidden = {{7, 0, 1000}, {8, 20, 30}, {8, 50, 250}, {8, 420, 600}, {9, 0, 9}};
  const Answer answer = Scan(hidden, 8, 0, 500);
  EXPECT_THAT(answer.regions,
              ElementsAre(std::pair(0, 20), std::pair(30, 50), std::pair(250, 300), std::pair(400, 420)));
  EXPECT_EQ(answer.walk_end, 500u);
}

TEST_F(HiddenTest, ARangeThatIsHiddenAsAWholeIsNotEvenAskedFor) {
  const Answer answer = Scan({{8, 0, 1000}}, 8, 200, 300);
  EXPECT_THAT(answer.regions, IsEmpty());
  EXPECT_EQ(answer.walk_end, 300u);
  EXPECT_THAT(asked, IsEmpty());
}

TEST_F(HiddenTest, AnotherTaskSeesWhatTheKernelSays) {
  const Answer answer = Scan({{7, 0, 1000}, {9, 0, 1000}}, 8, 0, 500);
  EXPECT_THAT(answer.regions, ElementsAre(std::pair(0, 100), std::pair(200, 300), std::pair(400, 500)));
  EXPECT_THAT(asked, ElementsAre(std::pair(0, 500)));
}

TEST_F(HiddenTest, GuardRegionsAreFoundEverywhere) {
  const Answer answer = Scan({{8, 0, 1000}}, 8, 0, 500, 10, 0);
  EXPECT_EQ(answer.regions.size(), 3u) << "CRIU looks for them with no category of content";
  EXPECT_EQ(Scan({{8, 0, 1000}}, 8, 0, 500, 10, kGuard).regions.size(), 3u);
}

TEST_F(HiddenTest, AScanThatRanOutOfRoomEndsWhereTheNextMustBegin) {
  const std::vector<HiddenRange> hidden = {{8, 20, 30}, {8, 50, 250}};
  std::vector<std::pair<uint64_t, uint64_t>> all;
  uint64_t at = 0;
  for (int scans = 0; at < 1000 && scans < 20; ++scans) {
    const Answer answer = Scan(hidden, 8, at, 1000, 2);
    all.insert(all.end(), answer.regions.begin(), answer.regions.end());
    ASSERT_GT(answer.walk_end, at);
    at = answer.walk_end;
  }
  EXPECT_THAT(all, ElementsAre(std::pair(0, 20), std::pair(30, 50), std::pair(250, 300), std::pair(400, 500),
                               std::pair(600, 700), std::pair(800, 900)));
}

TEST_F(HiddenTest, TheKernelsErrorIsTheAnswer) {
  failure = EFAULT;
  Scan({{8, 20, 30}}, 8, 0, 500);
  EXPECT_EQ(result_, -1);
  EXPECT_EQ(errno, EFAULT);
}

TEST_F(HiddenTest, TheFileIsReadOrRefused) {
  const struct {
    const char* text;
    ssize_t count;
  } cases[] = {
      {"", 0},
      {"12 7f00-8000\n", 1},
      {"12 7f00-8000\n12 8000-9000\n13 1000-2000\n", 3},
      {"0 2f-30\n0 30-31\n13 1000-2000\n", 3},
      {"13 1000-2000\n0 2f-30\n", -1},
      {"12 7f00-8000", -1},
      {"12 7f00-8000 \n", -1},
      {"12  7f00-8000\n", -1},
      {"12 8000-7f00\n", -1},
      {"12 8000-8000\n", -1},
      {"-1 7f00-8000\n", -1},
      {"12 7F00-8000\n", -1},
      {"12 0x7f00-8000\n", -1},
      {"12 00000000000007f00-8000\n", -1},
      {"12 7f00-8000\n12 7000-7100\n", -1},
      {"12 7f00-8000\n12 7fff-9000\n", -1},
      {"13 1000-2000\n12 7f00-8000\n", -1},
      {"12 1-2\n\n", -1},
      {"1 1-2\n2 1-2\n3 1-2\n4 1-2\n", -1},
  };
  for (const auto& c : cases) {
    HiddenRange ranges[3];
    EXPECT_EQ(ParseHidden(c.text, strlen(c.text), ranges, 3), c.count) << c.text;
  }
  HiddenRange range{};
  ASSERT_EQ(ParseHidden("4194304 7ffffffff000-ffffffffffff000\n", 37, &range, 1), 1);
  EXPECT_EQ(range.pid, 4194304u);
  EXPECT_EQ(range.start, 0x7ffffffff000u);
  EXPECT_EQ(range.end, 0xffffffffffff000u);
}

TEST_F(HiddenTest, HiddenObjectsAreToldByTheirInodes) {
  const std::vector<HiddenRange> hidden = {{0, 5, 6}, {0, 6, 7}, {0, 9, 10}, {7, 11, 1000}};
  for (uint64_t inode = 0; inode < 20; ++inode)
    EXPECT_EQ(HoldsNoData(hidden.data(), hidden.size(), inode), inode == 5 || inode == 6 || inode == 9)
        << inode;
  EXPECT_FALSE(HoldsNoData(hidden.data(), 0, 5));
  EXPECT_FALSE(HoldsNoData(hidden.data() + 3, 1, 11)) << "an address of a task";
  EXPECT_THAT(Scan(hidden, 7, 0, 20).regions, ElementsAre(std::pair(0, 11))) << "inodes hide no addresses";
}

TEST_F(HiddenTest, APagemapNamesItsTask) {
  EXPECT_EQ(TaskOfPagemap("/proc/1234/pagemap"), 1234u);
  EXPECT_EQ(TaskOfPagemap("/1234/pagemap"), 1234u) << "procfs mounted out of sight";
  for (const char* path : {"", "/pagemap", "/proc/self/pagemap", "/proc/12x/pagemap", "/proc/1234/maps",
                           "/proc/1234/pagemap (deleted)", "pagemap"})
    EXPECT_EQ(TaskOfPagemap(path), 0u) << path;
}

}  // namespace
}  // namespace godwit::preload
