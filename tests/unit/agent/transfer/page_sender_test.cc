// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_sender.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "agent/memory/page_store.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/page_receiver.h"
#include "agent/transfer/side_connections.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

using memory::Range;
using memory::Ranges;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

const uint64_t kPage = memory::PageBytes();
constexpr pid_t kPid = 4711;  // as the host sees it
constexpr pid_t kTask = 7;    // as the container does

Range PageRange(uint64_t first, uint64_t end) { return {first * kPage, end * kPage}; }
int64_t PageBytes(int64_t pages) { return pages * static_cast<int64_t>(kPage); }

// A task's memory by page; what is not there is not mapped.
class FakeTask {
 public:
  absl::StatusOr<size_t> Read(uint64_t address, char* to, size_t size) {
    if (!error.ok()) return error;
    size_t got = 0;
    for (; got < size; got += kPage) {
      const auto page = pages.find((address + got) / kPage);
      if (page == pages.end()) break;
      memcpy(to + got, page->second.data(), kPage);
    }
    return got;
  }
  void Fill(uint64_t first, uint64_t end, int seed) {
    std::mt19937_64 random(seed);
    for (uint64_t page = first; page < end; ++page) {
      std::string content(kPage, '\0');
      for (size_t i = 0; i < kPage; i += 8) memcpy(&content[i], std::vector<uint64_t>{random()}.data(), 8);
      pages[page] = content;
    }
  }
  void FillWith(uint64_t first, uint64_t end, char mark) {
    for (uint64_t page = first; page < end; ++page) pages[page] = std::string(kPage, mark);
  }

  std::map<uint64_t, std::string> pages;
  absl::Status error;
};

class PageSenderTest : public testing::Test {
 protected:
  PageSenderTest() { sender_.SetStream(pair_->a.get()); }

  // What `send` returns; everything that it sent has been taken into the store when this returns.
  absl::Status Carry(const std::function<absl::Status()>& send) {
    std::thread receiving([this] {
      for (Frame frame;
           pair_->b->Receive(frame, transfer::Soon()).ok() && frame.type != FrameType::kRoundEnd;) {
        ++frames_;
        const absl::Status status = take_(frame);
        EXPECT_TRUE(status.ok()) << status;
      }
    });
    const absl::Status status = send();
    (void)pair_->a->Send(FrameType::kRoundEnd, {}, transfer::Soon());
    receiving.join();
    return status;
  }
  absl::Status Send(const Ranges& pages) {
    totals_ = {};
    return Carry([&] { return sender_.Send(kPid, kTask, pages, transfer::Soon(), &totals_); });
  }
  // Every page of `pages` in the store is as in the task, or zeros where the task has none.
  void ExpectTheSame(const Ranges& pages) {
    absl::StatusOr<UniqueFd> file = store_.FileOf(kTask);
    ASSERT_TRUE(file.ok()) << file.status();
    for (const Range& range : pages) {
      for (uint64_t at = range.start; at < range.end; at += kPage) {
        std::string stored(kPage, '?');
        ASSERT_EQ(pread(file->get(), stored.data(), kPage, static_cast<off_t>(at)),
                  static_cast<ssize_t>(kPage));
        const auto page = task_.pages.find(at / kPage);
        const std::string expected = page == task_.pages.end() ? std::string(kPage, '\0') : page->second;
        ASSERT_TRUE(stored == expected) << "page " << at / kPage;
      }
    }
  }
  // What takes the frames of the stream itself.
  void SetMain(std::function<absl::Status(const Frame&)> take) { take_ = std::move(take); }
  // Another connection, after the first was cut.
  void Reconnect() {
    pair_ = std::make_unique<StreamPair>();
    sender_.SetStream(pair_->a.get());
  }

  FakeTask task_;
  memory::PageStore store_{256 << 20};
  PageReceiver receiver_{{{"app", &store_}}};
  TokenBucket bucket_{0};
  PageSender sender_{
      "app", [this](pid_t, uint64_t address, char* to, size_t size) { return task_.Read(address, to, size); },
      &bucket_};
  std::unique_ptr<StreamPair> pair_ = std::make_unique<StreamPair>();
  PageTotals totals_;
  int frames_ = 0;

 private:
  std::function<absl::Status(const Frame&)> take_ = [this](const Frame& frame) {
    return receiver_.Take(frame);
  };
};

