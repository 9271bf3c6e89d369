// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/maps.h"

#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::vector<Range> Owned(const std::string& text) {
  const absl::StatusOr<AddressSpace> space = ParseMaps(text);
  EXPECT_TRUE(space.ok()) << space.status();
  return space.ok() ? space->private_anonymous : std::vector<Range>();
}

TEST(MapsTest, PrivateAnonymousMappingsAreOwnedAndNothingElse) {
  const struct {
    const char* rest;
    bool owned;
  } cases[] = {
      {"rw-p 00000000 00:00 0 ", true},
      {"---p 00000000 00:00 0", true},
      {"rw-p 00000000 00:00 0                          [heap]", true},
      {"rw-p 00000000 00:00 0                          [stack]", true},
      {"rw-p 00000000 00:00 0                          [anon:dalvik-main space]", true},
      {"rw-p 00000000 00:00 0                          [anon:[vdso]]", true},
      {"rw-s 00000000 00:00 0 ", false},
      {"rw-s 00000000 00:01 1234                       /dev/zero (deleted)", false},
      {"rw-p 00000000 00:05 7                          /dev/zero", false},
      {"rw-p 00002000 fe:00 4711                       /usr/lib/libc.so.6", false},
      {"rw-p 00000000 00:0f 4242                       /anon_hugepage (deleted)", false},
      {"r-xp 00000000 00:00 0                          [vdso]", false},
      {"r--p 00000000 00:00 0                          [vvar]", false},
      {"r--p 00000000 00:00 0                          [vvar_vclock]", false},
      {"--xp 00000000 00:00 0                          [vsyscall]", false},
      {"r-xp 00000000 00:00 0                          [uprobes]", false},
      {"rw-p 00000000 00:00 0                          [a kernel's new kind]", false},
      {"rw-p 00000000 fe:00 9                          [heap]", false},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Owned(absl::StrCat("7f0000000000-7f0000002000 ", c.rest, "\n")).size(), c.owned ? 1u : 0u)
        << c.rest;
  }
}

TEST(MapsTest, AnonymousSharedMemoryIsToldWithItsObjectAndNothingElse) {
  const struct {
    const char* rest;
    uint64_t inode;  // 0: it is not
  } cases[] = {
      {"rw-s 00000000 00:01 1234                       /dev/zero (deleted)", 1234},
      {"---s 00001000 00:01 18446744073709551615       /dev/zero (deleted)", ~uint64_t{0}},
      {"rw-p 00000000 00:01 1234                       /dev/zero (deleted)", 0},
      {"rw-s 00000000 00:01 0                          /dev/zero (deleted)", 0},
      {"rw-s 00000000 00:01 18446744073709551616       /dev/zero (deleted)", 0},
      {"rw-s 00000000 00:01 -1                         /dev/zero (deleted)", 0},
      {"rw-s 00000000 00:01 1234                       /memfd:/dev/zero (deleted)", 0},
      {"rw-s 00000000 00:01 1234                       /SYSV00000000 (deleted)", 0},
      {"rw-s 00000000 00:01 1234                       /dev/zero (deleted) (deleted)", 0},
      {"rw-s 00000000 00:0f 1234                       /anon_hugepage (deleted)", 0},
      {"rw-s 00000000 00:05 7                          /dev/zero", 0},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<AddressSpace> space =
        ParseMaps(absl::StrCat("7f0000000000-7f0000002000 ", c.rest, "\n"));
    ASSERT_TRUE(space.ok()) << space.status();
    ASSERT_EQ(space->shared_anonymous.size(), c.inode == 0 ? 0u : 1u) << c.rest;
    if (c.inode == 0) continue;
    EXPECT_EQ(space->shared_anonymous[0].inode, c.inode);
    EXPECT_EQ(space->shared_anonymous[0].device, "00:01");
    EXPECT_EQ(space->shared_anonymous[0].range, (Range{0x7f0000000000, 0x7f0000002000}));
  }
}

