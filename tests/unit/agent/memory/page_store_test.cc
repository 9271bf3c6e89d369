// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/page_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <random>
#include <string>
#include <thread>

#include "agent/memory/page_set.h"
#include "agent/memory/shared_key.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const uint64_t kPage = PageBytes();
constexpr uint64_t kLimit = 64 << 20;

Range Pages(uint64_t first, uint64_t end) { return {first * kPage, end * kPage}; }
std::string Content(char mark, uint64_t pages = 1) { return std::string(pages * kPage, mark); }

std::string ReadAt(const PageStore& store, pid_t task, Range range) {
  absl::StatusOr<UniqueFd> file = store.FileOf(task);
  EXPECT_TRUE(file.ok()) << file.status();
  std::string content(range.bytes(), '?');
  EXPECT_EQ(pread(file->get(), content.data(), content.size(), static_cast<off_t>(range.start)),
            static_cast<ssize_t>(content.size()));
  return content;
}

// Bytes of memory that the file takes.
uint64_t Taken(const PageStore& store, pid_t task) {
  struct stat status{};
  EXPECT_EQ(fstat(store.FileOf(task)->get(), &status), 0);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

TEST(PageStoreTest, APageLiesAtItsAddressAndAllElseIsZeros) {
  PageStore store(kLimit);
  const uint64_t stack = 0x7ffd'1234'5000 & ~(kPage - 1);
  ASSERT_TRUE(store.Write(7, 16 * kPage, Content('a', 2)).ok());
  ASSERT_TRUE(store.Write(7, stack, Content('s')).ok());
  EXPECT_EQ(ReadAt(store, 7, Pages(15, 19)), Content(0) + Content('a', 2) + Content(0));
  EXPECT_EQ(ReadAt(store, 7, {stack, stack + kPage}), Content('s'));
  EXPECT_EQ(ReadAt(store, 7, {kAddressEnd - kPage, kAddressEnd}), Content(0)) << "not the end of the file";
  EXPECT_THAT(store.Held(7), ElementsAre(Pages(16, 18), Range{stack, stack + kPage}));
  EXPECT_EQ(store.bytes(), 3 * kPage);
}

TEST(PageStoreTest, TasksDoNotShareMemory) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(8, kPage, Content('b')).ok());
  ASSERT_TRUE(store.Write(7, kPage, Content('a')).ok());
  EXPECT_THAT(store.Tasks(), ElementsAre(7, 8));
  EXPECT_EQ(ReadAt(store, 7, Pages(1, 2)), Content('a'));
  EXPECT_EQ(ReadAt(store, 8, Pages(1, 2)), Content('b'));
}

TEST(PageStoreTest, ZeroPagesTakeNoMemory) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(7, kPage, Content('a', 8)).ok());
  ASSERT_TRUE(store.Zero(7, Pages(3, 5)).ok());
  EXPECT_EQ(ReadAt(store, 7, Pages(2, 6)), Content('a') + Content(0, 2) + Content('a'));
  EXPECT_THAT(store.Held(7), ElementsAre(Pages(1, 3), Pages(5, 9)));
  EXPECT_EQ(store.bytes(), 6 * kPage);
  EXPECT_EQ(Taken(store, 7), 6 * kPage);
  ASSERT_TRUE(store.Zero(7, {0, kAddressEnd}).ok());
  EXPECT_EQ(Taken(store, 7), 0u);
  ASSERT_TRUE(store.Zero(9, {0, kAddressEnd}).ok());
  EXPECT_THAT(store.Tasks(), ElementsAre(7)) << "zeros of a task of which nothing came make none";
}

TEST(PageStoreTest, KeepDropsWhatIsInTheWindowAndNotNamed) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(7, kPage, Content('a', 20)).ok());
  ASSERT_TRUE(store.Keep(7, {Pages(6, 7), Pages(9, 12), Pages(100, 200)}, Pages(5, 15)).ok());
  EXPECT_THAT(store.Held(7), ElementsAre(Pages(1, 5), Pages(6, 7), Pages(9, 12), Pages(15, 21)));
  EXPECT_EQ(Taken(store, 7), store.bytes());
  ASSERT_TRUE(store.Keep(7, {Pages(1, 2)}).ok());
  EXPECT_THAT(store.Held(7), ElementsAre(Pages(1, 2)));
  ASSERT_TRUE(store.Keep(7, {}).ok());
  EXPECT_THAT(store.Tasks(), IsEmpty());
  EXPECT_EQ(store.bytes(), 0u);
  EXPECT_TRUE(absl::IsNotFound(store.FileOf(7).status()));
}

