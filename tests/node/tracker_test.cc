// SPDX-License-Identifier: Apache-2.0
// The dirty tracker against this kernel: what a receiver has after the last look is what the processes have,
// and being looked at does not harm them.
#include "agent/memory/tracker.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <random>
#include <thread>
#include <unordered_map>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "agent/guard/client.h"
#include "agent/memory/inject.h"
#include "agent/memory/maps.h"
#include "agent/memory/shared_key.h"
#include "agent/memory/task_status.h"
#include "agent/memory/tracked_task.h"
#include "agent/memory/uffd.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using memory::Look;
using memory::Range;
using memory::Ranges;
using memory::TaskPages;
using memory::Tracker;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr size_t kPage = 4096;
using Page = std::array<char, kPage>;
constexpr Page kZeros{};

bool Eventually(const std::function<bool()>& condition, absl::Duration limit = absl::Seconds(10)) {
  const absl::Time deadline = absl::Now() + limit;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

// tracker_workload in a cgroup of its own.
class Workload {
 public:
  explicit Workload(const std::vector<std::string>& arguments, const std::string& cwd = "") {
    static int serial = 0;
    cgroup_ = absl::StrCat("/sys/fs/cgroup/tracked-", ++serial);
    EXPECT_TRUE(MakeFolders(cgroup_).ok());
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd input(ends[0]);
    input_.Reset(ends[1]);
    SpawnOptions options;
    options.stdin_fd = input.get();
    options.stdout_fd = output_.write_end();
    options.stderr_fd = output_.write_end();
    options.cgroup = cgroup_;
    options.cwd = cwd;
    std::vector<std::string> argv = {Node::Get().tracker_workload};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    absl::StatusOr<Child> child = Child::Spawn(argv, options);
    EXPECT_TRUE(child.ok()) << child.status();
    child_ = std::make_unique<Child>(*std::move(child));
    EXPECT_TRUE(output_.WaitLines(1)) << output_.text();
  }
  ~Workload() {
    runtime::KillCgroup(cgroup_, absl::Seconds(10)).IgnoreError();
    child_.reset();
    output_.CloseWriteEnd();
    EXPECT_TRUE(Eventually([&] { return rmdir(cgroup_.c_str()) == 0 || errno == ENOENT; }));
  }

  pid_t pid() const { return child_->pid(); }
  const std::string& cgroup() const { return cgroup_; }
  void SendLine() { ASSERT_EQ(write(input_.get(), "x\n", 2), 2); }
  void SendByte() { ASSERT_EQ(write(input_.get(), "x", 1), 1); }
  // The line after "ready".
  std::string Answer(size_t line = 1) {
    EXPECT_TRUE(output_.WaitLines(line + 1)) << output_.text();
    const std::vector<std::string> lines = output_.lines();
    return lines.size() > line ? lines[line] : "";
  }
  // What has come after "ready" so far.
  std::string WouldAnswer() { return output_.lines().size() > 1 ? output_.lines()[1] : ""; }
  ExitStatus WaitEnd() {
    const absl::StatusOr<ExitStatus> end = child_->Wait(absl::Seconds(10));
    EXPECT_TRUE(end.ok()) << end.status();
    return end.ok() ? *end : ExitStatus{};
  }
  runtime::FrozenCgroups Freeze() {
    absl::StatusOr<runtime::FrozenCgroups> frozen = runtime::FreezeCgroups({cgroup_}, absl::Seconds(10));
    EXPECT_TRUE(frozen.ok()) << frozen.status();
    return *std::move(frozen);
  }

 private:
  std::string cgroup_;
  Output output_;
  UniqueFd input_;
  std::unique_ptr<Child> child_;
};

UniqueFd OpenMemory(pid_t pid) {
  absl::StatusOr<UniqueFd> memory = OpenFile(absl::StrCat("/proc/", pid, "/mem"), O_RDONLY);
  return memory.ok() ? *std::move(memory) : UniqueFd();
}

// Calls `page(address, content)` for each page of the range; null where none can be read.
void ReadPages(const UniqueFd& memory, Range range, absl::FunctionRef<void(uint64_t, const Page*)> page) {
  static std::array<Page, 256> buffer;
  for (uint64_t address = range.start; address < range.end;) {
    const size_t wanted = std::min<uint64_t>(sizeof(buffer), range.end - address);
    const ssize_t size = pread(memory.get(), buffer.data(), wanted, static_cast<off_t>(address));
    const size_t pages = size < 0 ? 0 : static_cast<size_t>(size) / kPage;
    for (size_t i = 0; i < pages; ++i, address += kPage) page(address, &buffer[i]);
    if (pages > 0) continue;
    page(address, nullptr);
    address += kPage;
  }
}

bool Contains(const Ranges& ranges, uint64_t address) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), address,
                                      [](uint64_t value, const Range& range) { return value < range.start; });
  return after != ranges.begin() && address < std::prev(after)->end;
}

