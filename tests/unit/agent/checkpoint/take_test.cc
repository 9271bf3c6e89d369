// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/take.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "agent/checkpoint/archive.h"
#include "agent/checkpoint/checkpoints.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/files/layer.h"
#include "agent/runtime/mounts.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/checkpoint/fake_memory.h"
#include "tests/unit/agent/files/describe.h"

namespace godwit::checkpoint {
namespace {

using agent_api::CheckpointState;
using agent_api::CheckpointStatus;
using agent_api::GuardReply;
using memory::Range;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kUid[] = "0b9f5d1e-1111-4222-8333-444455556666";
constexpr pid_t kPid = 77;  // the container's init; 1 for itself

std::string U32(uint32_t value) { return std::string(reinterpret_cast<const char*>(&value), 4); }
std::string Record(const std::string& payload) {
  return U32(static_cast<uint32_t>(payload.size())) + payload;
}
std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string Field(uint32_t number, uint64_t value) { return Varint(number << 3) + Varint(value); }
std::string Bytes(uint32_t number, const std::string& bytes) {
  return Varint(number << 3 | 2) + Varint(bytes.size()) + bytes;
}

// A node with one pod of one container in a folder. What its guard and CRIU do is behaved.
class TakeTest : public ::testing::Test {
 protected:
  class FakeGuard;

