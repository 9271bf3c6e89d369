// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::pager {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHigh = 0x7f0000000000;

class StoreTest : public ::testing::Test {
 protected:
  StoreTest() {
    EXPECT_EQ(ftruncate(file_.get(), off_t{1} << 47), 0);
    Write(2 * kPage, 3);
    Write(kHigh, 1);
  }
  void Write(uint64_t offset, size_t pages) {
    const std::string content(pages * kPage, 'x');
    EXPECT_EQ(pwrite(file_.get(), content.data(), content.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(content.size()));
  }
  UniqueFd file_{memfd_create("store", MFD_CLOEXEC)};
  Store store_{file_.get()};
};

TEST_F(StoreTest, RunsOfPagesAreFoundBetweenHoles) {
  EXPECT_EQ(**store_.NextRun(0), (memory::Range{2 * kPage, 5 * kPage}));
  EXPECT_EQ(**store_.NextRun(3 * kPage), (memory::Range{3 * kPage, 5 * kPage}));
  EXPECT_EQ(**store_.NextRun(5 * kPage), (memory::Range{kHigh, kHigh + kPage}));
  EXPECT_EQ(*store_.NextRun(kHigh + kPage), std::nullopt);
  EXPECT_EQ(**store_.NextHeld(5 * kPage), kHigh);
}

TEST_F(StoreTest, ReadingFillsNoHole) {
  const int64_t held = *store_.HeldBytes();
  EXPECT_EQ(held, int64_t{4 * kPage});
  std::string data(2 * kPage, 'y');
  ASSERT_TRUE(store_.ReadAt(4 * kPage, data.data(), data.size()).ok());
  EXPECT_EQ(data, std::string(kPage, 'x') + std::string(kPage, '\0'));
  ASSERT_TRUE(store_.ReadAt(uint64_t{1} << 50, data.data(), data.size()).ok());
  EXPECT_EQ(data, std::string(2 * kPage, '\0')) << "beyond the end";
  const auto pages = store_.Map({2 * kPage, 5 * kPage});
  ASSERT_TRUE(pages.ok()) << pages.status();
  EXPECT_EQ(std::string(*pages, 3 * kPage), std::string(3 * kPage, 'x'));
  EXPECT_EQ(*store_.HeldBytes(), held);
}

TEST_F(StoreTest, WhatIsPunchedIsNoLongerHeld) {
  ASSERT_TRUE(store_.Punch({2 * kPage, 4 * kPage}).ok());
  EXPECT_EQ(**store_.NextRun(0), (memory::Range{4 * kPage, 5 * kPage}));
  EXPECT_EQ(*store_.HeldBytes(), int64_t{2 * kPage});
}

TEST_F(StoreTest, AStoreWithoutAFileHoldsNothing) {
  Store none(-1);
  EXPECT_EQ(*none.NextRun(0), std::nullopt);
  EXPECT_EQ(*none.HeldBytes(), 0);
  std::string data(kPage, 'y');
  ASSERT_TRUE(none.ReadAt(0, data.data(), data.size()).ok());
  EXPECT_EQ(data, std::string(kPage, '\0'));
}

TEST_F(StoreTest, AnUnreadableFileIsAnError) {
  UniqueFd write_only(open("/dev/null", O_WRONLY | O_CLOEXEC));
  Store store(write_only.get());
  std::string data(kPage, 'y');
  EXPECT_FALSE(store.ReadAt(0, data.data(), data.size()).ok());
  EXPECT_FALSE(store.Map({0, kPage}).ok());
}

}  // namespace
}  // namespace godwit::pager
