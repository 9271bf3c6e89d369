// SPDX-License-Identifier: Apache-2.0
// Checkpoints as the agent takes them, of containers that rewrite their memory all the time: what is in the
// archive is the memory of one moment, CRIU alone brings it back, and the pod's pause does not grow with it.
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "agent/checkpoint/archive.h"
#include "agent/checkpoint/take.h"
#include "agent/files/layer.h"
#include "agent/memory/short_smaps.h"
#include "agent/migration/guard_port.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/node/container.h"

namespace godwit::node_test {
namespace {

using agent_api::CheckpointState;
using agent_api::CheckpointStatus;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kBundles[] = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";
constexpr char kRuncRoots[] = "/run/containerd/runc";

// In milliseconds.
double Ms(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

// The longest time between two lines of a counter, by its own clock.
absl::Duration LongestGap(const std::vector<std::string>& lines, size_t from) {
  long longest = 0, last = 0;
  for (size_t i = from; i < lines.size(); ++i) {
    const long now = atol(std::vector<std::string>(absl::StrSplit(lines[i], ' '))[1].c_str());
    if (last != 0) longest = std::max(longest, now - last);
    last = now;
  }
  return absl::Milliseconds(longest);
}

class CheckpointTest : public testing::Test {
 protected:
  enum class By { kEngine, kCriu };

  CheckpointTest() : folder_(absl::StrCat(Node::Get().work, "/checkpoint-", getpid())) {
    EXPECT_TRUE(MakeFolders(kBundles).ok());
    EXPECT_TRUE(MakeFolders(kRuncRoots).ok());
    EXPECT_TRUE(symlink("/run/runc", absl::StrCat(kRuncRoots, "/k8s.io").c_str()) == 0 || errno == EEXIST);
    node_ = {.host = {},
             .runtime = Node::Get().runc,
             .criu_folder = Node::Get().criu,
             .guards_folder = folder_ + "/guards",
             .memory = migration::RealMemory("/proc", {}),
             .memory_for_pages = [] { return uint64_t{1} << 30; }};
    static const absl::StatusOr<memory::ShortSmaps> smaps = memory::ShortSmaps::Load();
    EXPECT_TRUE(smaps.ok()) << smaps.status();
    node_.write_smaps = [](const std::string& cgroup, const std::string& folder) {
      return smaps->Write("/proc", cgroup, folder);
    };
  }
  ~CheckpointTest() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  CheckpointStatus Take(const std::vector<Container*>& containers, By by = By::kEngine) {
    const std::string uid = absl::StrCat("checkpoint-", ++serial_);
    agent_api::CheckpointSpec spec{.checkpoint = {.uid = uid},
                                   .pod = {.name_space = "shop", .name = "cache-0", .uid = kPodUid},
                                   .freeze_limit = absl::Seconds(60)};
    for (const Container* container : containers) {
      const std::string bundle = absl::StrCat(kBundles, "/", container->id());
      EXPECT_TRUE(symlink(container->bundle().c_str(), bundle.c_str()) == 0 || errno == EEXIST);
      spec.containers.push_back({container->id(), absl::StrCat("containerd://", container->id())});
    }
    checkpoint::Node node = node_;
    if (by == By::kCriu) {
      node.memory.track = [](const std::string&) {
        return absl::FailedPreconditionError("not to be tracked");
      };
    }
    const std::string archives = absl::StrCat(folder_, "/", uid);
    EXPECT_TRUE(MakeFolders(archives).ok());
    const std::atomic<bool> stop = false;
    const absl::Time begin = absl::Now();
    CheckpointStatus status = checkpoint::Take(
        spec, node, migration::RealGuards({.binary = Node::Get().guard}).start, archives, stop);
    took_ = absl::Now() - begin;
    EXPECT_EQ(status.state, CheckpointState::kReady) << status.reason << ": " << status.message;
    EXPECT_EQ(status.fallback.empty(), by == By::kEngine) << status.fallback;
    EXPECT_EQ(ListFolder(archives)->size(), status.archives.size());
    EXPECT_THAT(*ListFolder(node_.guards_folder), testing::IsEmpty());
    for (Container* container : containers) EXPECT_FALSE(container->Frozen());
    return status;
  }

  // Restores the archive as any other images: CRIU reads all of the memory itself.
  void ExpectComesBack(const agent_api::Archive& archive, Container& target, size_t lines) {
    const std::string out = archive.path + ".out";
    const auto parts = checkpoint::ExtractArchive(archive, archive.path, out);
    ASSERT_TRUE(parts.ok()) << parts.status();
    const absl::Status applied = files::Apply(parts->rootfs_diff, target.rootfs(), files::Layout::kOverlay);
    ASSERT_TRUE(applied.ok()) << applied;
    const absl::Status restored = target.Restore(parts->images);
    ASSERT_TRUE(restored.ok()) << restored;
    target.Thaw();
    ASSERT_TRUE(target.output().WaitLines(lines, absl::Seconds(60))) << target.output().text();
    EXPECT_THAT(target.output().text(), HasSubstr("sound"));
    EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
    const std::vector<long> numbers = target.output().numbers();
    for (size_t i = 1; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], numbers[i - 1] + 1);
    ASSERT_TRUE(RemoveTree(out).ok());
  }
  static void ExpectGoesOn(Container& source) {
    const size_t lines = source.output().lines().size();
    ASSERT_TRUE(source.output().WaitLines(lines + 150, absl::Seconds(60))) << source.output().text();
    EXPECT_THAT(source.output().text(), Not(HasSubstr("DAMAGED")));
  }

  // The freeze as it is told, and the gap that the process itself saw.
  struct Pause {
    absl::Duration told, seen;
  };
  Pause MeasurePause(size_t mib, By by) {
    Container source("source", here_, {"rewrite-only", absl::StrCat(mib)});
    source.Start();
    EXPECT_TRUE(source.output().WaitLines(50, absl::Seconds(60)));
    const size_t before = source.output().lines().size();
    const CheckpointStatus status = Take({&source}, by);
    const std::vector<std::string> lines = source.output().lines();
    for (const agent_api::FreezeStep& step : status.steps)
      std::cout << "  " << step.name << " at " << Ms(step.offset) << " for " << Ms(step.duration) << "\n";
    EXPECT_TRUE(RemoveTree(absl::StrCat(folder_, "/checkpoint-", serial_)).ok());
    return {status.freeze, LongestGap(lines, before)};
  }

  const std::string folder_;
  checkpoint::Node node_;
  Sandbox here_, there_;
  int serial_ = 0;
  absl::Duration took_;
};

TEST_F(CheckpointTest, EveryPageComesBackAsItWasAtTheFreeze) {
  Container source("source", here_, {"rewrite", "256"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(50, absl::Seconds(60)));
  const CheckpointStatus status = Take({&source});
  ASSERT_EQ(status.archives.size(), 1u);
  EXPECT_GE(status.memory_bytes, int64_t{256} << 20);
  std::cout << "freeze " << status.freeze << ", in all " << took_ << "\n";
  ExpectGoesOn(source);
  const std::vector<long> before = source.output().numbers();
  Container target("target", there_, {"rewrite", "256"});
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[0], target, 250));
  const long first = target.output().numbers().front();
  EXPECT_GT(first, 50);
  EXPECT_LE(first, before.back());
}

TEST_F(CheckpointTest, WhatCriuDumpsByItselfComesBackToo) {
  Container source("source", here_, {"rewrite", "64"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(50));
  const CheckpointStatus status = Take({&source}, By::kCriu);
  ASSERT_EQ(status.archives.size(), 1u);
  ExpectGoesOn(source);
  Container target("target", there_, {"rewrite", "64"});
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[0], target, 250));
}

