// SPDX-License-Identifier: Apache-2.0
#include "agent/checkpoint/archive.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "agent/checkpoint/tar.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::checkpoint {
namespace {

using ::testing::HasSubstr;

class ArchiveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "archive_test." + std::to_string(getpid());
    ASSERT_TRUE(RemoveTree(folder_).ok());
    ASSERT_TRUE(MakeFolders(folder_ + "/images").ok());
    Put("images/pages-1.img", std::string(300000, 'p'));
    Put("images/inventory.img", "i");
    Put("spec", R"({"ociVersion":"1.2.0"})");
    Put("rootfs.tar", std::string(1024, '\0'));
    Put("scratch.tar", std::string(512, '\0'));
    description_.pod = {.name_space = "shop", .name = "cache-0", .uid = "u"};
    description_.container = "app";
    description_.checkpointed_at = absl::FromUnixSeconds(1700000000);
    description_.pod_manifest.text = R"({"spec":{}})";
    parts_.images = folder_ + "/images";
    parts_.spec = folder_ + "/spec";
    parts_.rootfs_diff = folder_ + "/rootfs.tar";
    parts_.volumes["scratch"] = folder_ + "/scratch.tar";
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  void Put(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteFileDurably(folder_ + "/" + name, content).ok());
  }
  std::string Archive() const { return folder_ + "/archive.tar"; }
  // What ExtractArchive says of a hand-made archive, with its true size and digest.
  absl::Status Extract(const agent_api::Archive& recorded) {
    return ExtractArchive(recorded, recorded.path, folder_ + "/out").status();
  }
  agent_api::Archive HandMade(const std::string& name, int times = 1) {
    auto tar = TarWriter::Create(Archive());
    EXPECT_TRUE(tar.ok());
    for (int i = 0; i < times; ++i) EXPECT_TRUE((*tar)->AddText(name, "x").ok());
    EXPECT_TRUE((*tar)->Finish().ok());
    return {.path = Archive(), .size = (*tar)->size(), .digest = (*tar)->digest()};
  }

  std::string folder_;
  Description description_;
  Parts parts_;
};

TEST_F(ArchiveTest, WhatWasPutInComesOut) {
  auto written = WriteArchive(description_, parts_, Archive());
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->container, "app");
  EXPECT_TRUE(VerifyArchive(*written, Archive()).ok());
  auto parts = ExtractArchive(*written, Archive(), folder_ + "/out");
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(*ReadFile(parts->images + "/pages-1.img"), std::string(300000, 'p'));
  EXPECT_EQ(*ReadFile(parts->spec), R"({"ociVersion":"1.2.0"})");
  EXPECT_EQ(ReadFile(parts->volumes.at("scratch"))->size(), 512u);
  EXPECT_EQ(ReadPodManifest(Archive())->text, R"({"spec":{}})");
}