  TakeTest() : folder_(::testing::TempDir() + "take_test." + std::to_string(getpid())) {
    EXPECT_TRUE(RemoveTree(folder_).ok());
    const std::string bundle = "/host/run/containerd/io.containerd.runtime.v2.task/k8s.io/3f2a";
    Put(bundle + "/config.json", R"({"annotations": {"io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-uid": "u1"},
      "root": {"path": "rootfs"},
      "linux": {"cgroupsPath": "/kubepods/podu1/3f2a",
        "namespaces": [{"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "user"}]}})");
    Put(bundle + "/init.pid", "77");
    Put("/proc/77/status", "Name:\tapp\nState:\tS (sleeping)\nPPid:\t1\n");
    Put("/proc/77/task/77/status", "SigPnd:\t0000000000000000\n");
    Put("/proc/77/cgroup", "0::/kubepods/podu1/3f2a\n");
    Put("/host/upper/written", "by the pod");
    Put("/host/sys/fs/cgroup/kubepods/podu1/3f2a/cgroup.procs", "77\n");
    Put("/proc/77/maps", "");
    EXPECT_TRUE(MakeFolders(folder_ + bundle + "/rootfs").ok());
    Put("/proc/1/mountinfo",
        absl::StrCat(
            "25 24 ", runtime::DeviceOf(folder_ + bundle + "/rootfs").value_or("none"),
            " / /rootfs rw,relatime - overlay overlay rw,lowerdir=/lower,upperdir=/upper,workdir=/w\n"));
    EXPECT_EQ(symlink((folder_ + bundle + "/rootfs").c_str(), (folder_ + "/proc/77/root").c_str()), 0);
    EXPECT_TRUE(MakeFolders(Archives()).ok());
    EXPECT_TRUE(MakeFolders(folder_ + "/guards").ok());
    node_.host = {.root = folder_ + "/host", .proc = folder_ + "/proc", .cgroup = "/sys/fs/cgroup"};
    node_.guards_folder = folder_ + "/guards";
    node_.memory.track =
        [this](const std::string&) -> absl::StatusOr<std::unique_ptr<migration::TrackedMemory>> {
      if (!cannot_track_.ok()) return cannot_track_;
      return std::make_unique<FakeTracked>(&world_);
    };
    node_.memory.read = [this](auto... arguments) { return world_.Read(arguments...); };
    node_.memory_for_pages = [] { return uint64_t{1} << 20; };
    start_guard_ = [this](const agent_api::GuardSpec& spec) {
      guard_spec_ = spec;
      return NewGuard();
    };
    spec_.checkpoint = {.name_space = "shop", .name = "keep", .uid = kUid};
    spec_.pod = {.name_space = "shop", .name = "cache-0", .uid = "u1"};
    spec_.containers = {{"app", "containerd://3f2a"}};
    spec_.freeze_limit = absl::Seconds(30);
    spec_.pod_manifest.text = "{}";
    spec_.pod_addresses = {"10.0.0.7"};
    world_.processes[kPid] = {.container_pid = 1};
    for (uint64_t page = 0; page < kMapped; page += 3) world_.Write(kPid, page, 'a');
  }
  ~TakeTest() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  absl::StatusOr<std::unique_ptr<migration::Guard>> NewGuard();
  std::string Archives() const { return absl::StrCat(folder_, "/checkpoints/", kUid); }
  void Put(const std::string& name, const std::string& content) {
    const std::string path = folder_ + name;
    ASSERT_TRUE(MakeFolders(path.substr(0, path.rfind('/'))).ok());
    ASSERT_TRUE(WriteFileDurably(path, content).ok());
  }
  CheckpointStatus Taken() {
    const CheckpointStatus status = Take(spec_, node_, start_guard_, Archives(), stop_);
    EXPECT_EQ(world_.tracked, 0) << "the pod's memory is still tracked";
    EXPECT_THAT(*ListFolder(folder_ + "/guards"), IsEmpty());
    std::vector<std::string> names;
    for (const agent_api::Archive& archive : status.archives)
      names.push_back(archive.path.substr(archive.path.rfind('/') + 1));
    EXPECT_EQ(*ListFolder(Archives()), names) << "nothing but the archives stays";
    return status;
  }
  std::string Events() const { return absl::StrJoin(events_, " "); }

  // What CRIU leaves of the container: one page of its own, in a mapping of a file.
  void WriteImages(const std::string& images) {
    const auto put = [&](const std::string& name, const std::string& content) {
      ASSERT_TRUE(WriteFileDurably(absl::StrCat(images, "/", name), content).ok());
    };
    put("inventory.img", U32(criu::kInventoryMagic) + Record(Field(1, 2)));
    put("pstree.img", U32(criu::kCommonMagic) + U32(criu::kPstreeMagic) + Record(Field(1, 1) + Field(2, 0)));
    put("core-1.img", "x");
    put("descriptors.json", R"(["/dev/null","pipe:[12]","pipe:[13]"])");
    const auto mapping = [](Range range, uint64_t flags) {
      return Bytes(14, Field(1, range.start) + Field(2, range.end) + Field(6, flags) + Field(7, 0x201));
    };
    put("mm-1.img",
        U32(criu::kCommonMagic) + U32(criu::kMmMagic) +
            Record(mapping(Pages(0, kMapped), 0x22) + mapping(Pages(kMapped, kMapped + 9), 0x02)));
    put("pagemap-1.img", criu::RenderPagemap({3, {{Pages(kMapped + 2, kMapped + 3), criu::kPresent}}}));
    put("pages-3.img", std::string(kPage, 'C'));
  }

  // The pages of the archive's only process.
  std::map<uint64_t, char> PagesIn(const agent_api::Archive& archive) {
    const auto parts = ExtractArchive(archive, archive.path, folder_ + "/out");
    EXPECT_TRUE(parts.ok()) << parts.status();
    EXPECT_TRUE(criu::CheckImages(parts->images).ok());
    const auto pagemap = criu::ParsePagemap(*ReadFile(parts->images + "/pagemap-1.img"), "pagemap-1.img");
    EXPECT_TRUE(pagemap.ok()) << pagemap.status();
    const std::string content = *ReadFile(parts->images + "/pages-3.img", size_t{1} << 30);
    std::map<uint64_t, char> pages;
    size_t offset = 0;
    for (const criu::PagemapEntry& entry : pagemap->entries) {
      EXPECT_NE(entry.flags & criu::kPresent, 0u) << "CRIU alone could not restore it";
      EXPECT_EQ(entry.flags & criu::kInParent, 0u);
      for (uint64_t at = entry.range.start; at < entry.range.end; at += kPage, offset += kPage)
        pages[(at - kBase) / kPage] = content.at(offset);
    }
    EXPECT_EQ(offset, content.size());
    EXPECT_TRUE(RemoveTree(folder_ + "/out").ok());
    return pages;
  }

  const std::string folder_;
  Node node_;
  StartGuard start_guard_;
  agent_api::CheckpointSpec spec_;
  World world_;
  absl::Status cannot_track_;
  std::atomic<bool> stop_ = false;
  agent_api::GuardSpec guard_spec_;
  std::vector<std::string> events_;
  std::function<void()> while_arming_, before_freezing_, while_dumping_, thawing_;
  GuardReply thawed_{.ok = true, .reason = "Thawed", .frozen_for = absl::Milliseconds(50)};
  bool frozen_ = false;
};

class TakeTest::FakeGuard final : public migration::Guard {
 public:
  explicit FakeGuard(TakeTest* test) : test_(*test) {}
  ~FakeGuard() override { EXPECT_FALSE(test_.frozen_) << "the pod is left frozen"; }
  absl::StatusOr<GuardReply> Arm() override {
    test_.events_.push_back("arm");
    if (test_.while_arming_) test_.while_arming_();
    return GuardReply{.ok = true};
  }
  absl::StatusOr<GuardReply> Freeze() override {
    test_.events_.push_back("freeze");
    if (test_.before_freezing_) test_.before_freezing_();
    test_.frozen_ = true;
    test_.world_.while_reading = nullptr;
    return GuardReply{.ok = true, .frozen_at = absl::FromUnixSeconds(1'700'000'000)};
  }
  absl::StatusOr<GuardReply> Dump(const std::string& container, absl::Duration) override {
    test_.events_.push_back("dump");
    const agent_api::GuardContainer& spec = test_.guard_spec_.containers.at(0);
    EXPECT_EQ(spec.name, container);
    if (!spec.hidden.empty()) {
      EXPECT_EQ(*ReadFile(spec.hidden), "77 7f0000000000-7f0000fa0000\n");
    }
    test_.WriteImages(spec.images);
    if (test_.while_dumping_) test_.while_dumping_();
    return GuardReply{.ok = true};
  }
  absl::StatusOr<GuardReply> Thaw(const std::string&) override {
    test_.events_.push_back("thaw");
    test_.frozen_ = false;
    if (test_.thawing_) test_.thawing_();
    return test_.thawed_;
  }
  absl::StatusOr<GuardReply> Cede() override { return absl::InternalError("a checkpoint cedes nothing"); }
  absl::StatusOr<GuardReply> TargetAborted(const std::string&) override { return Cede(); }
  absl::StatusOr<GuardReply> Kill() override { return Cede(); }
  absl::StatusOr<GuardReply> Status() override { return GuardReply{.ok = true}; }
  bool Ended() override { return false; }
  void Shutdown() override {}

 private:
  TakeTest& test_;
};

absl::StatusOr<std::unique_ptr<migration::Guard>> TakeTest::NewGuard() {
  return std::make_unique<FakeGuard>(this);
}

TEST_F(TakeTest, TheArchiveHoldsEveryPageAsItWasAtTheFreeze) {
  int reads = 0;
  world_.while_reading = [&] {
    if (++reads % 2 == 0) world_.Write(kPid, static_cast<uint64_t>(reads * 7) % kMapped, 'b');
    if (reads % 5 == 0) world_.Drop(kPid, static_cast<uint64_t>(reads * 3) % kMapped);
  };
  while_arming_ = [&] {
    for (uint64_t page = 100; page < 200; ++page) world_.Write(kPid, page, 'c');
  };
  std::map<uint64_t, char> at_the_freeze;
  while_dumping_ = [&] { at_the_freeze = world_.processes[kPid].pages; };
  const CheckpointStatus status = Taken();
  ASSERT_EQ(status.state, CheckpointState::kReady) << status.reason << ": " << status.message;
  EXPECT_EQ(status.fallback, "");
  EXPECT_EQ(status.freeze, absl::Milliseconds(50));
  EXPECT_EQ(status.frozen_at, absl::FromUnixSeconds(1'700'000'000));
  EXPECT_EQ(Events(), "arm freeze dump thaw");
  at_the_freeze[kMapped + 2] = 'C';
  std::erase_if(at_the_freeze, [](const auto& page) { return page.second == '\0'; });
  ASSERT_EQ(status.archives.size(), 1u);
  EXPECT_EQ(PagesIn(status.archives[0]), at_the_freeze);
  EXPECT_EQ(status.memory_bytes, static_cast<int64_t>(at_the_freeze.size() * kPage));
}

TEST_F(TakeTest, TheArchiveHoldsTheFilesAsTheyWereAtTheFreeze) {
  const std::string upper = folder_ + "/host/upper";
  const std::string cache = "/host/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/cache";
  Put("/host/run/containerd/io.containerd.runtime.v2.task/k8s.io/3f2a/config.json",
      R"({"annotations": {"io.kubernetes.cri.container-type": "container",
      "io.kubernetes.cri.container-name": "app", "io.kubernetes.cri.sandbox-uid": "u1"},
      "mounts": [{"destination": "/cache", "type": "bind",
        "source": "/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/cache"}],
      "root": {"path": "rootfs"},
      "linux": {"cgroupsPath": "/kubepods/podu1/3f2a",
        "namespaces": [{"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "user"}]}})");
  spec_.empty_dirs = {"cache"};
  for (const char* name : {"kept", "gone", "old", "grows", "folder/inner"})
    Put(absl::StrCat("/host/upper/", name), name);
  Put(cache + "/entry", "first");
  while_arming_ = [&] {
    Put("/host/upper/written", "while it was armed");
    ASSERT_EQ(rename((upper + "/old").c_str(), (upper + "/folder/new").c_str()), 0);
    Put(cache + "/entry", "second");
  };
  before_freezing_ = [&] {
    ASSERT_EQ(unlink((upper + "/gone").c_str()), 0);
    Put("/host/upper/grows", "grows and grows");
    ASSERT_EQ(link((upper + "/grows").c_str(), (upper + "/also").c_str()), 0);
    Put(cache + "/entry", "third");
  };
  std::string layer, volume;
  while_dumping_ = [&] {
    layer = files::Describe(upper);
    volume = files::Describe(folder_ + cache);
  };
  thawing_ = [&] {
    for (const char* name : {"written", "kept", "grows"}) Put(absl::StrCat("/host/upper/", name), "later");
    Put(cache + "/entry", "later");
  };
  const CheckpointStatus status = Taken();
  ASSERT_EQ(status.state, CheckpointState::kReady) << status.reason << ": " << status.message;
  const auto parts = ExtractArchive(status.archives.at(0), status.archives[0].path, folder_ + "/out");
  ASSERT_TRUE(parts.ok()) << parts.status();
  for (const auto& [tar, expected] :
       {std::pair(parts->rootfs_diff, layer), std::pair(parts->volumes.at("cache"), volume)}) {
    const std::string back = folder_ + "/back";
    ASSERT_TRUE(MakeFolders(back).ok());
    const absl::Status applied = files::Apply(tar, back, files::Layout::kOverlay);
    ASSERT_TRUE(applied.ok()) << applied;
    EXPECT_EQ(files::Describe(back), expected);
    ASSERT_TRUE(RemoveTree(back).ok());
  }
}

TEST_F(TakeTest, AFileThatCannotBeTakenAlongIsToldWithoutAFreeze) {
  ASSERT_EQ(mknod((folder_ + "/host/upper/device").c_str(), S_IFCHR | 0600, makedev(1, 3)), 0);
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.state, CheckpointState::kFailed);
  EXPECT_EQ(status.reason, "FilesNotReadable");
  EXPECT_THAT(status.message, HasSubstr("device"));
  EXPECT_EQ(Events(), "");
}

TEST_F(TakeTest, TheGuardIsToldWhatItNeedsForAShortFreeze) {
  ASSERT_EQ(Taken().state, CheckpointState::kReady);
  EXPECT_THAT(guard_spec_.addresses, ElementsAre("10.0.0.7"));
  EXPECT_EQ(guard_spec_.containers.at(0).hidden, absl::StrCat(folder_, "/guards/", kUid, "/hidden-app"));
}

class NamedTakeTest : public TakeTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Names, NamedTakeTest, ::testing::Values("pages", "journal", "containers"));

TEST_P(NamedTakeTest, AContainerMayBeCalledAsTheFilesOfTheCheckpoint) {
  while_arming_ = [this] { EXPECT_TRUE(WriteFileDurably(guard_spec_.journal, "").ok()); };
  spec_.containers = {{GetParam(), "containerd://3f2a"}};
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.state, CheckpointState::kReady) << status.message;
}

TEST_F(TakeTest, TheStepsOfTheFreezeAreTold) {
  std::vector<std::string> names;
  for (const agent_api::FreezeStep& step : Taken().steps) names.push_back(step.name);
  std::sort(names.begin(), names.end());
  EXPECT_THAT(names, ElementsAre("dump", "files", "freeze", "hide", "pages"));
}

TEST_F(TakeTest, WhatCannotBeTrackedIsDumpedByCriuAndTheReasonIsTold) {
  for (const absl::Status& why : {absl::FailedPreconditionError("kernel 6.1 has no PAGEMAP_SCAN"),
                                  absl::DeadlineExceededError("thread 12 waits for a disk")}) {
    cannot_track_ = why;
    const CheckpointStatus status = Taken();
    ASSERT_EQ(status.state, CheckpointState::kReady) << status.message;
    EXPECT_EQ(status.fallback, absl::StrCat("container app: ", why.message()));
    EXPECT_EQ(guard_spec_.containers.at(0).hidden, "");
    EXPECT_EQ(PagesIn(status.archives[0]), (std::map<uint64_t, char>{{kMapped + 2, 'C'}}));
    ASSERT_TRUE(RemoveTree(status.archives[0].path).ok());
  }
}

TEST_F(TakeTest, MemoryThatIsPinnedWhileItIsCopiedIsDumpedByCriu) {
  world_.while_reading = [this] { world_.pinned = {{"process 1 (db) uses io_uring"}}; };
  const CheckpointStatus status = Taken();
  ASSERT_EQ(status.state, CheckpointState::kReady) << status.message;
  EXPECT_THAT(status.fallback, HasSubstr("io_uring"));
  EXPECT_EQ(guard_spec_.containers.at(0).hidden, "");
}

TEST_F(TakeTest, MemoryThatIsPinnedAtLastFailsIt) {
  while_arming_ = [this] { world_.pinned = {{"process 1 (db) uses io_uring"}}; };
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.state, CheckpointState::kFailed);
  EXPECT_EQ(status.reason, "CopyFailed");
  EXPECT_THAT(status.message, HasSubstr("io_uring"));
  EXPECT_EQ(Events(), "arm thaw") << "before the freeze";
}

TEST_F(TakeTest, APodThatThawedByItselfHasNoArchive) {
  thawed_ = {
      .ok = true, .reason = "FreezeLimit", .message = "the pod was frozen for its limit of 30s and goes on"};
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.state, CheckpointState::kFailed);
  EXPECT_EQ(status.reason, "FreezeLimit");
  EXPECT_THAT(status.message, HasSubstr("limit of 30s"));
}

TEST_F(TakeTest, AStopIsHeardBeforeTheFreeze) {
  world_.while_reading = [this] { stop_ = true; };
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.state, CheckpointState::kFailed);
  EXPECT_EQ(status.reason, "Stopped");
  EXPECT_EQ(Events(), "");
}

TEST_F(TakeTest, AStopWhileTheGuardIsReadyLetsItGo) {
  while_arming_ = [this] {
    world_.Write(kPid, 1, 'b');
    stop_ = true;
  };
  EXPECT_EQ(Taken().reason, "Stopped");
  EXPECT_EQ(Events(), "arm thaw");
}

TEST_F(TakeTest, AStopAfterTheFreezeLeavesNoArchive) {
  while_dumping_ = [this] { stop_ = true; };
  EXPECT_EQ(Taken().reason, "Stopped");
}

TEST_F(TakeTest, ADiskWithoutRoomIsToldWithNumbers) {
  // 100 000 processes, of each all that it has mapped was written: 1.5 TiB.
  node_.memory.track = [](const std::string&) -> absl::StatusOr<std::unique_ptr<migration::TrackedMemory>> {
    class Huge final : public migration::TrackedMemory {
     public:
      absl::StatusOr<memory::Look> Round() override {
        memory::Look look;
        for (pid_t pid = 1; pid <= 100'000; ++pid)
          look.tasks.push_back({.pid = pid, .container_pid = pid, .dirty = {Pages(0, kMapped)}});
        return look;
      }
      absl::StatusOr<memory::Look> Owned() override { return Round(); }
      absl::StatusOr<memory::Look> Last() override { return Round(); }
      const char* SharedMemory(pid_t) const override { return nullptr; }
      std::vector<memory::Pinned> FindPinned() const override { return {}; }
    };
    return std::make_unique<Huge>();
  };
  const CheckpointStatus status = Taken();
  EXPECT_EQ(status.reason, "NoSpace");
  EXPECT_THAT(status.message, HasSubstr("the pod's memory takes 15625"));
  EXPECT_EQ(Events(), "");
}

TEST_F(TakeTest, DeletingACheckpointThatIsBeingTakenEndsIt) {
  absl::Notification reading;
  world_.while_reading = [&] {
    if (!reading.HasBeenNotified()) reading.Notify();
    absl::SleepFor(absl::Milliseconds(20));  // as a slow disk: a round takes a second
  };
  std::atomic<int> finished = 0;
  auto checkpoints =
      Checkpoints::Open(folder_ + "/checkpoints", node_, start_guard_, [&](const CheckpointStatus& status) {
        EXPECT_EQ(status.reason, "Stopped");
        ++finished;
      });
  ASSERT_TRUE(checkpoints.ok()) << checkpoints.status();
  ASSERT_TRUE((*checkpoints)->Take(spec_).ok());
  reading.WaitForNotification();
  EXPECT_TRUE((*checkpoints)->Remove(kUid).ok());
  EXPECT_EQ(finished, 1);
  EXPECT_FALSE(FileExists(Archives()));
  EXPECT_EQ((*checkpoints)->Get(kUid).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TakeTest, ACheckpointThatIsBeingTakenIsDeletedOnceByManyWhoAsk) {
  absl::Notification reading;
  world_.while_reading = [&] {
    if (!reading.HasBeenNotified()) reading.Notify();
    absl::SleepFor(absl::Milliseconds(20));
  };
  auto checkpoints =
      Checkpoints::Open(folder_ + "/checkpoints", node_, start_guard_, [](const CheckpointStatus&) {});
  ASSERT_TRUE(checkpoints.ok()) << checkpoints.status();
  ASSERT_TRUE((*checkpoints)->Take(spec_).ok());
  reading.WaitForNotification();
  std::vector<std::thread> askers;
  for (int i = 0; i < 4; ++i) askers.emplace_back([&] { EXPECT_TRUE((*checkpoints)->Remove(kUid).ok()); });
  for (std::thread& asker : askers) asker.join();
  EXPECT_FALSE(FileExists(Archives()));
  EXPECT_EQ((*checkpoints)->Get(kUid).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(TakeTest, WhatAnAgentThatDiedHasLeftGoes) {
  Put(absl::StrCat("/checkpoints/", kUid, "/spec.json"), json::Encode(spec_));
  Put(absl::StrCat("/checkpoints/", kUid, "/work/containers/app/images/pages-1.img"), "p");
  Put(absl::StrCat("/checkpoints/", kUid, "/checkpoint-cache-0_shop-app.tar"), "half of it");
  Put(absl::StrCat("/guards/", kUid, "/hidden-app"), "77 1000-2000\n");
  auto checkpoints = Checkpoints::Open(folder_ + "/checkpoints", node_, start_guard_, nullptr);
  ASSERT_TRUE(checkpoints.ok()) << checkpoints.status();
  EXPECT_EQ((*checkpoints)->Get(kUid)->reason, "AgentRestarted");
  EXPECT_THAT(*ListFolder(Archives()), ElementsAre("spec.json", "status.json"));
  EXPECT_THAT(*ListFolder(folder_ + "/guards"), IsEmpty());
}

}  // namespace
}  // namespace godwit::checkpoint
