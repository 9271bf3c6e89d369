// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"

#include <random>
#include <thread>
#include <tuple>

#include "absl/strings/match.h"
#include "agent/transfer/file_receiver.h"
#include "agent/transfer/file_sender.h"
#include "agent/transfer/image_sender.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

using testing::HasSubstr;

ReceiveRules Rules(const std::string& folder) {
  return {.folder = folder,
          .containers = {"app", "side"},
          .kinds = {FileKind::kImage, FileKind::kRootfs, FileKind::kVolume},
          .max_bytes = 64 << 20};
}

template <class Message>
Frame MessageFrame(FrameType type, const Message& message) {
  return {type, json::Encode(message)};
}
Frame BeginFrame(uint32_t id, const std::string& container, FileKind kind, const std::string& name) {
  return MessageFrame(FrameType::kFileBegin, FileBegin{id, container, kind, name});
}
Frame DataFrame(uint32_t id, uint64_t offset, absl::string_view bytes) {
  const auto prefix = EncodeFileDataPrefix(id, offset);
  return {FrameType::kFileData, absl::StrCat(absl::string_view(prefix.data(), prefix.size()), bytes)};
}
Frame EndFrame(uint32_t id, absl::string_view content) {
  Checksum checksum;
  checksum.Update(content);
  return MessageFrame(FrameType::kFileEnd,
                      FileEnd{id, static_cast<int64_t>(content.size()), checksum.Text()});
}