// What a receiver has of the processes' memory.
class Model {
 public:
  void ApplyRound(const Look& look) {
    for (const TaskPages& task : look.tasks) Copy(task, /*must_be_there=*/false);
  }
  void ApplyLast(const Look& look) {
    std::erase_if(tasks_, [&](const auto& entry) {
      return std::none_of(look.tasks.begin(), look.tasks.end(),
                          [&](const TaskPages& task) { return task.pid == entry.first; });
    });
    for (const TaskPages& task : look.tasks) {
      Copy(task, /*must_be_there=*/true);
      std::erase_if(tasks_[task.pid],
                    [&](const auto& page) { return !Contains(task.populated, page.first); });
    }
  }
  // Drops what the engine does not own, as a receiver may between rounds.
  void KeepOwned(const Look& look) {
    for (const TaskPages& task : look.tasks)
      std::erase_if(tasks_[task.pid], [&](const auto& page) { return !Contains(task.owned, page.first); });
  }
  const Page& At(pid_t pid, uint64_t address) {
    const auto& pages = tasks_[pid];
    const auto page = pages.find(address);
    return page == pages.end() ? kZeros : page->second;
  }

 private:
  void Copy(const TaskPages& task, bool must_be_there) {
    const UniqueFd memory = OpenMemory(task.pid);
    auto& pages = tasks_[task.pid];
    for (const Range& range : task.dirty) {
      ReadPages(memory, range, [&](uint64_t address, const Page* page) {
        if (page != nullptr) pages[address] = *page;
        EXPECT_TRUE(page != nullptr || !must_be_there)
            << "a page that is not there was reported: " << std::hex << address;
      });
    }
  }

  std::unordered_map<pid_t, std::unordered_map<uint64_t, Page>> tasks_;
};

struct Compared {
  size_t pages = 0, populated = 0, different = 0, unreadable = 0;
};

// Every page of every owned mapping of processes that stand still.
Compared Compare(const Look& look, Model& model) {
  Compared compared;
  for (const TaskPages& task : look.tasks) {
    const UniqueFd memory = OpenMemory(task.pid);
    for (const Range& range : task.owned) {
      ReadPages(memory, range, [&](uint64_t address, const Page* page) {
        const bool populated = Contains(task.populated, address);
        ++(page == nullptr ? compared.unreadable : compared.pages);
        if (populated) ++compared.populated;
        // Only a guard page cannot be read.
        const bool same = page == nullptr ? !populated : *page == model.At(task.pid, address);
        if (same || ++compared.different > 5) return;
        ADD_FAILURE() << "process " << task.pid << " page " << std::hex << address
                      << (populated ? " populated" : " empty")
                      << (Contains(task.dirty, address) ? " dirty" : " clean");
      });
    }
  }
  return compared;
}

Ranges OwnedBySmaps(pid_t pid) {
  const auto space = memory::ReadAddressSpace("/proc", pid, memory::MapsFile::kSmaps);
  EXPECT_TRUE(space.ok()) << space.status();
  Ranges joined;
  for (const Range& range : space->private_anonymous) memory::Append(joined, range);
  return joined;
}

std::vector<std::string> Descriptors(pid_t pid) {
  std::vector<std::string> found;
  for (const std::string& fd :
       ListFolder(absl::StrCat("/proc/", pid, "/fd")).value_or(std::vector<std::string>())) {
    char target[256];
    const ssize_t size = readlink(absl::StrCat("/proc/", pid, "/fd/", fd).c_str(), target, sizeof(target));
    found.push_back(
        absl::StrCat(fd, " ", absl::string_view(target, static_cast<size_t>(std::max<ssize_t>(size, 0)))));
  }
  return found;
}

