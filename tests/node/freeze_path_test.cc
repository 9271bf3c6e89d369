// SPDX-License-Identifier: Apache-2.0
// How long a pod stands still for CRIU's sake: both sides held at their gates, the memory left to the page
// engine. Prints medians; run by hand, with --gtest_also_run_disabled_tests.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "agent/criu/gate.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/plan.h"
#include "agent/guard/client.h"
#include "agent/memory/page_store.h"
#include "agent/memory/shared_key.h"
#include "agent/memory/short_smaps.h"
#include "agent/memory/tracker.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"
#include "tests/node/memory.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;

constexpr int kRuns = 10;

// In milliseconds.
class Samples {
 public:
  explicit Samples(const char* name) : name_(name) {}
  ~Samples() {
    std::sort(values_.begin(), values_.end());
    if (values_.empty()) return;
    std::cout << name_ << ": median " << values_[values_.size() / 2] << " ms, " << values_.front() << " to "
              << values_.back() << "\n";
  }
  void Add(absl::Duration value) { values_.push_back(absl::ToDoubleMilliseconds(value)); }

 private:
  const char* const name_;
  std::vector<double> values_;
};

absl::Time WrittenAt(const std::string& path) {
  struct stat status{};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return absl::TimeFromTimespec(status.st_mtim);
}

void Expect(const absl::StatusOr<GuardReply>& reply) {
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
}

TEST(FreezePath, DISABLED_Measure) {
  Samples freeze("freeze"), inventory("dump: gate to inventory.img"),
      dump("dump: gate to the guard's answer"), lazy("lazy pages"),
      standing("restore: gate to standing frozen"), runc("restore: gate to runc's end");
  const Sandbox here, there;
  for (int run = 0; run < kRuns; ++run) {
    Container source("source", here, {"memory", "64"});
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(10));
    agent_api::GuardSpec spec = SpecFor({&source});
    spec.addresses = {"192.0.2.1"};
    spec.containers[0].hidden = source.work() + "/hidden";
    auto guard = guard::StartGuard(spec, {.binary = Node::Get().guard, .spec_file = spec.journal + ".spec"});
    ASSERT_TRUE(guard.ok()) << guard.status();
    Expect(guard->Arm());
    absl::Time began = absl::Now();
    Expect(guard->Freeze());
    freeze.Add(absl::Now() - began);
    const std::vector<TaskMemory> memory = TakeMemory(source.cgroup());
    WriteHidden(spec.containers[0].hidden, memory);

    // The target's create waits by now.
    Container target("target", there, {"memory", "64"});
    const std::string gate = target.work() + "/gate", images = target.work() + "/images";
    ASSERT_TRUE(criu::MakeGate(gate).ok());
    std::filesystem::create_directory(images);
    std::filesystem::copy(source.images() + "/descriptors.json", images + "/descriptors.json");
    const LazyPages daemon(criu::LazyPagesSocket(target.work()), &memory);
    absl::Status restored;
    absl::Time ended;
    std::thread restore([&] {
      restored = target.Restore(images, gate, /*lazy_pages=*/true);
      ended = absl::Now();
    });
    const auto reached = criu::ReachGate(gate, absl::Seconds(20));
    EXPECT_TRUE(reached.ok()) << reached.status();

    began = absl::Now();
    Expect(guard->Dump(source.id(), absl::Seconds(20)));
    dump.Add(absl::Now() - began);
    inventory.Add(WrittenAt(source.images() + "/inventory.img") - began);
    Expect(guard->Cede());
    std::filesystem::copy(
        source.images(), images,
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::skip_existing);
    began = absl::Now();
    EXPECT_TRUE(criu::AddLazyPages(images, memory[0].container_pid, memory[0].populated).ok());
    lazy.Add(absl::Now() - began);

    began = absl::Now();
    EXPECT_TRUE(reached.ok() && criu::OpenGate(*reached).ok());
    while (!target.Frozen() && absl::Now() < began + absl::Seconds(10))
      absl::SleepFor(absl::Microseconds(100));
    standing.Add(absl::Now() - began);
    restore.join();
    ASSERT_TRUE(restored.ok()) << restored;
    runc.Add(ended - began);
    Expect(guard->Kill());
  }
}

// A store that has all of it, as after a pre-copy, and what CRIU and its restore are told of it.
struct SharedState {
  memory::PageStore store{uint64_t{4} << 30};
  std::string hidden, list;

