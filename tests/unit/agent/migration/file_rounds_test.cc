// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/file_rounds.h"

#include <algorithm>
#include <map>
#include <memory>
#include <thread>

#include "agent/transfer/file_receiver.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::migration {
namespace {

using testing::ElementsAre;
using testing::Pair;
using transfer::FileSender;

constexpr char kPodUid[] = "7c9f5d1e-1111-4222-8333-444455556666";

// A pod of two containers and an emptyDir on one node; on the other, in a folder that is its root, what
// arrives.
class FileRoundsTest : public testing::Test {
 protected:
  FileRoundsTest() : folder_(tls::TestFolder()) {
    host_.root = folder_ + "/host";
    for (const char* path :
         {"/app", "/side", "/cache", "/received", "/host/run/app/rootfs", "/host/run/side/rootfs"})
      EXPECT_TRUE(MakeFolders(folder_ + path).ok());
    const std::string kubelet = absl::StrCat("/kubelet/pods/", kPodUid);
    EXPECT_TRUE(
        MakeFolders(absl::StrCat(host_.root, kubelet, "/volumes/kubernetes.io~empty-dir/cache")).ok());
    for (const char* name : {"app", "side"}) {
      pod_.parts.push_back({.container = {.name = name}, .writable_layer = absl::StrCat(folder_, "/", name)});
      Put(absl::StrCat("host/run/", name, "/config.json"),
          absl::StrCat(R"({"root":{"path":"rootfs"},"mounts":[{"source":")", kubelet, R"(/hosts"}]})"));
    }
    pod_.volumes["cache"] = folder_ + "/cache";
    for (const char* name : {"app", "side"})
      senders_.push_back(std::make_unique<FileSender>(*streams_.a, name, transfer::Soon()));
  }
  void Put(const std::string& path, const std::string& content) {
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/", path), content).ok()) << path;
  }
  std::string Arrived(const std::string& container, const std::string& file) const {
    return *ReadFile(absl::StrCat(host_.root, "/run/", container, "/rootfs/", file));
  }
  std::string CacheFolder() const {
    return absl::StrCat(host_.root, "/kubelet/pods/", kPodUid, "/volumes/kubernetes.io~empty-dir/cache");
  }
  FileRounds Files() {
    return FileRounds(
        pod_,
        [this](const std::string& path, files::Layout layout, const files::Pass& pass, int round,
               files::Snapshot& snapshot, const files::Sink& sink) {
          passes_.push_back({round, pass.last, pass.mapped.any});
          return (round == 0 ? files::PackBase : files::PackChanges)(path, layout, pass, snapshot, sink);
        },
        [](const PodOnNode&) { return files::MappedFiles{.any = true}; });
  }
  // One round of all containers, and its end once it is the last.
  FileRounds::Sent Round(FileRounds& files, bool last) {
    EXPECT_TRUE(files.Begin(last).ok());
    FileRounds::Sent all;
    for (size_t i = 0; i < senders_.size(); ++i) {
      const absl::StatusOr<FileRounds::Sent> sent = files.Send(i, *senders_[i]);
      EXPECT_TRUE(sent.ok()) << sent.status();
      all.entries += sent->entries;
      all.bytes += sent->bytes;
      EXPECT_TRUE(!last || senders_[i]->End().ok());
    }
    return all;
  }
  // Takes frames until `enough`.
  void Receive(const std::function<bool()>& enough) {
    while (!enough()) {
      absl::StatusOr<transfer::Frame> frame = streams_.b->Receive(transfer::Soon());
      ASSERT_TRUE(frame.ok()) << frame.status();
      const absl::Status taken = receiver_->Take(*frame);
      ASSERT_TRUE(taken.ok()) << taken;
    }
  }
  // What has come for a container so far, without the volumes where another brings them.
  FilesToApply Come(const std::string& container) {
    FilesToApply files;
    auto full = [this](const std::vector<std::string>& tars) {
      TarSequence sequence;
      for (const std::string& tar : tars) sequence.paths.push_back(absl::StrCat(folder_, "/received/", tar));
      return sequence;
    };
    files.rootfs = full(receiver_->rootfs(container));
    if (container == "app") {
      for (const auto& [volume, tars] : receiver_->volumes()) files.volumes[volume] = full(tars);
    }
    return files;
  }
  void Apply(const std::string& container, const FilesToApply& files) {
    const absl::Status status =
        ApplyFiles(host_, {.container = container, .bundle = "/run/" + container}, kPodUid, files);
    ASSERT_TRUE(status.ok()) << status;
  }

