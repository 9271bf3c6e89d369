// SPDX-License-Identifier: Apache-2.0
// Memory that CRIU leaves out of its dump and does not restore: the page engine's half of a container.
#include "tests/node/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/plan.h"
#include "agent/guard/client.h"
#include "agent/memory/maps.h"
#include "agent/memory/page_store.h"
#include "agent/memory/shared_key.h"
#include "agent/memory/short_smaps.h"
#include "agent/memory/tracker.h"
#include "agent/memory/vma_iterator.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;
using agent_api::GuardSpec;
using guard::GuardClient;
using memory::Tracker;
using ::testing::HasSubstr;
using ::testing::Not;

class MemoryTest : public testing::Test {
 protected:
  static void Expect(const absl::StatusOr<GuardReply>& reply) {
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
  }
  static GuardSpec SpecWithHidden(const Container& source) {
    GuardSpec spec = SpecFor({&source});
    spec.containers[0].hidden = source.work() + "/hidden";
    spec.containers[0].smaps = source.work() + "/smaps";
    return spec;
  }
  static GuardClient StartedGuard(const GuardSpec& spec) {
    absl::StatusOr<GuardClient> client = guard::StartGuard(spec, {.binary = Node::Get().guard,
                                                                  .spec_file = spec.journal + ".spec",
                                                                  .host_root = "",
                                                                  .host_namespaces = ""});
    EXPECT_TRUE(client.ok()) << client.status();
    if (!client.ok()) abort();
    return *std::move(client);
  }
  // Dumps all but what memory() then holds, and kills the source.
  void DumpWithoutMemory(Container& source) {
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(150));
    const GuardSpec spec = SpecWithHidden(source);
    GuardClient client = StartedGuard(spec);
    Expect(client.Arm());
    Expect(client.Freeze());
    memory_ = TakeMemory(source.cgroup());
    WriteHidden(spec.containers[0].hidden, memory_);
    WriteSmaps(source, spec);
    const absl::Time began = absl::Now();
    Expect(client.Dump(source.id(), absl::Seconds(60)));
    std::cout << "dump from the gate on " << absl::Now() - began << "\n";
    Expect(client.Cede());
    Expect(client.Kill());
    const auto sizes = criu::MeasureImages(source.images());
    ASSERT_TRUE(sizes.ok());
    EXPECT_LT(sizes->pages, 1 << 20) << "only what is not anonymous is left";
  }
  static void WriteSmaps(const Container& source, const GuardSpec& spec) {
    static const absl::StatusOr<memory::ShortSmaps> smaps = memory::ShortSmaps::Load();
    ASSERT_TRUE(smaps.ok()) << smaps.status();
    const absl::Status written = smaps->Write("/proc", source.cgroup(), spec.containers[0].smaps);
    ASSERT_TRUE(written.ok()) << written;
  }
  static criu::Content ContentOf(const TaskMemory& task) {
    return {.there = task.populated, .read = [&task](uint64_t address, char* to, size_t size) {
              const ssize_t got = pread(task.store.get(), to, size, static_cast<off_t>(address));
              return got == static_cast<ssize_t>(size) ? absl::OkStatus() : absl::DataLossError("short");
            }};
  }
  // Puts the memory into the images.
  static void Complete(const std::string& images, const TaskMemory& task) {
    const auto complete = criu::CompletePages::Plan(images, task.container_pid, task.populated);
    ASSERT_TRUE(complete.ok()) << complete.status();
    const std::string pages = absl::StrCat(images, "/", complete->pages_name());
    absl::StatusOr<UniqueFd> file = OpenFile(pages + ".new", O_WRONLY | O_CREAT, 0600);
    ASSERT_TRUE(file.ok()) << file.status();
    const absl::Status written = complete->WritePages(
        ContentOf(task).read, [&](absl::string_view piece) { return WriteAll(file->get(), piece, pages); });
    ASSERT_TRUE(written.ok()) << written;
    ASSERT_EQ(rename((pages + ".new").c_str(), pages.c_str()), 0);
    ASSERT_TRUE(
        WriteFileDurably(absl::StrCat(images, "/", complete->pagemap_name()), complete->pagemap()).ok());
  }
  static void ExpectUnbroken(Container& before, Container& after) {
    ASSERT_TRUE(after.output().WaitLines(250)) << after.output().text();
    std::vector<long> numbers = before.output().numbers();
    const std::vector<long> rest = after.output().numbers();
    numbers.insert(numbers.end(), rest.begin(), rest.end());
    for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
  }

  Sandbox here_, there_;
  std::vector<TaskMemory> memory_;
};

