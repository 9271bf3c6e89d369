// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/pagemap.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "agent/criu/images.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::criu {
namespace {

using memory::Range;
using memory::Ranges;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr pid_t kTask = 7;
constexpr uint32_t kPagesId = 3;
constexpr uint64_t kPrivateAnonymous = 0x22, kPrivateFile = 0x02, kDroppable = 0x28;

uint64_t Address(uint64_t page) { return 0x10000000 + page * memory::PageBytes(); }
Range Pages(uint64_t first, uint64_t end) { return {Address(first), Address(end)}; }

std::string U32(uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); }
std::string Record(const std::string& payload) {
  return U32(static_cast<uint32_t>(payload.size())) + payload;
}
std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string Field(uint32_t number, uint64_t value) { return Varint(number << 3) + Varint(value); }
std::string Bytes(uint32_t number, const std::string& bytes) {
  return Varint(number << 3 | 2) + Varint(bytes.size()) + bytes;
}

struct Mapping {
  Range range;
  uint64_t flags;
  uint64_t status;
  uint64_t advice = 0;
};
std::string MmImage(const std::vector<Mapping>& mappings) {
  std::string mm = Field(1, 0x400000);
  for (const Mapping& m : mappings) {
    mm += Bytes(14, Field(1, m.range.start) + Field(2, m.range.end) + Field(5, 3) + Field(6, m.flags) +
                        Field(7, m.status) + Field(9, m.advice));
  }
  return U32(kCommonMagic) + U32(kMmMagic) + Record(mm);
}

class PagemapTest : public testing::Test {
 protected:
  PagemapTest() {
    folder_ = absl::StrCat(testing::TempDir(), "/pagemap-",
                           testing::UnitTest::GetInstance()->current_test_info()->name(), getpid());
    std::filesystem::create_directories(folder_);
    Write("mm-7.img", MmImage({{Pages(0, 100), kPrivateAnonymous, 0x201},
                               {Pages(100, 200), kPrivateFile, 0x41},
                               {Pages(200, 300), kPrivateAnonymous, 0x201}}));
    // As CRIU leaves it: pages of a mapping that the engine does not carry are marked lazy all the same.
    Dumped({{Pages(2, 4), kLazy | kPresent}, {Pages(150, 151), kPresent}});
  }
  ~PagemapTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(absl::StrCat(folder_, "/", name), std::ios::binary | std::ios::trunc) << content;
  }
  std::string Read(const std::string& name) const { return *ReadFile(absl::StrCat(folder_, "/", name)); }
  // Pages hold their number, by letters.
  static std::string Content(uint64_t page) {
    return std::string(memory::PageBytes(), static_cast<char>('A' + page % 26));
  }
  void Dumped(const std::vector<PagemapEntry>& entries) {
    std::string pages;
    for (const PagemapEntry& entry : entries) {
      for (uint64_t at = entry.range.start; at < entry.range.end; at += memory::PageBytes())
        pages += Content((at - Address(0)) / memory::PageBytes());
    }
    Write("pages-3.img", pages);
    Write("pagemap-7.img", RenderPagemap({kPagesId, entries}));
  }
  Pagemap Parsed() const {
    const auto pagemap = ParsePagemap(Read("pagemap-7.img"), "pagemap-7.img");
    EXPECT_TRUE(pagemap.ok()) << pagemap.status();
    return pagemap.value_or(Pagemap{});
  }

  std::string folder_;
};

TEST_F(PagemapTest, LazyPagesAreLeftToTheDaemonAndCriusOwnAreNot) {
  const std::string pages = Read("pages-3.img");
  ASSERT_TRUE(AddLazyPages(folder_, kTask, {Pages(0, 1), Pages(10, 100), Pages(200, 201)}).ok());
  const Pagemap pagemap = Parsed();
  EXPECT_EQ(pagemap.pages_id, kPagesId);
  EXPECT_THAT(pagemap.entries,
              ElementsAre(PagemapEntry{Pages(0, 1), kLazy}, PagemapEntry{Pages(2, 4), kPresent},
                          PagemapEntry{Pages(10, 100), kLazy}, PagemapEntry{Pages(150, 151), kPresent},
                          PagemapEntry{Pages(200, 201), kLazy}));
  EXPECT_EQ(Read("pages-3.img"), pages) << "lazy pages take no room there";
  EXPECT_FALSE(FileExists(folder_ + "/pagemap-7.img.new"));
}

