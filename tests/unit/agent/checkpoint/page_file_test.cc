// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/page_file.h"

#include <unistd.h>

#include <map>
#include <random>
#include <string>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::checkpoint {
namespace {

using memory::Range;
using memory::Ranges;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const uint64_t kPage = memory::PageBytes();
constexpr pid_t kTask = 4711;

// Far beyond what one file could hold on most file systems.
constexpr uint64_t kBase = 0x7f0000000000;
uint64_t Address(uint64_t page) { return kBase + page * kPage; }
Range Pages(uint64_t first, uint64_t end) { return {Address(first), Address(end)}; }
std::string Of(char letter) { return std::string(kPage, letter); }
std::string Zeros() { return std::string(kPage, '\0'); }

class PageFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "page_file_test." + std::to_string(getpid());
    ASSERT_TRUE(RemoveTree(folder_).ok());
    ASSERT_TRUE(MakeFolders(folder_).ok());
    auto file = PageFile::Make(folder_);
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }
  void TearDown() override {
    EXPECT_THAT(*ListFolder(folder_), IsEmpty()) << "the file has no name that could be left";
    EXPECT_TRUE(RemoveTree(folder_).ok());
  }
  std::string Take(pid_t task, Range range) {
    std::string to(range.bytes(), 'x');
    const absl::Status taken = file_->Take(task, range.start, to.data(), to.size());
    EXPECT_TRUE(taken.ok()) << taken;
    return to;
  }

  std::string folder_;
  std::unique_ptr<PageFile> file_;
};

TEST_F(PageFileTest, PagesComeOutAsTheyWereWrittenLast) {
  ASSERT_TRUE(file_->Write(kTask, Address(0), Of('a') + Of('b') + Of('c')).ok());
  ASSERT_TRUE(file_->Write(kTask, Address(1), Of('B')).ok());
  ASSERT_TRUE(file_->Write(kTask + 1, Address(1), Of('o')).ok());
  ASSERT_TRUE(file_->Write(kTask, Address(1000), Of('z')).ok());
  ASSERT_TRUE(file_->Sync().ok());
  EXPECT_EQ(file_->bytes(), 5 * kPage);
  EXPECT_THAT(*file_->WithContent(kTask, {Pages(0, 3), Pages(1000, 1001)}),
              ElementsAre(Pages(0, 3), Pages(1000, 1001)));
  EXPECT_EQ(Take(kTask, Pages(0, 3)), Of('a') + Of('B') + Of('c'));
  EXPECT_EQ(Take(kTask, Pages(1000, 1001)), Of('z'));
  EXPECT_EQ(Take(kTask + 1, Pages(1, 2)), Of('o'));
  EXPECT_EQ(file_->bytes(), 0u);
}

TEST_F(PageFileTest, PagesOfZerosAreKnownAndTakeNoRoom) {
  ASSERT_TRUE(file_->Write(kTask, Address(0), Zeros() + Of('b') + Zeros() + Of('d')).ok());
  EXPECT_EQ(file_->bytes(), 2 * kPage);
  EXPECT_THAT(*file_->WithContent(kTask, {Pages(0, 4)}), ElementsAre(Pages(1, 2), Pages(3, 4)));
  ASSERT_TRUE(file_->Write(kTask, Address(0), Of('a') + Zeros()).ok());
  EXPECT_EQ(file_->bytes(), 2 * kPage);
  EXPECT_THAT(*file_->WithContent(kTask, {Pages(0, 4)}), ElementsAre(Pages(0, 1), Pages(3, 4)));
  EXPECT_EQ(Take(kTask, Pages(0, 1)), Of('a'));
  EXPECT_EQ(Take(kTask, Pages(3, 4)), Of('d'));
}