TEST_F(MemoryTest, ComesBackByTheImages) {
  Container source("source", here_, {"memory", "64"});
  ASSERT_NO_FATAL_FAILURE(DumpWithoutMemory(source));
  for (const TaskMemory& task : memory_) ASSERT_NO_FATAL_FAILURE(Complete(source.images(), task));
  Container target("target", there_, {"memory", "64"});
  const absl::Status restored = target.Restore(source.images());
  ASSERT_TRUE(restored.ok()) << restored;
  target.Thaw();
  ExpectUnbroken(source, target);
  EXPECT_THAT(target.output().text(), HasSubstr("sound"));
  EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
}

// Of one process, of two of which one is the other's fork, and of one with threads and guard regions, which
// has a child from time to time that dies there; and of one whose children find a page of it empty.
TEST_F(MemoryTest, ComesBackByFaults) {
  const struct {
    std::vector<std::string> workload;
    size_t tasks;
    const char* says;
  } cases[] = {{{"memory", "64"}, 1, "sound"},
               {{"pair"}, 2, "child lives"},
               {{"guarded"}, 1, "guarded"},
               {{"wiped"}, 1, "wiped"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.workload[0]);
    Container source("source", here_, c.workload);
    ASSERT_NO_FATAL_FAILURE(DumpWithoutMemory(source));
    Container target("target", there_, c.workload);
    const LazyPages daemon(criu::LazyPagesSocket(target.work()), &memory_);
    for (const TaskMemory& task : memory_) {
      const absl::Time began = absl::Now();
      const auto added =
          criu::AddLazyPages(source.images(), task.container_pid, task.populated, ContentOf(task));
      ASSERT_TRUE(added.ok()) << added.status();
      std::cout << "lazy pages of " << task.populated.size() << " ranges added in " << absl::Now() - began
                << "\n";
      for (const memory::Range& range : memory::Difference(task.populated, *added))
        ASSERT_EQ(fallocate(task.store.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(range.start), static_cast<off_t>(range.bytes())),
                  0);
    }
    const absl::Status restored = target.Restore(source.images(), "", /*lazy_pages=*/true);
    ASSERT_TRUE(restored.ok()) << restored;
    EXPECT_GE(daemon.tasks(), c.tasks);
    EXPECT_TRUE(target.Frozen());
    target.Thaw();
    ASSERT_NO_FATAL_FAILURE(ExpectUnbroken(source, target));
    EXPECT_GT(daemon.faults(), 0);
    EXPECT_THAT(target.output().text(), HasSubstr(c.says));
    EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
  }
}

// Objects of anonymous shared memory, which CRIU neither dumps nor restores: the engine's half of it, but for
// the stream.
class SharedMemoryTest : public MemoryTest {
 protected:
  // Dumps all but the objects that store_ then holds, private memory included, and kills the source.
  void DumpWithoutSharedMemory(Container& source) {
    auto tracker = Tracker::Attach("/proc", source.cgroup(), {.shared_memory = true});
    ASSERT_TRUE(tracker.ok()) << tracker.status();
    store_ = std::make_unique<memory::PageStore>(uint64_t{1} << 30);
    Take(**tracker, (*tracker)->Round());
    const GuardSpec spec = SpecWithHidden(source);
    GuardClient client = StartedGuard(spec);
    Expect(client.Arm());
    Expect(client.Freeze());
    const auto owned = (*tracker)->Owned();
    ASSERT_TRUE(owned.ok()) << owned.status();
    std::string hidden;
    for (const memory::TaskPages& object : owned->shared) {
      const uint32_t id = memory::SharedId(object.pid);
      absl::StrAppendFormat(&hidden, "0 %x-%x\n", id, id + 1);
    }
    ASSERT_TRUE(WriteFileDurably(spec.containers[0].hidden, hidden).ok());
    WriteSmaps(source, spec);
    const absl::Time began = absl::Now();
    Expect(client.Dump(source.id(), absl::Seconds(60)));
    std::cout << "dump from the gate on " << absl::Now() - began;
    Take(**tracker, (*tracker)->Last());
    Expect(client.Cede());
    Expect(client.Kill());
    const auto sizes = criu::MeasureImages(source.images());
    ASSERT_TRUE(sizes.ok());
    EXPECT_LT(sizes->pages, 4 << 20) << "only what is private is left";
  }
  // The whole of each object; a sender would leave out what has not changed.
  void Take(const Tracker& tracker, const absl::StatusOr<memory::Look>& look) {
    ASSERT_TRUE(look.ok()) << look.status();
    for (const memory::TaskPages& object : look->shared) {
      for (const memory::Range& range : object.dirty)
        ASSERT_TRUE(store_
                        ->Write(object.pid, range.start,
                                {tracker.SharedMemory(object.pid) + range.start, range.bytes()})
                        .ok());
      ASSERT_TRUE(store_->Keep(object.pid, object.dirty).ok());
    }
  }
  std::string SharedList() const {
    std::string list;
    for (const pid_t key : store_->Objects()) {
      const auto file = store_->HandOver(key);
      EXPECT_TRUE(file.ok()) << file.status();
      if (file.ok()) absl::StrAppend(&list, memory::SharedId(key), " ", file->inode, " ", file->path, "\n");
    }
    return list;
  }
  static std::string Written(const Container& target, const std::string& list) {
    const std::string path = target.work() + "/shared-memory";
    EXPECT_TRUE(WriteFileDurably(path, list).ok());
    return path;
  }
  static void ExpectSound(Container& container) {
    EXPECT_THAT(container.output().text(), HasSubstr("sound"));
    EXPECT_THAT(container.output().text(), Not(HasSubstr("DAMAGED")));
  }