TEST_F(PageSenderTest, LargeMemoryArrivesAsItIs) {
  task_.Fill(1000, 2100, 1);
  const Ranges pages = {PageRange(1000, 2100)};
  ASSERT_TRUE(Send(pages).ok());
  ExpectTheSame(pages);
  EXPECT_EQ(store_.Held(kTask), pages);
  EXPECT_EQ(totals_.looked_at, PageBytes(1100));
  EXPECT_EQ(totals_.sent, PageBytes(1100));
  EXPECT_EQ(totals_.zero + totals_.unchanged, 0);
  EXPECT_EQ(pair_->a->bytes_sent() - static_cast<int64_t>(kFrameHeaderBytes), totals_.wire);
  EXPECT_EQ(receiver_.page_bytes(), totals_.sent);
}

// Property: rounds of random writes, unmappings and dirty lists; the store is the task's memory after each.
TEST_F(PageSenderTest, RoundAfterRoundTheTargetHasWhatTheTaskHas) {
  std::mt19937_64 random(9);
  Ranges all = {PageRange(0, 3000)};
  task_.Fill(0, 3000, 0);
  ASSERT_TRUE(Send(all).ok());
  for (int round = 0; round < 12; ++round) {
    std::map<uint64_t, bool> dirty;
    for (int i = 0; i < 150; ++i) {
      const uint64_t first = random() % 3000;
      const uint64_t end = std::min<uint64_t>(3000, first + 1 + random() % 20);
      switch (random() % 4) {
        case 0: task_.FillWith(first, end, '\0'); break;
        case 1: task_.FillWith(first, end, 'x'); break;
        case 2: task_.Fill(first, end, i); break;
        case 3:
          for (uint64_t page = first; page < end; ++page) task_.pages.erase(page);
          break;
      }
      for (uint64_t page = first; page < end; ++page) dirty[page] = true;
    }
    Ranges pages;
    for (const auto& entry : dirty) memory::Append(pages, PageRange(entry.first, entry.first + 1));
    ASSERT_TRUE(Send(pages).ok());
    ExpectTheSame(all);
    EXPECT_EQ(totals_.looked_at, static_cast<int64_t>(memory::Bytes(pages)));
    EXPECT_EQ(totals_.looked_at, totals_.sent + totals_.zero + totals_.unchanged);
  }
}

TEST_F(PageSenderTest, WhatIsTheSameAsBeforeIsNotSentAgain) {
  task_.Fill(0, 600, 1);
  task_.FillWith(600, 700, '\0');
  ASSERT_TRUE(Send({PageRange(0, 700)}).ok());
  task_.FillWith(5, 6, 'n');
  task_.FillWith(650, 651, 'n');
  ASSERT_TRUE(Send({PageRange(0, 700)}).ok());
  EXPECT_EQ(totals_.unchanged, PageBytes(698));
  EXPECT_EQ(totals_.sent, PageBytes(2));
  ExpectTheSame({PageRange(0, 700)});
  frames_ = 0;
  ASSERT_TRUE(Send({PageRange(0, 700)}).ok());
  EXPECT_EQ(totals_.unchanged, PageBytes(700));
  EXPECT_EQ(totals_.wire, 0);
  EXPECT_EQ(frames_, 0);
}

// Of memory of which nobody knows where it was written: all of it is compared.
TEST_F(PageSenderTest, WhatDiffersFromWhatWasSentIsFoundInPlace) {
  constexpr uint64_t kPages = 5000;  // several pieces of several threads
  task_.Fill(0, kPages, 1);
  task_.FillWith(3000, 3100, '\0');
  std::string memory;
  for (uint64_t page = 0; page < kPages; ++page) memory += task_.pages[page];
  const Ranges all = {PageRange(0, 4000), PageRange(4100, kPages)};
  EXPECT_EQ(sender_.Differing(kTask, all, memory.data()), all) << "nothing was sent";
  ASSERT_TRUE(Send(all).ok());
  EXPECT_THAT(sender_.Differing(kTask, all, memory.data()), IsEmpty());
  for (const uint64_t page : {0, 1, 1023, 1024, 3050, 4050, 4999}) memory[(page + 1) * kPage - 1] ^= 1;
  memory.replace(2000 * kPage, 10 * kPage, 10 * kPage, '\0');
  EXPECT_THAT(sender_.Differing(kTask, all, memory.data()),
              ElementsAre(PageRange(0, 2), PageRange(1023, 1025), PageRange(2000, 2010),
                          PageRange(3050, 3051), PageRange(4999, 5000)))
      << "page 4050 was not asked about";
  ASSERT_TRUE(
      Carry([&] { return sender_.KeepPages(kTask, {PageRange(10, kPages)}, transfer::Soon()); }).ok());
  EXPECT_THAT(sender_.Differing(kTask, {PageRange(5, 12)}, memory.data()), ElementsAre(PageRange(5, 10)))
      << "what the target dropped";
  Reconnect();
  EXPECT_EQ(sender_.Differing(kTask, all, memory.data()), all) << "nothing was acknowledged";
}

