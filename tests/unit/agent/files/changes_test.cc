// SPDX-License-Identifier: Apache-2.0
#include "agent/files/changes.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "agent/files/change_mark.h"
#include "agent/files/merged_tar.h"
#include "agent/files/tar.h"
#include "gmock/gmock.h"
#include "tests/unit/agent/files/describe.h"
#include "tests/unit/agent/files/long_paths.h"
#include "tests/unit/agent/files/random_tree.h"

namespace godwit::files {
namespace {

using testing::HasSubstr;

// What is below a node, and the bytes of all paths there.
std::pair<int64_t, int64_t> CountBelow(const Node& node, const std::string& path) {
  std::pair<int64_t, int64_t> all;
  for (const Node& child : node.children) {
    const std::string below = path.empty() ? child.name : absl::StrCat(path, "/", child.name);
    const auto [entries, bytes] = CountBelow(child, below);
    all.first += 1 + entries;
    all.second += static_cast<int64_t>(below.size()) + bytes;
  }
  return all;
}

class ChangesTest : public testing::Test {
 protected:
  ChangesTest() {
    base_ = absl::StrCat(testing::TempDir(), "godwit-changes-XXXXXX");
    EXPECT_NE(mkdtemp(base_.data()), nullptr);
    from_ = MakeFolder("from");
    to_ = MakeFolder("to");
  }
  ~ChangesTest() override {
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
  std::string TarOf(int round) const { return absl::StrCat(base_, "/", round, ".tar"); }

  // The next round: packs and applies.
  void Round(Pass pass) {
    const std::string path = TarOf(rounds_);
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    const Sink sink = [&out](absl::string_view bytes) {
      out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return absl::OkStatus();
    };
    const absl::StatusOr<PackTotals> totals = rounds_ == 0
                                                  ? PackBase(from_, layout_, pass, snapshot_, sink)
                                                  : PackChanges(from_, layout_, pass, snapshot_, sink);
    ASSERT_TRUE(totals.ok()) << totals.status();
    totals_ = *totals;
    if (rounds_ > 0 || !pass.last) {
      EXPECT_EQ(std::pair(snapshot_.entries, snapshot_.path_bytes), CountBelow(snapshot_.root, ""));
      EXPECT_GE(snapshot_.held.count(), snapshot_.entries);
    } else {
      EXPECT_EQ(snapshot_.held.count(), 0) << "nothing follows";
    }
    out.close();
    const absl::Status applied = Apply(path, to_, rounds_ == 0 ? layout_ : Layout::kChanges);
    ASSERT_TRUE(applied.ok()) << applied;
    ++rounds_;
  }
  void Round() { Round({.begun = absl::Now(), .last = rounds_ > 0}); }
  // Waits until what was written before is too old to be written again under the same ctime.
  static void Settle() {
    for (const absl::Time end = absl::Now() + absl::Milliseconds(150); absl::Now() < end;) continue;
  }
  // All of it once more, in order, over what is there: as for a container that is created anew.
  void ApplyAll() {
    for (int i = 0; i < rounds_; ++i) {
      const absl::Status applied = Apply(TarOf(i), to_, i == 0 ? layout_ : Layout::kChanges);
      ASSERT_TRUE(applied.ok()) << i << ": " << applied;
    }
  }
  // One tar of all rounds, applied to an empty folder (or the lower layer alone) and read by tar(1).
  void ApplyMerged(const std::string& to) {
    std::vector<std::string> tars;
    for (int i = 0; i < rounds_; ++i) tars.push_back(TarOf(i));
    const std::string extra = absl::StrCat(base_, "/extra.tar");
    const absl::StatusOr<MergedTar> merged = MergedTar::Plan(tars, layout_, snapshot_, extra);
    ASSERT_TRUE(merged.ok()) << merged.status();
    const std::string path = absl::StrCat(base_, "/merged.tar");
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    ASSERT_TRUE(merged
                    ->Write([&out](absl::string_view bytes) {
                      out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
                      return absl::OkStatus();
                    })
                    .ok());
    out.close();
    struct stat info{};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_size, merged->bytes());
    ASSERT_EQ(unlink(extra.c_str()), rounds_ > 1 ? 0 : -1);
    const absl::Status applied = Apply(path, to, layout_);
    ASSERT_TRUE(applied.ok()) << applied;
    std::set<std::string> names;
    absl::StatusOr<TarReader> reader = TarReader::Open(path);
    ASSERT_TRUE(reader.ok());
    for (auto entry = reader->Next(); entry.ok() && *entry != nullptr; entry = reader->Next()) {
      const std::string name = archive_entry_pathname(*entry);
      EXPECT_TRUE(names.insert(name).second) << name << " comes twice";
    }
  }
  bool MountOverlay(const std::string& lower, const std::string& name, std::string& upper,
                    std::string& merged) {
    upper = MakeFolder(name + "-upper");
    merged = MakeFolder(name + "-merged");
    const std::string options = absl::StrCat("redirect_dir=off,metacopy=off,index=off,lowerdir=", lower,
                                             ",upperdir=", upper, ",workdir=", MakeFolder(name + "-work"));
    if (mount("overlay", merged.c_str(), "overlay", 0, options.c_str()) != 0) return false;
    mounts_.push_back(merged);
    return true;
  }
  bool MountTmpfs(const std::string& path) {
    if (mount("tmpfs", path.c_str(), "tmpfs", 0, "") != 0) return false;
    mounts_.push_back(path);
    return true;
  }