  std::unique_ptr<memory::PageStore> store_;
};

// There, and on to a third, which finds what the second was given to be what it can carry.
TEST_F(SharedMemoryTest, IsTheRestoredTasksOwnAndTheirsAlone) {
  const std::vector<std::string> workload = {"shared", "64"};
  Container first("first", here_, workload);
  first.Start();
  ASSERT_TRUE(first.output().WaitLines(150));
  ASSERT_NO_FATAL_FAILURE(DumpWithoutSharedMemory(first));
  std::unique_ptr<Container> before;
  for (const char* name : {"second", "third"}) {
    SCOPED_TRACE(name);
    Container& source = before == nullptr ? first : *before;
    auto target = std::make_unique<Container>(name, before == nullptr ? there_ : here_, workload);
    ASSERT_EQ(store_->Objects().size(), 1u);
    struct stat held{};
    ASSERT_EQ(fstat(store_->FileOf(store_->Objects()[0])->get(), &held), 0);
    const absl::Time began = absl::Now();
    const absl::Status restored =
        target->Restore(source.images(), "", /*lazy_pages=*/false, Written(*target, SharedList()));
    ASSERT_TRUE(restored.ok()) << restored;
    std::cout << ", restore " << absl::Now() - began << "\n";
    EXPECT_TRUE(target->Frozen());
    store_.reset();  // the object is the tasks' own
    target->Thaw();
    ASSERT_NO_FATAL_FAILURE(ExpectUnbroken(source, *target));
    ExpectSound(*target);
    const auto pids = runtime::ProcessesInCgroup(target->cgroup());
    ASSERT_TRUE(pids.ok());
    for (const pid_t pid : *pids) {
      EXPECT_THAT(*ReadFile(absl::StrCat("/proc/", pid, "/maps")),
                  testing::ContainsRegex(absl::StrCat(" ", held.st_ino, " +/dev/zero \\(deleted\\)")));
      EXPECT_EQ(ListFolder(absl::StrCat("/proc/", pid, "/fd"))->size(), 3u) << "a descriptor is left open";
    }
    if (std::string(name) == "third") break;
    ASSERT_NO_FATAL_FAILURE(DumpWithoutSharedMemory(*target));
    before = std::move(target);
  }
}

TEST_F(SharedMemoryTest, WhatIsNotThereAsItWasEndsTheRestoreAndNothingRuns) {
  const std::vector<std::string> workload = {"shared", "8"};
  Container source("source", here_, workload);
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(150));
  ASSERT_NO_FATAL_FAILURE(DumpWithoutSharedMemory(source));
  const std::string list = SharedList();
  const struct {
    std::string list;
    const char* says;
  } cases[] = {
      {absl::StrCat(list, "99 1 /proc/1/fd/0\n"), "CRIU's restore has not asked for"},
      {absl::StrReplaceAll(list, {{"/fd/", "/fd/9"}}), "cannot open /proc/"},
      {absl::StrReplaceAll(list, {{" /proc", "1 /proc"}}), "not what it was"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.list);
    Container target("target", there_, workload);
    const absl::Status restored =
        target.Restore(source.images(), "", /*lazy_pages=*/false, Written(target, c.list));
    EXPECT_FALSE(restored.ok());
    EXPECT_THAT(std::string(restored.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(restored.message()), Not(HasSubstr("still runs")))
        << "runc or CRIU waits for ever";
    EXPECT_FALSE(target.Running());
  }
}

// The kernel's own text with all but the mappings and what CRIU minds of their flags left out.
std::string Shortened(const std::string& smaps) {
  std::string text;
  for (absl::string_view row : absl::StrSplit(smaps, '\n', absl::SkipEmpty())) {
    if (!memory::IsDetail(row)) absl::StrAppend(&text, row, "\n");
    if (!absl::ConsumePrefix(&row, "VmFlags:") || absl::EndsWith(text, " [vsyscall]\n")) continue;
    std::set<absl::string_view> flags;
    for (absl::string_view flag : absl::StrSplit(row, ' ', absl::SkipEmpty())) {
      if (absl::StrContains("gd pf lo io sr rr dc nr ht wf dd hg nh mg dp ss", flag)) flags.insert(flag);
    }
    absl::StrAppend(&text, "VmFlags: ", absl::StrJoin(flags, " "), "\n");
  }
  return text;
}