TEST(PageStoreTest, KeepTasksDropsTheOthersAndGivesTheirMemoryBack) {
  PageStore store(kLimit);
  for (const pid_t task : {7, 8, 9}) ASSERT_TRUE(store.Write(task, kPage, Content('a', 4)).ok());
  store.KeepTasks({8, 77});
  EXPECT_THAT(store.Tasks(), ElementsAre(8));
  EXPECT_EQ(store.bytes(), 4 * kPage);
  EXPECT_THAT(store.Held(7), IsEmpty());
}

TEST(PageStoreTest, ADescriptorOutlivesItsTask) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(7, kPage, Content('a')).ok());
  absl::StatusOr<UniqueFd> file = store.FileOf(7);
  ASSERT_TRUE(file.ok());
  store.KeepTasks({});
  char byte = 0;
  EXPECT_EQ(pread(file->get(), &byte, 1, static_cast<off_t>(kPage)), 1);
  EXPECT_EQ(byte, 'a');
}

TEST(PageStoreTest, TheLimitCountsPagesHeldNotPagesWritten) {
  PageStore store(4 * kPage);
  ASSERT_TRUE(store.Write(7, kPage, Content('a', 4)).ok());
  ASSERT_TRUE(store.Write(7, kPage, Content('b', 4)).ok());
  const absl::Status full = store.Write(8, 4 * kPage, Content('c', 2));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("no room for the memory of task 8"));
  EXPECT_EQ(store.bytes(), 4 * kPage);
  ASSERT_TRUE(store.Zero(7, Pages(1, 3)).ok());
  EXPECT_TRUE(store.Write(8, 4 * kPage, Content('c', 2)).ok());
}

TEST(PageStoreTest, WhatOthersTakeMeanwhileIsNotThere) {
  constexpr uint64_t kFree = 100'000;
  uint64_t free = kFree;
  PageStore store(PageStore::kGrant * 4, PageStore::kMaxTasks, [&] { return free * kPage; });
  ASSERT_TRUE(store.Write(7, kPage, Content('a')).ok());
  free = 10;
  EXPECT_TRUE(store.Write(7, 2 * kPage, Content('a')).ok()) << "it is not asked for each page";
  const uint64_t granted = PageStore::kGrant / kPage;
  const absl::Status full = store.Miss(7, {Pages(10, 10 + granted)});
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("bytes are free on this node by now"));
  EXPECT_EQ(store.bytes(), 2 * kPage);
  free = kFree;
  EXPECT_TRUE(store.Miss(7, {Pages(10, 10 + granted)}).ok());
}

TEST(PageStoreTest, ATaskTooManyIsRefused) {
  PageStore store(kLimit, /*max_tasks=*/2);
  ASSERT_TRUE(store.Write(1, kPage, Content('a')).ok());
  ASSERT_TRUE(store.Write(2, kPage, Content('a')).ok());
  EXPECT_EQ(store.Write(3, kPage, Content('a')).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store.Write(2, kPage, Content('b')).ok());
  EXPECT_THAT(store.Tasks(), ElementsAre(1, 2));
}

