// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/ledger.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::pager {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

void AddFork(Ledger& ledger, int parent, int child) {
  Record& record = ledger.Begin(RecordKind::kMessage, parent);
  record.message.event = UFFD_EVENT_FORK;
  record.message.arg.fork.ufd = static_cast<uint32_t>(child);
}

void AddTask(Ledger& ledger, int pid, int uffd) {
  Record& record = ledger.Begin(RecordKind::kTask, -1);
  record.pid = pid;
  const cmsghdr header = {
      .cmsg_len = CMSG_LEN(sizeof uffd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
  memcpy(record.control, &header, sizeof header);
  memcpy(record.control + CMSG_LEN(0), &uffd, sizeof uffd);
}

TEST(LedgerTest, AnotherHolderReadsWhatWasKeptAndWhatWasNotYet) {
  auto ledger = Ledger::Make("the spec");
  ASSERT_TRUE(ledger.ok()) << ledger.status();
  AddTask(**ledger, 7, 40);
  ASSERT_TRUE((*ledger)->Keep().ok());
  (*ledger)->milestones().restored = true;
  AddFork(**ledger, 40, 41);

  auto other = Ledger::Open(UniqueFd(dup((*ledger)->fd())));
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ((*other)->spec(), "the spec");
  EXPECT_TRUE((*other)->milestones().restored);
  ASSERT_EQ((*other)->records().size(), 1u);
  EXPECT_EQ((*other)->records()[0].pid, 7);
  EXPECT_EQ(TaskDescriptor((*other)->records()[0]), 40);
  EXPECT_EQ((*other)->next().message.event, UFFD_EVENT_FORK);
}

TEST(LedgerTest, KnowsWhichDescriptorsAreInUse) {
  auto ledger = Ledger::Make("");
  ASSERT_TRUE(ledger.ok());
  EXPECT_THAT((*ledger)->Descriptors(), IsEmpty());
  (*ledger)->Begin(RecordKind::kStore, 30).pid = 7;
  ASSERT_TRUE((*ledger)->Keep().ok());
  AddTask(**ledger, 7, 40);
  ASSERT_TRUE((*ledger)->Keep().ok());
  AddFork(**ledger, 40, 41);
  EXPECT_THAT((*ledger)->Descriptors(), ElementsAre(30, 40, 41))
      << "also of a message that was only received";
  ASSERT_TRUE((*ledger)->Keep().ok());
  (*ledger)->Begin(RecordKind::kClosed, 40);
  ASSERT_TRUE((*ledger)->Keep().ok());
  EXPECT_THAT((*ledger)->Descriptors(), ElementsAre(30, 41));
  // The kernel gives the same number again.
  AddFork(**ledger, 41, 40);
  ASSERT_TRUE((*ledger)->Keep().ok());
  EXPECT_THAT((*ledger)->Descriptors(), ElementsAre(30, 40, 41));
}

TEST(LedgerTest, ATaskWithoutItsDescriptorHasNone) {
  auto ledger = Ledger::Make("");
  ASSERT_TRUE(ledger.ok());
  const Record& record = (*ledger)->Begin(RecordKind::kTask, -1);
  EXPECT_EQ(TaskDescriptor(record), -1);
}

TEST(LedgerTest, OtherMemoryIsRefused) {
  UniqueFd empty(memfd_create("empty", MFD_CLOEXEC));
  EXPECT_FALSE(Ledger::Open(UniqueFd(dup(empty.get()))).ok());
  auto ledger = Ledger::Make("");
  ASSERT_TRUE(ledger.ok());
  const off_t size = lseek((*ledger)->fd(), 0, SEEK_END);
  ASSERT_EQ(ftruncate(empty.get(), size), 0);
  EXPECT_FALSE(Ledger::Open(std::move(empty)).ok());
}

TEST(LedgerTest, TheSpecHasABound) { EXPECT_FALSE(Ledger::Make(std::string(size_t{65} << 10, 'x')).ok()); }

}  // namespace
}  // namespace godwit::pager