int64_t Number(const std::string& name, int64_t otherwise) {
  int64_t value = otherwise;
  const char* text = getenv(name.c_str());
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

std::unique_ptr<Tracker> Attached(const Workload& workload) {
  absl::StatusOr<std::unique_ptr<Tracker>> tracker = Tracker::Attach("/proc", workload.cgroup());
  EXPECT_TRUE(tracker.ok()) << tracker.status();
  if (!tracker.ok()) abort();
  return *std::move(tracker);
}

TEST(TrackerTest, TheKernelOfTheTestsCanTrack) { EXPECT_TRUE(memory::CheckTrackerSupport().ok()); }

// GODWIT_TRACKER_FREEZES and GODWIT_TRACKER_SEED: longer, and others.
TEST(TrackerTest, AReceiverHasEveryPageWhateverTheProcessesDoToTheirMemory) {
  const int64_t seed = Number("GODWIT_TRACKER_SEED", 1);
  Workload workload({"mutate", absl::StrCat(seed), "0"});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  std::mt19937 random(static_cast<unsigned>(seed));
  Model model;
  Compared all;
  size_t tasks = 0;
  for (int64_t freeze = 0; freeze < Number("GODWIT_TRACKER_FREEZES", 12); ++freeze) {
    for (size_t round = 0, rounds = random() % 6; round < rounds; ++round) {
      const absl::StatusOr<Look> look = tracker->Round();
      ASSERT_TRUE(look.ok()) << look.status();
      model.ApplyRound(*look);
      if (random() % 2 == 0) model.KeepOwned(*look);
      // As long as a transfer takes, for the processes to go on.
      absl::SleepFor(absl::Milliseconds(random() % 60));
    }
    const runtime::FrozenCgroups frozen = workload.Freeze();
    const absl::StatusOr<Look> last = tracker->Last();
    ASSERT_TRUE(last.ok()) << last.status();
    for (const TaskPages& task : last->tasks) EXPECT_EQ(task.owned, OwnedBySmaps(task.pid));
    model.ApplyLast(*last);
    const Compared compared = Compare(*last, model);
    tasks = std::max(tasks, last->tasks.size());
    all.pages += compared.pages;
    all.populated += compared.populated;
    all.different += compared.different;
    all.unreadable += compared.unreadable;
    ASSERT_EQ(compared.different, 0u) << "in freeze " << freeze << " of seed " << seed;
  }
  std::cout << all.pages << " pages compared, " << all.populated << " of them populated, " << all.unreadable
            << " guard pages, up to " << tasks << " processes: " << all.different << " different\n";
  EXPECT_GT(all.populated, 1000u);
  EXPECT_GT(tasks, 1u);
}

// A mapping of anonymous shared memory, as the kernel shows it.
struct Mapping {
  Range range;
  uint64_t offset = 0;
  pid_t key = 0;
};
std::vector<Mapping> SharedMappings(pid_t pid) {
  std::vector<Mapping> mappings;
  const std::string maps = ReadFile(absl::StrCat("/proc/", pid, "/maps")).value_or("");
  for (absl::string_view line : absl::StrSplit(maps, '\n', absl::SkipEmpty())) {
    if (!absl::EndsWith(line, " /dev/zero (deleted)")) continue;
    unsigned long start = 0, end = 0, offset = 0, inode = 0;
    EXPECT_EQ(sscanf(std::string(line).c_str(), "%lx-%lx %*s %lx %*s %lu", &start, &end, &offset, &inode), 4);
    mappings.push_back({{start, end}, offset, memory::SharedKey(static_cast<uint32_t>(inode))});
  }
  return mappings;
}

// What a receiver has of shared memory.
class SharedModel {
 public:
  void Apply(const Look& look, const Tracker& tracker, bool last) {
    std::erase_if(objects_, [&](const auto& entry) { return Find(look, entry.first) == nullptr; });
    for (const TaskPages& object : look.shared) {
      auto& pages = objects_[object.pid];
      for (const Range& range : object.dirty) {
        for (uint64_t at = range.start; at < range.end; at += kPage)
          memcpy(pages[at].data(), tracker.SharedMemory(object.pid) + at, kPage);
      }
      if (last)
        std::erase_if(pages, [&](const auto& page) { return !Contains(object.populated, page.first); });
    }
  }
  const Page& At(pid_t key, uint64_t offset) const {
    const auto object = objects_.find(key);
    if (object == objects_.end()) return kZeros;
    const auto page = object->second.find(offset);
    return page == object->second.end() ? kZeros : page->second;
  }
  static const TaskPages* Find(const Look& look, pid_t key) {
    for (const TaskPages& object : look.shared) {
      if (object.pid == key) return &object;
    }
    return nullptr;
  }

 private:
  std::map<pid_t, std::unordered_map<uint64_t, Page>> objects_;
};

// Every page of every mapping of it, as its process has it.
Compared CompareShared(const Look& look, const SharedModel& model) {
  Compared compared;
  for (const TaskPages& task : look.tasks) {
    const UniqueFd memory = OpenMemory(task.pid);
    for (const Mapping& mapping : SharedMappings(task.pid)) {
      const TaskPages* const object = SharedModel::Find(look, mapping.key);
      EXPECT_NE(object, nullptr) << "an object was not seen";
      if (object == nullptr) continue;
      ReadPages(memory, mapping.range, [&](uint64_t address, const Page* page) {
        const uint64_t offset = mapping.offset + address - mapping.range.start;
        ++(page == nullptr ? compared.unreadable : compared.pages);
        if (Contains(object->populated, offset)) ++compared.populated;
        if (page != nullptr && *page == model.At(mapping.key, offset)) return;
        if (++compared.different <= 5)
          ADD_FAILURE() << "process " << task.pid << ", object " << memory::SharedId(mapping.key)
                        << ", offset " << std::hex << offset;
      });
    }
  }
  return compared;
}

// Processes that write and end between two looks, unmap, map once more, give pages back and have them
// swapped.
TEST(TrackerTest, AReceiverHasEveryPageOfSharedMemoryWhateverTheProcessesDoToIt) {
  const int64_t seed = Number("GODWIT_TRACKER_SEED", 1);
  Workload workload({"shared", absl::StrCat(seed)});
  auto attached = Tracker::Attach("/proc", workload.cgroup(), {.shared_memory = true});
  ASSERT_TRUE(attached.ok()) << attached.status();
  Tracker& tracker = **attached;
  std::mt19937 random(static_cast<unsigned>(seed));
  SharedModel model;
  Compared all;
  size_t tasks = 0, objects = 0;
  for (int64_t freeze = 0; freeze < Number("GODWIT_TRACKER_FREEZES", 12); ++freeze) {
    for (size_t round = 0, rounds = random() % 4; round < rounds; ++round) {
      const absl::StatusOr<Look> look = tracker.Round();
      ASSERT_TRUE(look.ok()) << look.status();
      model.Apply(*look, tracker, /*last=*/false);
      absl::SleepFor(absl::Milliseconds(random() % 60));
    }
    const runtime::FrozenCgroups frozen = workload.Freeze();
    ASSERT_TRUE(tracker.Owned().ok());
    const absl::StatusOr<Look> last = tracker.Last();
    ASSERT_TRUE(last.ok()) << last.status();
    model.Apply(*last, tracker, /*last=*/true);
    const Compared compared = CompareShared(*last, model);
    tasks = std::max(tasks, last->tasks.size());
    objects = std::max(objects, last->shared.size());
    all.pages += compared.pages;
    all.populated += compared.populated;
    ASSERT_EQ(compared.different, 0u) << "in freeze " << freeze << " of seed " << seed;
    EXPECT_EQ(compared.unreadable, 0u);
  }
  std::cout << all.pages << " pages compared, " << all.populated << " of them populated, up to " << tasks
            << " processes and " << objects << " objects\n";
  EXPECT_GT(all.populated, 1000u);
  EXPECT_GT(tasks, 1u);
  EXPECT_GT(objects, 3u);
}

TEST(TrackerTest, SharedMemoryIsToldOfWhereItIsAskedFor) {
  Workload workload({"shared", "1"});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  const absl::StatusOr<Look> look = tracker->Round();
  ASSERT_TRUE(look.ok()) << look.status();
  EXPECT_THAT(look->shared, IsEmpty());
}

// The kernel tells 512 ranges at a time: a look at more takes several steps, between which the process
// writes.
TEST(TrackerTest, AReceiverHasEveryPageOfMemoryThatIsWrittenAllOver) {
  Workload workload({"scatter", "256"});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  Model model;
  for (int round = 0; round < 60; ++round) {
    const absl::StatusOr<Look> look = tracker->Round();
    ASSERT_TRUE(look.ok()) << look.status();
    model.ApplyRound(*look);
    absl::SleepFor(absl::Milliseconds(50));
  }
  const runtime::FrozenCgroups frozen = workload.Freeze();
  const absl::StatusOr<Look> last = tracker->Last();
  ASSERT_TRUE(last.ok()) << last.status();
  model.ApplyLast(*last);
  EXPECT_EQ(Compare(*last, model).different, 0u);
}

TEST(TrackerTest, ARoundReportsWhatWasWrittenSinceAndNothingElse) {
  Workload workload({"fill", "64"});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  const uint64_t first = tracker->Round()->dirty_bytes();
  EXPECT_GE(first, uint64_t{64} << 20);
  EXPECT_LT(tracker->Round()->dirty_bytes(), uint64_t{1} << 20);
  workload.SendByte();
  ASSERT_EQ(workload.Answer(), "written");
  const uint64_t second = tracker->Round()->dirty_bytes();
  const uint64_t written = (uint64_t{64} << 20) / 100 / kPage * kPage;
  EXPECT_GE(second, written);
  EXPECT_LT(second, written + (uint64_t{1} << 20));
}

// GODWIT_TRACKER_MIB=8192 for a large one.
TEST(TrackerTest, LooksAreQuick) {
  std::vector<int64_t> sizes = {64, 1024};
  if (const int64_t more = Number("GODWIT_TRACKER_MIB", 0); more > 0) sizes.push_back(more);
  for (int64_t mib : sizes) {
    Workload workload({"fill", absl::StrCat(mib)});
    const absl::Time began = absl::Now();
    std::unique_ptr<Tracker> tracker = Attached(workload);
    const absl::Duration attach = absl::Now() - began;
    const absl::Duration first = tracker->Round()->took, idle = tracker->Round()->took;
    workload.SendByte();
    ASSERT_EQ(workload.Answer(), "written");
    const Look round = *tracker->Round();
    workload.SendByte();
    ASSERT_EQ(workload.Answer(2), "written");
    const runtime::FrozenCgroups frozen = workload.Freeze();
    const Look last = *tracker->Last();
    EXPECT_LT(last.took, absl::Milliseconds(100 + mib / 8));
    const absl::Time ending = absl::Now();
    tracker.reset();
    std::cout << mib << " MiB: attach " << attach << ", first round " << first << ", idle round " << idle
              << ", round with 1% written " << round.took << ", last " << last.took << " ("
              << (last.dirty_bytes() >> 10) << " KiB dirty), detach " << absl::Now() - ending << "\n";
  }
}

TEST(TrackerTest, ASecondTrackerIsRefusedAndTheFirstGoesOn) {
  Workload workload({"fill", "1"});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  const auto second = Tracker::Attach("/proc", workload.cgroup());
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("userfaultfd is on its memory already"));
  EXPECT_TRUE(tracker->Round().ok());
}