std::string RandomText(size_t size, int seed) {
  std::mt19937_64 random(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

class FileReceiverTest : public testing::Test {
 protected:
  const std::string folder_ = tls::TestFolder();
  FileReceiver receiver_{Rules(folder_)};
};

TEST_F(FileReceiverTest, FilesLieWhereTheyBelong) {
  ASSERT_TRUE(receiver_.Take(BeginFrame(1, "app", FileKind::kImage, "core-1.img")).ok());
  ASSERT_TRUE(receiver_.Take(BeginFrame(2, "app", FileKind::kRootfs, "0")).ok());
  ASSERT_TRUE(receiver_.Take(DataFrame(2, 0, "tar")).ok());
  ASSERT_TRUE(receiver_.Take(DataFrame(1, 0, "im")).ok());
  ASSERT_TRUE(receiver_.Take(DataFrame(1, 2, "age")).ok());
  ASSERT_TRUE(receiver_.Take(EndFrame(1, "image")).ok());
  ASSERT_TRUE(receiver_.Take(EndFrame(2, "tar")).ok());
  ASSERT_TRUE(receiver_.Take(BeginFrame(3, "app", FileKind::kVolume, "cache-0")).ok());
  ASSERT_TRUE(receiver_.Take(EndFrame(3, "")).ok());
  ASSERT_TRUE(receiver_.Take(MessageFrame(FrameType::kContainerEnd, ContainerEnd{"app", 3, 8})).ok());
  EXPECT_EQ(*ReadFile(folder_ + "/containers/app/images/core-1.img"), "image");
  EXPECT_EQ(*ReadFile(folder_ + "/containers/app/rootfs-0.tar"), "tar");
  EXPECT_EQ(*ReadFile(folder_ + "/volumes/cache-0.tar"), "");
  EXPECT_THAT(receiver_.complete(), testing::ElementsAre("app"));
  EXPECT_THAT(receiver_.rootfs("app"), testing::ElementsAre("containers/app/rootfs-0.tar"));
  EXPECT_THAT(receiver_.volumes(),
              testing::ElementsAre(testing::Pair("cache", testing::ElementsAre("volumes/cache-0.tar"))));
  EXPECT_EQ(receiver_.totals().image_bytes, 5);
  EXPECT_EQ(receiver_.totals().file_bytes, 3);
}

TEST_F(FileReceiverTest, AContainerThatIsCalledAsTheFolderOfTheVolumesIsBesideThem) {
  ReceiveRules rules = Rules(folder_);
  rules.containers = {"volumes", "containers"};
  FileReceiver receiver(rules);
  uint32_t id = 0;
  for (const auto& [container, kind, name] :
       {std::tuple("volumes", FileKind::kRootfs, "0"), std::tuple("volumes", FileKind::kVolume, "rootfs-0"),
        std::tuple("containers", FileKind::kRootfs, "0")}) {
    EXPECT_TRUE(receiver.Take(BeginFrame(++id, container, kind, name)).ok()) << container << " " << name;
    EXPECT_TRUE(receiver.Take(EndFrame(id, "")).ok());
  }
  EXPECT_TRUE(FileExists(folder_ + "/containers/volumes/rootfs-0.tar"));
  EXPECT_TRUE(FileExists(folder_ + "/containers/containers/rootfs-0.tar"));
  EXPECT_TRUE(FileExists(folder_ + "/volumes/rootfs-0.tar"));
}

TEST_F(FileReceiverTest, ImagesThatNeedNoDiskAreInTheirOwnFolder) {
  const auto begin = [](uint32_t id, const std::string& container, bool in_memory, const std::string& name) {
    return MessageFrame(FrameType::kFileBegin, FileBegin{id, container, FileKind::kImage, name, in_memory});
  };
  const std::string memory = tls::TestFolder();
  ReceiveRules rules = Rules(folder_);
  rules.memory_folder = memory;
  FileReceiver receiver(rules);
  EXPECT_EQ(receiver.ImagesFolder("app"), folder_ + "/containers/app/images");
  ASSERT_TRUE(receiver.Take(begin(1, "app", true, "core-1.img")).ok());
  ASSERT_TRUE(receiver.Take(DataFrame(1, 0, "image")).ok());
  ASSERT_TRUE(receiver.Take(EndFrame(1, "image")).ok());
  ASSERT_TRUE(receiver.Take(begin(2, "side", false, "core-1.img")).ok());
  ASSERT_TRUE(receiver.Take(BeginFrame(3, "app", FileKind::kRootfs, "0")).ok());
  EXPECT_EQ(receiver.ImagesFolder("app"), memory + "/containers/app/images");
  EXPECT_EQ(receiver.ImagesFolder("side"), folder_ + "/containers/side/images");
  EXPECT_EQ(*ReadFile(memory + "/containers/app/images/core-1.img"), "image");
  EXPECT_TRUE(FileExists(folder_ + "/containers/app/rootfs-0.tar"));
  EXPECT_TRUE(receiver.HasFile("containers/app/images/core-1.img"));
  const absl::Status mixed = receiver.Take(begin(4, "app", false, "mm-1.img"));
  EXPECT_THAT(mixed.message(), HasSubstr("images of app that need no disk, and others"));
  receiver.Clear();
  EXPECT_FALSE(FileExists(memory + "/containers/app/images/core-1.img"));
  EXPECT_FALSE(FileExists(folder_ + "/containers/side/images/core-1.img"));
  ASSERT_TRUE(receiver.Take(begin(1, "app", false, "core-1.img")).ok());  // anew, elsewhere
  EXPECT_EQ(receiver.ImagesFolder("app"), folder_ + "/containers/app/images");
}

TEST_F(FileReceiverTest, ImagesGoToTheDiskWhereThereIsNoOtherPlace) {
  FileBegin begin{1, "app", FileKind::kImage, "core-1.img", /*in_memory=*/true};
  ASSERT_TRUE(receiver_.Take(MessageFrame(FrameType::kFileBegin, begin)).ok());
  EXPECT_TRUE(FileExists(folder_ + "/containers/app/images/core-1.img"));
}

TEST_F(FileReceiverTest, NamesThatCouldLeaveTheFolderAreRefused) {
  uint32_t id = 0;
  for (const char* name : {"", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\nb", "a b", "\xff"}) {
    const absl::Status status =
        FileReceiver(Rules(folder_)).Take(BeginFrame(++id, "app", FileKind::kImage, name));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name << " " << status;
  }
  for (const char* container : {"", "..", "other", "app/../.."}) {
    EXPECT_FALSE(
        FileReceiver(Rules(folder_)).Take(BeginFrame(++id, container, FileKind::kImage, "x.img")).ok())
        << container;
  }
  EXPECT_FALSE(receiver_.Take(BeginFrame(1, "app", FileKind::kImage, std::string(129, 'a'))).ok());
  EXPECT_FALSE(receiver_.Take(BeginFrame(1, "app", FileKind::kArchive, "")).ok());
  EXPECT_FALSE(receiver_.Take(BeginFrame(1, "app", FileKind::kRootfs, "name")).ok());
  EXPECT_EQ(ListFolder(folder_)->size(), 0u);
}

TEST_F(FileReceiverTest, ALinkInThePlaceOfAFileIsNotFollowed) {
  const std::string victim = folder_ + "-victim";
  ASSERT_TRUE(WriteFileDurably(victim, "precious").ok());
  ASSERT_TRUE(MakeFolders(folder_ + "/containers/app/images").ok());
  ASSERT_EQ(symlink(victim.c_str(), (folder_ + "/containers/app/images/x.img").c_str()), 0);
  EXPECT_FALSE(receiver_.Take(BeginFrame(1, "app", FileKind::kImage, "x.img")).ok());
  EXPECT_EQ(*ReadFile(victim), "precious");
}

TEST_F(FileReceiverTest, RoundsComeOneAfterAnother) {
  uint32_t id = 0;
  auto round = [&](FileKind kind, const std::string& name) -> absl::Status {
    const absl::Status begun = receiver_.Take(BeginFrame(++id, "app", kind, name));
    return begun.ok() ? receiver_.Take(EndFrame(id, "")) : begun;
  };
  EXPECT_THAT(round(FileKind::kRootfs, "1").message(),
              HasSubstr("the rootfs \"1\" where round 0 should come"));
  EXPECT_TRUE(round(FileKind::kRootfs, "0").ok());
  for (const char* name : {"0", "2", "01", "1-0", "-1", "one"}) {
    EXPECT_FALSE(round(FileKind::kRootfs, name).ok()) << name;
  }
  EXPECT_TRUE(round(FileKind::kRootfs, "1").ok());
  EXPECT_THAT(receiver_.rootfs("app"),
              testing::ElementsAre("containers/app/rootfs-0.tar", "containers/app/rootfs-1.tar"));
  EXPECT_THAT(receiver_.rootfs("side"), testing::IsEmpty());
  for (const char* name : {"cache", "cache-1", "cache-", "0", "-0", "cache-00"}) {
    EXPECT_FALSE(round(FileKind::kVolume, name).ok()) << name;
  }
  EXPECT_TRUE(round(FileKind::kVolume, "cache-0").ok());
  EXPECT_TRUE(round(FileKind::kVolume, "cache-1").ok());
  EXPECT_TRUE(round(FileKind::kVolume, "cache-1-0").ok()) << "of a volume named cache-1";
  EXPECT_THAT(receiver_.volumes(),
              testing::ElementsAre(
                  testing::Pair("cache", testing::ElementsAre("volumes/cache-0.tar", "volumes/cache-1.tar")),
                  testing::Pair("cache-1", testing::ElementsAre("volumes/cache-1-0.tar"))));
  ASSERT_TRUE(receiver_.Take(BeginFrame(++id, "app", FileKind::kRootfs, "2")).ok());
  EXPECT_FALSE(receiver_.Take(BeginFrame(++id, "app", FileKind::kRootfs, "3")).ok()) << "2 is not complete";
}

TEST_F(FileReceiverTest, GapsOverlapsAndStrayIdsAreRefused) {
  ASSERT_TRUE(receiver_.Take(BeginFrame(1, "app", FileKind::kRootfs, "0")).ok());
  EXPECT_FALSE(receiver_.Take(DataFrame(1, 1, "x")).ok());
  EXPECT_FALSE(receiver_.Take(DataFrame(2, 0, "x")).ok());
  EXPECT_FALSE(receiver_.Take(EndFrame(2, "")).ok());
  EXPECT_FALSE(receiver_.Take(BeginFrame(1, "app", FileKind::kImage, "a.img")).ok()) << "id twice";
  EXPECT_FALSE(receiver_.Take(BeginFrame(3, "app", FileKind::kRootfs, "0")).ok()) << "file twice";
  EXPECT_FALSE(receiver_.Take(Frame{FrameType::kCommit, ""}).ok());
}

TEST_F(FileReceiverTest, AWrongChecksumOrSizeIsDataLoss) {
  ASSERT_TRUE(receiver_.Take(BeginFrame(1, "app", FileKind::kRootfs, "0")).ok());
  ASSERT_TRUE(receiver_.Take(DataFrame(1, 0, "abc")).ok());
  EXPECT_EQ(receiver_.Take(EndFrame(1, "abd")).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(receiver_.Take(EndFrame(1, "ab")).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(receiver_.HasFile("containers/app/rootfs-0.tar"));
}

TEST_F(FileReceiverTest, AContainerIsCompleteOnlyWhenItsCountsAreRight) {
  ASSERT_TRUE(receiver_.Take(BeginFrame(1, "app", FileKind::kRootfs, "0")).ok());
  EXPECT_FALSE(receiver_.Take(MessageFrame(FrameType::kContainerEnd, ContainerEnd{"app", 1, 0})).ok())
      << "open file";
  ASSERT_TRUE(receiver_.Take(EndFrame(1, "")).ok());
  EXPECT_EQ(receiver_.Take(MessageFrame(FrameType::kContainerEnd, ContainerEnd{"app", 2, 0})).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_TRUE(receiver_.complete().empty());
  ASSERT_TRUE(receiver_.Take(MessageFrame(FrameType::kContainerEnd, ContainerEnd{"app", 1, 0})).ok());
  EXPECT_FALSE(receiver_.Take(BeginFrame(9, "app", FileKind::kImage, "late.img")).ok());
  EXPECT_FALSE(receiver_.Take(MessageFrame(FrameType::kContainerEnd, ContainerEnd{"nobody", 0, 0})).ok());
}

TEST_F(FileReceiverTest, MoreThanThereIsRoomForIsRefused) {
  ReceiveRules rules = Rules(folder_);
  rules.max_bytes = 10;
  rules.max_files = 2;
  FileReceiver receiver(rules);
  ASSERT_TRUE(receiver.Take(BeginFrame(1, "app", FileKind::kRootfs, "0")).ok());
  ASSERT_TRUE(receiver.Take(DataFrame(1, 0, "0123456789")).ok());
  EXPECT_EQ(receiver.Take(DataFrame(1, 10, "x")).code(), absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(receiver.Take(BeginFrame(2, "app", FileKind::kImage, "a.img")).ok());
  EXPECT_EQ(receiver.Take(BeginFrame(3, "app", FileKind::kImage, "b.img")).code(),
            absl::StatusCode::kResourceExhausted);
}

// Sends a folder while a "dump" writes it, and receives it at the other end of a real stream.
class SendImagesTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& content) {
    std::ofstream(source_ + "/" + name, std::ios::app | std::ios::binary) << content;
  }
  // Receives until CONTAINER_END or an error.
  absl::Status ReceiveAll() {
    FileReceiver receiver(Rules(target_));
    while (receiver.complete().empty()) {
      absl::StatusOr<Frame> frame = pair_.b->Receive(Soon());
      if (!frame.ok()) return frame.status();
      if (absl::Status status = receiver.Take(*frame); !status.ok()) return status;
      received_ = receiver.totals();
    }
    return absl::OkStatus();
  }
  // True once `path` has `size` bytes.
  static bool Grows(const std::string& path, size_t size) {
    for (const absl::Time end = Soon(); absl::Now() < end; absl::SleepFor(absl::Milliseconds(1))) {
      absl::StatusOr<std::string> content = ReadFile(path, 64 << 20);
      if (content.ok() && content->size() == size) return true;
    }
    return false;
  }

  StreamPair pair_;
  const std::string source_ = tls::TestFolder();
  const std::string target_ = tls::TestFolder();
  ReceivedTotals received_;
  DumpProgress dump_;
};

TEST_F(SendImagesTest, PagesTravelWhileTheDumpRunsAndTheRestAfterIt) {
  FileSender sender(*pair_.a, "app", Soon());
  absl::StatusOr<ImageTotals> sent;
  absl::Status received;
  std::thread sending([&] {
    sent = SendImages(source_, dump_, sender);
    if (sent.ok()) sent = sender.End().ok() ? sent : absl::UnavailableError("no end");
  });
  std::thread receiving([&] { received = ReceiveAll(); });

  const std::string first = RandomText(3'000'000, 1);
  const std::string second = RandomText(1'234'567, 2);
  Write("pages-1.img", first);
  Write("core-1.img", "early");
  EXPECT_TRUE(Grows(target_ + "/containers/app/images/pages-1.img", first.size()))
      << "sent before the dump's end";
  EXPECT_FALSE(FileExists(target_ + "/containers/app/images/core-1.img"));
  Write("pages-1.img", second);
  Write("pages-2.img", "tiny");
  Write("core-1.img", " and late");
  Write("inventory.img", "last");
  dump_.Finish(absl::OkStatus());
  sending.join();
  receiving.join();

  ASSERT_TRUE(sent.ok()) << sent.status();
  ASSERT_TRUE(received.ok()) << received;
  EXPECT_EQ(*ReadFile(target_ + "/containers/app/images/pages-1.img"), first + second);
  EXPECT_EQ(*ReadFile(target_ + "/containers/app/images/pages-2.img"), "tiny");
  EXPECT_EQ(*ReadFile(target_ + "/containers/app/images/core-1.img"), "early and late");
  EXPECT_EQ(*ReadFile(target_ + "/containers/app/images/inventory.img"), "last");
  EXPECT_EQ(sent->page_bytes, static_cast<int64_t>(first.size() + second.size() + 4));
  EXPECT_EQ(received_.page_bytes, sent->page_bytes);
  EXPECT_EQ(received_.image_bytes, sent->other_bytes);
}

TEST_F(SendImagesTest, AFailedDumpEndsTheSendingWithItsError) {
  FileSender sender(*pair_.a, "app", Soon());
  Write("pages-1.img", "some");
  dump_.Finish(absl::InternalError("criu failed"));
  EXPECT_EQ(SendImages(source_, dump_, sender).status(), absl::InternalError("criu failed"));
}

TEST_F(SendImagesTest, ALinkAmongTheImagesIsNotFollowed) {
  ASSERT_EQ(symlink("/etc/hostname", (source_ + "/pages-1.img").c_str()), 0);
  FileSender sender(*pair_.a, "app", Soon());
  dump_.Finish(absl::OkStatus());
  EXPECT_FALSE(SendImages(source_, dump_, sender).ok());
}

TEST_F(SendImagesTest, AnImageThatShrinksIsNoticed) {
  FileSender sender(*pair_.a, "app", Soon());
  Write("pages-1.img", std::string(100'000, 'x'));
  absl::StatusOr<ImageTotals> sent;
  absl::Status received;
  std::thread sending([&] { sent = SendImages(source_, dump_, sender); });
  std::thread receiving([&] { received = ReceiveAll(); });
  EXPECT_TRUE(Grows(target_ + "/containers/app/images/pages-1.img", 100'000));
  ASSERT_EQ(truncate((source_ + "/pages-1.img").c_str(), 50), 0);
  dump_.Finish(absl::OkStatus());
  sending.join();
  pair_.a->Shutdown();
  receiving.join();
  EXPECT_EQ(sent.status().code(), absl::StatusCode::kDataLoss) << sent.status();
  EXPECT_FALSE(received.ok());
}

}  // namespace
}  // namespace godwit::transfer