// It is in CRIU's images, and no page engine is needed to restore it.
TEST_F(CheckpointTest, MemoryThatProcessesShareIsInTheArchive) {
  Container source("source", here_, {"shared", "64"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(50));
  const CheckpointStatus status = Take({&source});
  ASSERT_EQ(status.archives.size(), 1u);
  ExpectGoesOn(source);
  Container target("target", there_, {"shared", "64"});
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[0], target, 250));
}

TEST_F(CheckpointTest, ContainersOfOnePodComeBackEachWithItsMemory) {
  Container one("one", here_, {"rewrite", "32"}), two("two", here_, {"rewrite", "48"});
  one.Start();
  two.Start();
  ASSERT_TRUE(one.output().WaitLines(50));
  ASSERT_TRUE(two.output().WaitLines(50));
  const CheckpointStatus status = Take({&one, &two});
  ASSERT_EQ(status.archives.size(), 2u);
  ExpectGoesOn(one);
  ExpectGoesOn(two);
  Container one_back("one-back", there_, {"rewrite", "32"}), two_back("two-back", there_, {"rewrite", "48"});
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[0], one_back, 250));
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[1], two_back, 250));
}

// The pod writes, replaces and removes files all the time, and knows in its memory what each holds.
TEST_F(CheckpointTest, FilesAreOfTheSameMomentAsTheMemory) {
  Container source("source", here_, {"files", "3000"});
  source.Start();
  ASSERT_TRUE(source.output().WaitLines(200, absl::Seconds(60)));
  const CheckpointStatus status = Take({&source});
  ASSERT_EQ(status.archives.size(), 1u);
  ExpectGoesOn(source);
  Container target("target", there_, {"files", "3000"});
  ASSERT_NO_FATAL_FAILURE(ExpectComesBack(status.archives[0], target, 250));
}