// 100 ms for each of them were 6 s.
TEST(TrackerTest, ARoundDoesNotWaitForEachOfManyThatCannotBeStopped) {
  constexpr size_t kWaiting = 60;
  Workload workload({"vforks", absl::StrCat(kWaiting)});
  std::unique_ptr<Tracker> tracker = Attached(workload);
  workload.SendByte();
  ASSERT_EQ(workload.Answer(), "waiting");
  // Each round gets further; and where a child is tracked, its parent need not be.
  for (int round = 0; round < 6; ++round) {
    const absl::StatusOr<Look> look = tracker->Round();
    ASSERT_TRUE(look.ok()) << look.status();
    EXPECT_EQ(look->tasks.size(), 1 + 2 * kWaiting);
    EXPECT_LT(look->took, absl::Seconds(4));
    std::cout << "round " << round << ": " << look->took << "\n";
  }
  EXPECT_LT(tracker->Round()->took, absl::Seconds(1));
}

TEST(TrackerTest, WriteProtectionEndsForWhatIsTold) {
  constexpr size_t kBytes = size_t{40} << 20;
  const auto protect = [] {
    auto made = memory::WriteProtection::Enable(
        UniqueFd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY))));
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  };
  void* pages = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  const uint64_t start = reinterpret_cast<uint64_t>(pages);
  const Range all{start, start + kBytes}, half{start, start + kBytes / 2}, rest{half.end, all.end};
  const memory::WriteProtection first = protect(), second = protect();
  using Outcome = memory::WriteProtection::Outcome;
  EXPECT_EQ(*first.Register(all), Outcome::kRegistered);
  EXPECT_TRUE(first.Unregister(half));
  EXPECT_EQ(*second.Register(half), Outcome::kRegistered);
  EXPECT_EQ(*second.Register(rest), Outcome::kBusy);
  // What is unmapped by now is passed over.
  ASSERT_EQ(munmap(pages, half.bytes()), 0);
  EXPECT_TRUE(first.Unregister(all));
  EXPECT_EQ(*second.Register(rest), Outcome::kRegistered);
  munmap(reinterpret_cast<void*>(rest.start), rest.bytes());
}