TEST_F(ArchiveTest, TheManifestIsReadByManyAtOnceAndWithoutTheRest) {
  ASSERT_TRUE(WriteArchive(description_, parts_, Archive()).ok());
  // What comes behind it may be a pod's memory, and damaged: that is for the restore to find.
  ASSERT_EQ(truncate(Archive().c_str(), 4096), 0);
  std::vector<std::thread> readers;
  std::atomic<int> read = 0;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([&] {
      for (int again = 0; again < 20; ++again) read += ReadPodManifest(Archive()).ok();
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(read, 160);
}

TEST_F(ArchiveTest, AFileNameFitsWhateverThePodIsCalled) {
  description_.pod.name = std::string(253, 'p');
  description_.pod.name_space = std::string(63, 'n');
  description_.container = std::string(63, 'c');
  const std::string name = ArchiveFileName(description_);
  EXPECT_LE(name.size(), 230u);
  EXPECT_THAT(name, testing::HasSubstr(description_.container));
  EXPECT_THAT(name, testing::EndsWith(".tar"));
}

TEST_F(ArchiveTest, WhatIsMadeMeanwhileTakesTheImagesPlace) {
  const std::string piece(100000, 'm');
  parts_.made["checkpoint/pages-1.img"] = {.bytes = 200000, .write = [&piece](const TarWriter::Sink& sink) {
                                             absl::Status first = sink(piece);
                                             return first.ok() ? sink(piece) : first;
                                           }};
  auto written = WriteArchive(description_, parts_, Archive());
  ASSERT_TRUE(written.ok()) << written.status();
  auto parts = ExtractArchive(*written, Archive(), folder_ + "/out");
  ASSERT_TRUE(parts.ok()) << parts.status();
  EXPECT_EQ(*ReadFile(parts->images + "/pages-1.img"), piece + piece);
  EXPECT_EQ(*ReadFile(parts->images + "/inventory.img"), "i");
}

TEST_F(ArchiveTest, WhatIsMadeMustBeAsLongAsItWasSaidToBeAndLeavesNothingElse) {
  for (const int64_t bytes : {9, 11}) {
    parts_.made["checkpoint/pages-1.img"] = {
        .bytes = bytes, .write = [](const TarWriter::Sink& sink) { return sink("ten bytes!"); }};
    EXPECT_THAT(std::string(WriteArchive(description_, parts_, Archive()).status().message()),
                HasSubstr("content than was announced"));
    EXPECT_FALSE(FileExists(Archive()));
  }
  parts_.made["checkpoint/pages-1.img"] = {
      .bytes = 1, .write = [](const auto&) { return absl::CancelledError("enough"); }};
  EXPECT_TRUE(absl::IsCancelled(WriteArchive(description_, parts_, Archive()).status()));
  EXPECT_FALSE(FileExists(Archive()));
}

TEST_F(ArchiveTest, IsNamedByPodNamespaceContainerAndTime) {
  EXPECT_EQ(ArchiveFileName(description_), "checkpoint-cache-0_shop-app-2023-11-14T22:13:20Z.tar");
}

TEST_F(ArchiveTest, AChangedByteIsFound) {
  auto written = WriteArchive(description_, parts_, Archive());
  ASSERT_TRUE(written.ok());
  const int fd = open(Archive().c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "X", 1, 5000), 1);
  close(fd);
  absl::Status status = Extract(*written);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("digest"));
}

TEST_F(ArchiveTest, ACutFileIsFound) {
  auto written = WriteArchive(description_, parts_, Archive());
  ASSERT_TRUE(written.ok());
  ASSERT_EQ(truncate(Archive().c_str(), written->size - 1), 0);
  EXPECT_THAT(std::string(VerifyArchive(*written, Archive()).message()), HasSubstr("bytes"));
}

TEST_F(ArchiveTest, EntriesThatWouldLeaveTheFolderAreRefused) {
  for (const char* name : {"../evil", "/etc/passwd", "checkpoint/../../evil", "checkpoint/a/b",
                           "volumes/..tar/x", "checkpoint/..", "unknown"}) {
    absl::Status status = Extract(HandMade(name));
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << ": " << status;
    EXPECT_FALSE(FileExists(folder_ + "/out")) << name;
  }
}

TEST_F(ArchiveTest, TheSameEntryTwiceIsRefused) {
  EXPECT_THAT(std::string(Extract(HandMade("checkpoint/a.img", 2)).message()), HasSubstr("twice"));
}

TEST_F(ArchiveTest, AFailedWriteLeavesNothing) {
  parts_.rootfs_diff = folder_ + "/missing.tar";
  auto written = WriteArchive(description_, parts_, Archive());
  EXPECT_FALSE(written.ok());
  EXPECT_THAT(std::string(written.status().message()), HasSubstr("missing.tar"));
  EXPECT_FALSE(FileExists(Archive()));
}

}  // namespace
}  // namespace godwit::checkpoint
