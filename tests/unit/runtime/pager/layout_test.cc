// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/layout.h"

#include <map>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::pager {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kPage = 4096;

TEST(LayoutTest, AtFirstEveryPageIsAtItsOffset) {
  const Layout layout;
  const auto piece = layout.At(0x7f0000001000);
  ASSERT_TRUE(piece.has_value());
  EXPECT_EQ(piece->offset, 0x7f0000001000u);
  EXPECT_THAT(layout.Within({4 * kPage, 6 * kPage}), ElementsAre(Piece{4 * kPage, 4 * kPage, 2 * kPage}));
  EXPECT_EQ(layout.NextStored(kPage, 3 * kPage), (Piece{kPage, kPage, 2 * kPage}));
}

TEST(LayoutTest, NothingIsWantedOfAnEmptyRange) {
  const Layout layout;
  EXPECT_EQ(layout.NextStored(8 * kPage, 8 * kPage), std::nullopt);
  EXPECT_THAT(layout.Within({8 * kPage, 8 * kPage}), IsEmpty());
}

TEST(LayoutTest, MovedPagesKeepTheirOffsetAndLeaveNothingBehind) {
  Layout layout;
  layout.Move(10 * kPage, 100 * kPage, 2 * kPage);
  EXPECT_EQ(layout.At(11 * kPage), std::nullopt);
  EXPECT_EQ(layout.At(101 * kPage), (Piece{101 * kPage, 11 * kPage, kPage}));
  EXPECT_EQ(layout.NextStored(10 * kPage, 20 * kPage), (Piece{100 * kPage, 10 * kPage, 2 * kPage}));
  EXPECT_EQ(layout.NextStored(100 * kPage, 102 * kPage), std::nullopt) << "what was there before is gone";
}

// Any sequence of changes leaves what a map from page to page would hold.
TEST(LayoutTest, AgreesWithAMapOfSinglePages) {
  constexpr uint64_t kPages = 64;
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    Layout layout;
    std::map<uint64_t, uint64_t> offsets;  // by address, both in pages
    for (uint64_t page = 0; page < kPages; ++page) offsets[page] = page;
    layout.Remove({kPages * kPage, uint64_t{1} << 62});
    for (int step = 0; step < 30; ++step) {
      const uint64_t from = random() % kPages, pages = 1 + random() % 12;
      if (random() % 2 == 0) {
        layout.Remove({from * kPage, (from + pages) * kPage});
        for (uint64_t page = from; page < from + pages; ++page) offsets.erase(page);
      } else {
        const uint64_t to = (from + pages + random() % 20) % (2 * kPages);
        if (to < from + pages && from < to + pages) continue;  // mremap refuses it
        layout.Move(from * kPage, to * kPage, pages * kPage);
        std::map<uint64_t, uint64_t> moved;
        for (uint64_t page = from; page < from + pages; ++page) {
          if (offsets.contains(page)) moved[page - from + to] = offsets[page];
          offsets.erase(page);
        }
        for (uint64_t page = to; page < to + pages; ++page) offsets.erase(page);
        offsets.insert(moved.begin(), moved.end());
      }
      for (uint64_t page = 0; page < 4 * kPages; ++page) {
        const auto piece = layout.At(page * kPage);
        ASSERT_EQ(piece.has_value(), offsets.contains(page)) << "seed " << seed << " page " << page;
        if (!piece.has_value()) continue;
        ASSERT_EQ(piece->offset, offsets[page] * kPage) << "seed " << seed;
      }
      std::map<uint64_t, uint64_t> stored;
      auto piece = layout.NextStored(0, kPages * kPage);
      for (; piece.has_value(); piece = layout.NextStored(piece->offset + piece->bytes, kPages * kPage)) {
        for (uint64_t i = 0; i < piece->bytes / kPage; ++i)
          stored[piece->address / kPage + i] = piece->offset / kPage + i;
      }
      ASSERT_EQ(stored, offsets) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace godwit::pager