TEST(TrackerTest, TheMemoryOfATaskThatHasEndedIsNotGoneThrough) {
  Workload workload({"pipe"});
  absl::StatusOr<memory::Injected> injected =
      memory::InjectUserfaultfd("/proc", workload.pid(), absl::Seconds(1));
  ASSERT_TRUE(injected.ok()) << injected.status();
  const auto protection = memory::WriteProtection::Enable(std::move(injected->uffd));
  ASSERT_TRUE(protection.ok()) << protection.status();
  const Range anything{uint64_t{1} << 30, uint64_t{2} << 30};
  EXPECT_TRUE(protection->Unregister(anything));
  ASSERT_EQ(kill(workload.pid(), SIGKILL), 0);
  EXPECT_EQ(workload.WaitEnd().signal, SIGKILL);
  EXPECT_FALSE(protection->Unregister(anything));
}

// While copies of them are open, closing the first ones ends nothing.
std::vector<UniqueFd> CopyUserfaultfds() {
  std::vector<UniqueFd> copies;
  for (const std::string& line : Descriptors(getpid())) {
    int fd = -1;
    if (absl::EndsWith(line, " anon_inode:[userfaultfd]") &&
        absl::SimpleAtoi(line.substr(0, line.find(' ')), &fd))
      copies.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  }
  return copies;
}

