// SPDX-License-Identifier: Apache-2.0
// godwit-pager with a userfaultfd of this process' own memory, handed over as CRIU does it: what is filled is
// what the store holds, whatever the task does meanwhile and whichever of the pager's processes dies.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "agent/api/host_protocol.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/protobuf.h"
#include "agent/guard/client.h"
#include "agent/memory/page_server.h"
#include "agent/memory/page_set.h"
#include "agent/memory/page_store.h"
#include "agent/memory/pager_watch.h"
#include "agent/memory/shared_key.h"
#include "agent/memory/tracker.h"
#include "agent/migration/pull.h"
#include "agent/runtime/freezer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/socket.h"
#include "base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::PagerSpec;
using agent_api::PagerStatus;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kPage = 4096;
constexpr pid_t kPid = 7;
constexpr absl::Duration kLong = absl::Seconds(60);

bool Eventually(const std::function<bool()>& condition, absl::Duration limit = kLong) {
  const absl::Time deadline = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// Anonymous memory of this process as CRIU leaves it to its lazy-pages daemon, and the store that it is to be
// filled from: of every `period` pages the last two are holes.
class Memory {
 public:
  explicit Memory(size_t pages, size_t period = 10) : pages_(pages), period_(period) {
    base_ = static_cast<char*>(
        mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_NE(base_, MAP_FAILED);
    store_.Reset(memfd_create("store", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(store_.get(), static_cast<off_t>(address() + pages * kPage)), 0);
    for (size_t first = 0; first < pages; first += period) {
      std::string run;
      for (size_t page = first; page < std::min(pages, first + period - 2); ++page) run += Content(page);
      Write(first, run);
    }
  }
  // The pager has ended by now, or munmap would wait for it.
  ~Memory() { munmap(base_, pages_ * kPage); }

  // From here on a fork of this process waits for who reads the userfaultfd.
  UniqueFd Register() {
    UniqueFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
    uffdio_api api = {.api = UFFD_API,
                      .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                  UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMOVE};
    EXPECT_EQ(ioctl(uffd.get(), UFFDIO_API, &api), 0) << strerror(errno);
    uffdio_register all = {.range = {address(), pages_ * kPage}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    EXPECT_EQ(ioctl(uffd.get(), UFFDIO_REGISTER, &all), 0) << strerror(errno);
    return uffd;
  }

  static std::string Content(size_t page) {
    std::string content(kPage, static_cast<char>('a' + page % 26));
    memcpy(content.data(), &page, sizeof page);
    return content;
  }
  void Write(size_t first_page, const std::string& content) {
    EXPECT_EQ(pwrite(store_.get(), content.data(), content.size(),
                     static_cast<off_t>(address() + first_page * kPage)),
              static_cast<ssize_t>(content.size()));
  }
  // Whether a page at `where` is as the task left it.
  bool IsRight(const char* where, size_t page) const {
    if (page % period_ >= period_ - 2) return IsZero(where);
    return memcmp(where, Content(page).data(), kPage) == 0;
  }
  static bool IsZero(const char* where) {
    static const char zeros[kPage] = {};
    return memcmp(where, zeros, kPage) == 0;
  }
  // The first page in [from, to) that is wrong, or -1.
  long FirstWrong(size_t from, size_t to) const {
    for (size_t page = from; page < to; ++page) {
      if (!IsRight(at(page), page)) return static_cast<long>(page);
    }
    return -1;
  }
  long FirstWrong() const { return FirstWrong(0, pages_); }
  int64_t StoredBytes() const {
    struct stat info;
    EXPECT_EQ(fstat(store_.get(), &info), 0);
    return info.st_blocks * 512;
  }

  char* at(size_t page) const { return base_ + page * kPage; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(base_); }
  size_t pages() const { return pages_; }
  int store() const { return store_.get(); }

 private:
  const size_t pages_, period_;
  char* base_ = nullptr;
  UniqueFd store_;
};

class PagerTest : public testing::Test {
 protected:
  PagerTest() {
    static int serial = 0;
    const std::string id = absl::StrCat("pager-", ++serial);
    folder_ = absl::StrCat(Node::Get().work, "/", id);
    EXPECT_TRUE(MakeFolders(folder_).ok());
    spec_ = {.migration_uid = id,
             .sandbox_uid = "sandbox",
             .container = "main",
             .container_id = id,
             .socket = folder_ + "/lazy-pages.socket",
             .pages_socket = folder_ + "/pages.sock",
             .cgroup = "/sys/fs/cgroup/pods/" + id,
             .status = folder_ + "/status/" + id + ".json",
             .log = folder_ + "/pager.log"};
    EXPECT_TRUE(MakeFolders(spec_.cgroup).ok());
    SpawnOptions options;
    options.cgroup = spec_.cgroup;
    absl::StatusOr<Child> task = Child::Spawn({Node::Get().workload, "sleep"}, options);
    EXPECT_TRUE(task.ok()) << task.status();
    task_ = std::make_unique<Child>(*std::move(task));
    Freeze("1");
    auto server = memory::PageServer::Start(
        spec_.pages_socket,
        [this](const std::string& sandbox,
               const std::string& container) -> absl::StatusOr<memory::PageServer::Found> {
          if (sandbox != "sandbox" || container != "main") return absl::NotFoundError("no such container");
          return Find();
        });
    EXPECT_TRUE(server.ok()) << server.status();
    pages_ = *std::move(server);
  }
  ~PagerTest() override {
    if (HasFailure()) std::cout << ReadFile(spec_.log).value_or("no log") << "\n";
    runtime::KillCgroup(spec_.cgroup, absl::Seconds(10)).IgnoreError();
    WaitForEnd();
    task_.reset();
    EXPECT_TRUE(Eventually([&] { return rmdir(spec_.cgroup.c_str()) == 0; }));
    EXPECT_FALSE(FileExists("/sys/fs/cgroup/godwit-pager/" + spec_.container_id));
    EXPECT_FALSE(FileExists(spec_.socket));
    pages_.reset();
    RemoveTree(folder_).IgnoreError();
  }
  virtual absl::StatusOr<memory::PageServer::Found> Find() {
    memory::PageServer::Stores stores;
    for (const auto& [pid, store] : stores_) stores.emplace_back(pid, UniqueFd(dup(store)));
    return stores;
  }

  void Freeze(const std::string& value) {
    ASSERT_TRUE(WriteKernelFile(spec_.cgroup + "/cgroup.freeze", value).ok());
    if (value == "0") return;
    ASSERT_TRUE(runtime::WaitFrozen({spec_.cgroup}, absl::Seconds(5)).ok());
  }
  void Thaw() { Freeze("0"); }

  // `leash`: a pipe's end for its input, or -1.
  void StartPager(int leash = -1) {
    ASSERT_TRUE(WriteFileDurably(folder_ + "/spec", json::Encode(spec_)).ok());
    RunOptions options;
    options.spawn.stdin_fd = leash;
    const auto started = RunOrError({Node::Get().pager, "--spec", folder_ + "/spec"}, options);
    ASSERT_TRUE(started.ok()) << started.status();
    ASSERT_TRUE(Status().ok());
  }
  void Connect() {
    absl::StatusOr<UniqueFd> criu = ConnectUnix(spec_.socket, absl::Seconds(5));
    ASSERT_TRUE(criu.ok()) << criu.status();
    criu_ = *std::move(criu);
  }
  void Say(int32_t word) { ASSERT_EQ(send(criu_.get(), &word, sizeof word, 0), 4); }
  void HandOver(pid_t pid, Memory& memory) {
    Say(pid);
    char byte = 0;
    iovec part = {&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    auto* header = reinterpret_cast<cmsghdr*>(control);
    *header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    const UniqueFd uffd = memory.Register();
    const int fd = uffd.get();
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ASSERT_EQ(sendmsg(criu_.get(), &message, 0), 1);
  }
  // As CRIU does it for one task, to its end.
  void Restore(Memory& memory, int leash = -1) {
    stores_ = {{kPid, memory.store()}};
    ASSERT_NO_FATAL_FAILURE(StartPager(leash));
    ASSERT_NO_FATAL_FAILURE(Connect());
    HandOver(kPid, memory);
    Say(-8);          // a zombie
    Say(0x52535446);  // the restore is finished
    criu_.Reset();
  }

  absl::StatusOr<PagerStatus> Status() const {
    const absl::StatusOr<std::string> text = ReadFile(spec_.status);
    if (!text.ok()) return text.status();
    return json::Decode<PagerStatus>(*text);
  }
  bool Ended() const {
    const absl::StatusOr<PagerStatus> status = Status();
    return (absl::IsNotFound(status.status()) || (status.ok() && status->failed)) &&
           !FileExists("/sys/fs/cgroup/godwit-pager/" + spec_.container_id);
  }
  void WaitForEnd() {
    EXPECT_TRUE(Eventually([&] { return Ended(); }));
  }
  bool TaskRuns() const {
    return absl::StrContains(ReadFile(spec_.cgroup + "/cgroup.events").value_or(""), "populated 1");
  }
  // Of a process that is not `other`.
  pid_t NextPid(int64_t PagerStatus::* which, pid_t other) {
    pid_t pid = 0;
    EXPECT_TRUE(Eventually([&] {
      const absl::StatusOr<PagerStatus> status = Status();
      if (status.ok() && (*status).*which != other) pid = static_cast<pid_t>((*status).*which);
      return pid > 0 || Ended();
    }));
    return pid;
  }

  std::string folder_;
  PagerSpec spec_;
  std::vector<std::pair<pid_t, int>> stores_;
  std::unique_ptr<memory::PageServer> pages_;
  std::unique_ptr<Child> task_;
  UniqueFd criu_;
};

TEST_F(PagerTest, MemoryIsFilledAfterTheFirstThawAndFaultsAreAnsweredBefore) {
  Memory memory(16384);
  const int64_t stored = memory.StoredBytes();
  Restore(memory);
  for (size_t page : {0, 8, 9, 1000, 16383}) EXPECT_TRUE(memory.IsRight(memory.at(page), page)) << page;
  EXPECT_EQ(memory.StoredBytes(), stored) << "filled while the container stood still";
  EXPECT_FALSE(Ended());
  Thaw();
  WaitForEnd();
  EXPECT_FALSE(FileExists(spec_.status));
  EXPECT_EQ(memory.StoredBytes(), 0);
  EXPECT_EQ(memory.FirstWrong(), -1);
  memory.at(9)[5] = 'x';  // ordinary memory now
  EXPECT_EQ(memory.at(9)[5], 'x');
}

TEST_F(PagerTest, DroppedPagesAreZerosWheneverTheyAreDropped) {
  Memory memory(65536);
  Restore(memory);
  EXPECT_TRUE(memory.IsRight(memory.at(2), 2));
  std::set<size_t> dropped;
  const auto drop = [&](size_t first, size_t pages) {
    ASSERT_EQ(madvise(memory.at(first), pages * kPage, MADV_DONTNEED), 0);
    for (size_t page = first; page < first + pages; ++page) dropped.insert(page);
  };
  drop(0, 5);
  drop(60000, 2000);
  Thaw();
  for (size_t page = 64000; page > 5000; page -= 977) drop(page, 3);
  for (size_t page : dropped) EXPECT_TRUE(Memory::IsZero(memory.at(page))) << page;
  WaitForEnd();
  for (size_t page = 0; page < memory.pages(); ++page) {
    const bool right =
        dropped.contains(page) ? Memory::IsZero(memory.at(page)) : memory.IsRight(memory.at(page), page);
    ASSERT_TRUE(right) << page;
  }
}

TEST_F(PagerTest, MovedPagesAreFilledWhereTheyAreNow) {
  Memory memory(32768);
  Restore(memory);
  const auto move = [&](size_t first, size_t pages) {
    void* to =
        mremap(memory.at(first), pages * kPage, pages * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
    EXPECT_NE(to, MAP_FAILED) << strerror(errno);
    return static_cast<char*>(to);
  };
  char* const before = move(100, 1000);
  Thaw();
  char* const during = move(20000, 10000);
  for (size_t page = 0; page < 1000; page += 13)
    EXPECT_TRUE(memory.IsRight(before + page * kPage, 100 + page)) << page;
  WaitForEnd();
  for (size_t page = 0; page < 1000; ++page)
    ASSERT_TRUE(memory.IsRight(before + page * kPage, 100 + page)) << page;
  for (size_t page = 0; page < 10000; ++page)
    ASSERT_TRUE(memory.IsRight(during + page * kPage, 20000 + page)) << page;
  EXPECT_EQ(memory.FirstWrong(0, 100), -1);
  EXPECT_EQ(memory.FirstWrong(1100, 20000), -1);
  EXPECT_EQ(memory.FirstWrong(30000, 32768), -1);
  for (size_t page : {100, 1099, 20000, 29999}) EXPECT_TRUE(Memory::IsZero(memory.at(page))) << page;
  munmap(before, 1000 * kPage);
  munmap(during, 10000 * kPage);
}

// A child that compares all it inherited, from the end to the beginning; its exit code is 0 when all of it is
// right. `zero`: what must be zeros.
pid_t ForkAndCompare(const Memory& memory, const std::function<bool(size_t)>& zero) {
  const pid_t child = fork();
  if (child != 0) return child;
  for (size_t page = memory.pages(); page-- > 0;) {
    if (!(zero(page) ? Memory::IsZero(memory.at(page)) : memory.IsRight(memory.at(page), page))) _exit(1);
  }
  _exit(0);
}

void ExpectRight(pid_t child) {
  int status = -1;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(PagerTest, ForkedChildrenGetWhatTheirParentHad) {
  Memory memory(32768);
  Restore(memory);
  ASSERT_EQ(madvise(memory.at(31001), kPage, MADV_DONTNEED), 0);
  const pid_t child = ForkAndCompare(memory, [](size_t page) { return page == 31001; });
  // What the parent drops or writes from here on is its own.
  ASSERT_EQ(madvise(memory.at(30001), kPage, MADV_DONTNEED), 0);
  memory.at(30002)[0] = 'x';
  Thaw();
  ExpectRight(child);
  WaitForEnd();
  EXPECT_TRUE(Memory::IsZero(memory.at(30001)));
  EXPECT_EQ(memory.at(30002)[0], 'x');
  EXPECT_EQ(memory.FirstWrong(0, 30001), -1);
  EXPECT_EQ(memory.FirstWrong(30003, 31001), -1);
}

TEST_F(PagerTest, ChildrenForkedWhileItIsFilledAreWholeToo) {
  Memory memory(65536);
  Restore(memory);
  ASSERT_EQ(madvise(memory.at(31001), kPage, MADV_DONTNEED), 0);
  Thaw();
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i)
    children.push_back(ForkAndCompare(memory, [](size_t page) { return page == 31001; }));
  for (const pid_t child : children) ExpectRight(child);
  WaitForEnd();
  EXPECT_EQ(memory.FirstWrong(0, 31001), -1);
  EXPECT_EQ(memory.FirstWrong(31002, 65536), -1);
  EXPECT_EQ(memory.StoredBytes(), 0);
}

TEST_F(PagerTest, AKilledPagerIsReplacedAndTheMemoryIsRight) {
  Memory memory(131072);
  Restore(memory);
  ASSERT_EQ(madvise(memory.at(100001), 100 * kPage, MADV_DONTNEED), 0);
  void* const moved =
      mremap(memory.at(120000), 1000 * kPage, 1000 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  ASSERT_NE(moved, MAP_FAILED);
  std::atomic<bool> stop{false};
  std::atomic<long> wrong{-1};
  std::thread toucher([&] {
    std::mt19937 random(1);
    while (!stop) {
      const size_t page = random() % 100000;
      if (!memory.IsRight(memory.at(page), page)) wrong = static_cast<long>(page);
    }
  });
  pid_t pager = NextPid(&PagerStatus::pager_pid, 0);
  kill(pager, SIGKILL);
  pager = NextPid(&PagerStatus::pager_pid, pager);
  const pid_t child = ForkAndCompare(memory, [](size_t page) {
    return (page >= 100001 && page < 100101) || (page >= 120000 && page < 121000);
  });
  Thaw();
  int killed = 1;
  for (; killed < 8 && pager > 0; ++killed) {
    kill(pager, SIGKILL);
    pager = NextPid(&PagerStatus::pager_pid, pager);
  }
  WaitForEnd();
  stop = true;
  toucher.join();
  EXPECT_GT(killed, 1);
  EXPECT_EQ(wrong, -1);
  EXPECT_EQ(memory.FirstWrong(0, 100001), -1);
  EXPECT_EQ(memory.FirstWrong(100101, 120000), -1);
  EXPECT_EQ(memory.FirstWrong(121000, 131072), -1);
  for (size_t page = 100001; page < 100101; ++page) EXPECT_TRUE(Memory::IsZero(memory.at(page))) << page;
  for (size_t page = 0; page < 1000; ++page)
    ASSERT_TRUE(memory.IsRight(static_cast<char*>(moved) + page * kPage, 120000 + page)) << page;
  EXPECT_EQ(memory.StoredBytes(), 0);
  ExpectRight(child);
  munmap(moved, 1000 * kPage);
}

TEST_F(PagerTest, AKilledKeeperIsReplacedAndCanStillTakeOver) {
  Memory memory(65536);
  Restore(memory);
  const pid_t keeper = NextPid(&PagerStatus::keeper_pid, 0);
  kill(keeper, SIGKILL);
  const pid_t second = NextPid(&PagerStatus::keeper_pid, keeper);
  EXPECT_GT(second, 0);
  const pid_t pager = NextPid(&PagerStatus::pager_pid, 0);
  kill(pager, SIGKILL);
  EXPECT_EQ(NextPid(&PagerStatus::pager_pid, pager), second) << "the keeper itself goes on as the pager";
  EXPECT_TRUE(memory.IsRight(memory.at(4), 4));
  Thaw();
  WaitForEnd();
  EXPECT_EQ(memory.FirstWrong(), -1);
}

// The kernel forgets a userfaultfd that nobody holds: what is touched next reads as zeros.
TEST_F(PagerTest, AContainerThatHasLostPagerAndKeeperIsKilledByTheAgent) {
  Memory memory(65536);
  Restore(memory);
  absl::Mutex mutex;
  std::vector<PagerStatus> lost;
  const memory::PagerWatch watch({.folder = std::filesystem::path(spec_.status).parent_path(),
                                  .pagers_cgroup = "/sys/fs/cgroup/godwit-pager",
                                  .cgroup_here = [](const std::string& cgroup) { return cgroup; },
                                  .lost =
                                      [&](const PagerStatus& status) {
                                        absl::MutexLock lock(&mutex);
                                        lost.push_back(status);
                                      }});
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_TRUE(memory.IsRight(memory.at(4), 4));
  EXPECT_TRUE(TaskRuns());
  const pid_t keeper = NextPid(&PagerStatus::keeper_pid, 0);
  const pid_t pager = NextPid(&PagerStatus::pager_pid, 0);
  kill(pager, SIGSTOP);  // it would start another keeper
  kill(keeper, SIGKILL);
  kill(pager, SIGKILL);
  EXPECT_TRUE(Eventually([&] { return !TaskRuns(); }));
  WaitForEnd();
  absl::MutexLock lock(&mutex);
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_THAT(lost[0].message, HasSubstr("its pager and the pager's keeper were killed"));
}

TEST_F(PagerTest, APageWithoutAPlaceKillsTheContainerAndSaysSo) {
  Memory memory(1024);
  ASSERT_EQ(pwrite(memory.store(), Memory::Content(1).data(), kPage,
                   static_cast<off_t>(memory.address() + 1024 * kPage + (1 << 30))),
            static_cast<ssize_t>(kPage));
  Restore(memory);
  EXPECT_TRUE(TaskRuns());
  Thaw();
  EXPECT_TRUE(Eventually([&] {
    const auto status = Status();
    return status.ok() && status->failed;
  }));
  EXPECT_THAT(Status()->message, HasSubstr("no mapping to go to"));
  EXPECT_FALSE(TaskRuns());
  WaitForEnd();
}

TEST_F(PagerTest, ARestoreThatIsGivenUpLeavesNothing) {
  Memory memory(64);
  stores_ = {{kPid, memory.store()}};
  ASSERT_NO_FATAL_FAILURE(StartPager());
  ASSERT_NO_FATAL_FAILURE(Connect());
  HandOver(kPid, memory);
  criu_.Reset();
  WaitForEnd();
  EXPECT_FALSE(TaskRuns());
  EXPECT_FALSE(FileExists(spec_.status));
}

TEST_F(PagerTest, ItEndsWithTheContainer) {
  Memory memory(64);
  Restore(memory);
  EXPECT_TRUE(memory.IsRight(memory.at(4), 4));
  ASSERT_TRUE(runtime::KillCgroup(spec_.cgroup, absl::Seconds(10)).ok());
  WaitForEnd();
  EXPECT_FALSE(FileExists(spec_.status));
}

TEST_F(PagerTest, ItEndsWithWhoStartedItAsLongAsItHasNoMemory) {
  UniqueFd read, write;
  ASSERT_TRUE(MakePipe(read, write).ok());
  Memory memory(64);
  ASSERT_NO_FATAL_FAILURE(StartPager(read.get()));
  EXPECT_FALSE(Ended());
  write.Reset();
  WaitForEnd();
  EXPECT_FALSE(FileExists(spec_.status));

  ASSERT_TRUE(MakePipe(read, write).ok());
  Restore(memory, read.get());
  EXPECT_TRUE(memory.IsRight(memory.at(9), 9));
  write.Reset();
  EXPECT_TRUE(memory.IsRight(memory.at(60), 60));
  EXPECT_FALSE(Ended());
  Thaw();
  WaitForEnd();
  EXPECT_EQ(memory.FirstWrong(), -1);
}

TEST_F(PagerTest, ItEndsAtSigtermAsLongAsItHasNoMemory) {
  ASSERT_NO_FATAL_FAILURE(StartPager());
  kill(NextPid(&PagerStatus::pager_pid, 0), SIGTERM);
  WaitForEnd();
}

TEST_F(PagerTest, WithoutPagesForTheContainerItDoesNotStart) {
  spec_.container = "other";
  ASSERT_TRUE(WriteFileDurably(folder_ + "/spec", json::Encode(spec_)).ok());
  const auto started = RunOrError({Node::Get().pager, "--spec", folder_ + "/spec"});
  EXPECT_THAT(started.status().ToString(), HasSubstr("no such container"));
}

// Pages are missing: this is the agent that pulls them.
class PullTest : public PagerTest {
 protected:
  PullTest() : memory_(32768) {}
  ~PullTest() override {
    runtime::KillCgroup(spec_.cgroup, absl::Seconds(10)).IgnoreError();
    WaitForEnd();
    HangUp();
    pages_.reset();
    for (std::thread& thread : listeners_) thread.join();
  }

  memory::Range Offsets(size_t first, size_t end) const {
    return {memory_.address() + first * kPage, memory_.address() + end * kPage};
  }
  // What the store has of them is old.
  void Miss(size_t first, size_t end) {
    memory_.Write(first, std::string((end - first) * kPage, '!'));
    absl::MutexLock lock(&mutex_);
    agent_.Insert(Offsets(first, end));
  }
  // The store has never had anything of them.
  void MissUnsent(size_t first, size_t end) {
    Punch(Offsets(first, end));
    absl::MutexLock lock(&mutex_);
    agent_.Insert(Offsets(first, end));
  }
  void Punch(memory::Range offsets) const {
    EXPECT_EQ(fallocate(memory_.store(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(offsets.start), static_cast<off_t>(offsets.bytes())),
              0);
  }
  // Those of them that are missing: others the pager may have given back.
  void Arrive(size_t first, size_t end) {
    for (size_t page = first; page < end; ++page) {
      if (!IsMissing(page)) continue;
      if (page % 10 < 8) {
        memory_.Write(page, Memory::Content(page));
      } else {
        Punch(Offsets(page, page + 1));
      }
    }
    absl::MutexLock lock(&mutex_);
    agent_.Erase(Offsets(first, end));
    Tell(Offsets(first, end));
  }
  void Tell(memory::Range arrived) {
    if (channel_ == nullptr) return;
    channel_
        ->WriteLine(json::Encode(agent_api::AgentWord{.arrived = {{kPid, arrived.start, arrived.bytes()}}}),
                    kLong)
        .IgnoreError();
  }
  void HangUp() {
    absl::MutexLock lock(&mutex_);
    if (channel_ != nullptr) channel_->Shutdown();
  }
  bool IsMissing(size_t page) {
    absl::MutexLock lock(&mutex_);
    return agent_.Missing(Offsets(page, page + 1)) == 0;
  }
  bool Wants(size_t page) {
    absl::MutexLock lock(&mutex_);
    return wanted_.Missing(Offsets(page, page + 1)) == 0;
  }
  agent_api::PagerWord last_word() {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

  absl::StatusOr<memory::PageServer::Found> Find() override {
    absl::MutexLock lock(&mutex_);
    memory::PageServer::Found found;
    if (refuses_) return absl::NotFoundError("this agent knows nothing of it");
    found.give = forgot_;
    told_ = agent_;
    if (!forgot_) {
      found.stores.emplace_back(kPid, UniqueFd(dup(memory_.store())));
      UniqueFd map(memfd_create("map", MFD_CLOEXEC));
      EXPECT_EQ(ftruncate(map.get(), memory::PageSet::kMapBytes), 0);
      EXPECT_TRUE(agent_.WriteMap(map.get()).ok());
      found.maps.push_back(std::move(map));
    }
    found.pull = [this](LineChannel channel) {
      absl::MutexLock attach(&mutex_);
      channel_ = std::make_shared<LineChannel>(std::move(channel));
      ++connections_;
      // What has come since the map was made.
      for (const memory::Range& range : memory::Difference(told_.Inside({0, memory::kAddressEnd}),
                                                           agent_.Inside({0, memory::kAddressEnd})))
        Tell(range);
      listeners_.emplace_back([this, own = channel_] { Listen(*own); });
    };
    return found;
  }
  void Listen(LineChannel& channel) {
    if (forgot_) TakeBack(channel);
    for (;;) {
      const auto line = channel.ReadLine(absl::InfiniteDuration());
      if (!line.ok()) return;
      const auto word = json::Decode<agent_api::PagerWord>(*line);
      ASSERT_TRUE(word.ok()) << word.status();
      absl::MutexLock lock(&mutex_);
      last_ = *word;
      for (const agent_api::PageSpan& span : word->wanted)
        wanted_.Insert({span.start, span.start + span.bytes});
    }
  }
  void TakeBack(LineChannel& channel) {
    channel.AcceptDescriptors(kMaxDescriptors);
    const auto given = json::Decode<agent_api::PagesReply>(channel.ReadLine(kLong).value_or(""));
    ASSERT_TRUE(given.ok()) << given.status();
    ASSERT_EQ(given->tasks, std::vector<int64_t>{kPid});
    auto files = channel.TakeDescriptors(2);
    ASSERT_TRUE(files.ok()) << files.status();
    absl::MutexLock lock(&mutex_);
    agent_ = *memory::PageSet::ReadMap((*files)[1].get());
    gave_ = true;
  }
  // A thread that reads a page, and whether it has.
  void Touch(size_t page) {
    touchers_.emplace_back([this, page] {
      if (!memory_.IsRight(memory_.at(page), page)) ++wrong_;
      ++touched_;
    });
  }
  // Without touching it.
  bool IsInstalled(size_t page) const {
    unsigned char found = 0;
    EXPECT_EQ(mincore(memory_.at(page), kPage, &found), 0);
    return (found & 1) != 0;
  }
  // The pager writes its status between steps of its filling: from one time to the next there was a step.
  void AwaitStep() {
    const auto filling = [this] {
      const absl::StatusOr<PagerStatus> status = Status();
      return status.ok() ? status->filling : absl::ZeroDuration();
    };
    for (int i = 0; i < 2; ++i) {
      const absl::Duration before = filling();
      EXPECT_TRUE(Eventually([&] { return filling() != before; }));
    }
  }
  void JoinTouchers() {
    for (std::thread& thread : touchers_) thread.join();
    touchers_.clear();
    EXPECT_EQ(wrong_, 0);
  }

  Memory memory_;
  absl::Mutex mutex_;
  memory::PageSet agent_, wanted_;
  memory::PageSet told_;  // what was missing in the last map that was given
  agent_api::PagerWord last_;
  std::shared_ptr<LineChannel> channel_;
  std::vector<std::thread> listeners_, touchers_;
  std::atomic<int> connections_{0}, wrong_{0}, touched_{0};
  std::atomic<bool> forgot_{false}, gave_{false}, refuses_{false};
};

TEST_F(PullTest, ThreadsWaitForMissingPagesAndForNoOthers) {
  Miss(1000, 3000);
  Miss(20000, 20100);
  Miss(32768 - 16, 32768);
  Restore(memory_);
  EXPECT_TRUE(memory_.IsRight(memory_.at(999), 999)) << "its neighbour is missing";
  Thaw();
  Touch(1504);
  Touch(20000);
  EXPECT_TRUE(Eventually([&] { return Wants(1504) && Wants(20000); }));
  EXPECT_FALSE(Wants(2999));
  EXPECT_EQ(memory_.FirstWrong(0, 1000), -1);
  EXPECT_EQ(memory_.FirstWrong(3000, 20000), -1);
  EXPECT_EQ(touched_, 0);
  Arrive(1504, 1505);
  EXPECT_TRUE(Eventually([&] { return touched_ == 1; }));
  EXPECT_GE(Status()->missing_bytes, static_cast<int64_t>(2000 * kPage));
  Arrive(1000, 3000);
  Arrive(20000, 20100);
  JoinTouchers();
  EXPECT_FALSE(Ended());
  Arrive(32768 - 16, 32768);
  WaitForEnd();
  EXPECT_TRUE(last_word().complete);
  EXPECT_GE(last_word().faults, 2);
  EXPECT_GT(last_word().fault_p99, absl::ZeroDuration());
  EXPECT_EQ(memory_.FirstWrong(), -1);
  EXPECT_EQ(memory_.StoredBytes(), 0);
  EXPECT_FALSE(FileExists(spec_.status));
}

TEST_F(PullTest, PagesThatComeInAnyOrderAreAllFilled) {
  for (size_t page = 0; page < 32768; page += 64) Miss(page, page + 40);
  Restore(memory_);
  Thaw();
  std::vector<size_t> order;
  for (size_t page = 0; page < 32768; page += 64) order.push_back(page);
  std::shuffle(order.begin(), order.end(), std::mt19937(7));
  for (const size_t page : order) Arrive(page, page + 40);
  WaitForEnd();
  EXPECT_EQ(memory_.FirstWrong(), -1);
  EXPECT_EQ(memory_.StoredBytes(), 0);
}

// The filling in order finds nothing, and has ended before anything comes.
TEST_F(PullTest, MemoryOfWhichNothingHadComeIsFilled) {
  MissUnsent(0, 32768);
  Restore(memory_);
  Thaw();
  Touch(4);
  EXPECT_TRUE(Eventually([&] { return Wants(4); }));
  AwaitStep();
  Arrive(0, 16000);
  JoinTouchers();
  EXPECT_TRUE(Eventually([&] { return memory_.StoredBytes() == 0; })) << "what has come is not filled";
  // A pager that takes over finds nothing, too.
  const pid_t pager = NextPid(&PagerStatus::pager_pid, 0);
  kill(pager, SIGKILL);
  NextPid(&PagerStatus::pager_pid, pager);
  AwaitStep();
  Arrive(16000, 32768);
  WaitForEnd();
  EXPECT_EQ(memory_.FirstWrong(), -1);
  EXPECT_EQ(memory_.StoredBytes(), 0);
}

TEST_F(PullTest, PagesThatComeAboveAllThatWasHeldAreFilled) {
  MissUnsent(1000, 32768);
  Restore(memory_);
  Thaw();
  EXPECT_TRUE(Eventually([&] { return IsInstalled(997); })) << "the last one that is held";
  AwaitStep();  // which finds no more
  Arrive(1000, 32768);
  WaitForEnd();
  EXPECT_EQ(memory_.FirstWrong(), -1);
  EXPECT_EQ(memory_.StoredBytes(), 0);
}

TEST_F(PullTest, WhatATaskDoesWithMissingPagesIsDoneToThemWhenTheyCome) {
  Miss(1000, 9000);
  Restore(memory_);
  Thaw();
  Touch(1100);  // where it lies now it will not be
  EXPECT_TRUE(Eventually([&] { return Wants(1100); }));
  // Moved, with a thread that waits in them: it sees what is there then.
  void* const moved =
      mremap(memory_.at(2000), 1000 * kPage, 1000 * kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  ASSERT_NE(moved, MAP_FAILED);
  // Dropped.
  ASSERT_EQ(madvise(memory_.at(4000), 500 * kPage, MADV_DONTNEED), 0);
  EXPECT_TRUE(Memory::IsZero(memory_.at(4100))) << "a page that was dropped is waited for by nobody";
  // Inherited.
  const pid_t child = ForkAndCompare(
      memory_, [](size_t page) { return (page >= 2000 && page < 3000) || (page >= 4000 && page < 4500); });
  Arrive(1000, 9000);
  JoinTouchers();
  ExpectRight(child);
  WaitForEnd();
  for (size_t page = 0; page < 1000; ++page)
    ASSERT_TRUE(memory_.IsRight(static_cast<char*>(moved) + page * kPage, 2000 + page)) << page;
  for (size_t page = 2000; page < 3000; ++page) ASSERT_TRUE(Memory::IsZero(memory_.at(page))) << page;
  for (size_t page = 4000; page < 4500; ++page) ASSERT_TRUE(Memory::IsZero(memory_.at(page))) << page;
  EXPECT_EQ(memory_.FirstWrong(0, 2000), -1);
  EXPECT_EQ(memory_.FirstWrong(3000, 4000), -1);
  EXPECT_EQ(memory_.FirstWrong(4500, 32768), -1);
  munmap(moved, 1000 * kPage);
}

TEST_F(PullTest, AThreadThatWaitsWhereAPageIsDroppedOrMovedGoesOn) {
  Miss(1000, 1100);
  Restore(memory_);
  Thaw();
  std::atomic<int> zeros{0};
  std::vector<std::thread> threads;
  for (const size_t page : {1010, 1050}) {
    threads.emplace_back([&, page] { zeros += Memory::IsZero(memory_.at(page)) ? 1 : 0; });
  }
  EXPECT_TRUE(Eventually([&] { return Wants(1010) && Wants(1050); }));
  ASSERT_EQ(madvise(memory_.at(1010), kPage, MADV_DONTNEED), 0);
  void* const moved = mremap(memory_.at(1050), kPage, kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  ASSERT_NE(moved, MAP_FAILED);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(zeros, 2);
  Arrive(1000, 1100);
  WaitForEnd();
  EXPECT_TRUE(memory_.IsRight(static_cast<char*>(moved), 1050));
  EXPECT_TRUE(Memory::IsZero(memory_.at(1010)));
  munmap(moved, kPage);
}

TEST_F(PullTest, AKilledPagerIsReplacedWhilePagesAreMissing) {
  Miss(1000, 30000);
  Restore(memory_);
  Thaw();
  Touch(5004);
  EXPECT_TRUE(Eventually([&] { return Wants(5004); }));
  pid_t pager = NextPid(&PagerStatus::pager_pid, 0);
  for (int killed = 0; killed < 4; ++killed) {
    const int connections = connections_;
    kill(pager, SIGKILL);
    Arrive(1000 + 1000 * killed, 1000 + 1000 * killed + 500);  // told to nobody, perhaps
    pager = NextPid(&PagerStatus::pager_pid, pager);
    EXPECT_TRUE(Eventually([&] { return connections_ > connections; }));
    EXPECT_EQ(memory_.FirstWrong(0, 1000), -1);
  }
  EXPECT_EQ(touched_, 0);
  {
    absl::MutexLock lock(&mutex_);
    wanted_ = {};
  }
  HangUp();
  EXPECT_TRUE(Eventually([&] { return Wants(5004); })) << "what is waited for is asked for anew";
  for (size_t page = 1000; page < 30000; page += 100) Arrive(page, page + 100);
  JoinTouchers();
  WaitForEnd();
  EXPECT_EQ(memory_.FirstWrong(), -1);
  EXPECT_EQ(memory_.StoredBytes(), 0);
}

TEST_F(PullTest, AnAgentThatWasRestartedIsGivenWhatIsMissing) {
  Miss(1000, 3000);
  Restore(memory_);
  Thaw();
  Arrive(1000, 1500);
  EXPECT_TRUE(Eventually(
      [&] { return Status().ok() && Status()->missing_bytes == 1500 * static_cast<int64_t>(kPage); }));
  {
    absl::MutexLock lock(&mutex_);
    agent_ = {};
    forgot_ = true;
  }
  HangUp();
  EXPECT_TRUE(Eventually([&] { return gave_.load(); }));
  {
    absl::MutexLock lock(&mutex_);
    EXPECT_EQ(agent_.Inside({0, memory::kAddressEnd}), (memory::Ranges{Offsets(1500, 3000)}));
  }
  Touch(2001);
  EXPECT_TRUE(Eventually([&] { return Wants(2001); }));
  Arrive(1500, 3000);
  JoinTouchers();
  WaitForEnd();
  EXPECT_EQ(memory_.FirstWrong(), -1);
}

TEST_F(PullTest, PagesThatAreLostKillTheContainerAndSayWhy) {
  Miss(1000, 3000);
  Restore(memory_);
  Thaw();
  EXPECT_TRUE(Eventually([&] { return connections_ > 1; }))
      << "the first only asked whether there is anything";
  {
    absl::MutexLock lock(&mutex_);
    ASSERT_TRUE(
        channel_->WriteLine(json::Encode(agent_api::AgentWord{.lost = "the source burned down"}), kLong)
            .ok());
  }
  EXPECT_TRUE(Eventually([&] {
    const auto status = Status();
    return status.ok() && status->failed;
  }));
  EXPECT_THAT(Status()->message, HasSubstr("never received: the source burned down"));
  EXPECT_FALSE(TaskRuns());
  WaitForEnd();
  EXPECT_TRUE(last_word().ended);
}

TEST_F(PullTest, AContainerThatEndsNeedsNothingMore) {
  Miss(1000, 3000);
  Restore(memory_);
  Thaw();
  EXPECT_TRUE(Eventually([&] { return connections_ > 1; }))
      << "the first only asked whether there is anything";
  ASSERT_TRUE(runtime::KillCgroup(spec_.cgroup, absl::Seconds(10)).ok());
  WaitForEnd();
  EXPECT_TRUE(last_word().ended);
  EXPECT_FALSE(last_word().complete);
  EXPECT_FALSE(FileExists(spec_.status));
}

// A container whose memory CRIU leaves to the pager: a dump's images, with what is in the store made unusable
// in them.
class LazyRestoreTest : public PagerTest {
 protected:
  void DumpAndKill(Container& source) {
    const agent_api::GuardSpec spec = SpecFor({&source});
    absl::StatusOr<guard::GuardClient> client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                                                         .spec_file = spec.journal + ".spec",
                                                                         .host_root = "",
                                                                         .host_namespaces = ""});
    ASSERT_TRUE(client.ok()) << client.status();
    Expect(client->Freeze());
    Expect(client->Dump(source.id(), absl::Seconds(60)));
    Expect(client->Cede());
    Expect(client->Kill());
  }
  static void Expect(const absl::StatusOr<agent_api::GuardReply>& reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
  }
  // Moves the lazy pages of each task from the images into a store.
  void MovePagesToStores(const std::string& images) {
    const auto tasks = criu::ReadProcessTree(images);
    ASSERT_TRUE(tasks.ok()) << tasks.status();
    for (const criu::DumpedTask& task : *tasks) {
      const auto records = criu::ReadImage(absl::StrCat(images, "/pagemap-", task.pid, ".img"), 0x56084025);
      ASSERT_TRUE(records.ok() && !records->empty()) << records.status();
      const std::string file = absl::StrCat(images, "/pages-", Fields((*records)[0])[1], ".img");
      const auto pages = OpenFile(file, O_RDWR);
      ASSERT_TRUE(pages.ok()) << pages.status();
      files_.emplace_back(memfd_create("store", MFD_CLOEXEC));
      ASSERT_EQ(ftruncate(files_.back().get(), off_t{1} << 47), 0);
      off_t at = 0;
      for (size_t i = 1; i < records->size(); ++i) {
        auto entry = Fields((*records)[i]);  // 1 vaddr, 4 flags, 5 nr_pages (CRIU 4.2, images/pagemap.proto)
        if ((entry[4] & 4) == 0) continue;   // not present in the image
        const auto bytes = static_cast<off_t>(entry[5] * kPage);
        if ((entry[4] & 2) != 0) {
          ASSERT_NO_FATAL_FAILURE(
              MoveBytes(pages->get(), at, files_.back().get(), static_cast<off_t>(entry[1]), bytes));
          moved_ += bytes;
        }
        at += bytes;
      }
      stores_.emplace_back(task.pid, files_.back().get());
    }
  }
  // Leaves a hole, so that there is never much in two places.
  static void MoveBytes(int from, off_t from_offset, int to, off_t to_offset, off_t bytes) {
    std::string content(4 << 20, '\0');
    for (off_t done = 0; done < bytes; done += static_cast<off_t>(content.size())) {
      content.resize(std::min(content.size(), static_cast<size_t>(bytes - done)));
      const auto size = static_cast<ssize_t>(content.size());
      ASSERT_EQ(pread(from, content.data(), content.size(), from_offset + done), size);
      ASSERT_EQ(pwrite(to, content.data(), content.size(), to_offset + done), size);
      ASSERT_EQ(fallocate(from, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from_offset + done, size), 0);
    }
  }
  static std::map<uint32_t, uint64_t> Fields(const std::string& record) {
    std::map<uint32_t, uint64_t> values;
    for (criu::ProtobufFields field(record); field.Next();) values[field.number()] = field.value();
    return values;
  }
  // Dumped, restored, thawed and filled.
  void Move(Container& source, Container& target) {
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(20));
    ASSERT_NO_FATAL_FAILURE(DumpAndKill(source));
    ASSERT_NO_FATAL_FAILURE(MovePagesToStores(source.images()));
    ASSERT_GT(moved_, 0);
    spec_.socket = target.work() + "/lazy-pages.socket";
    const std::string own_cgroup = std::exchange(spec_.cgroup, target.cgroup());
    ASSERT_NO_FATAL_FAILURE(StartPager());
    const absl::Time began = absl::Now();
    const absl::Status restored = target.Restore(source.images(), "", true);
    ASSERT_TRUE(restored.ok()) << restored;
    const absl::Time standing = absl::Now();
    EXPECT_TRUE(target.Frozen());
    EXPECT_EQ(target.output().text(), "");
    EXPECT_FALSE(Ended());
    target.Thaw();
    WaitForEnd();
    EXPECT_FALSE(FileExists(spec_.status));
    std::cout << "restored lazily in " << standing - began << ", filled " << (moved_ >> 20) << " MiB in "
              << absl::Now() - standing << "\n";
    for (const UniqueFd& file : files_) {
      struct stat info;
      EXPECT_TRUE(fstat(file.get(), &info) == 0 && info.st_blocks == 0) << "not all was given back";
    }
    ASSERT_TRUE(target.output().WaitLines(250));
    std::vector<long> numbers = source.output().numbers();
    const std::vector<long> more = target.output().numbers();
    numbers.insert(numbers.end(), more.begin(), more.end());
    for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
    spec_.cgroup = own_cgroup;
  }

  Sandbox here_, there_;
  std::vector<UniqueFd> files_;
  int64_t moved_ = 0;
};

TEST_F(LazyRestoreTest, AContainerRunsOnWithTheMemoryOfItsStore) {
  Container source("source", here_, {"memory", "64"});
  Container target("target", there_, {"memory", "64"});
  ASSERT_NO_FATAL_FAILURE(Move(source, target));
  EXPECT_GT(moved_, 64 << 20);
  EXPECT_THAT(target.output().text(), HasSubstr("sound"));
  EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
}

TEST_F(LazyRestoreTest, EachOfTwoProcessesHasItsOwnStore) {
  Container source("source", here_, {"pair"});
  Container target("target", there_, {"pair"});
  ASSERT_NO_FATAL_FAILURE(Move(source, target));
  EXPECT_EQ(stores_.size(), 2u);
  EXPECT_THAT(target.output().lines().back(), HasSubstr("child lives"));
}

// A post-copy of a container, but for the stream between the nodes: all of its memory is copied once while it
// runs, what it writes after that is read from the frozen source when the restored one runs, or waits for it.
class PostCopyRestoreTest : public LazyRestoreTest {
 protected:
  ~PostCopyRestoreTest() override { pages_.reset(); }  // it asks Find

  absl::StatusOr<memory::PageServer::Found> Find() override {
    if (pull_ == nullptr) return absl::NotFoundError("nothing is dumped yet");
    return pull_->Open();
  }
  static absl::StatusOr<std::string> Read(pid_t pid, memory::Range range) {
    GODWIT_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(absl::StrCat("/proc/", pid, "/mem"), O_RDONLY));
    std::string content(range.bytes(), '?');
    const ssize_t got = pread(file.get(), content.data(), content.size(), static_cast<off_t>(range.start));
    if (got == static_cast<ssize_t>(content.size())) return content;
    return absl::NotFoundError(absl::StrFormat("task %d has no memory at 0x%x", pid, range.start));
  }
  // Of shared memory all that there is; of tasks nothing but with `tasks`.
  void Take(const memory::Tracker& tracker, const absl::StatusOr<memory::Look>& look, bool tasks) {
    ASSERT_TRUE(look.ok()) << look.status();
    for (const memory::TaskPages& object : look->shared) {
      for (const memory::Range& range : object.dirty)
        ASSERT_TRUE(store_
                        .Write(object.pid, range.start,
                               {tracker.SharedMemory(object.pid) + range.start, range.bytes()})
                        .ok());
      ASSERT_TRUE(store_.Keep(object.pid, object.dirty).ok());
    }
    if (!tasks) return;
    for (const memory::TaskPages& task : look->tasks) {
      for (const memory::Range& range : task.dirty) {
        const absl::StatusOr<std::string> content = Read(task.pid, range);
        if (!content.ok()) continue;  // one of those that end at once
        ASSERT_TRUE(store_.Write(task.container_pid, range.start, *content).ok());
      }
    }
  }
  // What has changed since the copy stays missing, and the container standing still.
  void DumpAndLeave(Container& source) {
    auto tracker = memory::Tracker::Attach("/proc", source.cgroup(), {.shared_memory = true});
    ASSERT_TRUE(tracker.ok()) << tracker.status();
    Take(**tracker, (*tracker)->Round(), /*tasks=*/true);
    ASSERT_TRUE(source.output().WaitLines(source.output().lines().size() + 50));
    agent_api::GuardSpec spec = SpecFor({&source});
    spec.containers[0].hidden = source.work() + "/hidden";
    absl::StatusOr<guard::GuardClient> client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                                                         .spec_file = spec.journal + ".spec",
                                                                         .host_root = "",
                                                                         .host_namespaces = ""});
    ASSERT_TRUE(client.ok()) << client.status();
    guard_.emplace(*std::move(client));
    Expect(guard_->Arm());
    Expect(guard_->Freeze());
    const absl::StatusOr<memory::Look> owned = (*tracker)->Owned();
    ASSERT_TRUE(owned.ok()) << owned.status();
    std::string hidden;
    for (const memory::TaskPages& object : owned->shared) {
      const uint32_t id = memory::SharedId(object.pid);
      absl::StrAppendFormat(&hidden, "0 %x-%x\n", id, id + 1);
    }
    std::map<pid_t, memory::Ranges> carried;
    for (const memory::TaskPages& task : owned->tasks) carried[task.pid] = task.owned;
    for (const auto& [pid, ranges] : carried) {
      for (const memory::Range& range : ranges)
        absl::StrAppendFormat(&hidden, "%d %x-%x\n", pid, range.start, range.end);
    }
    ASSERT_TRUE(WriteFileDurably(spec.containers[0].hidden, hidden).ok());
    Expect(guard_->Dump(source.id(), absl::Seconds(60)));
    const absl::StatusOr<memory::Look> last = (*tracker)->Last();
    Take(**tracker, last, /*tasks=*/false);
    std::vector<pid_t> kept = store_.Objects();
    for (const memory::TaskPages& task : last->tasks) {
      const memory::Ranges populated = memory::Intersection(task.populated, carried[task.pid]);
      ASSERT_TRUE(store_.Miss(task.container_pid, memory::Intersection(task.dirty, populated)).ok());
      ASSERT_TRUE(store_.Keep(task.container_pid, populated).ok());
      pids_[task.container_pid] = task.pid;
      kept.push_back(task.container_pid);
      const absl::StatusOr<memory::Ranges> filled =
          criu::AddLazyPages(source.images(), task.container_pid, store_.Held(task.container_pid));
      ASSERT_TRUE(filled.ok()) << filled.status();
      ASSERT_TRUE(store_.Keep(task.container_pid, *filled).ok());
    }
    store_.KeepTasks(kept);
    Expect(guard_->Cede());
  }
  // As the stream does it, from the source.
  void Bring(pid_t task, const memory::Ranges& pages) {
    for (const memory::Range& range : pages) {
      const absl::StatusOr<std::string> content = Read(pids_.at(task), range);
      ASSERT_TRUE(content.ok()) << content.status();
      const auto arrived = store_.Arrive(task, range, *content);
      ASSERT_TRUE(arrived.ok()) << arrived.status();
      if (!arrived->empty()) pull_->Arrived({.container = "main", .container_pid = task, .ranges = *arrived});
    }
  }
  std::string SharedList() {
    std::string list;
    for (const pid_t key : store_.Objects()) {
      const auto file = store_.HandOver(key);
      EXPECT_TRUE(file.ok()) << file.status();
      if (file.ok()) absl::StrAppend(&list, memory::SharedId(key), " ", file->inode, " ", file->path, "\n");
    }
    return list;
  }

  memory::PageStore store_{uint64_t{1} << 30};
  std::map<pid_t, pid_t> pids_;  // by container pid
  std::optional<guard::GuardClient> guard_;
  std::atomic<int> wanted_ = 0;
  std::unique_ptr<migration::Pull> pull_;
};

TEST_F(PostCopyRestoreTest, SharedMemoryIsThereWhilePagesOfItsTasksAreMissing) {
  const std::vector<std::string> workload = {"shared", "128"};
  Container source("source", here_, workload);
  Container target("target", there_, workload);
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(150));
  ASSERT_NO_FATAL_FAILURE(DumpAndLeave(source));
  ASSERT_EQ(store_.Objects().size(), 1u);
  ASSERT_EQ(store_.Tasks().size(), 2u);
  pull_ = std::make_unique<migration::Pull>("main", &store_, /*known=*/true,
                                            [this](const transfer::TaskRanges& pages) {
                                              ++wanted_;
                                              Bring(pages.container_pid, pages.ranges);
                                            });
  spec_.socket = target.work() + "/lazy-pages.socket";
  const std::string own_cgroup = std::exchange(spec_.cgroup, target.cgroup());
  ASSERT_NO_FATAL_FAILURE(StartPager());
  const std::string list = target.work() + "/shared-memory";
  ASSERT_TRUE(WriteFileDurably(list, SharedList()).ok());
  const absl::Status restored = target.Restore(source.images(), "", /*lazy_pages=*/true, list);
  ASSERT_TRUE(restored.ok()) << restored;
  EXPECT_TRUE(target.Frozen());
  const uint64_t missing = store_.missing_bytes();
  EXPECT_GT(missing, 40 * kPage) << "a page a line was written after the copy";
  target.Thaw();
  ASSERT_TRUE(target.output().WaitLines(5)) << target.output().text();
  EXPECT_GT(wanted_, 0);
  for (const pid_t task : store_.Tasks()) ASSERT_NO_FATAL_FAILURE(Bring(task, store_.Missing(task)));
  EXPECT_TRUE(Eventually([&] { return pull_->complete(); }));
  WaitForEnd();
  ASSERT_TRUE(target.output().WaitLines(250)) << target.output().text();
  EXPECT_THAT(target.output().text(), HasSubstr("sound"));
  EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
  std::vector<long> numbers = source.output().numbers();
  const std::vector<long> more = target.output().numbers();
  numbers.insert(numbers.end(), more.begin(), more.end());
  for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
  std::cout << (missing >> 10) << " KiB were missing, " << wanted_ << " times a process waited\n";
  Expect(guard_->Kill());
  spec_.cgroup = own_cgroup;
}

// Prints what it measures; GODWIT_PAGER_MIB sets the size.
TEST_F(PagerTest, FillsFastAndAnswersFaultsMeanwhile) {
  const char* mib = getenv("GODWIT_PAGER_MIB");
  const size_t pages = (mib != nullptr ? strtoul(mib, nullptr, 10) : 1024) * 256;
  Memory memory(pages, 4096);
  const int64_t bytes = memory.StoredBytes();
  Restore(memory);
  std::atomic<bool> stop{false};
  std::vector<absl::Duration> waits;
  std::thread toucher([&] {
    std::mt19937_64 random(1);
    while (!stop) {
      const size_t page = pages / 2 + random() % (pages / 2);
      const absl::Time before = absl::Now();
      const volatile char touched = memory.at(page)[100];
      (void)touched;
      waits.push_back(absl::Now() - before);
      absl::SleepFor(absl::Milliseconds(1));
    }
  });
  const absl::Time thawed = absl::Now();
  Thaw();
  PagerStatus last;
  EXPECT_TRUE(Eventually([&] {
    const auto status = Status();
    if (status.ok()) last = *status;
    return absl::IsNotFound(status.status());
  }));
  const absl::Duration took = absl::Now() - thawed;
  stop = true;
  toucher.join();
  std::sort(waits.begin(), waits.end());
  std::cout << "filled " << (bytes >> 20) << " MiB in " << took << ", "
            << static_cast<double>(bytes) / 1e9 / absl::ToDoubleSeconds(took) << " GB/s; " << waits.size()
            << " touches, median " << waits[waits.size() / 2] << ", p99 " << waits[waits.size() * 99 / 100]
            << "; the pager: " << last.faults << " faults, p50 " << last.fault_p50 << ", p99 "
            << last.fault_p99 << "\n";
  WaitForEnd();
  EXPECT_EQ(memory.FirstWrong(), -1);
}

// How long it takes until memory is in its place after a lazy restore, and how long the processes wait
// meanwhile for pages that they touch: by CRIU's own daemon, then by godwit-pager, from the same images on
// tmpfs.
class FillMeasurement : public LazyRestoreTest {
 protected:
  static size_t MiB() {
    const char* mib = getenv("GODWIT_PAGER_MIB");
    return mib != nullptr ? strtoul(mib, nullptr, 10) : 256;
  }
  static std::vector<std::string> WithBundle(std::vector<std::string> command) {
    command.insert(command.begin(), {"/usr/bin/env", absl::StrCat("PATH=", Node::Get().criu,
                                                                  ":/usr/sbin:/usr/bin:/sbin:/bin")});
    return command;
  }
  // runc's command for a container with its images in the source's folder, but for the container's id.
  static std::vector<std::string> Runc(const Container& container, const char* command) {
    return WithBundle({Node::Get().runc, "--root", container.Spec().runc_root, command, "--image-path",
                       container.images(), "--work-path", container.work()});
  }
  // `ended`: all is in its place; `lines`: of the output, before it was restored; `began`, `restored`: the
  // restore.
  void Tell(const char* how, Container& container, size_t lines, absl::Time began, absl::Time restored,
            const std::function<bool()>& ended) {
    ASSERT_TRUE(Eventually(ended, absl::Minutes(5)));
    const absl::Time filled = absl::Now();
    const std::vector<std::string> said = container.output().lines();
    ASSERT_EQ(kill(container.init_pid(), SIGUSR1), 0);
    ASSERT_TRUE(Eventually([&] { return absl::StrContains(container.output().text(), "compared"); }));
    EXPECT_THAT(container.output().text(), HasSubstr(absl::StrCat("compared ", MiB() * 256, " wrong 0\n")));
    EXPECT_THAT(container.output().text(), Not(HasSubstr("DAMAGED")));
    std::vector<double> waits;
    for (size_t i = lines; i < said.size(); ++i) {
      const std::vector<std::string> words = absl::StrSplit(said[i], ' ');
      for (size_t word = 3; word < words.size(); ++word) {
        double us = 0;
        ASSERT_TRUE(absl::SimpleAtod(words[word], &us)) << said[i];
        waits.push_back(us);
      }
    }
    ASSERT_FALSE(waits.empty());
    std::sort(waits.begin(), waits.end());
    std::cout << absl::StrFormat(
                     "{\"how\": \"%s\", \"mib\": %d, \"restore_ms\": %.1f, \"total_s\": %.3f, \"waits\": %d, "
                     "\"wait_p50_us\": %.1f, \"wait_p99_us\": %.1f, \"wait_max_us\": %.1f}",
                     how, MiB(), absl::ToDoubleMilliseconds(restored - began),
                     absl::ToDoubleSeconds(filled - began), waits.size(), waits[waits.size() / 2],
                     waits[waits.size() * 99 / 100], waits.back())
              << std::endl;
  }
  void FillByCriu(Container& container) {
    const std::string socket = container.work() + "/lazy-pages.socket";
    auto daemon =
        Child::Spawn(WithBundle({Node::Get().criu + "/criu", "lazy-pages", "--images-dir", container.images(),
                                 "--work-dir", container.work(), "--log-file", "lazy.log"}));
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    ASSERT_TRUE(Eventually([&] { return FileExists(socket); }));
    std::vector<std::string> restore = Runc(container, "restore");
    for (const std::string& word :
         {std::string("--detach"), std::string("--lazy-pages"), std::string("--bundle"), container.bundle(),
          std::string("--pid-file"), container.bundle() + "/init.pid", container.id()})
      restore.push_back(word);
    const size_t lines = container.output().lines().size();
    SpawnOptions options;
    options.stdout_fd = options.stderr_fd = container.output().write_end();
    const absl::Time began = absl::Now();
    auto runc = Child::Spawn(restore, options);
    ASSERT_TRUE(runc.ok()) << runc.status();
    const auto end = runc->Wait(kLong);
    ASSERT_TRUE(end.ok() && end->ok()) << container.output().text();
    Tell("lazy-pages", container, lines, began, absl::Now(),
         [&] { return daemon->Wait(absl::ZeroDuration()).ok(); });
    ASSERT_TRUE(daemon->Wait(absl::ZeroDuration())->ok());
  }
  void FillByPager(Container& target, const std::string& images) {
    ASSERT_NO_FATAL_FAILURE(MovePagesToStores(images));
    spec_.socket = target.work() + "/lazy-pages.socket";
    const std::string own_cgroup = std::exchange(spec_.cgroup, target.cgroup());
    ASSERT_NO_FATAL_FAILURE(StartPager());
    const absl::Time began = absl::Now();
    const absl::Status restored = target.Restore(images, "", true);
    ASSERT_TRUE(restored.ok()) << restored;
    target.Thaw();
    PagerStatus last;
    Tell("godwit-pager", target, 0, began, absl::Now(), [&] {
      const auto status = Status();
      if (status.ok()) last = *status;
      return absl::IsNotFound(status.status());
    });
    std::cout << "the pager's own figures: " << last.faults << " faults, p50 " << last.fault_p50 << ", p99 "
              << last.fault_p99 << "\n";
    WaitForEnd();
    spec_.cgroup = own_cgroup;
  }
};

// Prints a line of JSON for either; GODWIT_PAGER_MIB sets the size. Run by tests/bench/local_bench.py.
TEST_F(FillMeasurement, DISABLED_BesideCriusDaemon) {
  Container source("source", here_, {"touch", absl::StrCat(MiB())});
  Container target("target", there_, {"touch", absl::StrCat(MiB())});
  ASSERT_EQ(mount("tmpfs", source.images().c_str(), "tmpfs", 0, "size=100%"), 0) << strerror(errno);
  const absl::Cleanup unmount = [&] { umount2(source.images().c_str(), MNT_DETACH); };
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(20, kLong));
  std::vector<std::string> checkpoint = Runc(source, "checkpoint");
  checkpoint.push_back(source.id());
  RunOptions options;
  options.limit = absl::Minutes(2);
  const auto dumped = RunOrError(checkpoint, options);
  ASSERT_TRUE(dumped.ok()) << dumped.status();
  ASSERT_NO_FATAL_FAILURE(FillByCriu(source));
  ASSERT_TRUE(runtime::KillCgroup(source.cgroup(), absl::Seconds(30)).ok());
  ASSERT_NO_FATAL_FAILURE(FillByPager(target, source.images()));
}

}  // namespace
}  // namespace godwit::node_test