TEST_F(PageSenderTest, ZeroPagesGoAsRanges) {
  task_.FillWith(0, 5000, '\0');
  task_.FillWith(2500, 2501, 'x');
  ASSERT_TRUE(Send({PageRange(0, 5000)}).ok());
  EXPECT_EQ(totals_.zero, PageBytes(4999));
  EXPECT_EQ(frames_, 1);
  EXPECT_LT(totals_.wire, PageBytes(1) + 200);
  EXPECT_THAT(store_.Held(kTask), ElementsAre(PageRange(2500, 2501)));
}

TEST_F(PageSenderTest, PagesThatHaveGoneAreZeros) {
  task_.Fill(0, 300, 1);
  ASSERT_TRUE(Send({PageRange(0, 300)}).ok());
  for (uint64_t page = 100; page < 200; ++page) task_.pages.erase(page);
  ASSERT_TRUE(Send({PageRange(0, 300)}).ok());
  EXPECT_EQ(totals_.zero, PageBytes(100));
  EXPECT_THAT(store_.Held(kTask), ElementsAre(PageRange(0, 100), PageRange(200, 300)));
}

TEST_F(PageSenderTest, ATaskThatHasGoneIsForgotten) {
  task_.Fill(0, 10, 1);
  ASSERT_TRUE(Send({PageRange(0, 10)}).ok());
  task_.error = absl::NotFoundError("gone");
  EXPECT_TRUE(Send({PageRange(0, 10)}).ok());
  EXPECT_THAT(sender_.Unacknowledged(), IsEmpty());
  task_.error = absl::OkStatus();  // another of the same number
  ASSERT_TRUE(Send({PageRange(0, 10)}).ok());
  EXPECT_EQ(totals_.sent, PageBytes(10));
}

TEST_F(PageSenderTest, AReadersErrorIsReturnedAndNothingIsTakenForSent) {
  task_.Fill(0, 600, 1);
  task_.error = absl::PermissionDeniedError("not yours");
  const absl::Status status = Send({PageRange(0, 600)});
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("cannot send memory of task 7 of container app: not yours"));
  task_.error = absl::OkStatus();
  ASSERT_TRUE(Send({PageRange(0, 600)}).ok());
  EXPECT_EQ(totals_.sent, PageBytes(600));
  ExpectTheSame({PageRange(0, 600)});
}

TEST_F(PageSenderTest, AfterACutWhatWasNotAcknowledgedGoesAgain) {
  task_.Fill(0, 400, 1);
  ASSERT_TRUE(Send({PageRange(0, 400)}).ok());
  EXPECT_THAT(sender_.Unacknowledged(), ElementsAre(Pair(kTask, ElementsAre(PageRange(0, 400)))));
  sender_.Acknowledge();
  EXPECT_THAT(sender_.Unacknowledged(), IsEmpty());

  task_.Fill(100, 1100, 2);
  pair_->b->Shutdown();
  pair_->a->Shutdown();
  const absl::Status cut = sender_.Send(kPid, kTask, {PageRange(0, 1100)}, transfer::Soon(), &totals_);
  ASSERT_FALSE(cut.ok());
  EXPECT_THAT(cut.message(), HasSubstr("cannot send memory of task 7 of container app"));

  Reconnect();
  const auto again = sender_.Unacknowledged();
  EXPECT_THAT(again, ElementsAre(Pair(kTask, ElementsAre(PageRange(100, 1100)))))
      << "what the target is known to have does not go again";
  ASSERT_TRUE(Send(again[0].second).ok());
  EXPECT_EQ(totals_.sent, PageBytes(1000));
  ExpectTheSame({PageRange(0, 1100)});
}