size_t ProtectedMappings(pid_t pid) {
  const std::string smaps = ReadFile(absl::StrCat("/proc/", pid, "/smaps")).value_or("");
  size_t found = 0;
  for (absl::string_view line : absl::StrSplit(smaps, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "VmFlags:") && absl::StrContains(line, " uw")) ++found;
  }
  return found;
}

void MakeRound(memory::TrackedTask& task) {
  ASSERT_TRUE(task.Plan(memory::LookKind::kRound).ok());
  for (memory::TrackedTask::Piece& piece : task.pieces()) task.Scan(memory::LookKind::kRound, piece);
  ASSERT_TRUE(task.Take(memory::LookKind::kRound).ok());
}

// Closing does it all at once, while the process waits.
TEST(TrackerTest, TheEndOfWriteProtectionIsNotLeftToClosing) {
  const struct {
    const char* when;
    std::function<void(Workload&, memory::TrackedTask&)> before;
  } cases[] = {
      {"before the first round", [](Workload&, memory::TrackedTask&) {}},
      {"after a round that failed",
       [](Workload&, memory::TrackedTask& task) {
         MakeRound(task);
         task.Forget();
       }},
      {"when some has been unmapped",
       [](Workload& workload, memory::TrackedTask& task) {
         MakeRound(task);
         workload.SendLine();
         ASSERT_EQ(workload.Answer(), "unmapped");
       }},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.when);
    Workload workload({"unmap", "64"});
    memory::TrackedTask task("/proc", workload.pid());
    const absl::Status attached = task.Attach(absl::Seconds(1));
    ASSERT_TRUE(attached.ok()) << attached;
    const std::vector<UniqueFd> copies = CopyUserfaultfds();
    ASSERT_EQ(copies.size(), 1u);
    ASSERT_NO_FATAL_FAILURE(c.before(workload, task));
    EXPECT_GT(ProtectedMappings(workload.pid()), 0u);
    task.Detach();
    EXPECT_EQ(ProtectedMappings(workload.pid()), 0u);
  }
}

TEST(TrackerTest, AProcessOfADebuggerIsRefused) {
  Workload workload({"pipe"});
  // As strace does; by a thread, whose end lets it go.
  std::thread([&] {
    ASSERT_EQ(ptrace(PTRACE_SEIZE, workload.pid(), nullptr, nullptr), 0);
    const auto tracker = Tracker::Attach("/proc", workload.cgroup());
    EXPECT_TRUE(absl::IsFailedPrecondition(tracker.status())) << tracker.status();
    EXPECT_THAT(std::string(tracker.status().message()), HasSubstr("traces it"));
  }).join();
  EXPECT_TRUE(Tracker::Attach("/proc", workload.cgroup()).ok());
}