TEST_F(MemoryTest, ShortSmapsAreTheKernelsOwnForEveryStoppedProcess) {
  const absl::StatusOr<memory::ShortSmaps> smaps = memory::ShortSmaps::Load();
  ASSERT_TRUE(smaps.ok()) << smaps.status();
  for (const std::vector<std::string>& workload :
       {std::vector<std::string>{"memory", "64"}, {"pair"}, {"guarded"}, {"count"}}) {
    Container source("source", here_, workload);
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(10));
    ASSERT_TRUE(WriteKernelFile(source.cgroup() + "/cgroup.freeze", "1").ok());
    ASSERT_TRUE(runtime::WaitFrozen({source.cgroup()}, absl::Seconds(5)).ok());
    const auto pids = runtime::ProcessesInCgroup(source.cgroup());
    ASSERT_TRUE(pids.ok() && !pids->empty());
    for (const pid_t pid : *pids) {
      const absl::StatusOr<std::string> text = smaps->Read("/proc", pid);
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, Shortened(*ReadFile(absl::StrCat("/proc/", pid, "/smaps")))) << workload[0];
    }
  }
  EXPECT_TRUE(absl::IsNotFound(smaps->Read("/proc", 1 << 22).status()));
}

TEST(VmaIteratorTest, ListsAProcessOfManyMappingsOnceAndComesToAnEnd) {
  const auto iterator = memory::VmaIterator::Load();
  ASSERT_TRUE(iterator.ok()) << iterator.status();
  const uint64_t page = memory::PageBytes();
  for (const uint64_t count : {100u, 600u, 1500u, 6000u}) {
    char* const pages = static_cast<char*>(
        mmap(nullptr, count * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ASSERT_NE(pages, MAP_FAILED);
    for (uint64_t i = 0; i < count; i += 2) ASSERT_EQ(mprotect(pages + i * page, page, PROT_READ), 0);
    const auto mappings = iterator->Read(getpid());
    ASSERT_TRUE(mappings.ok()) << mappings.status();
    const uint64_t start = reinterpret_cast<uint64_t>(pages);
    uint64_t found = 0, end = 0;
    for (const memory::Vma& mapping : *mappings) {
      EXPECT_GE(mapping.range.start, end);
      end = mapping.range.end;
      found += mapping.range.start >= start && mapping.range.end <= start + count * page ? 1 : 0;
    }
    // The last may have been joined to what lies behind it.
    EXPECT_GE(found, count - 1);
    EXPECT_LE(found, count);
    munmap(pages, count * page);
  }
}

TEST_F(MemoryTest, CriuReadsTheSmapsThatItIsGiven) {
  Container source("source", here_, {"count"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(10));
  const GuardSpec spec = SpecWithHidden(source);
  ASSERT_TRUE(WriteFileDurably(spec.containers[0].hidden, "").ok());
  GuardClient client = StartedGuard(spec);
  Expect(client.Freeze());
  WriteSmaps(source, spec);
  ASSERT_TRUE(
      WriteFileDurably(absl::StrCat(spec.containers[0].smaps, "/", source.init_pid()), "1000-2000 broken\n")
          .ok());
  const auto reply = client.Dump(source.id(), absl::Seconds(20));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->reason, "DumpFailed");
  EXPECT_THAT(reply->message, HasSubstr("Can't parse: 1000-2000 broken"));
  EXPECT_TRUE(source.output().WaitLines(source.output().lines().size() + 20));
}

TEST_F(MemoryTest, ABrokenFileOfHiddenPagesFailsTheDumpAndThePodGoesOn) {
  Container source("source", here_, {"count"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(10));
  const char* const texts[] = {"1 2000-1000\n", nullptr};
  for (const char* text : texts) {
    const GuardSpec spec = SpecWithHidden(source);
    unlink(spec.containers[0].hidden.c_str());
    if (text != nullptr) {
      ASSERT_TRUE(WriteFileDurably(spec.containers[0].hidden, text).ok());
    }
    GuardClient client = StartedGuard(spec);
    Expect(client.Freeze());
    const auto reply = client.Dump(source.id(), absl::Seconds(20));
    ASSERT_TRUE(reply.ok()) << reply.status();
    EXPECT_EQ(reply->reason, "DumpFailed");
    EXPECT_THAT(reply->message, HasSubstr(text == nullptr ? "cannot open the file of hidden pages"
                                                          : "the file of hidden pages is broken"));
    EXPECT_THAT(reply->message, HasSubstr(spec.containers[0].hidden));
    EXPECT_TRUE(source.output().WaitLines(source.output().lines().size() + 20));
  }
}

}  // namespace
}  // namespace godwit::node_test