TEST_F(PageSenderTest, WhatIsOwedCountsUntilItWasSent) {
  task_.Fill(0, 30, 1);
  sender_.Owe(kTask, {PageRange(0, 20)});
  sender_.Owe(kTask, {PageRange(10, 30)});
  sender_.Acknowledge();
  EXPECT_THAT(sender_.Unacknowledged(), ElementsAre(Pair(kTask, ElementsAre(PageRange(0, 30)))));
  ASSERT_TRUE(Send({PageRange(5, 30)}).ok());
  sender_.Acknowledge();
  EXPECT_THAT(sender_.Unacknowledged(), ElementsAre(Pair(kTask, ElementsAre(PageRange(0, 5)))));
}

TEST_F(PageSenderTest, OnceAllIsExpectedWhatHasGoneIsAnError) {
  task_.Fill(0, 10, 1);
  sender_.ExpectAll();
  ASSERT_TRUE(Send({PageRange(0, 10)}).ok());
  task_.pages.erase(4);
  EXPECT_TRUE(absl::IsDataLoss(Send({PageRange(0, 10)})));
  task_.error = absl::NotFoundError("gone");
  EXPECT_TRUE(absl::IsDataLoss(Send({PageRange(0, 10)})));
}

// What was sent and did not arrive must go again, although the sender has the same content at hand.
TEST_F(PageSenderTest, FramesLostOnTheWayAreNotTakenForArrived) {
  task_.Fill(0, 50, 1);
  ASSERT_TRUE(sender_.Send(kPid, kTask, {PageRange(0, 50)}, transfer::Soon(), &totals_).ok());
  Reconnect();
  ASSERT_TRUE(Send(sender_.Unacknowledged()[0].second).ok());
  EXPECT_EQ(totals_.sent, PageBytes(50));
  ExpectTheSame({PageRange(0, 50)});
}

TEST_F(PageSenderTest, OnlyKeptPagesAreLeftAtTheTargetHoweverManyRangesTheyAre) {
  constexpr uint64_t kRanges = 70'000;
  task_.FillWith(0, 200, 'x');
  for (uint64_t page = 2 * kRanges; page < 2 * kRanges + 200; ++page) task_.FillWith(page, page + 1, 'y');
  ASSERT_TRUE(Send({PageRange(0, 200), PageRange(2 * kRanges, 2 * kRanges + 200)}).ok());
  Ranges populated;
  for (uint64_t i = 0; i < kRanges + 50; ++i) populated.push_back(PageRange(2 * i, 2 * i + 1));
  frames_ = 0;
  ASSERT_TRUE(Carry([&] { return sender_.KeepPages(kTask, populated, transfer::Soon()); }).ok());
  EXPECT_EQ(frames_, 2);
  const Ranges held = store_.Held(kTask);
  EXPECT_EQ(held.size(), 150u);
  EXPECT_EQ(memory::Intersection(held, populated), held);
}

TEST_F(PageSenderTest, WhatTheTargetDroppedIsSentAgainWhenItComesBack) {
  task_.Fill(0, 20, 1);
  ASSERT_TRUE(Send({PageRange(0, 20)}).ok());
  ASSERT_TRUE(Carry([&] { return sender_.KeepPages(kTask, {PageRange(5, 20)}, transfer::Soon()); }).ok());
  ASSERT_TRUE(Send({PageRange(0, 20)}).ok());
  EXPECT_EQ(totals_.sent, PageBytes(5));
  ExpectTheSame({PageRange(0, 20)});
  ASSERT_TRUE(Carry([&] { return sender_.KeepTasks({}, transfer::Soon()); }).ok());
  EXPECT_THAT(store_.Tasks(), IsEmpty());
  ASSERT_TRUE(Send({PageRange(0, 20)}).ok());
  EXPECT_EQ(totals_.sent, PageBytes(20));
}