TEST(TrackerTest, MemoryThatIsWrittenPastThePageTablesIsFound) {
  const std::string folder = absl::StrCat(Node::Get().work, "/direct");
  ASSERT_TRUE(MakeFolders(folder).ok());
  const struct {
    std::vector<std::string> arguments;
    const char* words;
  } cases[] = {
      {{"direct", "file"}, "has a file open with O_DIRECT"},
      {{"aio"}, "uses asynchronous I/O"},
  };
  for (const auto& c : cases) {
    Workload workload(c.arguments, folder);
    const std::vector<memory::Pinned> pinned = Attached(workload)->FindPinned();
    ASSERT_EQ(pinned.size(), 1u);
    EXPECT_EQ(pinned[0].what.find(absl::StrCat("process ", workload.pid(), " (tracker_workloa) ", c.words)),
              0u)
        << pinned[0].what;
  }
  Workload ordinary({"pipe"});
  EXPECT_THAT(Attached(ordinary)->FindPinned(), IsEmpty());
}

TEST(TrackerTest, CriuDumpsWhatIsTrackedAndItGoesOn) {
  Sandbox sandbox;
  Container container("tracked", sandbox, {"memory", "64"});
  container.Start();
  ASSERT_TRUE(container.output().WaitLines(10));
  auto tracker = Tracker::Attach("/proc", container.cgroup());
  ASSERT_TRUE(tracker.ok()) << tracker.status();
  ASSERT_TRUE((*tracker)->Round().ok());
  const agent_api::GuardSpec spec = SpecFor({&container});
  auto client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                         .spec_file = spec.journal + ".spec",
                                         .host_root = "",
                                         .host_namespaces = ""});
  ASSERT_TRUE(client.ok()) << client.status();
  const auto frozen = client->Freeze();
  ASSERT_TRUE(frozen.ok() && frozen->ok);
  const auto last = (*tracker)->Last();
  ASSERT_TRUE(last.ok()) << last.status();
  ASSERT_EQ(last->tasks.size(), 1u);
  EXPECT_EQ(last->tasks[0].container_pid, 1);
  EXPECT_GE(memory::Bytes(last->tasks[0].populated), uint64_t{64} << 20);
  EXPECT_LT(last->dirty_bytes(), uint64_t{1} << 20);
  const auto dumped = client->Dump(container.id(), absl::Seconds(20));
  ASSERT_TRUE(dumped.ok() && dumped->ok) << ReadFile(spec.log).value_or("");
  ASSERT_TRUE(client->Thaw("test")->ok);
  EXPECT_TRUE(container.output().WaitLines(container.output().lines().size() + 200));
  EXPECT_THAT(container.output().text(), testing::Not(HasSubstr("DAMAGED")));
}

class InjectTest : public testing::Test {
 protected:
  // Injects until the time is over or `times` are, and looks whether anything is left behind.
  static void Inject(Workload& workload, int times, absl::Duration at_most = absl::Seconds(20)) {
    const std::vector<std::string> before = Descriptors(workload.pid());
    const absl::Time deadline = absl::Now() + at_most;
    absl::Duration longest, sum;
    int i = 0;
    for (; i < times && absl::Now() < deadline; ++i) {
      absl::StatusOr<memory::Injected> injected =
          memory::InjectUserfaultfd("/proc", workload.pid(), absl::Seconds(1));
      ASSERT_TRUE(injected.ok()) << injected.status() << workload.WouldAnswer();
      longest = std::max(longest, injected->stopped);
      sum += injected->stopped;
    }
    std::cout << i << " injections, stopped for " << sum / i << " on average, " << longest << " at most\n";
    ExpectUntouched(workload, before);
  }
  static void ExpectUntouched(const Workload& workload, const std::vector<std::string>& descriptors) {
    const auto status = memory::ReadTaskStatus("/proc", workload.pid());
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(status->tracer, 0);
    EXPECT_EQ(Descriptors(workload.pid()), descriptors);
  }
};

TEST_F(InjectTest, ASleepKeepsItsTime) {
  const absl::Time began = absl::Now();
  Workload workload({"nap", "1500"});
  Inject(workload, 1000, absl::Milliseconds(1200));
  const std::string slept = workload.Answer();
  int64_t ms = 0;
  ASSERT_TRUE(absl::StartsWith(slept, "slept ") && absl::SimpleAtoi(slept.substr(6), &ms)) << slept;
  EXPECT_GE(ms, 1500);
  EXPECT_LT(ms, 1700);
  EXPECT_LT(absl::Now() - began, absl::Seconds(3));
}

TEST_F(InjectTest, WhatAProcessWaitsForStillComes) {
  const struct {
    const char *mode, *answer;
  } cases[] = {{"futex", "woken"}, {"pipe", "read x"}, {"pending", "still pending"}, {"filter", "alive"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.mode);
    Workload workload({c.mode});
    Inject(workload, 200);
    EXPECT_EQ(workload.WouldAnswer(), "");
    workload.SendLine();
    EXPECT_EQ(workload.Answer(), c.answer);
  }
}