TEST_F(PageFileTest, APageOfWhichNothingIsKnownIsNeverTakenForZeros) {
  ASSERT_TRUE(file_->Write(kTask, Address(0), Of('a') + Of('b')).ok());
  file_->Forget(kTask, Pages(1, 2));
  EXPECT_TRUE(file_->WithContent(kTask, {Pages(0, 1)}).ok());
  for (const auto& [task, pages] : std::map<pid_t, Range>{{kTask, Pages(0, 2)}, {kTask + 1, Pages(0, 1)}}) {
    const auto content = file_->WithContent(task, {pages});
    EXPECT_TRUE(absl::IsDataLoss(content.status())) << content.status();
    EXPECT_THAT(std::string(content.status().message()), HasSubstr("could not be read"));
  }
  std::string to(kPage, 'x');
  EXPECT_FALSE(file_->Take(kTask, Address(1), to.data(), kPage).ok());
  EXPECT_EQ(Take(kTask, Pages(0, 1)), Of('a'));
  EXPECT_FALSE(file_->Take(kTask, Address(0), to.data(), kPage).ok()) << "it was taken already";
}

TEST_F(PageFileTest, TheRoomOfTasksThatHaveEndedIsUsedAgain) {
  ASSERT_TRUE(file_->Write(1, Address(0), Of('a') + Of('b')).ok());
  ASSERT_TRUE(file_->Write(2, Address(0), Of('c')).ok());
  file_->KeepTasks({2});
  EXPECT_EQ(file_->bytes(), kPage);
  EXPECT_FALSE(file_->WithContent(1, {Pages(0, 1)}).ok());
  ASSERT_TRUE(file_->Write(3, Address(0), Of('d') + Of('e')).ok());
  EXPECT_EQ(file_->bytes(), 3 * kPage);
  EXPECT_EQ(Take(2, Pages(0, 1)), Of('c'));
  EXPECT_EQ(Take(3, Pages(0, 2)), Of('d') + Of('e'));
}

TEST_F(PageFileTest, IsAsAMapOfPagesWhateverIsDone) {
  std::mt19937 random(7);
  std::map<std::pair<pid_t, uint64_t>, std::string> model;
  for (int step = 0; step < 4000; ++step) {
    const pid_t task = static_cast<pid_t>(random() % 3);
    const uint64_t first = random() % 300;
    const uint64_t count = 1 + random() % 20;
    switch (random() % 8) {
      case 0:
        file_->Forget(task, Pages(first, first + count));
        for (uint64_t page = first; page < first + count; ++page) model.erase({task, page});
        break;
      case 1: {
        if (random() % 20 != 0) break;
        file_->KeepTasks({task});
        std::erase_if(model, [&](const auto& entry) { return entry.first.first != task; });
        break;
      }
      default: {
        std::string bytes;
        for (uint64_t page = first; page < first + count; ++page) {
          const std::string content =
              random() % 4 == 0 ? Zeros() : Of(static_cast<char>('a' + random() % 26));
          model[{task, page}] = content;
          bytes += content;
        }
        ASSERT_TRUE(file_->Write(task, Address(first), bytes).ok());
      }
    }
  }
  uint64_t with_content = 0;
  for (const auto& [page, content] : model) with_content += content != Zeros() ? 1 : 0;
  EXPECT_EQ(file_->bytes(), with_content * kPage);
  for (pid_t task = 0; task < 3; ++task) {
    Ranges known;
    for (const auto& [page, content] : model) {
      if (page.first == task) memory::Append(known, Pages(page.second, page.second + 1));
    }
    const auto content = file_->WithContent(task, known);
    ASSERT_TRUE(content.ok()) << content.status();
    for (const Range& range : *content) {
      const std::string bytes = Take(task, range);
      for (uint64_t at = 0; at < range.bytes(); at += kPage) {
        ASSERT_EQ(bytes.substr(at, kPage), (model[{task, (range.start + at - kBase) / kPage}]));
        model.erase({task, (range.start + at - kBase) / kPage});
      }
    }
  }
  for (const auto& [page, content] : model) EXPECT_EQ(content, Zeros());
}

}  // namespace
}  // namespace godwit::checkpoint