TEST_F(PageSenderTest, MoreTasksThanCanBeMovedAreRefused) {
  const std::vector<pid_t> tasks(memory::PageStore::kMaxTasks + 1, 1);
  EXPECT_EQ(sender_.KeepTasks(tasks, transfer::Soon()).code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(PageSenderTest, UnderALimitWhatShrinksIsCompressed) {
  bucket_.SetLimit(20'000'000);
  task_.FillWith(0, 2000, 'x');
  ASSERT_TRUE(Send({PageRange(0, 2000)}).ok());
  EXPECT_EQ(totals_.sent, PageBytes(2000));
  EXPECT_LT(totals_.wire, totals_.sent / 20);
  ExpectTheSame({PageRange(0, 2000)});
}

TEST(ReadTaskMemoryTest, ReadsUpToAHole) {
  char* const mapped = static_cast<char*>(
      mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(mapped, MAP_FAILED);
  memset(mapped, 'm', 3 * kPage);
  ASSERT_EQ(munmap(mapped + kPage, kPage), 0);
  const auto address = reinterpret_cast<uint64_t>(mapped);
  std::string to(3 * kPage, '\0');
  EXPECT_EQ(*ReadTaskMemory(getpid(), address, to.data(), to.size()), kPage);
  EXPECT_EQ(to.substr(0, kPage), std::string(kPage, 'm'));
  EXPECT_EQ(*ReadTaskMemory(getpid(), address + kPage, to.data(), kPage), 0u);
  EXPECT_EQ(*ReadTaskMemory(getpid(), address + 2 * kPage, to.data(), kPage), kPage);
  munmap(mapped, 3 * kPage);
}

// Its content is the task's all the same: a collector that protects a page for a while, a guard put over what
// was used.
TEST(ReadTaskMemoryTest, ReadsWhatTheTaskItselfMayNot) {
  char* const mapped = static_cast<char*>(
      mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(mapped, MAP_FAILED);
  for (size_t page = 0; page < 4; ++page) memset(mapped + page * kPage, static_cast<char>('a' + page), kPage);
  ASSERT_EQ(mprotect(mapped + kPage, 2 * kPage, PROT_NONE), 0);
  std::string to(4 * kPage, '\0');
  for (size_t at = 0; at < to.size();) {
    const auto got =
        ReadTaskMemory(getpid(), reinterpret_cast<uint64_t>(mapped) + at, to.data() + at, to.size() - at);
    ASSERT_TRUE(got.ok() && *got > 0) << got.status() << " at " << at;
    at += *got;
  }
  for (size_t page = 0; page < 4; ++page)
    EXPECT_EQ(to.substr(page * kPage, kPage), std::string(kPage, static_cast<char>('a' + page)));
  munmap(mapped, 4 * kPage);
}

TEST(ReadTaskMemoryTest, ATaskThatHasGoneIsNotFound) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  char byte = 0;
  EXPECT_TRUE(absl::IsNotFound(ReadTaskMemory(child, 4096, &byte, 1).status()));
}

// --- over several connections

// The sender's pages go over four, and are taken by as many threads.
class PageLanesTest : public PageSenderTest {
 protected:
  PageLanesTest() {
    for (StreamPair& side : side_pairs_) {
      const int64_t number = pair_->a->lanes();
      EXPECT_TRUE(sides_.Enter(offer_.session, number, side.b).ok());
      last_side_ = std::move(side.a);
      pair_->a->AddSide(last_side_);
      taking_.emplace_back([this, number, stream = side.b] { TakeSide(number, *stream); });
    }
    SetMain([this](const Frame& frame) { return TakeMain(frame); });
  }
  ~PageLanesTest() override {
    (void)sides_.Close();
    for (std::thread& thread : taking_) thread.join();
  }

  SideConnections sides_;
  std::shared_ptr<Stream> last_side_;  // the sender's end

 private:
  void TakeSide(int64_t number, Stream& stream) {
    PageReceiver receiver({{"app", &store_}});
    absl::Status status;
    for (Frame frame; (status = stream.Receive(frame, absl::InfiniteFuture())).ok();) {
      const absl::Status taken = receiver.Take(frame);
      EXPECT_TRUE(taken.ok()) << taken;
      sides_.Took(number, static_cast<int64_t>(kPage));
    }
    sides_.Leave(number, status);
  }
  absl::Status TakeMain(const Frame& frame) {
    if (frame.type != FrameType::kSides) return receiver_.Take(frame);
    return sides_.Await(DecodeMessage<SideFrames>(frame)->frames, transfer::Soon());
  }

  SideConnections::Offer offer_ = sides_.Open(pair_->b, 3, 3);
  std::array<StreamPair, 3> side_pairs_;
  std::vector<std::thread> taking_;
};

TEST_F(PageLanesTest, LargeMemoryArrivesAsItIsOverAllOfThem) {
  task_.Fill(1000, 9000, 1);
  const Ranges pages = {PageRange(1000, 9000)};
  ASSERT_TRUE(Send(pages).ok());
  ASSERT_TRUE(Carry([&] { return pair_->a->JoinLanes(transfer::Soon()); }).ok());
  ExpectTheSame(pages);
  EXPECT_EQ(totals_.sent, PageBytes(8000));
  EXPECT_GT(sides_.page_bytes(), 0);
  EXPECT_LT(pair_->b->bytes_received(), PageBytes(8000) + (1 << 20)) << "each page goes over one alone";
  EXPECT_THAT(sender_.Unacknowledged(), ElementsAre(Pair(kTask, pages)));
}

// Property, as above: what comes later holds, whichever way it took; and pages that are dropped stay so.
TEST_F(PageLanesTest, RoundAfterRoundTheTargetHasWhatTheTaskHas) {
  std::mt19937_64 random(4);
  constexpr uint64_t kPages = 6000;
  task_.Fill(0, kPages, 0);
  ASSERT_TRUE(Send({PageRange(0, kPages)}).ok());
  for (int round = 1; round < 20; ++round) {
    const uint64_t first = random() % kPages;
    const uint64_t end = std::min<uint64_t>(kPages, first + 1 + random() % 2500);
    switch (random() % 3) {
      case 0: task_.Fill(first, end, round); break;
      case 1: task_.FillWith(first, end, '\0'); break;
      default: task_.FillWith(first, end, static_cast<char>(round)); break;
    }
    ASSERT_TRUE(Send({PageRange(first, end)}).ok());
  }
  ASSERT_TRUE(
      Carry([&] { return sender_.KeepPages(kTask, {PageRange(0, kPages / 2)}, transfer::Soon()); }).ok());
  ExpectTheSame({PageRange(0, kPages / 2)});
  EXPECT_EQ(memory::Bytes(memory::Difference(store_.Held(kTask), {PageRange(0, kPages / 2)})), 0u);
}

// So that a pod of many small processes sends no more frames than over one connection.
TEST_F(PageLanesTest, ASmallTaskGoesOverOneLane) {
  task_.Fill(0, 2000, 1);
  const Ranges apart = {PageRange(0, 5), PageRange(600, 605), PageRange(1200, 1205), PageRange(1800, 1805)};
  for (const pid_t task : {1, 2, 3, 4}) {
    const int64_t before = totals_.wire;
    ASSERT_TRUE(sender_.Send(kPid, task, apart, transfer::Soon(), &totals_).ok());
    EXPECT_LT(totals_.wire - before, PageBytes(20) + 200) << "one frame";
    sender_.Forget(task);
  }
  // Who gets the pid of one that is gone sends behind it, however large it is.
  task_.Fill(0, 2000, 2);
  const absl::Status sent = Carry([&] {
    for (const pid_t task : {1, 2, 3, 4}) {
      const absl::Status status = sender_.Send(kPid, task, {PageRange(0, 2000)}, transfer::Soon(), &totals_);
      if (!status.ok()) return status;
    }
    return sender_.KeepTasks({1, 2, 3, 4}, transfer::Soon());
  });
  ASSERT_TRUE(sent.ok()) << sent;
  for (const pid_t task : {1, 2, 3, 4}) {
    std::string page(kPage, '?');
    ASSERT_TRUE(store_.Read(task, 601 * kPage, page.data(), kPage).ok());
    EXPECT_TRUE(page == task_.pages[601]) << task;
  }
}

TEST_F(PageLanesTest, OneThatFailsFailsTheSendAndEndsAll) {
  task_.Fill(0, 4096, 1);
  last_side_->Shutdown();
  const absl::Status cut = sender_.Send(kPid, kTask, {PageRange(0, 4096)}, transfer::Soon(), &totals_);
  ASSERT_FALSE(cut.ok());
  EXPECT_TRUE(pair_->a->down());
  EXPECT_THAT(sender_.Unacknowledged(), ElementsAre(Pair(kTask, ElementsAre(PageRange(0, 4096)))));
}

}  // namespace
}  // namespace godwit::transfer
