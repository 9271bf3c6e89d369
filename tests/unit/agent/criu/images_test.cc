// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/images.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::criu {
namespace {

using ::testing::HasSubstr;

std::string U32(uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); }
std::string Record(const std::string& payload) {
  return U32(static_cast<uint32_t>(payload.size())) + payload;
}

class ImagesTest : public testing::Test {
 protected:
  ImagesTest() {
    folder_ = absl::StrCat(testing::TempDir(), "/images-",
                           testing::UnitTest::GetInstance()->current_test_info()->name(), getpid());
    std::filesystem::create_directories(folder_);
    Write("inventory.img", U32(kInventoryMagic) + Record("\x08\x02"));
    // pid 1 with one thread, and pid 7, its child.
    Write("pstree.img", U32(0x54564319) + U32(kPstreeMagic) +
                            Record("\x08\x01\x10" + std::string(1, '\0') + "\x28\x01") +
                            Record(std::string("\x08\x07\x10\x01\x28\x07", 6)));
    Write("core-1.img", "x");
    Write("core-7.img", "x");
    Write("descriptors.json", R"(["/dev/null","pipe:[12]","pipe:[13]"])");
  }
  ~ImagesTest() override { std::filesystem::remove_all(folder_); }
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(absl::StrCat(folder_, "/", name), std::ios::binary | std::ios::trunc) << content;
  }
  std::string Refusal() { return std::string(CheckImages(folder_).message()); }

  std::string folder_;
};

TEST_F(ImagesTest, AWholeDumpIsAccepted) {
  EXPECT_EQ(Refusal(), "");
  const auto tasks = ReadProcessTree(folder_);
  ASSERT_TRUE(tasks.ok());
  ASSERT_EQ(tasks->size(), 2u);
  EXPECT_EQ((*tasks)[1].pid, 7);
  EXPECT_EQ((*tasks)[1].parent, 1);
  EXPECT_EQ((*tasks)[1].threads, 1);
}

TEST_F(ImagesTest, ADumpWithoutInventoryIsNotWhole) {
  std::filesystem::remove(folder_ + "/inventory.img");  // CRIU writes it last
  EXPECT_THAT(Refusal(), HasSubstr("inventory.img is missing"));
}

TEST_F(ImagesTest, ATaskWithoutCoreIsRefused) {
  std::filesystem::remove(folder_ + "/core-7.img");
  EXPECT_THAT(Refusal(), HasSubstr("core-7.img is missing"));
}

TEST_F(ImagesTest, LinksAndFoldersAreRefused) {
  std::filesystem::create_symlink("/etc/passwd", folder_ + "/pages-1.img");
  EXPECT_THAT(Refusal(), HasSubstr("not a regular file"));
  std::filesystem::remove(folder_ + "/pages-1.img");
  std::filesystem::create_directory(folder_ + "/pages-1.img");
  EXPECT_THAT(Refusal(), HasSubstr("not a regular file"));
}

TEST_F(ImagesTest, StrangeNamesAreRefused) {
  Write("a b", "");
  EXPECT_THAT(Refusal(), HasSubstr("name that CRIU does not write"));
}

TEST_F(ImagesTest, MoreDescriptorsThanThreeAreRefused) {
  Write("descriptors.json", R"(["a","b","c","pipe:[1]"])");
  EXPECT_THAT(Refusal(), HasSubstr("names 4 descriptors"));
  Write("descriptors.json", R"({"a":1})");
  EXPECT_THAT(Refusal(), HasSubstr("descriptors.json"));
}

TEST_F(ImagesTest, BrokenImagesAreRefused) {
  const struct {
    std::string content;
    const char* why;
  } cases[] = {
      {"", "first bytes"},
      {"abc", "first bytes"},
      {U32(0x54564319) + U32(kStatsMagic), "first bytes"},
      {U32(0x54564319) + U32(kPstreeMagic) + "ab", "ends within a record's length"},
      {U32(0x54564319) + U32(kPstreeMagic) + U32(0xffffffff) + "ab", "longer than the file"},
      {U32(0x54564319) + U32(kPstreeMagic) + Record("\xff\xff"), "not a pstree_entry"},
      {U32(0x54564319) + U32(kPstreeMagic), "names no process"},
  };
  for (const auto& c : cases) {
    Write("pstree.img", c.content);
    EXPECT_THAT(Refusal(), HasSubstr(c.why)) << c.why;
  }
}

TEST_F(ImagesTest, ReadsWhatCriuMeasured) {
  // stats_entry{dump{freezing_time 5, frozen_time 40000, memdump 3, memwrite 4, pages_scanned 9, skipped 0,
  // pages_written 300}}
  const std::string dump("\x08\x05\x10\xc0\xb8\x02\x18\x03\x20\x04\x28\x09\x30\x00\x38\xac\x02", 17);
  Write("stats-dump", U32(0x55105940) + U32(kStatsMagic) +
                          Record("\x0a" + std::string(1, static_cast<char>(dump.size())) + dump));
  const auto stats = ReadDumpStats(folder_);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_EQ(stats->freezing, absl::Microseconds(5));
  EXPECT_EQ(stats->frozen, absl::Milliseconds(40));
  EXPECT_EQ(stats->pages_written, 300);
}

TEST_F(ImagesTest, MeasuresPagesApart) {
  Write("pages-1.img", std::string(8192, 'x'));
  const auto sizes = MeasureImages(folder_);
  ASSERT_TRUE(sizes.ok());
  EXPECT_EQ(sizes->pages, 8192);
  EXPECT_GT(sizes->total, 8192);
}

}  // namespace
}  // namespace godwit::criu