  std::string base_, from_, to_;
  std::vector<std::string> mounts_;
  Layout layout_ = Layout::kPlain;
  Snapshot snapshot_;
  PackTotals totals_;
  int rounds_ = 0;
};

// --- what is packed

TEST_F(ChangesTest, WhatDidNotChangeIsNotPacked) {
  ASSERT_TRUE(MakeFolders(from_ + "/a/b").ok());
  Put(from_ + "/a/file", "content");
  Settle();
  Round();
  EXPECT_EQ(totals_.entries, 4);
  Round();
  EXPECT_EQ(totals_.entries, 0);
  Put(from_ + "/a/b/new", "new");
  Round();
  EXPECT_EQ(totals_.entries, 2) << "the file, and its folder for the time";
  EXPECT_EQ(Describe(to_), Describe(from_));
}

TEST_F(ChangesTest, OfALargeFileOnlyTheBlocksThatChangedArePacked) {
  std::string content(10 << 20, '\0');
  std::mt19937_64 random(1);
  for (char& c : content) c = static_cast<char>(random());
  Put(from_ + "/large", content);
  Round();
  UniqueFd fd = *OpenFile(from_ + "/large", O_RDWR | O_APPEND);
  ASSERT_EQ(write(fd.get(), "a log line\n", 11), 11);
  Round();
  EXPECT_EQ(totals_.bytes, 11);
  fd = *OpenFile(from_ + "/large", O_RDWR);
  ASSERT_EQ(pwrite(fd.get(), "page", 4, 3 << 20), 4);
  ASSERT_EQ(pwrite(fd.get(), "page", 4, 5 << 20), 4);
  Round();
  EXPECT_EQ(totals_.bytes, 2 * kBlockBytes);
  ASSERT_EQ(fchmod(fd.get(), 0600), 0);
  Round();
  EXPECT_EQ(totals_.bytes, 0);
  EXPECT_EQ(Describe(to_), Describe(from_));
}

TEST_F(ChangesTest, DataThatBecameAHoleBecomesZeros) {
  Put(from_ + "/file", std::string(1 << 20, 'x'));
  Round();
  UniqueFd fd = *OpenFile(from_ + "/file", O_RDWR);
  ASSERT_EQ(ftruncate(fd.get(), 100'000), 0);
  ASSERT_EQ(ftruncate(fd.get(), 40 << 20), 0);
  Round();
  EXPECT_LT(totals_.bytes, 2 << 20) << "the new end is a hole";
  EXPECT_EQ(Describe(to_), Describe(from_));
}

TEST_F(ChangesTest, PatchesFindTheirFilesHoweverLongTheirNames) {
  MakeSparseFiles(from_);
  Round();
  EXPECT_EQ(Describe(to_), Describe(from_));
  for (const std::string& path : LongPaths())
    WriteAt(absl::StrCat(from_, "/", path), 100'000, "patched " + path);
  Round();
  EXPECT_LE(totals_.bytes, 2 * kBlockBytes * static_cast<int64_t>(LongPaths().size()))
      << "patches, no whole files";
  EXPECT_EQ(Describe(to_), Describe(from_));
  const std::string merged = MakeFolder("merged");
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(from_));
}

TEST_F(ChangesTest, TypesChangeNamesMoveAndNamesThatLookLikeWhiteoutsAreNames) {
  ASSERT_TRUE(MakeFolders(from_ + "/folder/inner").ok());
  Put(from_ + "/folder/inner/file", "1");
  Put(from_ + "/file", "2");
  Put(from_ + "/.wh.x", "3");
  Put(from_ + "/x", "4");
  Round();
  ASSERT_EQ(rename((from_ + "/folder").c_str(), (from_ + "/moved").c_str()), 0);
  ASSERT_EQ(rename((from_ + "/file").c_str(), (from_ + "/folder").c_str()), 0);
  ASSERT_TRUE(MakeFolders(from_ + "/file/was/a/file").ok());
  ASSERT_EQ(unlink((from_ + "/.wh.x").c_str()), 0);
  Put(from_ + "/.wh.folder", "5");
  Round();
  EXPECT_EQ(Describe(to_), Describe(from_));
  EXPECT_EQ(*ReadFile(to_ + "/x"), "4");
}

TEST_F(ChangesTest, HardLinksComeGoAndAreNotMixedUp) {
  Put(from_ + "/m", "one");
  Put(from_ + "/p", "two");
  Round();
  ASSERT_EQ(link((from_ + "/m").c_str(), (from_ + "/a").c_str()), 0);  // before the name that is known
  ASSERT_EQ(link((from_ + "/m").c_str(), (from_ + "/z").c_str()), 0);
  Settle();
  Round();
  EXPECT_EQ(Describe(to_), Describe(from_));
  Put(from_ + "/z", "three");  // written through one of the names
  Round();
  EXPECT_EQ(totals_.entries, 1) << "written once for all its names";
  EXPECT_EQ(*ReadFile(to_ + "/a"), "three");
  ASSERT_EQ(unlink((from_ + "/a").c_str()), 0);
  ASSERT_EQ(unlink((from_ + "/m").c_str()), 0);
  Put(from_ + "/m", "another file");
  Put(from_ + "/z", "four");
  Round();
  EXPECT_EQ(Describe(to_), Describe(from_));
}

TEST_F(ChangesTest, AFileThatASocketReplacedGoes) {
  Put(from_ + "/s", "file");
  Round();
  ASSERT_EQ(unlink((from_ + "/s").c_str()), 0);
  sockaddr_un address{.sun_family = AF_UNIX};
  UniqueFd socket_fd(socket(AF_UNIX, SOCK_STREAM, 0));
  const std::string here = from_ + "/s";
  ASSERT_LT(here.size(), sizeof(address.sun_path));
  here.copy(address.sun_path, here.size());
  ASSERT_EQ(bind(socket_fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  Round();
  EXPECT_TRUE(ListFolder(to_)->empty());
  ASSERT_EQ(unlink(here.c_str()), 0);
  Put(here, "file again");
  Round();
  EXPECT_EQ(Describe(to_), Describe(from_));
}

// --- writes that leave no trace in the times

// The store's page stays writable after the first: the second one changes no time.
TEST_F(ChangesTest, AStoreThroughAMappingIsFoundThoughNoTimeTellsOfIt) {
  Put(from_ + "/mapped", std::string(1 << 20, 'x'));
  const UniqueFd fd = *OpenFile(from_ + "/mapped", O_RDWR);
  char* mapped = static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  // Until the kernel does not write the page back between the stores: it would protect the page again.
  for (int attempt = 0;; ++attempt) {
    ASSERT_LT(attempt, 20);
    mapped[5] = '1';
    struct stat before{}, after{};
    ASSERT_EQ(fstat(fd.get(), &before), 0);
    Settle();
    Pass pass{.begun = absl::Now()};
    pass.mapped.files.insert({before.st_dev, before.st_ino});
    Round(pass);
    mapped[5] = '2';
    ASSERT_EQ(fstat(fd.get(), &after), 0);
    if (FileStat(after) == FileStat(before)) break;
  }
  munmap(mapped, 1 << 20);
  Round();  // nobody has it mapped any more
  EXPECT_EQ((*ReadFile(to_ + "/mapped"))[5], '2');
  EXPECT_EQ(totals_.bytes, kBlockBytes);
}

// What a write(2) copies into a file: its second page is not there before it is let in, and the write waits.
class SlowBuffer {
 public:
  SlowBuffer()
      : fd_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC))),
        pages_(static_cast<char*>(
            mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    uffdio_api api{.api = UFFD_API};
    uffdio_register range{.range = {reinterpret_cast<uintptr_t>(pages_) + kPage, kPage},
                          .mode = UFFDIO_REGISTER_MODE_MISSING};
    ok_ = pages_ != MAP_FAILED && ioctl(fd_.get(), UFFDIO_API, &api) == 0 &&
          ioctl(fd_.get(), UFFDIO_REGISTER, &range) == 0;
    if (ok_) std::fill_n(pages_, kPage, 'b');
  }
  ~SlowBuffer() { munmap(pages_, 2 * kPage); }
  bool ok() const { return ok_; }
  const char* data() const { return pages_; }
  void LetIn() {
    std::string page(kPage, 'b');
    uffdio_copy copy{.dst = reinterpret_cast<uintptr_t>(pages_) + kPage,
                     .src = reinterpret_cast<uintptr_t>(page.data()),
                     .len = kPage};
    EXPECT_EQ(ioctl(fd_.get(), UFFDIO_COPY, &copy), 0);
  }
  static constexpr size_t kPage = 4096;

 private:
  const UniqueFd fd_;
  char* const pages_;
  bool ok_ = false;
};

// write(2) stamps the file first and copies its bytes then.
TEST_F(ChangesTest, AWriteInFlightIsWaitedFor) {
  constexpr size_t kSize = 2 * SlowBuffer::kPage;
  if (sysconf(_SC_PAGESIZE) != SlowBuffer::kPage) GTEST_SKIP() << "pages of another size";
  SlowBuffer buffer;
  if (!buffer.ok()) GTEST_SKIP() << "may not use userfaultfd";
  const std::string path = from_ + "/file";
  // Allocated on the disk: no hole is looked for, which would wait as well.
  ASSERT_TRUE(WriteFileDurably(path, std::string(kSize, 'a')).ok());
  struct stat before{}, now{};
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  std::thread writer([&] {
    const UniqueFd fd = *OpenFile(path, O_WRONLY);
    EXPECT_EQ(write(fd.get(), buffer.data(), kSize), static_cast<ssize_t>(kSize));
  });
  do {
    ASSERT_EQ(stat(path.c_str(), &now), 0);
  } while (FileStat(now).ctime == FileStat(before).ctime);
  std::atomic<pid_t> packer_id = 0;
  std::atomic<bool> packed = false;
  std::thread packer([&] {
    packer_id = gettid();
    // As if the stamp were old already: it alone must not be what finds the write.
    Round({.begun = absl::Now() + absl::Hours(1)});
    packed = true;
  });
  auto waits = [&] {  // uninterruptibly, for the file's lock
    return packer_id != 0 &&
           absl::StrContains(*ReadFile(absl::StrCat("/proc/self/task/", packer_id.load(), "/stat")), ") D ");
  };
  while (!packed && !waits()) continue;
  buffer.LetIn();
  packer.join();
  writer.join();
  Round({.begun = absl::Now() + absl::Hours(1), .last = true});
  EXPECT_EQ(totals_.entries, 0);
  EXPECT_EQ(*ReadFile(to_ + "/file"), std::string(kSize, 'b'));
}

// A page that was only read is writable there from the start.
TEST_F(ChangesTest, AStoreThroughAMappingOnTmpfsIsFound) {
  if (!MountTmpfs(from_)) GTEST_SKIP() << "may not mount tmpfs";
  Put(from_ + "/mapped", std::string(1 << 20, 'x'));
  Settle();
  Round();
  const UniqueFd fd = *OpenFile(from_ + "/mapped", O_RDWR);
  struct stat before{}, after{};
  ASSERT_EQ(fstat(fd.get(), &before), 0);
  volatile char* mapped =
      static_cast<char*>(mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0));
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_EQ(mapped[5], 'x');
  mapped[5] = '2';
  munmap(const_cast<char*>(mapped), 1 << 20);
  ASSERT_EQ(fstat(fd.get(), &after), 0);
  EXPECT_EQ(FileStat(after), FileStat(before)) << "else this test shows nothing";
  Round();
  EXPECT_EQ((*ReadFile(to_ + "/mapped"))[5], '2');
}

TEST_F(ChangesTest, AFileWrittenWithinTheClocksTickIsComparedAgain) {
  struct stat info{.st_ctim = {1'000, 500'000'000}};
  const absl::Time changed = absl::TimeFromTimespec(info.st_ctim);
  EXPECT_TRUE(CtimeMayStay(info, changed));
  EXPECT_TRUE(CtimeMayStay(info, changed + absl::Milliseconds(50)));
  EXPECT_TRUE(CtimeMayStay(info, changed - absl::Hours(1))) << "the clock was set back";
  EXPECT_FALSE(CtimeMayStay(info, changed + absl::Milliseconds(101)));
  info.st_ctim.tv_nsec = 0;  // of a file system that knows seconds only
  EXPECT_TRUE(CtimeMayStay(info, absl::FromUnixMillis(1'000'999)));
  EXPECT_FALSE(CtimeMayStay(info, absl::FromUnixMillis(1'001'101)));
}

TEST_F(ChangesTest, WhereMappedFilesAreNotKnownAllAreSuspected) {
  struct stat info{.st_dev = 1, .st_ino = 2, .st_nlink = 1};
  EXPECT_FALSE(MappedFiles{}.MayHold(info));
  EXPECT_FALSE(MappedFiles{.any_linked = true}.MayHold(info));
  EXPECT_TRUE(MappedFiles{.any = true}.MayHold(info));
  EXPECT_TRUE((MappedFiles{.files = {{1, 2}}}.MayHold(info)));
  info.st_nlink = 2;
  EXPECT_TRUE(MappedFiles{.any_linked = true}.MayHold(info));
}

// --- one tar of all

TEST_F(ChangesTest, OneTarOfAllHasEachFileOnceAndUnpatchedOnesAsTheyWere) {
  Put(from_ + "/a", "a");
  Put(from_ + "/gone", "gone");
  Put(from_ + "/log", std::string(200'000, 'l'));
  Round();
  ASSERT_EQ(unlink((from_ + "/gone").c_str()), 0);
  std::ofstream(from_ + "/log", std::ios::app) << "more";
  ASSERT_EQ(mkdir((from_ + "/folder").c_str(), 0755), 0);
  ASSERT_EQ(rename((from_ + "/a").c_str(), (from_ + "/folder/b").c_str()), 0);
  ASSERT_EQ(link((from_ + "/folder/b").c_str(), (from_ + "/0").c_str()), 0);
  Round();
  const std::string merged = MakeFolder("merged");
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(from_));
}

TEST_F(ChangesTest, OneTarOfABaseAloneIsTheBase) {
  Put(from_ + "/a", "a");
  Round({.begun = absl::Now(), .last = true});
  const std::string merged = MakeFolder("merged");
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(from_));
}

TEST_F(ChangesTest, TarsThatDoNotBelongTogetherAreNotMerged) {
  Put(from_ + "/a", "a");
  Round();
  std::ofstream(from_ + "/a", std::ios::app) << "more";
  Round();
  const absl::StatusOr<MergedTar> merged =
      MergedTar::Plan({TarOf(1), TarOf(1)}, layout_, snapshot_, base_ + "/extra.tar");
  EXPECT_TRUE(merged.ok()) << "a mark means nothing in a base";
  Put(from_ + "/b", "b");
  Round();
  std::ofstream(from_ + "/b", std::ios::app) << "more";
  Round();
  EXPECT_EQ(MergedTar::Plan({TarOf(0), TarOf(3)}, layout_, snapshot_, base_ + "/extra2.tar").status().code(),
            absl::StatusCode::kDataLoss);
}

TEST_F(ChangesTest, TarsWithMoreNamesThanMayBeInMemoryAreNotMerged) {
  const std::string folder(100, 'f'), name(50, 'n');
  ASSERT_EQ(mkdir(absl::StrCat(from_, "/", folder).c_str(), 0755), 0);
  Put(absl::StrCat(from_, "/", folder, "/", name), "content");
  ASSERT_EQ(link(absl::StrCat(from_, "/", folder, "/", name).c_str(), (from_ + "/link").c_str()), 0);
  Put(from_ + "/gone", "gone");
  Round();
  ASSERT_EQ(unlink((from_ + "/gone").c_str()), 0);
  Put(from_ + "/come", "come");
  Round();
  constexpr int64_t kBytes = 1 + 100 + 151 + (4 + 151) + 4;  // ".", the folder, the file, the link, what came
  EXPECT_TRUE(MergedTar::Plan({TarOf(0), TarOf(1)}, layout_, snapshot_, base_ + "/1.extra", kBytes + 4).ok());
  const absl::Status status =
      MergedTar::Plan({TarOf(0), TarOf(1)}, layout_, snapshot_, base_ + "/2.extra", kBytes - 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("have more than 410 bytes"));
  EXPECT_THAT(status.message(), HasSubstr(".tar"));
}

// --- bounds

// A tree that has as much already as the snapshot says, packed in each of the ways.
class BoundsTest : public ChangesTest {
 protected:
  static absl::Status Ignore(absl::string_view) { return absl::OkStatus(); }
  // What PackBase says, `last` or not.
  absl::Status Base(bool last, int64_t entries, int64_t path_bytes) {
    Snapshot snapshot;
    snapshot.entries = entries;
    snapshot.path_bytes = path_bytes;
    return PackBase(from_, layout_, {.begun = absl::Now(), .last = last}, snapshot, Ignore).status();
  }
};

TEST_F(BoundsTest, ATreeOfTooManyFilesIsNotPackedFollowedOrNot) {
  ASSERT_TRUE(MakeFolders(from_ + "/a/b").ok());
  Put(from_ + "/a/b/file", "content");
  for (const bool last : {false, true}) {
    EXPECT_TRUE(Base(last, kMaxEntries - 3, 0).ok());
    const absl::Status status = Base(last, kMaxEntries - 2, 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr(from_));
    EXPECT_THAT(status.message(), HasSubstr("more than 1000000 files"));
    EXPECT_FALSE(TooManyHeld(status));
  }
  Round();
  Put(from_ + "/a/more", "more");
  snapshot_.entries = kMaxEntries;
  EXPECT_EQ(
      PackChanges(from_, layout_, {.begun = absl::Now(), .last = true}, snapshot_, Ignore).status().code(),
      absl::StatusCode::kResourceExhausted);
}

TEST_F(BoundsTest, ATreeOfTooLongPathsIsNotPackedFollowedOrNot) {
  ASSERT_TRUE(MakeFolders(from_ + "/a/b").ok());
  Put(from_ + "/a/b/file", "content");
  constexpr int64_t kBytes = 1 + 3 + 8;
  for (const bool last : {false, true}) {
    EXPECT_TRUE(Base(last, 0, kMaxPathBytes - kBytes).ok());
    const absl::Status status = Base(last, 0, kMaxPathBytes - kBytes + 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(status.message(), HasSubstr(from_));
    EXPECT_THAT(status.message(), HasSubstr("more than 256 MiB in all"));
  }
}

TEST_F(BoundsTest, WhatEachNameOfAFileSaysCounts) {
  const std::string deep(200, 'd');
  int64_t bytes = 0;
  auto expect = [&](int64_t more, absl::string_view what) {
    bytes += more;
    EXPECT_TRUE(Base(true, 0, kMaxPathBytes - bytes).ok()) << what;
    EXPECT_EQ(Base(true, 0, kMaxPathBytes - bytes + 1).code(), absl::StatusCode::kResourceExhausted) << what;
  };
  Put(absl::StrCat(from_, "/", deep), "content");
  expect(200, "a file");
  ASSERT_EQ(link(absl::StrCat(from_, "/", deep).c_str(), (from_ + "/hard").c_str()), 0);
  expect(4 + 200, "a hard link");
  ASSERT_EQ(symlink(std::string(3000, 't').c_str(), (from_ + "/soft").c_str()), 0);
  expect(4 + 3000, "a symbolic link");
  ASSERT_EQ(link((from_ + "/soft").c_str(), (from_ + "/same").c_str()), 0);
  expect(4 + 3000, "its other name");
}

TEST_F(BoundsTest, AllTreesOfTheProcessCountTogether) {
  Put(from_ + "/file", "content");
  {
    HeldEntries others;
    ASSERT_TRUE(others.Set(kMaxHeldEntries));
    for (const bool last : {false, true}) {
      const absl::Status status = Base(last, 0, 0);
      EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(status.message(), HasSubstr("remember more than 8000000 files"));
      EXPECT_TRUE(TooManyHeld(status));
    }
    EXPECT_FALSE(HeldEntries().Set(1));
    HeldEntries moved = std::move(others);
    EXPECT_FALSE(HeldEntries().Set(1)) << "held elsewhere";
    ASSERT_TRUE(moved.Set(kMaxHeldEntries - 1));
    EXPECT_TRUE(Base(false, 0, 0).ok());
    EXPECT_FALSE(moved.Set(kMaxHeldEntries + 1));
    EXPECT_EQ(moved.count(), kMaxHeldEntries - 1) << "as it was";
  }
  HeldEntries all;
  EXPECT_TRUE(all.Set(kMaxHeldEntries)) << "what went has given back its own";
  all = {};
  Round();
  EXPECT_EQ(snapshot_.held.count(), 1);
  EXPECT_FALSE(all.Set(kMaxHeldEntries));
  snapshot_ = {};
  EXPECT_TRUE(all.Set(kMaxHeldEntries));
}

// --- random trees

class RandomChangesTest : public ChangesTest, public testing::WithParamInterface<int> {};

TEST_P(RandomChangesTest, BaseAndChangesGiveTheTree) {
  RandomTree tree(from_, static_cast<unsigned>(GetParam()));
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < (round == 0 ? 100 : 1 + round % 8 * 5); ++i) tree.Change();
    Round();
    ASSERT_EQ(Describe(to_), Describe(from_)) << "round " << round;
  }
  ApplyAll();
  EXPECT_EQ(Describe(to_), Describe(from_));
  const std::string merged = MakeFolder("merged");
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(from_));
}

TEST_P(RandomChangesTest, AnOverlaysBaseAndChangesGiveTheTree) {
  const std::string lower = MakeFolder("lower");
  RandomTree image(lower, static_cast<unsigned>(1000 + GetParam()));
  for (int i = 0; i < 100; ++i) image.Change();
  std::string upper, source, target_upper, target;
  if (!MountOverlay(lower, "source", upper, source)) GTEST_SKIP() << "may not mount overlays";
  ASSERT_TRUE(MountOverlay(lower, "target", target_upper, target));
  from_ = upper;
  to_ = target;
  layout_ = Layout::kOverlay;
  RandomTree tree(source, static_cast<unsigned>(GetParam()));
  for (int round = 0; round < 40; ++round) {
    for (int i = 0; i < (round == 0 ? 100 : 1 + round % 8 * 5); ++i) tree.Change();
    Round();
    ASSERT_EQ(Describe(to_), Describe(source)) << "round " << round;
  }
  ApplyAll();
  EXPECT_EQ(Describe(to_), Describe(source));
  std::string merged_upper, merged;
  ASSERT_TRUE(MountOverlay(lower, "one", merged_upper, merged));
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(source));
}

TEST_P(RandomChangesTest, RoundsOverATreeInMotionAndOneAfterItGiveTheTree) {
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    RandomTree tree(from_, static_cast<unsigned>(GetParam()));
    while (!stop) tree.Change();
  });
  for (int round = 0; round < 25 && !HasFatalFailure(); ++round) {
    // What the writer maps is mapped for a moment only: any file may be.
    Round({.begun = absl::Now(), .mapped = {.any = round % 2 == 0}});
  }
  stop = true;
  writer.join();
  ASSERT_FALSE(HasFatalFailure());
  Round({.begun = absl::Now(), .last = true, .mapped = {.any = true}});
  EXPECT_EQ(Describe(to_), Describe(from_));
  const std::string merged = MakeFolder("merged");
  ApplyMerged(merged);
  EXPECT_EQ(Describe(merged), Describe(from_));
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomChangesTest, testing::Range(0, 8));