TEST(MapsTest, SmapsTellsWhatCannotBeRestoredLazily) {
  const struct {
    const char* flags;
    bool owned;
  } cases[] = {
      {"rd wr mr mw me ac sd ", true},
      {"rd wr mr mw me lo ac", false},
      {"rd wr mr mw me de ht", false},
      {"rd wr io", false},
      {"rd wr pf", false},
      {"rd wr ss", false},
      {"rd wr wf dd dp", false},
      {"", true},
  };
  for (const auto& c : cases) {
    const std::string text = absl::StrCat(
        "1000-2000 rw-p 00000000 00:00 0 \nSize:                  4 kB\nRss: 0 kB\nTHPeligible:           "
        "0\nVmFlags: ",
        c.flags, "\n2000-3000 rw-p 00000000 00:00 0 \nVmFlags: rd wr\n");
    if (c.owned) {
      EXPECT_THAT(Owned(text), ElementsAre(Range{0x1000, 0x2000}, Range{0x2000, 0x3000})) << c.flags;
    } else {
      EXPECT_THAT(Owned(text), ElementsAre(Range{0x2000, 0x3000})) << c.flags;
    }
  }
}

TEST(MapsTest, FlagsOfAMappingOfAFileDoNotCountForTheOneBefore) {
  EXPECT_THAT(
      Owned(
          "1000-2000 rw-p 00000000 00:00 0 \nVmFlags: rd\n2000-3000 rw-p 00000000 fe:00 5 /x\nVmFlags: lo\n"),
      ElementsAre(Range{0x1000, 0x2000}));
}

// Two mappings that are joined between two reads of the file: the second read begins inside of one.
TEST(MapsTest, AMappingThatIsShownTwiceCountsOnce) {
  EXPECT_THAT(Owned("1000-3000 rw-p 0 00:00 0\n1000-5000 rw-p 0 00:00 0\n4000-5000 rw-p 0 00:00 0\n"
                    "2000-3000 rw-p 0 00:00 0\nVmFlags: lo\n7000-8000 rw-p 0 00:00 0\n"),
              ElementsAre(Range{0x1000, 0x3000}, Range{0x3000, 0x5000}, Range{0x7000, 0x8000}));
}

TEST(MapsTest, AnonymousCodeBeforeAnyFilesIsLeftToCriu) {
  const absl::StatusOr<AddressSpace> space = ParseMaps(
      "10000000-10010000 rwxp 00000000 00:00 0\n"
      "20000000-20010000 rw-p 00000000 00:00 0\n"
      "55550000-55560000 r-xp 00000000 08:01 77 /usr/bin/app\n"
      "60000000-60010000 rwxp 00000000 00:00 0\n");
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->private_anonymous,
            (std::vector<Range>{{0x20000000, 0x20010000}, {0x60000000, 0x60010000}}));
}

TEST(MapsTest, TheVdsoAndAioRingsAreFound) {
  const absl::StatusOr<AddressSpace> space = ParseMaps(
      "1000-2000 rw-s 00000000 00:0e 77   /[aio] (deleted)\n7000-9000 r-xp 00000000 00:00 0   [vdso]\n");
  ASSERT_TRUE(space.ok());
  EXPECT_EQ(space->vdso, (Range{0x7000, 0x9000}));
  EXPECT_TRUE(space->aio_ring);
  EXPECT_THAT(space->private_anonymous, IsEmpty());
  EXPECT_FALSE(ParseMaps("")->aio_ring);
}

TEST(MapsTest, WhatIsNoMapIsRefusedAndQuoted) {
  for (const char* text : {
           "rubbish",
           "1000 rw-p 0 00:00 0",
           "1000-2000",
           "1000-2000 rw-p",
           "2000-1000 rw-p 0 00:00 0",
           "1000-1000 rw-p 0 00:00 0",
           "1001-2000 rw-p 0 00:00 0",
           "1000-2fff rw-p 0 00:00 0",
           "1000-10000000000000000 rw-p 0 00:00 0",
           "1000-2000 rwp 0 00:00 0",
           "1000-2000-3000 rw-p 0 00:00 0",
           " \n",
       }) {
    const absl::Status status = ParseMaps(text).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("\"")) << text;
  }
  const std::string lengthy(100000, 'x');
  EXPECT_LT(ParseMaps(lengthy).status().message().size(), 200u);
}

