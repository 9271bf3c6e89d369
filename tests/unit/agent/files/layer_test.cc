// SPDX-License-Identifier: Apache-2.0
#include "agent/files/layer.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/files/content.h"
#include "agent/files/tar.h"
#include "base/file.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/files/describe.h"
#include "tests/unit/agent/files/long_paths.h"

namespace godwit::files {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class LayerTest : public testing::Test {
 protected:
  LayerTest() {
    base_ = absl::StrCat(testing::TempDir(), "godwit-files-XXXXXX");
    EXPECT_NE(mkdtemp(base_.data()), nullptr);
    from_ = MakeFolder("from");
    to_ = MakeFolder("to");
    tar_ = absl::StrCat(base_, "/layer.tar");
  }
  ~LayerTest() override {
    for (auto mount = mounts_.rbegin(); mount != mounts_.rend(); ++mount) umount2(mount->c_str(), MNT_DETACH);
    EXPECT_TRUE(RemoveTree(base_).ok());
  }
  std::string MakeFolder(const std::string& name) {
    const std::string path = absl::StrCat(base_, "/", name);
    EXPECT_TRUE(MakeFolders(path).ok());
    return path;
  }
  static void Put(const std::string& path, const std::string& content) {
    std::ofstream(path, std::ios::binary) << content;
    ASSERT_TRUE(FileExists(path)) << path;
  }
  absl::StatusOr<PackTotals> PackTo(const std::string& folder, Layout layout) {
    std::ofstream out(tar_, std::ios::binary | std::ios::trunc);
    return Pack(folder, layout, [&out](absl::string_view bytes) {
      out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return absl::OkStatus();
    });
  }
  absl::Status Move(Layout layout) {
    absl::StatusOr<PackTotals> totals = PackTo(from_, layout);
    return totals.ok() ? Apply(tar_, to_, layout) : totals.status();
  }
  // A tar that says what it likes.
  void Craft(const std::function<void(TarWriter&)>& write) {
    std::ofstream out(tar_, std::ios::binary | std::ios::trunc);
    TarWriter writer([&out](absl::string_view bytes) {
      out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return absl::OkStatus();
    });
    write(writer);
    EXPECT_TRUE(writer.Finish().ok());
  }
  static EntryPointer Entry(const std::string& name, unsigned type) {
    EntryPointer entry = TarWriter::NewEntry();
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), type);
    archive_entry_set_perm(entry.get(), 0755);
    archive_entry_set_size(entry.get(), 0);
    return entry;
  }
  // Mounts an overlay of `lower` with a fresh upper folder; false where the machine does not let us.
  bool MountOverlay(const std::string& lower, const std::string& name, std::string& upper,
                    std::string& merged) {
    upper = MakeFolder(name + "-upper");
    merged = MakeFolder(name + "-merged");
    const std::string options =
        absl::StrCat("lowerdir=", lower, ",upperdir=", upper, ",workdir=", MakeFolder(name + "-work"));
    if (mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) != 0) return false;
    mounts_.push_back(merged);
    return true;
  }

  std::string base_, from_, to_, tar_;
  std::vector<std::string> mounts_;
};