// The one's child is its fork; guard regions have no page that could be read; and PROT_NONE hides none.
TEST_F(CheckpointTest, ForksGuardRegionsAndProtectedPagesComeBack) {
  const struct {
    const char* workload;
    const char* says;
  } cases[] = {{"pair", "child lives"}, {"guarded", "guarded"}, {"protected", "sound"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.workload);
    Container source("source", here_, {c.workload});
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(20));
    const CheckpointStatus status = Take({&source});
    ASSERT_EQ(status.archives.size(), 1u);
    Container target("target", there_, {c.workload});
    const std::string out = status.archives[0].path + ".out";
    const auto parts = checkpoint::ExtractArchive(status.archives[0], status.archives[0].path, out);
    ASSERT_TRUE(parts.ok()) << parts.status();
    const absl::Status restored = target.Restore(parts->images);
    ASSERT_TRUE(restored.ok()) << restored;
    target.Thaw();
    ASSERT_TRUE(target.output().WaitLines(50)) << target.output().text();
    EXPECT_THAT(target.output().text(), HasSubstr(c.says));
    EXPECT_THAT(target.output().text(), Not(HasSubstr("DAMAGED")));
  }
}

// By CRIU a GiB takes seconds.
TEST_F(CheckpointTest, ThePauseDoesNotGrowWithTheMemory) {
  const Pause small = MeasurePause(64, By::kEngine);
  const Pause large = MeasurePause(1024, By::kEngine);
  const Pause by_criu = MeasurePause(1024, By::kCriu);
  std::cout << "64 MiB: " << small.told << " (seen " << small.seen << "), 1 GiB: " << large.told << " (seen "
            << large.seen << "), 1 GiB by CRIU: " << by_criu.told << " (seen " << by_criu.seen << ")\n";
  EXPECT_LT(large.told, by_criu.told / 3);
  EXPECT_LT(large.told, small.told + absl::Milliseconds(150));
}

// By hand, with --gtest_also_run_disabled_tests.
TEST_F(CheckpointTest, DISABLED_MeasureFiles) {
  for (const char* count : {"100", "20000"}) {
    Container source("source", here_, {"files", count});
    source.Start();
    ASSERT_TRUE(source.output().WaitLines(100, absl::Seconds(120)));
    for (int run = 0; run < 3; ++run) {
      const CheckpointStatus status = Take({&source});
      std::cout << count << " files: freeze " << Ms(status.freeze) << " ms, in all " << Ms(took_) << " ms\n";
      for (const agent_api::FreezeStep& step : status.steps)
        std::cout << "  " << step.name << " at " << Ms(step.offset) << " for " << Ms(step.duration) << "\n";
    }
  }
}

// The same.
TEST_F(CheckpointTest, DISABLED_MeasureContainers) {
  for (const size_t count : {1, 2, 3}) {
    std::vector<std::unique_ptr<Container>> containers;
    std::vector<Container*> all;
    for (size_t i = 0; i < count; ++i) {
      containers.push_back(std::make_unique<Container>(absl::StrCat("c", i), here_,
                                                       std::vector<std::string>{"rewrite-only", "64"}));
      containers.back()->Start();
      ASSERT_TRUE(containers.back()->output().WaitLines(50));
      all.push_back(containers.back().get());
    }
    std::vector<double> freezes;
    for (int run = 0; run < 7; ++run) freezes.push_back(Ms(Take(all).freeze));
    std::sort(freezes.begin(), freezes.end());
    std::cout << count << " containers: freeze median " << freezes[3] << " ms (" << freezes.front() << " to "
              << freezes.back() << ")\n";
  }
}

// The same.
TEST_F(CheckpointTest, DISABLED_Measure) {
  for (const size_t mib : {64, 512, 2048}) {
    for (const By by : {By::kEngine, By::kCriu}) {
      std::vector<double> told, seen, all;
      for (int run = 0; run < 5; ++run) {
        const Pause pause = MeasurePause(mib, by);
        told.push_back(Ms(pause.told));
        seen.push_back(Ms(pause.seen));
        all.push_back(Ms(took_));
      }
      for (auto* values : {&told, &seen, &all}) std::sort(values->begin(), values->end());
      std::cout << mib << " MiB " << (by == By::kEngine ? "by the engine" : "by CRIU") << ": freeze median "
                << told[2] << " ms (" << told.front() << " to " << told.back() << "), seen " << seen[2]
                << " ms (" << seen.front() << " to " << seen.back() << "), in all " << all[2] << " ms\n";
    }
  }
}

}  // namespace
}  // namespace godwit::node_test
