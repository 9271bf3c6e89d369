// SPDX-License-Identifier: Apache-2.0
// PagemapScan at this process' own memory, against a model of what each page should be.
#include "agent/memory/pagemap_scan.h"

#include <sys/mman.h>
#include <unistd.h>

#include <random>
#include <vector>

#include "agent/memory/uffd.h"
#include "gtest/gtest.h"

namespace godwit::node_test {
namespace {

using memory::PagemapScan;
using memory::Range;
using memory::Ranges;

class PagemapScanTest : public testing::Test {
 protected:
  static constexpr size_t kTables = 12;

  PagemapScanTest() : table_(memory::PageBytes() / 8), pages_(kTables * table_) {
    // Not at a table's beginning, nor to one's end.
    const size_t bytes = (kTables + 1) * table_ * kPage;
    mapped_ =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(mapped_, MAP_FAILED);
    EXPECT_EQ(madvise(mapped_, bytes, MADV_NOHUGEPAGE), 0);
    const uint64_t table = table_ * kPage;
    start_ = (reinterpret_cast<uint64_t>(mapped_) + table - 1) / table * table + 5 * kPage;
    pages_.resize(kTables * table_ - 9);
    auto enabled = memory::WriteProtection::OfThisProcess();
    EXPECT_TRUE(enabled.ok()) << enabled.status();
    protection_.emplace(*std::move(enabled));
    auto scan = PagemapScan::Open("/proc", getpid());
    EXPECT_TRUE(scan.ok()) << scan.status();
    scan_.emplace(*std::move(scan));
  }
  ~PagemapScanTest() override { munmap(mapped_, (kTables + 1) * table_ * kPage); }

  struct Page {
    bool populated = false;
    bool armed = false;
  };

  Range All() const { return {start_, start_ + pages_.size() * kPage}; }
  void Register() {
    const auto outcome = protection_->Register(All());
    ASSERT_TRUE(outcome.ok() && *outcome == memory::WriteProtection::Outcome::kRegistered)
        << outcome.status();
  }
  void Write(size_t page) {
    *reinterpret_cast<volatile char*>(start_ + page * kPage) = 'x';
    pages_[page] = {.populated = true, .armed = false};
  }
  // What is only read becomes the zero page, which has no content.
  void Touch(size_t page) { (void)*reinterpret_cast<volatile char*>(start_ + page * kPage); }
  void Drop(size_t first, size_t count) {
    count = std::min(count, pages_.size() - first);
    ASSERT_EQ(madvise(reinterpret_cast<void*>(start_ + first * kPage), count * kPage, MADV_DONTNEED), 0);
    for (size_t i = first; i < first + count; ++i) pages_[i] = {};
  }
  template <class Which>
  Ranges Those(Which which) const {
    Ranges ranges;
    for (size_t i = 0; i < pages_.size(); ++i) {
      if (which(pages_[i])) memory::Append(ranges, {start_ + i * kPage, start_ + (i + 1) * kPage});
    }
    return ranges;
  }
  Ranges Populated() const {
    return Those([](const Page& page) { return page.populated; });
  }
  Ranges Written() const {
    return Those([](const Page& page) { return page.populated && !page.armed; });
  }
  // Some pages of every kind: dense and sparse, small and as large as page tables.
  void Change(std::mt19937& random) {
    const auto below = [&random](size_t end) {
      return std::uniform_int_distribution<size_t>(0, end - 1)(random);
    };
    for (size_t i = below(4); i > 0; --i) {
      const size_t first = below(pages_.size());
      const size_t count = below(4) == 0 ? 2 * table_ : below(4) == 0 ? 40 : 1 + below(3);
      switch (below(4)) {
        case 0: Drop(first, count); break;
        case 1:
          for (size_t page = first; page < std::min(first + count, pages_.size()); ++page) Write(page);
          break;
        case 2:
          for (int some = 0; some < 30; ++some) Write(below(pages_.size()));
          break;
        default: Touch(first); break;
      }
    }
  }
  void ExpectLook() {
    PagemapScan::Pages pages;
    const absl::Status looked = scan_->Look(All(), pages);
    ASSERT_TRUE(looked.ok()) << looked;
    ASSERT_EQ(pages.populated, Populated());
    ASSERT_EQ(pages.written, Written());
  }

  const size_t kPage = memory::PageBytes();
  const size_t table_;  // pages that one page table maps
  std::vector<Page> pages_;
  void* mapped_ = nullptr;
  uint64_t start_ = 0;
  std::optional<memory::WriteProtection> protection_;
  std::optional<PagemapScan> scan_;
};

TEST_F(PagemapScanTest, TellsOfEveryPageWhateverIsDoneToMemory) {
  Register();
  for (int seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(static_cast<unsigned>(seed));
    Drop(0, pages_.size());
    for (int step = 0; step < 12; ++step) {
      Change(random);
      if (step == 0) {
        Ranges populated;
        ASSERT_TRUE(scan_->ArmAll(All(), populated).ok());
        ASSERT_EQ(populated, Populated());
      } else if (random() % 3 == 0) {
        ASSERT_NO_FATAL_FAILURE(ExpectLook());
        continue;
      } else {
        const Ranges expected = Written();
        Ranges written;
        ASSERT_TRUE(scan_->ArmWritten(All(), written).ok());
        ASSERT_EQ(written, expected);
      }
      for (Page& page : pages_) page.armed = page.populated;
    }
    ASSERT_NO_FATAL_FAILURE(ExpectLook());
  }
}

TEST_F(PagemapScanTest, SaysWhenAPartIsNotRegistered) {
  Write(0);
  PagemapScan::Pages pages;
  Ranges written;
  EXPECT_TRUE(absl::IsPermissionDenied(scan_->Look(All(), pages)));
  EXPECT_TRUE(absl::IsPermissionDenied(scan_->ArmWritten(All(), written)));
}

}  // namespace
}  // namespace godwit::node_test