// --- change tars that mean harm

class HostileChangesTest : public ChangesTest {
 protected:
  HostileChangesTest() {
    outside_ = MakeFolder("outside");
    Put(outside_ + "/precious", "precious");
    Put(to_ + "/file", "file");
    EXPECT_EQ(symlink((outside_ + "/precious").c_str(), (to_ + "/link").c_str()), 0);
    EXPECT_EQ(symlink(outside_.c_str(), (to_ + "/way").c_str()), 0);
    EXPECT_EQ(mkfifo((to_ + "/fifo").c_str(), 0600), 0);
  }
  absl::Status ApplyOne(const std::string& name, const std::string& mark, unsigned type = AE_IFREG,
                        Layout layout = Layout::kChanges) {
    std::ofstream out(TarOf(0), std::ios::binary | std::ios::trunc);
    TarWriter tar([&out](absl::string_view bytes) {
      out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
      return absl::OkStatus();
    });
    EntryPointer entry = TarWriter::NewEntry();
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), type);
    archive_entry_set_perm(entry.get(), 0755);
    archive_entry_set_size(entry.get(), type == AE_IFREG ? 4 : 0);
    archive_entry_xattr_add_entry(entry.get(), kChangeMark, mark.data(), mark.size());
    EXPECT_TRUE(tar.WriteHeader(entry.get()).ok());
    EXPECT_TRUE(tar.WriteData(type == AE_IFREG ? "harm" : "").ok());
    EXPECT_TRUE(tar.Finish().ok());
    out.close();
    const absl::Status status = Apply(TarOf(0), to_, layout);
    EXPECT_EQ(*ReadFile(outside_ + "/precious"), "precious");
    EXPECT_THAT(*ListFolder(outside_), testing::ElementsAre("precious"));
    return status;
  }
  std::string outside_;
};