TEST_F(LayerTest, EverythingAFolderHoldsComesBack) {
  const bool root = geteuid() == 0;
  ASSERT_TRUE(MakeFolders(from_ + "/deep/er").ok());
  Put(from_ + "/empty", "");
  Put(from_ + "/plain", "some text");
  Put(from_ + "/deep/er/big", std::string(3 << 20, 'b') + "end");
  Put(from_ + "/name with space\nand newline", "x");
  Put(from_ + "/not utf-8 \xff\xfe", "y");
  Put(from_ + "/\xc3\xa4\xc3\xb6 \xe2\x82\xac", "z");
  Put(from_ + "/" + std::string(250, 'n'), "long name");
  Put(from_ + "/.wh.in-a-volume-means-nothing", "w");
  ASSERT_EQ(link((from_ + "/plain").c_str(), (from_ + "/deep/second name").c_str()), 0);
  ASSERT_EQ(symlink("/etc/passwd", (from_ + "/link").c_str()), 0);
  ASSERT_EQ(symlink("nowhere \xff", (from_ + "/dangling").c_str()), 0);
  ASSERT_EQ(mkfifo((from_ + "/fifo").c_str(), 0620), 0);
  ASSERT_EQ(chmod((from_ + "/plain").c_str(), 04751), 0);
  ASSERT_EQ(setxattr((from_ + "/deep").c_str(), "user.colour", "blue", 4, 0), 0);
  if (root) {
    ASSERT_EQ(setxattr((from_ + "/plain").c_str(), "trusted.mark", "\0\1", 2, 0), 0);
    ASSERT_EQ(chown((from_ + "/deep/er").c_str(), 1234, 4'000'000'000u), 0);
    ASSERT_EQ(lchown((from_ + "/link").c_str(), 5, 6), 0);
  }
  const timespec times[] = {{1, 2}, {1'600'000'000, 123'456'789}};
  ASSERT_EQ(utimensat(AT_FDCWD, (from_ + "/deep/er").c_str(), times, 0), 0);
  ASSERT_EQ(utimensat(AT_FDCWD, (from_ + "/deep").c_str(), times, 0), 0);

  const absl::Status status = Move(Layout::kPlain);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Describe(to_), Describe(from_));
}

TEST_F(LayerTest, HolesStayHoles) {
  const std::string path = from_ + "/sparse";
  Put(path, "begin");
  UniqueFd fd = *OpenFile(path, O_RDWR);
  ASSERT_EQ(pwrite(fd.get(), "middle", 6, 30 << 20), 6);
  ASSERT_EQ(ftruncate(fd.get(), 60 << 20), 0);
  UniqueFd hole = *OpenFile(from_ + "/only a hole", O_RDWR | O_CREAT);
  ASSERT_EQ(ftruncate(hole.get(), 5 << 20), 0);
  ASSERT_TRUE(Move(Layout::kPlain).ok());
  EXPECT_EQ(Describe(to_), Describe(from_));
  struct stat tar{};
  struct stat copy{};
  ASSERT_EQ(stat(tar_.c_str(), &tar), 0);
  ASSERT_EQ(stat((to_ + "/sparse").c_str(), &copy), 0);
  EXPECT_LT(tar.st_size, 1 << 20);
  EXPECT_LT(copy.st_blocks * 512, 1 << 20);
}

TEST_F(LayerTest, SparseFilesKeepTheirNamesHoweverLong) {
  MakeSparseFiles(from_);
  const absl::Status status = Move(Layout::kPlain);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Describe(to_), Describe(from_));
  struct stat tar{};
  ASSERT_EQ(stat(tar_.c_str(), &tar), 0);
  EXPECT_LT(tar.st_size, 10 << 20) << "without their holes";
}

// As whoever looks into a checkpoint does.
TEST_F(LayerTest, GnuTarFindsSparseFilesUnderTheirNames) {
  MakeSparseFiles(from_);
  ASSERT_TRUE(PackTo(from_, Layout::kPlain).ok());
  const absl::StatusOr<std::string> extracted =
      RunOrError({"tar", "--extract", "--preserve-permissions", "--file", tar_, "--directory", to_});
  ASSERT_TRUE(extracted.ok()) << extracted.status();
  EXPECT_EQ(Describe(to_), Describe(from_));
}

// A header says its length in itself, and the size of the name's record changes that.
TEST_F(LayerTest, EveryLengthOfASparseFilesNameIsWrittenRight) {
  std::vector<std::string> names;
  for (size_t bytes = 1; bytes <= kMaxPath; bytes += bytes < 1200 ? 1 : 61) {
    names.push_back(bytes % 2 == 0 ? std::string(bytes, 'n') : PathOfBytes(bytes, 60));
  }
  Craft([&](TarWriter& tar) {
    for (const std::string& name : names) {
      const EntryPointer entry = Entry(name, AE_IFREG);
      archive_entry_set_size(entry.get(), 1000);
      archive_entry_sparse_add_entry(entry.get(), 500, 7);
      archive_entry_xattr_add_entry(entry.get(), "user.name", name.data(), name.size());
      ASSERT_TRUE(tar.WriteHeader(entry.get()).ok());
      ASSERT_TRUE(tar.WriteData(std::string(500, '\0')).ok());
      ASSERT_TRUE(tar.WriteData("content").ok());  // what is missing is a hole
    }
  });
  absl::StatusOr<TarReader> reader = TarReader::Open(tar_);
  ASSERT_TRUE(reader.ok());
  for (const std::string& name : names) {
    const absl::StatusOr<archive_entry*> entry = reader->Next();
    ASSERT_TRUE(entry.ok() && *entry != nullptr) << name << entry.status();
    EXPECT_EQ(archive_entry_pathname(*entry), name);
    EXPECT_EQ(archive_entry_size(*entry), 1000);
    EXPECT_GT(archive_entry_xattr_count(*entry), 0);
    absl::string_view data;
    int64_t offset = 0;
    ASSERT_TRUE(*reader->NextData(data, offset)) << name;
    EXPECT_EQ(data, "content");
    EXPECT_EQ(offset, 500);
  }
  EXPECT_EQ(*reader->Next(), nullptr);
}

// However large a hole is, it costs as good as nothing; larger than any file system of the target could hold
// it, the file is refused.
TEST_F(LayerTest, HolesOfManyTebibytesCostNothing) {
  UniqueFd fd = *OpenFile(from_ + "/huge", O_RDWR | O_CREAT);
  if (ftruncate(fd.get(), kMostFileBytes - (1 << 20)) != 0)
    GTEST_SKIP() << "this file system has no such files";
  ASSERT_EQ(pwrite(fd.get(), "middle", 6, kMostFileBytes / 2), 6);
  ASSERT_TRUE(Move(Layout::kPlain).ok());
  EXPECT_EQ(std::filesystem::file_size(to_ + "/huge"), kMostFileBytes - (1 << 20));
  std::string middle(6, 0);
  ASSERT_EQ(pread(OpenFile(to_ + "/huge", O_RDONLY)->get(), middle.data(), 6, kMostFileBytes / 2), 6);
  EXPECT_EQ(middle, "middle");
  if (ftruncate(fd.get(), kMostFileBytes + 1) != 0) return;
  EXPECT_THAT(std::string(Move(Layout::kPlain).message()), testing::HasSubstr("larger than the 16 TiB"));
}

TEST_F(LayerTest, SocketsAreLeftOutAndDevicesAreRefused) {
  sockaddr_un address{.sun_family = AF_UNIX};
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM, 0));
  const std::string here = from_ + "/s";
  ASSERT_LT(here.size(), sizeof(address.sun_path));
  here.copy(address.sun_path, here.size());
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_TRUE(Move(Layout::kPlain).ok());
  EXPECT_TRUE(ListFolder(to_)->empty());
  if (mknod((from_ + "/zero").c_str(), S_IFCHR | 0600, makedev(1, 5)) != 0)
    GTEST_SKIP() << "may not make devices";
  const absl::Status status = Move(Layout::kPlain);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("\"zero\" cannot be carried: it is a device file"));
}