TEST_F(PagemapTest, WithoutPagesOnlyTheMarksGo) {
  ASSERT_TRUE(AddLazyPages(folder_, kTask, {}).ok());
  EXPECT_THAT(Parsed().entries,
              ElementsAre(PagemapEntry{Pages(2, 4), kPresent}, PagemapEntry{Pages(150, 151), kPresent}));
}

TEST_F(PagemapTest, EachRecordHasTheFieldsThatCriuRequires) {
  ASSERT_TRUE(AddLazyPages(folder_, kTask, {Pages(10, 12)}).ok());
  const auto records = ReadImage(folder_ + "/pagemap-7.img", kPagemapMagic);
  ASSERT_TRUE(records.ok());
  ASSERT_EQ(records->size(), 4u);
  EXPECT_EQ((*records)[0], Field(1, kPagesId));
  EXPECT_EQ((*records)[2], Field(1, Address(10)) + Field(2, 0) + Field(4, 2) + Field(5, 2));
}

TEST_F(PagemapTest, PagesComeInBetweenThoseThatCriuHasWritten) {
  const std::string pagemap_before = Read("pagemap-7.img"), pages_before = Read("pages-3.img");
  const auto complete = CompletePages::Plan(folder_, kTask, {Pages(0, 2), Pages(10, 11), Pages(200, 201)});
  ASSERT_TRUE(complete.ok()) << complete.status();
  EXPECT_EQ(complete->pagemap_name(), "pagemap-7.img");
  EXPECT_EQ(complete->pages_name(), "pages-3.img");
  EXPECT_THAT(
      ParsePagemap(complete->pagemap(), "made")->entries,
      ElementsAre(PagemapEntry{Pages(0, 2), kLazy | kPresent}, PagemapEntry{Pages(2, 4), kLazy | kPresent},
                  PagemapEntry{Pages(10, 11), kLazy | kPresent}, PagemapEntry{Pages(150, 151), kPresent},
                  PagemapEntry{Pages(200, 201), kLazy | kPresent}));
  std::string pages;
  const auto read = [](uint64_t address, char* to, size_t size) {
    for (size_t at = 0; at < size; at += memory::PageBytes())
      memcpy(to + at, Content((address + at - Address(0)) / memory::PageBytes()).data(), memory::PageBytes());
    return absl::OkStatus();
  };
  const auto sink = [&pages](absl::string_view piece) {
    pages.append(piece.data(), piece.size());
    return absl::OkStatus();
  };
  const absl::Status written = complete->WritePages(read, sink);
  ASSERT_TRUE(written.ok()) << written;
  EXPECT_EQ(pages,
            Content(0) + Content(1) + Content(2) + Content(3) + Content(10) + Content(150) + Content(200));
  EXPECT_EQ(complete->pages_bytes(), static_cast<int64_t>(pages.size()));
  EXPECT_EQ(Read("pagemap-7.img"), pagemap_before);
  EXPECT_EQ(Read("pages-3.img"), pages_before);
}

TEST_F(PagemapTest, LongRangesAreReadInPiecesEachPageOnce) {
  Write("mm-7.img", MmImage({{Pages(0, 2000), kPrivateAnonymous, 0x201}}));
  Dumped({{Pages(1000, 1300), kPresent}});
  const auto complete = CompletePages::Plan(folder_, kTask, {Pages(0, 1000), Pages(1300, 1301)});
  ASSERT_TRUE(complete.ok()) << complete.status();
  Ranges read;
  int64_t bytes = 0;
  const absl::Status written = complete->WritePages(
      [&read](uint64_t address, char*, size_t size) {
        EXPECT_TRUE(read.empty() || read.back().end <= address);
        memory::Append(read, {address, address + size});
        return absl::OkStatus();
      },
      [&bytes](absl::string_view piece) {
        EXPECT_LE(piece.size(), size_t{1} << 20);
        bytes += static_cast<int64_t>(piece.size());
        return absl::OkStatus();
      });
  ASSERT_TRUE(written.ok()) << written;
  EXPECT_THAT(read, ElementsAre(Pages(0, 1000), Pages(1300, 1301)));
  EXPECT_EQ(bytes, complete->pages_bytes());
}

TEST_F(PagemapTest, WhatCannotBeReadOrTakenEndsTheWriting) {
  const auto complete = CompletePages::Plan(folder_, kTask, {Pages(10, 11)});
  ASSERT_TRUE(complete.ok());
  const auto good_read = [](uint64_t, char*, size_t) { return absl::OkStatus(); };
  const auto good_sink = [](absl::string_view) { return absl::OkStatus(); };
  EXPECT_EQ(
      complete->WritePages([](uint64_t, char*, size_t) { return absl::DataLossError("gone"); }, good_sink),
      absl::DataLossError("gone"));
  EXPECT_EQ(
      complete->WritePages(good_read, [](absl::string_view) { return absl::ResourceExhaustedError("full"); }),
      absl::ResourceExhaustedError("full"));
  Write("pages-3.img", "");
  EXPECT_THAT(std::string(complete->WritePages(good_read, good_sink).message()), HasSubstr("shorter"));
}