  void Take(const memory::Tracker& tracker, const memory::Look& look) {
    for (const memory::TaskPages& object : look.shared) {
      for (const memory::Range& range : object.dirty)
        EXPECT_TRUE(store
                        .Write(object.pid, range.start,
                               {tracker.SharedMemory(object.pid) + range.start, range.bytes()})
                        .ok());
      const uint32_t id = memory::SharedId(object.pid);
      hidden = absl::StrFormat("0 %x-%x\n", id, id + 1);
      const auto file = store.HandOver(object.pid);
      EXPECT_TRUE(file.ok()) << file.status();
      list = absl::StrFormat("%d %d %s\n", id, file->inode, file->path);
    }
  }
};

// The same for two processes that share 1 GiB, three quarters of it written, which CRIU moves, or the engine.
// What the sender needs to compare it is not in here: 90 ms a GiB beside the dump, by one processor.
void MeasureSharedMemory(bool by_engine, int runs) {
  Samples dump("dump: gate to the guard's answer"), last("last look, beside it"),
      standing("restore: gate to standing frozen");
  const Sandbox here, there;
  const absl::StatusOr<memory::ShortSmaps> smaps = memory::ShortSmaps::Load();
  ASSERT_TRUE(smaps.ok()) << smaps.status();
  for (int run = 0; run < runs; ++run) {
    Container source("source", here, {"shared", "1024"});
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(10));
    auto tracker = memory::Tracker::Attach("/proc", source.cgroup(), {.shared_memory = true});
    ASSERT_TRUE(tracker.ok()) << tracker.status();
    agent_api::GuardSpec spec = SpecFor({&source}, absl::Seconds(60));
    spec.containers[0].hidden = source.work() + "/hidden";
    spec.containers[0].smaps = source.work() + "/smaps";
    auto guard = guard::StartGuard(spec, {.binary = Node::Get().guard, .spec_file = spec.journal + ".spec"});
    ASSERT_TRUE(guard.ok()) << guard.status();
    Expect(guard->Arm());
    SharedState shared;
    const auto round = (*tracker)->Round();
    ASSERT_TRUE(round.ok()) << round.status();
    Expect(guard->Freeze());
    shared.Take(**tracker, *round);  // as if all had gone over before
    const std::vector<TaskMemory> memory = TakeMemory(source.cgroup());
    WriteHidden(spec.containers[0].hidden, memory);
    ASSERT_TRUE(smaps->Write("/proc", source.cgroup(), spec.containers[0].smaps).ok());
    if (by_engine) {
      ASSERT_TRUE(
          WriteFileDurably(spec.containers[0].hidden, shared.hidden + *ReadFile(spec.containers[0].hidden))
              .ok());
    }
    Container target("target", there, {"shared", "1024"});
    const std::string gate = target.work() + "/gate", images = target.work() + "/images",
                      list = target.work() + "/shared-memory";
    ASSERT_TRUE(criu::MakeGate(gate).ok());
    ASSERT_TRUE(WriteFileDurably(list, by_engine ? shared.list : "").ok());
    std::filesystem::create_directory(images);
    std::filesystem::copy(source.images() + "/descriptors.json", images + "/descriptors.json");
    const LazyPages daemon(criu::LazyPagesSocket(target.work()), &memory);
    absl::Status restored;
    std::thread restore([&] { restored = target.Restore(images, gate, /*lazy_pages=*/true, list); });
    const auto reached = criu::ReachGate(gate, absl::Seconds(20));
    EXPECT_TRUE(reached.ok()) << reached.status();

    absl::Time began = absl::Now();
    Expect(guard->Dump(source.id(), absl::Seconds(60)));
    dump.Add(absl::Now() - began);
    const auto look = (*tracker)->Last();
    EXPECT_TRUE(look.ok()) << look.status();
    last.Add(look->took);
    Expect(guard->Cede());
    std::filesystem::copy(
        source.images(), images,
        std::filesystem::copy_options::recursive | std::filesystem::copy_options::skip_existing);
    for (const TaskMemory& task : memory)
      EXPECT_TRUE(criu::AddLazyPages(images, task.container_pid, task.populated).ok());

    began = absl::Now();
    EXPECT_TRUE(reached.ok() && criu::OpenGate(*reached).ok());
    while (!target.Frozen() && absl::Now() < began + absl::Seconds(60))
      absl::SleepFor(absl::Microseconds(100));
    standing.Add(absl::Now() - began);
    restore.join();
    ASSERT_TRUE(restored.ok()) << restored;
    Expect(guard->Kill());
  }
}

TEST(FreezePath, DISABLED_MeasureSharedMemoryByCriu) { MeasureSharedMemory(/*by_engine=*/false, 3); }
TEST(FreezePath, DISABLED_MeasureSharedMemoryByTheEngine) { MeasureSharedMemory(/*by_engine=*/true, kRuns); }

}  // namespace
}  // namespace godwit::node_test