TEST_F(HostileChangesTest, NothingOutsideIsRemovedOrPatched) {
  for (const char* mark : {"removed", "patched"}) {
    for (const char* name : {"../outside/precious", "way/precious", ".", "a/../../outside/precious"}) {
      EXPECT_FALSE(ApplyOne(name, mark).ok()) << mark << " " << name;
    }
    EXPECT_FALSE(ApplyOne(outside_ + "/precious", mark).ok());
  }
  EXPECT_TRUE(ApplyOne("way", "removed").ok()) << "the link itself may go";
}

TEST_F(HostileChangesTest, OnlyARegularFileThatIsThereIsPatched) {
  for (const char* name : {"link", "fifo", "none", "way"}) {
    EXPECT_THAT(ApplyOne(name, "patched").message(), HasSubstr("no such file is there to be patched"))
        << name;
  }
  EXPECT_TRUE(ApplyOne("file", "patched").ok());
  EXPECT_EQ(*ReadFile(to_ + "/file"), "harm");
}

TEST_F(HostileChangesTest, MarksThatMeanNothingAreRefused) {
  EXPECT_THAT(ApplyOne("file", "other").message(), HasSubstr("marked as no change is"));
  EXPECT_THAT(ApplyOne("folder", "removed", AE_IFDIR).message(), HasSubstr("marked as no change is"));
  for (Layout layout : {Layout::kPlain, Layout::kOverlay}) {
    EXPECT_THAT(ApplyOne("file", "removed", AE_IFREG, layout).message(),
                HasSubstr("extended attribute godwit.change"));
  }
}