TEST_F(PagemapTest, WhatDoesNotFitIsRefusedAndLeavesTheImagesAlone) {
  const struct {
    Ranges pages;
    const char* why;
  } cases[] = {
      {{Pages(3, 5)}, "did not leave out"},
      {{Pages(0, 3)}, "did not leave out"},
      {{Pages(0, 100)}, "did not leave out"},
      {{Pages(50, 101)}, "in no private anonymous mapping"},
      {{Pages(300, 301)}, "in no private anonymous mapping"},
      {{Pages(10, 12), Pages(11, 13)}, "not whole, or not in order"},
      {{Pages(10, 12), Pages(5, 6)}, "not whole, or not in order"},
      {{{Address(10) + 1, Address(11)}}, "not whole, or not in order"},
      {{{Address(11), Address(10)}}, "not whole, or not in order"},
  };
  const std::string before = Read("pagemap-7.img");
  for (const auto& c : cases) {
    const absl::Status lazy = AddLazyPages(folder_, kTask, c.pages).status();
    EXPECT_EQ(lazy.code(), absl::StatusCode::kInvalidArgument) << lazy;
    EXPECT_THAT(std::string(lazy.message()), HasSubstr(c.why));
    EXPECT_EQ(CompletePages::Plan(folder_, kTask, c.pages).status(), lazy);
    EXPECT_EQ(Read("pagemap-7.img"), before);
  }
}

TEST_F(PagemapTest, LockedHugeAndSpecialMappingsAreNotTheDaemons) {
  const auto mappings = ParseMappings(MmImage({{Pages(0, 1), kPrivateAnonymous, 0x201},
                                               {Pages(1, 2), kPrivateAnonymous, 0x203},
                                               {Pages(5, 6), kPrivateAnonymous | 0x2000, 0x201},
                                               {Pages(7, 8), kPrivateAnonymous | 0x40000, 0x201},
                                               {Pages(9, 10), kPrivateAnonymous, 0x209},
                                               {Pages(11, 12), kPrivateAnonymous, 0x1201},
                                               {Pages(13, 14), 0x21, 0x101},
                                               {Pages(15, 16), kDroppable, 0x201},
                                               {Pages(0, 1), kPrivateAnonymous, 0x10000}}),
                                      "mm");
  ASSERT_TRUE(mappings.ok()) << mappings.status();
  EXPECT_THAT(mappings->lazy, ElementsAre(Pages(0, 2)));
  EXPECT_THAT(mappings->droppable, ElementsAre(Pages(15, 16)));
}

TEST_F(PagemapTest, PagesThatMayBeDroppedAreLeftOut) {
  Write("mm-7.img", MmImage({{Pages(0, 100), kPrivateAnonymous, 0x201},
                             {Pages(100, 110), kDroppable, 0x201},
                             {Pages(110, 200), kPrivateAnonymous, 0x201}}));
  const Ranges pages = {Pages(10, 12), Pages(99, 111)};
  const auto complete = CompletePages::Plan(folder_, kTask, pages);
  ASSERT_TRUE(complete.ok()) << complete.status();
  const int64_t own = 3, taken = 4;
  EXPECT_EQ(complete->pages_bytes(), (own + taken) * static_cast<int64_t>(memory::PageBytes()));
  const auto wanted = AddLazyPages(folder_, kTask, pages);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  EXPECT_THAT(*wanted, ElementsAre(Pages(10, 12), Pages(99, 100), Pages(110, 111)));
}