// What restored tasks map: the file itself, by the path that is handed over.
TEST(PageStoreTest, SharedMemoryIsHandedOverAsItIsAndNotTouchedAfterwards) {
  PageStore store(kLimit);
  const pid_t key = SharedKey(4711);
  ASSERT_TRUE(store.Write(key, 3 * kPage, Content('s', 2)).ok());
  ASSERT_TRUE(store.Write(7, 3 * kPage, Content('t')).ok());
  EXPECT_THAT(store.Tasks(), ElementsAre(7));
  EXPECT_THAT(store.Objects(), ElementsAre(key));
  ASSERT_TRUE(store.Zero(key, Pages(4, 5)).ok());
  EXPECT_EQ(store.bytes(), 2 * kPage);
  const absl::StatusOr<PageStore::SharedFile> file = store.HandOver(key);
  ASSERT_TRUE(file.ok()) << file.status();
  char target[64] = "";
  ASSERT_GT(readlink(file->path.c_str(), target, sizeof(target) - 1), 0);
  EXPECT_STREQ(target, "/dev/zero (deleted)") << "what mmap makes, not what memfd_create does";
  const UniqueFd opened(open(file->path.c_str(), O_RDWR | O_CLOEXEC));
  struct stat status{};
  ASSERT_EQ(fstat(opened.get(), &status), 0);
  EXPECT_EQ(status.st_ino, file->inode);
  EXPECT_EQ(ReadAt(store, key, Pages(2, 4)), Content(0) + Content('s'));

  for (const absl::Status& refused :
       {store.Write(key, 0, Content('x')), store.Zero(key, Pages(3, 4)), store.Keep(key, {Pages(0, 1)})}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("shared memory 4711 is the restored tasks' own"));
  }
  EXPECT_TRUE(store.HandOver(key).ok()) << "a restore may be begun once more";
  store.KeepTasks({});
  char byte = 0;
  EXPECT_EQ(pread(opened.get(), &byte, 1, static_cast<off_t>(3 * kPage)), 1);
  EXPECT_EQ(byte, 's');
  EXPECT_TRUE(absl::IsNotFound(store.HandOver(key).status()));
  ASSERT_TRUE(store.Write(7, kPage, Content('t')).ok());
  EXPECT_TRUE(absl::IsNotFound(store.HandOver(7).status())) << "a task's memory is the pager's to fill";
}

// Property: the index, the count and the file agree after any calls.
TEST(PageStoreTest, IndexAndFileAgree) {
  std::mt19937_64 random(5);
  PageStore store(kLimit);
  std::map<uint64_t, char> pages;
  ASSERT_TRUE(store.Write(7, 0, Content('x')).ok());
  pages[0] = 'x';
  for (int step = 0; step < 500; ++step) {
    const uint64_t first = random() % 600;
    const uint64_t count = 1 + random() % 30;
    const Range range = Pages(first, first + count);
    if (random() % 3 != 0) {
      const char mark = static_cast<char>('a' + random() % 26);
      ASSERT_TRUE(store.Write(7, range.start, Content(mark, count)).ok());
      for (uint64_t i = 0; i < count; ++i) pages[first + i] = mark;
    } else {
      ASSERT_TRUE(store.Zero(7, range).ok());
      for (uint64_t i = 0; i < count; ++i) pages.erase(first + i);
    }
  }
  Ranges held;
  std::string expected = Content(0, 700);
  for (const auto& [page, mark] : pages) {
    Append(held, Pages(page, page + 1));
    expected.replace(page * kPage, kPage, Content(mark));
  }
  EXPECT_EQ(store.Held(7), held);
  EXPECT_EQ(store.bytes(), pages.size() * kPage);
  EXPECT_EQ(Taken(store, 7), pages.size() * kPage);
  EXPECT_TRUE(ReadAt(store, 7, Pages(0, 700)) == expected);
}