// --- speed

absl::Duration CpuTime() {
  timespec time{};
  EXPECT_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time), 0);
  return absl::DurationFromTimespec(time);
}

TEST_F(ChangesTest, TenThousandUnchangedFilesAreLookedThroughInMilliseconds) {
  for (int i = 0; i < 100; ++i) {
    const std::string folder = MakeFolder(absl::StrCat("from/folder-", i));
    for (int j = 0; j < 100; ++j) Put(absl::StrCat(folder, "/file-", j), "content");
  }
  Settle();
  Round();
  absl::Duration wall = absl::InfiniteDuration();
  absl::Duration cpu =
      absl::InfiniteDuration();  // of all threads: what does not depend on who else is busy here
  for (int i = 0; i < 10; ++i) {
    const absl::Time begin = absl::Now();
    const absl::Duration cpu_begin = CpuTime();
    const auto totals = PackChanges(from_, layout_, {.begun = begin, .last = true}, snapshot_,
                                    [](absl::string_view) { return absl::OkStatus(); });
    wall = std::min(wall, absl::Now() - begin);
    cpu = std::min(cpu, CpuTime() - cpu_begin);
    ASSERT_TRUE(totals.ok()) << totals.status();
    EXPECT_EQ(totals->entries, 0);
  }
  std::printf("10000 unchanged files: %s, CPU %s\n", absl::FormatDuration(wall).c_str(),
              absl::FormatDuration(cpu).c_str());
  EXPECT_LT(cpu, absl::Milliseconds(200)) << "several times what it takes on a slow machine";
}

}  // namespace
}  // namespace godwit::files