  const std::string folder_;
  runtime::HostView host_;
  PodOnNode pod_;
  transfer::StreamPair streams_;
  std::vector<std::unique_ptr<FileSender>> senders_;
  std::unique_ptr<transfer::FileReceiver> receiver_ = std::make_unique<transfer::FileReceiver>(
      transfer::ReceiveRules{.folder = folder_ + "/received",
                             .containers = {"app", "side"},
                             .kinds = {transfer::FileKind::kRootfs, transfer::FileKind::kVolume},
                             .max_bytes = 64 << 20});
  struct PassSeen {
    int round;
    bool last;
    bool mapped;
    bool operator==(const PassSeen&) const = default;
  };
  std::vector<PassSeen> passes_;
};

TEST_F(FileRoundsTest, RoundsArriveAndAreAppliedAsTheyCome) {
  FileRounds files = Files();
  Put("app/kept", "kept");
  Put("app/large", std::string(1 << 20, 'l'));
  Put("app/removed", "removed");
  Put("side/file", "one");
  Put("cache/.wh.entry", "one");
  Round(files, false);
  Receive([this] { return receiver_->rootfs("side").size() == 1; });
  FilesToApply app = Come("app");
  FilesToApply side = Come("side");
  Apply("app", app);
  Apply("side", side);
  EXPECT_EQ(Arrived("app", "removed"), "removed");
  EXPECT_EQ(*ReadFile(CacheFolder() + "/.wh.entry"), "one");

  Put("app/new", "new");
  Put("app/large", std::string(1 << 20, 'l') + "end");
  ASSERT_TRUE(RemoveTree(folder_ + "/app/removed").ok());
  Put("side/file", "two");
  Round(files, false);
  Put("cache/.wh.entry", "two");
  Round(files, true);
  EXPECT_EQ(files.rounds(), 3);
  Receive([this] { return receiver_->complete().size() == 2; });

  FilesToApply rest = Come("app");
  EXPECT_EQ(rest.rootfs.paths.size(), 3u);
  rest.rootfs.applied = app.rootfs.paths.size();
  rest.volumes["cache"].applied = app.volumes["cache"].paths.size();
  Apply("app", rest);
  rest = Come("side");
  rest.rootfs.applied = side.rootfs.paths.size();
  Apply("side", rest);
  EXPECT_EQ(Arrived("app", "kept"), "kept");
  EXPECT_EQ(Arrived("app", "new"), "new");
  EXPECT_EQ(Arrived("app", "large"), std::string(1 << 20, 'l') + "end");
  EXPECT_FALSE(FileExists(host_.root + "/run/app/rootfs/removed"));
  EXPECT_EQ(Arrived("side", "file"), "two");
  EXPECT_EQ(*ReadFile(CacheFolder() + "/.wh.entry"), "two");
}

TEST_F(FileRoundsTest, AContainerThatIsCreatedAnewGetsAllRounds) {
  FileRounds files = Files();
  Put("app/file", "one");
  Put("app/removed", "removed");
  Round(files, false);
  Put("app/file", "two");
  ASSERT_TRUE(RemoveTree(folder_ + "/app/removed").ok());
  Round(files, true);
  Receive([this] { return receiver_->complete().size() == 2; });
  for (int i = 0; i < 2; ++i) {
    Apply("app", Come("app"));
    EXPECT_EQ(Arrived("app", "file"), "two");
    EXPECT_FALSE(FileExists(host_.root + "/run/app/rootfs/removed"));
  }
}

TEST_F(FileRoundsTest, AStopAndCopyIsTheLastRoundAlone) {
  FileRounds files = Files();
  Put("app/file", "content");
  EXPECT_EQ(Round(files, true).entries, 4) << "three folders and a file";
  Receive([this] { return receiver_->complete().size() == 2; });
  EXPECT_THAT(receiver_->rootfs("app"), ElementsAre("containers/app/rootfs-0.tar"));
  EXPECT_THAT(receiver_->volumes(), ElementsAre(Pair("cache", ElementsAre("volumes/cache-0.tar"))));
  const PassSeen only{.round = 0, .last = true, .mapped = false};
  EXPECT_THAT(passes_, ElementsAre(only, only, only));
}

TEST_F(FileRoundsTest, WhatCannotBePackedEndsTheRoundWithItsReason) {
  pod_.parts[0].writable_layer = folder_ + "/none";
  FileRounds files = Files();
  ASSERT_TRUE(files.Begin(true).ok());
  const absl::Status status = files.Send(0, *senders_[0]).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
}

}  // namespace
}  // namespace godwit::migration