TEST(MapsTest, ThisProcessIsReadInBothWays) {
  const size_t bytes = 3 * PageBytes();
  char* const at = static_cast<char*>(mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  // Of its own, between two others.
  ASSERT_EQ(mprotect(at + PageBytes(), PageBytes(), PROT_READ | PROT_WRITE), 0);
  const uint64_t middle = reinterpret_cast<uint64_t>(at) + PageBytes();
  const Range mapping{middle, middle + PageBytes()};
  for (MapsFile file : {MapsFile::kMaps, MapsFile::kSmaps}) {
    const absl::StatusOr<AddressSpace> space = ReadAddressSpace("/proc", getpid(), file);
    ASSERT_TRUE(space.ok()) << space.status();
    EXPECT_THAT(space->private_anonymous, Contains(mapping));
    EXPECT_GT(space->vdso.bytes(), 0u);
  }
  ASSERT_EQ(mlock(at + PageBytes(), PageBytes()), 0);
  EXPECT_THAT(ReadAddressSpace("/proc", getpid(), MapsFile::kSmaps)->private_anonymous,
              Not(Contains(mapping)));
  munmap(at, bytes);
}

// /proc of one process, 12.
class ReadAddressSpaceTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(MakeFolders(proc_ + "/12").ok()); }
  void TearDown() override { ASSERT_TRUE(RemoveTree(proc_).ok()); }

  absl::StatusOr<AddressSpace> Read(MapsFile file) const { return ReadAddressSpace(proc_, 12, file); }
  void Write(const char* name, absl::string_view text) const {
    ASSERT_TRUE(std::ofstream(absl::StrCat(proc_, "/12/", name), std::ios::trunc) << text);
  }

  const std::string proc_ = absl::StrCat(testing::TempDir(), "/maps-", getpid());
};

TEST_F(ReadAddressSpaceTest, LinesAreWholeWhereverTheReadsEnd) {
  std::string text;
  std::vector<Range> expected;
  for (uint64_t i = 1; i <= 5000; ++i) {
    const Range range{2 * i * 0x1000, (2 * i + 1) * 0x1000};
    absl::StrAppendFormat(&text, "%x-%x rw-p 00000000 00:00 0 %s\n", range.start, range.end,
                          i % 3 == 0 ? "[anon:x]" : "");
    expected.push_back(range);
  }
  Write("maps", text);
  absl::StatusOr<AddressSpace> space = Read(MapsFile::kMaps);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->private_anonymous, expected);
  // The last one's end is missing.
  text.pop_back();
  Write("maps", text);
  space = Read(MapsFile::kMaps);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->private_anonymous, expected);
  Write("maps", "1000-2000 rw-p 0 00:00 0\nrubbish");
  const absl::Status status = Read(MapsFile::kMaps).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/12/maps: not a mapping: \"rubbish\""));
}

TEST_F(ReadAddressSpaceTest, ANameOfAnyLengthIsNoMatter) {
  const std::string name(200'000, 'x');
  Write("maps", absl::StrCat("1000-2000 rw-p 0 fe:00 7 /", name, "\n3000-4000 rw-p 0 00:00 0\n"));
  const absl::StatusOr<AddressSpace> space = Read(MapsFile::kMaps);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_THAT(space->private_anonymous, ElementsAre(Range{0x3000, 0x4000}));
}

TEST_F(ReadAddressSpaceTest, MoreTextThanTheBoundIsRefused) {
  std::string text = "1000-2000 rw-p 0 00:00 0\n";
  const std::string name(1 << 20, 'x');
  for (uint64_t i = 1; text.size() + name.size() < kMostMapsText; ++i)
    absl::StrAppendFormat(&text, "%x-%x rw-p 0 fe:00 7 /%s\n", 2 * i << 12, (2 * i + 1) << 12, name);
  for (const bool detailed : {false, true}) {
    const MapsFile file = detailed ? MapsFile::kSmaps : MapsFile::kMaps;
    const char* const file_name = detailed ? "smaps" : "maps";
    // What smaps tells more does not count.
    const std::string more = detailed ? "Rss: 0 kB\nVmFlags: rd\n" : "";
    std::string full = absl::StrCat(text, "7fffffffe000-7ffffffff000 rw-p 0 fe:00 7 /");
    full += absl::StrCat(std::string(kMostMapsText - full.size() - 1, 'y'), "\n");
    Write(file_name, absl::StrCat(full, more));
    const absl::StatusOr<AddressSpace> space = Read(file);
    ASSERT_TRUE(space.ok()) << space.status();
    EXPECT_THAT(space->private_anonymous, ElementsAre(Range{0x1000, 0x2000}));
    Write(file_name, absl::StrCat(full, more, "\n"));
    const absl::Status refused = Read(file).status();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr(absl::StrCat("/12/", file_name, ": ")), HasSubstr("so many mappings")));
  }
}

TEST(MapsTest, AProcessThatIsGoneIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(ReadAddressSpace("/proc", 1 << 22, MapsFile::kMaps).status()));
}

}  // namespace
}  // namespace godwit::memory
