// SPDX-License-Identifier: Apache-2.0
// What CRIU's part of a freeze grows with when the memory is not its business. The table that it prints is
// where the coefficients of agent/migration/convergence.cc are from; run by hand, with
// --gtest_also_run_disabled_tests.
#include "agent/runtime/weight.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "agent/criu/gate.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/plan.h"
#include "agent/guard/client.h"
#include "agent/memory/short_smaps.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"
#include "tests/node/memory.h"

namespace godwit::node_test {
namespace {

using agent_api::GuardReply;

constexpr int kRuns = 3;

void Expect(const absl::StatusOr<GuardReply>& reply) {
  ASSERT_TRUE(reply.ok()) << reply.status();
  ASSERT_TRUE(reply->ok) << reply->reason << ": " << reply->message;
}

struct Moved {
  agent_api::Weight weight;
  absl::Duration freeze, dump, restore;
};

// One move of a container that runs the workload with these arguments, both sides at their gates.
void Move(const std::vector<std::string>& arguments, Moved& moved) {
  const Sandbox here, there;
  const absl::StatusOr<memory::ShortSmaps> smaps = memory::ShortSmaps::Load();
  Container source("source", here, arguments);
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(10)) << source.output().text();
  moved.weight = runtime::WeighCgroup("/proc", source.cgroup());
  agent_api::GuardSpec spec = SpecFor({&source}, absl::Seconds(60));
  spec.containers[0].hidden = source.work() + "/hidden";
  if (smaps.ok()) spec.containers[0].smaps = source.work() + "/smaps";
  auto guard = guard::StartGuard(spec, {.binary = Node::Get().guard, .spec_file = spec.journal + ".spec"});
  ASSERT_TRUE(guard.ok()) << guard.status();
  Expect(guard->Arm());
  absl::Time began = absl::Now();
  Expect(guard->Freeze());
  moved.freeze = absl::Now() - began;
  const std::vector<TaskMemory> memory = TakeMemory(source.cgroup());
  WriteHidden(spec.containers[0].hidden, memory);
  if (smaps.ok()) {
    ASSERT_TRUE(smaps->Write("/proc", source.cgroup(), spec.containers[0].smaps).ok());
  }

  Container target("target", there, arguments);
  for (const auto& file : std::filesystem::directory_iterator(source.rootfs())) {
    if (file.path().filename().string().starts_with("file-"))
      std::filesystem::copy(file.path(), target.rootfs() + "/" + file.path().filename().string());
  }
  const std::string gate = target.work() + "/gate", images = target.work() + "/images";
  ASSERT_TRUE(criu::MakeGate(gate).ok());
  std::filesystem::create_directory(images);
  std::filesystem::copy(source.images() + "/descriptors.json", images + "/descriptors.json");
  const LazyPages daemon(criu::LazyPagesSocket(target.work()), &memory);
  absl::Status restored;
  std::thread restore([&] { restored = target.Restore(images, gate, /*lazy_pages=*/true); });
  const auto reached = criu::ReachGate(gate, absl::Seconds(20));
  EXPECT_TRUE(reached.ok()) << reached.status();

  began = absl::Now();
  Expect(guard->Dump(source.id(), absl::Seconds(60)));
  moved.dump = absl::Now() - began;
  Expect(guard->Cede());
  std::filesystem::copy(
      source.images(), images,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::skip_existing);
  for (const TaskMemory& task : memory)
    EXPECT_TRUE(criu::AddLazyPages(images, task.container_pid, task.populated).ok());
  began = absl::Now();
  EXPECT_TRUE(reached.ok() && criu::OpenGate(*reached).ok());
  while (!target.Frozen() && absl::Now() < began + absl::Seconds(60)) absl::SleepFor(absl::Microseconds(100));
  moved.restore = absl::Now() - began;
  restore.join();
  ASSERT_TRUE(restored.ok()) << restored;
  Expect(guard->Kill());
}

double Milliseconds(std::vector<absl::Duration> values) {
  std::sort(values.begin(), values.end());
  return absl::ToDoubleMilliseconds(values[values.size() / 2]);
}

TEST(Weight, DISABLED_Measure) {
  absl::PrintF("%-18s %9s %8s %11s %9s %8s %8s %8s\n", "workload", "processes", "threads", "descriptors",
               "mappings", "freeze", "dump", "restore");
  const std::vector<std::vector<std::string>> workloads = {{"count"},
                                                           {"many", "processes", "50"},
                                                           {"many", "processes", "100"},
                                                           {"many", "threads", "100"},
                                                           {"many", "threads", "400"},
                                                           {"many", "files", "500"},
                                                           {"many", "files", "2000"},
                                                           {"many", "pipes", "250"},
                                                           {"many", "pipes", "1000"},
                                                           {"many", "sockets", "500"},
                                                           {"many", "events", "1000"},
                                                           {"many", "mappings", "1000"},
                                                           {"many", "mappings", "10000"}};
  for (const auto& arguments : workloads) {
    std::vector<absl::Duration> freeze, dump, restore;
    Moved moved;
    for (int run = 0; run < kRuns; ++run) {
      Move(arguments, moved);
      if (testing::Test::HasFailure()) return;
      freeze.push_back(moved.freeze);
      dump.push_back(moved.dump);
      restore.push_back(moved.restore);
    }
    const std::string name =
        arguments.size() == 3 ? absl::StrCat(arguments[2], " ", arguments[1]) : arguments[0];
    absl::PrintF("%-18s %9d %8d %11d %9d %8.1f %8.1f %8.1f\n", name, moved.weight.processes,
                 moved.weight.threads, moved.weight.descriptors, moved.weight.mappings, Milliseconds(freeze),
                 Milliseconds(dump), Milliseconds(restore));
  }
}

}  // namespace
}  // namespace godwit::node_test