TEST_F(LayerTest, APathThatNobodyCouldMakeAgainIsRefused) {
  const std::string name(200, 'd');
  UniqueFd folder(open(from_.c_str(), O_PATH | O_DIRECTORY));
  for (int depth = 0; depth < 21; ++depth) {
    ASSERT_EQ(mkdirat(folder.get(), name.c_str(), 0755), 0);
    folder = UniqueFd(openat(folder.get(), name.c_str(), O_PATH | O_DIRECTORY));
    ASSERT_TRUE(folder.ok());
  }
  const absl::Status status = PackTo(from_, Layout::kPlain).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("...\" cannot be carried: its path is longer than 4095 bytes"));
}

TEST_F(LayerTest, TheTarComesInPiecesOfAMebibyte) {
  Put(from_ + "/large", std::string(5 << 20, 'x'));
  MakeSparseFiles(from_);
  std::vector<size_t> pieces;
  ASSERT_TRUE(Pack(from_, Layout::kPlain, [&pieces](absl::string_view bytes) {
                pieces.push_back(bytes.size());
                return absl::OkStatus();
              }).ok());
  ASSERT_GT(pieces.size(), 5u);
  EXPECT_LE(pieces.back(), 1u << 20);
  pieces.pop_back();
  EXPECT_THAT(pieces, testing::Each(1u << 20));
}