TEST_F(InjectTest, ASeccompFilterIsBackAfterwards) {
  Workload workload({"filter"});
  Inject(workload, 5);
  workload.SendByte();
  EXPECT_EQ(workload.Answer(), "alive");
  workload.SendByte();
  EXPECT_EQ(workload.WaitEnd().signal, SIGSYS);
}

TEST_F(InjectTest, RegistersAndResultsOfSystemCallsAreSound) {
  for (const char* mode : {"calls", "spin"}) {
    SCOPED_TRACE(mode);
    Workload workload({mode});
    Inject(workload, 3000, absl::Seconds(4));
    workload.SendByte();
    EXPECT_THAT(workload.Answer(), testing::StartsWith("sound"));
  }
}

TEST_F(InjectTest, AStoppedProcessStaysStopped) {
  Workload workload({"pipe"});
  ASSERT_EQ(kill(workload.pid(), SIGSTOP), 0);
  const auto stopped = [&] {
    return absl::StrContains(*ReadFile(absl::StrCat("/proc/", workload.pid(), "/stat")), ") T ");
  };
  ASSERT_TRUE(Eventually(stopped));
  Inject(workload, 20);
  EXPECT_TRUE(Eventually(stopped));
  workload.SendLine();
  EXPECT_EQ(workload.WouldAnswer(), "");
  ASSERT_EQ(kill(workload.pid(), SIGCONT), 0);
  EXPECT_EQ(workload.Answer(), "read x");
}

#if defined(__x86_64__)
// What a thread executes is its process's to change at any moment, the vDSO too.
TEST_F(InjectTest, CodeThatIsChangedMeanwhileMakesNoCallPastTheFilter) {
  for (const char* how : {"spin", "call"}) {
    SCOPED_TRACE(how);
    Workload workload({"rewrite", how});
    const std::vector<std::string> before = Descriptors(workload.pid());
    int made = 0, refused = 0;
    for (const absl::Time deadline = absl::Now() + absl::Seconds(4); absl::Now() < deadline;) {
      const auto injected = memory::InjectUserfaultfd("/proc", workload.pid(), absl::Seconds(1));
      ++(injected.ok() ? made : refused);
      ASSERT_TRUE(injected.ok() || absl::IsFailedPrecondition(injected.status()))
          << injected.status() << workload.WouldAnswer();
    }
    std::cout << made << " injections, " << refused << " refused\n";
    EXPECT_GT(made, 0);
    ExpectUntouched(workload, before);
    workload.SendByte();
    EXPECT_EQ(workload.Answer(), "sound");
  }
}
#endif

// By SIGKILL, at any moment of it.
TEST_F(InjectTest, TheEndOfTheTrackerInTheMiddleDoesNoHarm) {
  for (const char* mode : {"calls", "spin", "pipe"}) {
    SCOPED_TRACE(mode);
    Workload workload({mode});
    const std::vector<std::string> before = Descriptors(workload.pid());
    // Held open by trackers, and by the injections that outlive them.
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd all_ended(ends[0]);
    UniqueFd alive(ends[1]);
    std::mt19937 random(1);
    for (int i = 0; i < 150; ++i) {
      const pid_t tracker = fork();
      ASSERT_GE(tracker, 0);
      if (tracker == 0) {
        while (true) memory::InjectUserfaultfd("/proc", workload.pid(), absl::Seconds(1)).IgnoreError();
      }
      absl::SleepFor(absl::Microseconds(500 + random() % 3000));
      ASSERT_EQ(kill(tracker, SIGKILL), 0);
      ASSERT_EQ(waitpid(tracker, nullptr, 0), tracker);
    }
    alive.Reset();
    char byte = 0;
    EXPECT_EQ(read(all_ended.get(), &byte, 1), 0);
    EXPECT_TRUE(Eventually([&] { return memory::ReadTaskStatus("/proc", workload.pid())->tracer == 0; }));
    ExpectUntouched(workload, before);
    workload.SendLine();
    EXPECT_THAT(workload.Answer(), testing::AnyOf(testing::StartsWith("sound"), "read x"));
  }
}

TEST_F(InjectTest, AProcessThatIsGoneIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(memory::InjectUserfaultfd("/proc", 1 << 22, absl::Seconds(1)).status()));
}

}  // namespace
}  // namespace godwit::node_test
