// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/page_set.h"

#include <sys/mman.h>
#include <unistd.h>

#include <random>
#include <set>

#include "agent/memory/page_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

const uint64_t kPage = PageBytes();

Range Pages(uint64_t first, uint64_t end) { return {first * kPage, end * kPage}; }

TEST(PageSetTest, RunsThatTouchAcrossWordsAndChunksAreOneRange) {
  PageSet set;
  EXPECT_EQ(set.Insert(Pages(60, 70)), 10u);
  EXPECT_EQ(set.Insert(Pages(70, 1030)), 960u);
  EXPECT_EQ(set.Insert(Pages(1031, 1032)), 1u);
  EXPECT_THAT(set.Inside({0, kAddressEnd}), testing::ElementsAre(Pages(60, 1030), Pages(1031, 1032)));
  EXPECT_THAT(set.Inside(Pages(100, 600)), testing::ElementsAre(Pages(100, 600)));
  EXPECT_EQ(set.Missing(Pages(1020, 1040)), 9u);
}

TEST(PageSetTest, TheLastPageOfTheAddressSpaceIsAPageLikeAnother) {
  PageSet set;
  const Range last{kAddressEnd - kPage, kAddressEnd};
  EXPECT_EQ(set.Insert(last), 1u);
  EXPECT_THAT(set.Inside({0, kAddressEnd}), testing::ElementsAre(last));
  EXPECT_EQ(set.Erase({0, kAddressEnd}), 1u);
  EXPECT_EQ(set.pages(), 0u);
}

// Property: whatever is put in and taken out, it says the same as a set of single pages.
TEST(PageSetTest, AgreesWithASetOfSinglePages) {
  std::mt19937_64 random(3);
  PageSet set;
  std::set<uint64_t> pages;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t first = random() % 2500;
    const uint64_t end = first + 1 + random() % (step % 3 == 0 ? 1200 : 40);
    uint64_t changed = 0;
    if (random() % 2 == 0) {
      for (uint64_t page = first; page < end; ++page) changed += pages.insert(page).second ? 1 : 0;
      ASSERT_EQ(set.Missing(Pages(first, end)), changed);
      ASSERT_EQ(set.Insert(Pages(first, end)), changed);
    } else {
      for (uint64_t page = first; page < end; ++page) changed += pages.erase(page);
      ASSERT_EQ(set.Erase(Pages(first, end)), changed);
    }
    ASSERT_EQ(set.pages(), pages.size());
    Ranges expected;
    for (auto at = pages.lower_bound(first / 2); at != pages.end() && *at < end + 100; ++at) {
      Append(expected, Pages(*at, *at + 1));
    }
    ASSERT_EQ(set.Inside(Pages(first / 2, end + 100)), expected);
  }
}

TEST(PageSetTest, AMapSaysTheSame) {
  PageSet set;
  for (const Range& range : {Pages(0, 1), Pages(511, 514), Pages(70'000, 140'000)}) set.Insert(range);
  set.Insert({kAddressEnd - kPage, kAddressEnd});
  UniqueFd file(memfd_create("map", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), PageSet::kMapBytes), 0);
  EXPECT_TRUE(PageSet::ReadMap(file.get())->empty());
  ASSERT_TRUE(set.WriteMap(file.get()).ok());
  absl::StatusOr<PageSet> read = PageSet::ReadMap(file.get());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Inside({0, kAddressEnd}), set.Inside({0, kAddressEnd}));
  EXPECT_EQ(read->pages(), set.pages());
  // A part of it, brought up to date.
  set.Erase(Pages(512, 100'000));
  ASSERT_TRUE(set.WriteMap(file.get(), Pages(512, 100'000)).ok());
  read = PageSet::ReadMap(file.get());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->Inside({0, kAddressEnd}), set.Inside({0, kAddressEnd}));
}

}  // namespace
}  // namespace godwit::memory