TEST_F(LayerTest, AFullSinkEndsPackingWithItsError) {
  Put(from_ + "/big", std::string(8 << 20, 'x'));
  int pieces = 0;
  const auto totals = Pack(from_, Layout::kPlain, [&pieces](absl::string_view bytes) {
    EXPECT_LE(bytes.size(), size_t{1} << 20);
    return ++pieces < 3 ? absl::OkStatus() : absl::UnavailableError("the peer is gone");
  });
  EXPECT_EQ(totals.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(totals.status().message(), HasSubstr("the peer is gone"));
  EXPECT_EQ(pieces, 3);
}

TEST_F(LayerTest, WhatALayerCannotSayIsRefused) {
  Put(from_ + "/.wh.file", "");
  EXPECT_THAT(PackTo(from_, Layout::kOverlay).status().message(), HasSubstr("names that begin with .wh."));
  ASSERT_TRUE(RemoveTree(from_ + "/.wh.file").ok());
  ASSERT_TRUE(MakeFolders(from_ + "/moved").ok());
  if (setxattr((from_ + "/moved").c_str(), "trusted.overlay.redirect", "/x", 2, 0) != 0)
    GTEST_SKIP() << "not root";
  EXPECT_THAT(PackTo(from_, Layout::kOverlay).status().message(), HasSubstr("redirect_dir"));
}

// A real overlay on both sides: what a process changed in one appears in the other.
TEST_F(LayerTest, AnOverlaysChangesAppearInAnotherOverlay) {
  const std::string lower = MakeFolder("lower");
  ASSERT_TRUE(MakeFolders(lower + "/etc/sub").ok());
  ASSERT_TRUE(MakeFolders(lower + "/replaced/inner").ok());
  ASSERT_TRUE(MakeFolders(lower + "/gone").ok());
  Put(lower + "/etc/kept", "kept");
  Put(lower + "/etc/changed", "before");
  Put(lower + "/etc/removed", "removed");
  Put(lower + "/replaced/inner/old", "old");
  Put(lower + "/gone/file", "gone");
  Put(lower + "/was a file", "file");
  ASSERT_TRUE(MakeFolders(lower + "/was a folder/x").ok());
  std::string upper, source, target_upper, target;
  if (!MountOverlay(lower, "source", upper, source)) GTEST_SKIP() << "may not mount overlays";
  ASSERT_TRUE(MountOverlay(lower, "target", target_upper, target));

  Put(source + "/etc/changed", "after");
  ASSERT_EQ(unlink((source + "/etc/removed").c_str()), 0);
  ASSERT_TRUE(RemoveTree(source + "/replaced").ok());
  ASSERT_TRUE(MakeFolders(source + "/replaced").ok());  // opaque now
  Put(source + "/replaced/new", "new");
  ASSERT_TRUE(RemoveTree(source + "/gone").ok());
  ASSERT_TRUE(RemoveTree(source + "/was a file").ok());
  ASSERT_TRUE(MakeFolders(source + "/was a file").ok());
  ASSERT_TRUE(RemoveTree(source + "/was a folder").ok());
  Put(source + "/was a folder", "file now");
  ASSERT_EQ(chmod((source + "/etc/kept").c_str(), 0600), 0);
  ASSERT_EQ(link((source + "/replaced/new").c_str(), (source + "/etc/linked").c_str()), 0);
  ASSERT_EQ(setxattr((source + "/etc/changed").c_str(), "user.k", "v", 1, 0), 0);

  absl::StatusOr<PackTotals> totals = PackTo(upper, Layout::kOverlay);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_THAT(totals->deleted,
              testing::UnorderedElementsAre("etc/removed", "gone", "replaced/*", "was a file/*"));
  const absl::Status status = Apply(tar_, target, Layout::kOverlay);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Describe(target), Describe(source));
  EXPECT_FALSE(FileExists(target + "/replaced/inner"));
}

// --- tars that mean harm
// -------------------------------------------------------------------------------------------

class HostileTarTest : public LayerTest {
 protected:
  HostileTarTest() {
    outside_ = MakeFolder("outside");
    Put(outside_ + "/precious", "precious");
  }
  void ExpectRefused(Layout layout = Layout::kOverlay) {
    const absl::Status status = Apply(tar_, to_, layout);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(*ListFolder(outside_), ElementsAre("precious"));
    EXPECT_EQ(*ReadFile(outside_ + "/precious"), "precious");
  }
  std::string outside_;
};

TEST_F(HostileTarTest, PathsThatLeaveAreRefused) {
  for (const std::string& name :
       {std::string("../outside/x"), std::string("a/../../outside/x"), outside_ + "/x", std::string("..")}) {
    Craft([&](TarWriter& tar) { ASSERT_TRUE(tar.WriteFile(name, "harm", 0644).ok()); });
    ExpectRefused();
  }
}