TEST(PageStoreTest, WritersToManyTasksAndWhoeverDropsThemDoNotLoseCount) {
  PageStore store(kLimit);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&store, thread] {
      for (uint64_t i = 0; i < 300; ++i) {
        const pid_t task = 1 + static_cast<pid_t>(i % 4);
        EXPECT_TRUE(store.Write(task, (i % 50) * kPage, Content('a', 3)).ok());
        if (thread == 0 && i % 10 == 0) store.KeepTasks({1, 2});
        if (thread == 1 && i % 7 == 0) {
          EXPECT_TRUE(store.Zero(task, Pages(0, 30)).ok());
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  uint64_t held = 0;
  for (const pid_t task : store.Tasks()) held += Bytes(store.Held(task));
  EXPECT_EQ(store.bytes(), held);
}

TEST(PageStoreTest, MissingPagesCountAsHeldAndComeOnce) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(7, 10 * kPage, Content('o', 4)).ok());
  ASSERT_TRUE(store.Miss(7, {Pages(12, 16), Pages(20, 21)}).ok());
  EXPECT_THAT(store.Held(7), ElementsAre(Pages(10, 16), Pages(20, 21)));
  EXPECT_THAT(store.Missing(7), ElementsAre(Pages(12, 16), Pages(20, 21)));
  EXPECT_EQ(store.missing_bytes(), 5 * kPage);
  EXPECT_EQ(store.bytes(), 7 * kPage);
  absl::StatusOr<UniqueFd> map = store.MapOf(7);
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(PageSet::ReadMap(map->get())->Inside({0, kAddressEnd}), store.Missing(7));
  // Only what is missing is taken of what comes.
  absl::StatusOr<Ranges> arrived = store.Arrive(7, Pages(10, 14), Content('n', 4));
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_THAT(*arrived, ElementsAre(Pages(12, 14)));
  EXPECT_EQ(ReadAt(store, 7, Pages(10, 14)), Content('o', 2) + Content('n', 2));
  EXPECT_THAT(*store.Arrive(7, Pages(10, 14), Content('x', 4)), IsEmpty());
  EXPECT_THAT(*store.Arrive(8, Pages(10, 14), Content('x', 4)), IsEmpty()) << "of a task that is not there";
  EXPECT_THAT(*store.Arrive(7, Pages(0, 100), ""), ElementsAre(Pages(14, 16), Pages(20, 21)));
  EXPECT_EQ(ReadAt(store, 7, Pages(12, 16)), Content('n', 2) + Content(0, 2));
  EXPECT_EQ(store.missing_bytes(), 0u);
}

TEST(PageStoreTest, ZerosThatComeReplaceWhatWasThere) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Write(7, 10 * kPage, Content('o', 4)).ok());
  ASSERT_TRUE(store.Miss(7, {Pages(11, 13)}).ok());
  EXPECT_THAT(*store.Arrive(7, Pages(11, 13), ""), ElementsAre(Pages(11, 13)));
  EXPECT_EQ(ReadAt(store, 7, Pages(10, 14)), Content('o') + Content(0, 2) + Content('o'));
  EXPECT_EQ(Taken(store, 7), 2 * kPage);
}

TEST(PageStoreTest, NoMoreCanBeMissedThanThereIsRoomFor) {
  PageStore store(8 * kPage);
  ASSERT_TRUE(store.Write(7, 0, Content('a', 4)).ok());
  EXPECT_TRUE(store.Miss(7, {Pages(2, 8)}).ok());
  EXPECT_EQ(store.Miss(7, {Pages(20, 21)}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store.Miss(8, {{0, kAddressEnd}}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(store.Arrive(7, Pages(2, 8), Content('b', 6)).ok()) << "its room was kept";
}

TEST(PageStoreTest, SharedMemoryIsNeverMissing) {
  PageStore store(kLimit);
  const absl::Status refused = store.Miss(SharedKey(4711), {Pages(2, 8)});
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(store.Objects(), IsEmpty());
}

TEST(PageStoreTest, WhatIsDroppedIsNotMissing) {
  PageStore store(kLimit);
  ASSERT_TRUE(store.Miss(7, {Pages(2, 8)}).ok());
  ASSERT_TRUE(store.Keep(7, {Pages(4, 6)}).ok());
  EXPECT_THAT(store.Missing(7), ElementsAre(Pages(4, 6)));
  ASSERT_TRUE(store.Zero(7, Pages(4, 5)).ok());
  ASSERT_TRUE(store.Write(7, 5 * kPage, Content('a')).ok());
  EXPECT_THAT(store.Missing(7), IsEmpty());
}

TEST(PageStoreTest, AnotherAgentsFilesAreTakenOver) {
  PageStore first(kLimit);
  ASSERT_TRUE(first.Write(7, 10 * kPage, Content('o', 4)).ok());
  ASSERT_TRUE(first.Miss(7, {Pages(12, 14)}).ok());
  PageStore second(kLimit);
  ASSERT_TRUE(second.Adopt(7, *first.FileOf(7), first.MapOf(7)->get()).ok());
  EXPECT_THAT(second.Missing(7), ElementsAre(Pages(12, 14)));
  EXPECT_TRUE(second.Arrive(7, Pages(12, 14), Content('n', 2)).ok());
  EXPECT_EQ(ReadAt(first, 7, Pages(10, 14)), Content('o', 2) + Content('n', 2));
}

}  // namespace
}  // namespace godwit::memory