// A forked child has a userfaultfd on such a mapping and none of its pages: the daemon must have none either.
TEST_F(PagemapTest, PagesThatChildrenFindEmptyComeIntoTheImages) {
  constexpr uint64_t kWipeOnFork = 1u << 18;
  Write("mm-7.img", MmImage({{Pages(0, 20), kPrivateAnonymous, 0x201},
                             {Pages(20, 30), kPrivateAnonymous, 0x201, kWipeOnFork},
                             {Pages(30, 200), kPrivateAnonymous, 0x201}}));
  const std::string before = Read("pages-3.img");
  criu::Content content{.there = {Pages(0, 24), Pages(26, 40)}};  // two are missing still
  content.read = [](uint64_t address, char* to, size_t size) {
    for (size_t at = 0; at < size; at += memory::PageBytes())
      memcpy(to + at, PagemapTest::Content((address + at - Address(0)) / memory::PageBytes()).data(),
             memory::PageBytes());
    return absl::OkStatus();
  };
  const auto left = AddLazyPages(folder_, kTask, {Pages(10, 40)}, content);
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_THAT(*left, ElementsAre(Pages(10, 20), Pages(24, 26), Pages(30, 40)));
  EXPECT_THAT(Parsed().entries,
              ElementsAre(PagemapEntry{Pages(2, 4), kPresent}, PagemapEntry{Pages(10, 20), kLazy},
                          PagemapEntry{Pages(20, 24), kPresent}, PagemapEntry{Pages(24, 26), kLazy},
                          PagemapEntry{Pages(26, 30), kPresent}, PagemapEntry{Pages(30, 40), kLazy},
                          PagemapEntry{Pages(150, 151), kPresent}));
  std::string pages = before.substr(0, 2 * memory::PageBytes());
  for (const uint64_t page : {20, 21, 22, 23, 26, 27, 28, 29, 150}) pages += PagemapTest::Content(page);
  EXPECT_EQ(Read("pages-3.img"), pages);
}

TEST_F(PagemapTest, BrokenImagesAreNamed) {
  const std::string head = U32(kCommonMagic) + U32(kPagemapMagic) + Record(Field(1, kPagesId));
  const std::string entry = Field(1, Address(2)) + Field(2, 0) + Field(4, 4);
  const struct {
    std::string content;
    const char* why;
  } cases[] = {
      {"", "first bytes"},
      {U32(kCommonMagic) + U32(kPagemapMagic), "no head"},
      {U32(kCommonMagic) + U32(kPagemapMagic) + Record(""), "names no pages"},
      {head + Record("\xff\xff"), "not a pagemap_entry"},
      {head + Record(entry + Field(5, 0)), "not of whole pages"},
      {head + Record(entry + Field(5, uint64_t{1} << 60)), "beyond the address space"},
      {head + Record(Field(1, ~uint64_t{0}) + Field(5, 1)), "beyond the address space"},
      {head + Record(entry + Field(5, 2)) + Record(entry + Field(5, 2)), "not behind the one before"},
      {head + Record(Field(1, Address(2)) + Field(2, 1) + Field(3, 1)), "not in this folder"},
      {head + Record(Field(1, Address(2)) + Field(4, 2) + Field(5, 1)), "not in this folder"},
      {head + Record(entry + Field(5, 2)), "speaks of 8192"},
  };
  for (const auto& c : cases) {
    Write("pagemap-7.img", c.content);
    const absl::Status status = AddLazyPages(folder_, kTask, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.why));
  }
}

TEST_F(PagemapTest, TheNumberOfPagesMayBeInTheOlderField) {
  const auto pagemap = ParsePagemap(U32(kCommonMagic) + U32(kPagemapMagic) + Record(Field(1, 1)) +
                                        Record(Field(1, Address(2)) + Field(2, 3)),
                                    "old");
  ASSERT_TRUE(pagemap.ok()) << pagemap.status();
  EXPECT_THAT(pagemap->entries, ElementsAre(PagemapEntry{Pages(2, 5), kPresent}));
}

TEST_F(PagemapTest, ATaskWithoutImagesIsNamed) {
  std::filesystem::remove(folder_ + "/mm-7.img");
  EXPECT_THAT(std::string(AddLazyPages(folder_, kTask, {}).status().message()),
              HasSubstr("mm-7.img is missing"));
  const absl::Status status = AddLazyPages(folder_, 8, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pagemap-8.img is missing"));
}

TEST_F(PagemapTest, ManyRangesStayInOrder) {
  Write("mm-7.img", MmImage({{Pages(0, 100000), kPrivateAnonymous, 0x201}}));
  Ranges pages;
  std::vector<PagemapEntry> own;
  for (uint64_t page = 0; page < 20000; page += 4) {
    pages.push_back(Pages(page, page + 1));
    own.push_back({Pages(page + 2, page + 3), kPresent});
  }
  Dumped(own);
  ASSERT_TRUE(AddLazyPages(folder_, kTask, pages).ok());
  const Pagemap pagemap = Parsed();
  ASSERT_EQ(pagemap.entries.size(), 10000u);
  EXPECT_EQ(pagemap.entries[9998], (PagemapEntry{Pages(19996, 19997), kLazy}));
}

}  // namespace
}  // namespace godwit::criu