TEST_F(HostileTarTest, ALinkInTheTarIsNotWalkedThrough) {
  for (const std::string& target :
       {outside_, std::string("../outside"), std::string("/proc/self/root") + outside_}) {
    Craft([&](TarWriter& tar) {
      EntryPointer link = Entry("way", AE_IFLNK);
      archive_entry_set_symlink(link.get(), target.c_str());
      ASSERT_TRUE(tar.WriteHeader(link.get()).ok());
      ASSERT_TRUE(tar.WriteFile("way/x", "harm", 0644).ok());
    });
    ExpectRefused();
    ASSERT_TRUE(RemoveTree(to_ + "/way").ok());
  }
}

TEST_F(HostileTarTest, ALinkThatWasThereIsReplacedNotFollowed) {
  ASSERT_EQ(symlink((outside_ + "/precious").c_str(), (to_ + "/file").c_str()), 0);
  ASSERT_EQ(symlink(outside_.c_str(), (to_ + "/folder").c_str()), 0);
  Craft([&](TarWriter& tar) {
    ASSERT_TRUE(tar.WriteFile("file", "new", 0644).ok());
    EntryPointer folder = Entry("folder", AE_IFDIR);
    ASSERT_TRUE(tar.WriteHeader(folder.get()).ok());
    ASSERT_TRUE(tar.WriteFile("folder/x", "inside", 0644).ok());
  });
  ASSERT_TRUE(Apply(tar_, to_, Layout::kOverlay).ok());
  EXPECT_EQ(*ReadFile(to_ + "/folder/x"), "inside");
  EXPECT_EQ(*ReadFile(to_ + "/file"), "new");
  EXPECT_EQ(*ReadFile(outside_ + "/precious"), "precious");
  EXPECT_THAT(*ListFolder(outside_), ElementsAre("precious"));
}

TEST_F(HostileTarTest, WhiteoutsRemoveNothingOutside) {
  ASSERT_EQ(symlink(outside_.c_str(), (to_ + "/way").c_str()), 0);
  for (const char* name : {".wh...", ".wh..", ".wh.", "way/.wh.precious", "way/.wh..wh..opq", ".wh..wh.x"}) {
    Craft([&](TarWriter& tar) { ASSERT_TRUE(tar.WriteFile(name, "", 0).ok()); });
    ExpectRefused();
  }
  // Removing the link itself is all that this one may do.
  Craft([&](TarWriter& tar) { ASSERT_TRUE(tar.WriteFile(".wh.way", "", 0).ok()); });
  EXPECT_TRUE(Apply(tar_, to_, Layout::kOverlay).ok());
  EXPECT_EQ(*ReadFile(outside_ + "/precious"), "precious");
}

TEST_F(HostileTarTest, HardLinksReachNothingOutside) {
  ASSERT_EQ(symlink((outside_ + "/precious").c_str(), (to_ + "/way").c_str()), 0);
  for (const std::string& target : {std::string("../outside/precious"), outside_ + "/precious",
                                    std::string("way"), std::string("none"), std::string(".")}) {
    Craft([&](TarWriter& tar) {
      EntryPointer link = Entry("mine", AE_IFREG);
      archive_entry_set_hardlink(link.get(), target.c_str());
      ASSERT_TRUE(tar.WriteHeader(link.get()).ok());
    });
    ExpectRefused();
  }
}

TEST_F(HostileTarTest, DevicesAndForbiddenAttributesAreRefused) {
  Craft([&](TarWriter& tar) {
    EntryPointer device = Entry("disk", AE_IFBLK);
    archive_entry_set_rdev(device.get(), makedev(8, 0));
    ASSERT_TRUE(tar.WriteHeader(device.get()).ok());
  });
  ExpectRefused();
  Craft([&](TarWriter& tar) {
    EntryPointer folder = Entry("d", AE_IFDIR);
    archive_entry_xattr_add_entry(folder.get(), "trusted.overlay.redirect", "/", 1);
    ASSERT_TRUE(tar.WriteHeader(folder.get()).ok());
  });
  ExpectRefused();
}

TEST_F(HostileTarTest, ATruncatedTarIsDamaged) {
  Put(from_ + "/big", std::string(100'000, 'x'));
  ASSERT_TRUE(PackTo(from_, Layout::kPlain).ok());
  ASSERT_EQ(truncate(tar_.c_str(), 50'000), 0);
  EXPECT_EQ(Apply(tar_, to_, Layout::kPlain).code(), absl::StatusCode::kDataLoss);
  Put(tar_, "this is no tar at all, whatever its name says");
  EXPECT_EQ(Apply(tar_, to_, Layout::kPlain).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace godwit::files
