// SPDX-License-Identifier: Apache-2.0
#include "runtime/criu_launcher/small_tar.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::small_tar {
namespace {

const std::vector<std::string> kCreate = {
    "--create",          "--gzip",        "--no-unquote",           "--no-wildcards",
    "--one-file-system", "--check-links", "--preserve-permissions", "--sparse",
    "--numeric-owner",   "--directory",   "/proc/self/fd/0",        "."};

class SmallTarTest : public testing::Test {
 protected:
  SmallTarTest() : root_(absl::StrCat(testing::TempDir(), "/small-tar-", getpid())) {
    for (const char* folder : {"/empty", "/dev", "/dev/pts", "/out"})
      std::filesystem::create_directories(root_ + folder);
    const std::string dev = root_ + "/dev";
    EXPECT_EQ(mknod((dev + "/null").c_str(), S_IFCHR | 0666, makedev(1, 3)), 0) << strerror(errno);
    EXPECT_EQ(chmod((dev + "/null").c_str(), 0666), 0);
    EXPECT_EQ(mkfifo((dev + "/pipe").c_str(), 0640), 0);
    EXPECT_EQ(symlink("/proc/self/fd", (dev + "/fd").c_str()), 0);
    EXPECT_EQ(lchown((dev + "/fd").c_str(), 12, 345), 0);
    std::ofstream(dev + "/termination-log") << "";
    EXPECT_EQ(chmod(dev.c_str(), 01755), 0);
    const timespec times[2] = {{1000, 0}, {1234567890, 0}};
    EXPECT_EQ(utimensat(AT_FDCWD, dev.c_str(), times, 0), 0);
  }
  ~SmallTarTest() override { RemoveTree(root_).IgnoreError(); }

  UniqueFd Open(const std::string& name) const {
    return UniqueFd(open((root_ + name).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  std::vector<Entry> Read(const std::string& name) const {
    std::vector<Entry> entries;
    EXPECT_TRUE(ReadFolder(Open(name).get(), &entries)) << name;
    return entries;
  }
  bool Reads(const std::string& name) const {
    std::vector<Entry> entries;
    return ReadFolder(Open(name).get(), &entries);
  }
  std::string root_;
};

TEST_F(SmallTarTest, WhatIsPackedComesOutTheSame) {
  for (const char* folder : {"/dev", "/empty"}) {
    const std::vector<Entry> entries = Read(folder);
    std::vector<Entry> unpacked;
    ASSERT_TRUE(Unpack(Pack(entries), &unpacked));
    EXPECT_EQ(unpacked, entries);
    ASSERT_TRUE(WriteFolder(Open("/out").get(), unpacked)) << strerror(errno);
    EXPECT_EQ(Read("/out"), entries);
    ASSERT_TRUE(WriteFolder(Open("/out").get(), unpacked)) << "over what is there: " << strerror(errno);
    EXPECT_EQ(Read("/out"), entries);
    ASSERT_TRUE(RemoveTree(root_ + "/out").ok());
    std::filesystem::create_directory(root_ + "/out");
  }
}

TEST_F(SmallTarTest, TarReadsIt) {
  const std::vector<Entry> entries = Read("/dev");
  std::ofstream(root_ + "/archive", std::ios::binary) << Pack(entries);
  const auto extracted = RunOrError({"tar", "--extract", "--gzip", "--no-unquote", "--no-wildcards", "--file",
                                     root_ + "/archive", "--directory", root_ + "/out"});
  ASSERT_TRUE(extracted.ok()) << extracted.status();
  EXPECT_EQ(Read("/out"), entries);
}

TEST_F(SmallTarTest, WhatIsMoreThanDevicesIsLeftToTar) {
  const std::string dev = root_ + "/dev";
  EXPECT_TRUE(Reads("/dev"));
  std::ofstream(dev + "/pts/0") << "";
  EXPECT_FALSE(Reads("/dev")) << "a folder that is not empty";
  ASSERT_EQ(unlink((dev + "/pts/0").c_str()), 0);
  std::ofstream(dev + "/file") << "content";
  EXPECT_FALSE(Reads("/dev"));
  ASSERT_EQ(unlink((dev + "/file").c_str()), 0);
  ASSERT_EQ(link((dev + "/null").c_str(), (dev + "/null2").c_str()), 0);
  EXPECT_FALSE(Reads("/dev")) << "a hard link";
  ASSERT_EQ(unlink((dev + "/null2").c_str()), 0);
  ASSERT_EQ(symlink(std::string(101, 'x').c_str(), (dev + "/long").c_str()), 0);
  EXPECT_FALSE(Reads("/dev")) << "a long link";
  ASSERT_EQ(unlink((dev + "/long").c_str()), 0);
  std::ofstream(dev + "/" + std::string(97, 'x')) << "";
  EXPECT_FALSE(Reads("/dev")) << "a long name";
}

TEST_F(SmallTarTest, AnotherArchiveIsLeftToTar) {
  const auto archive = RunOrError({"tar", "--create", "--gzip", "--directory", root_ + "/dev", "."});
  ASSERT_TRUE(archive.ok()) << archive.status();
  const std::string own = Pack(Read("/dev"));
  std::vector<Entry> entries;
  EXPECT_FALSE(Unpack(*archive, &entries));
  for (size_t cut : {size_t{0}, size_t{9}, size_t{17}, own.size() / 2, own.size() - 1}) {
    entries.clear();
    EXPECT_FALSE(Unpack(own.substr(0, cut), &entries)) << cut;
  }
  for (size_t at = 0; at < own.size(); at += 7) {
    if (at >= 4 && at < 10) continue;  // time and system, which nobody looks at
    std::string broken = own;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    entries.clear();
    EXPECT_FALSE(Unpack(broken, &entries)) << at;
  }
}

TEST_F(SmallTarTest, NamesThatLeadElsewhereAreLeftToTar) {
  for (const char* name : {"..", "a/b", "", "/x"}) {
    std::vector<Entry> entries = Read("/empty");
    entries.push_back({.name = name, .type = '0'});
    std::vector<Entry> unpacked;
    EXPECT_FALSE(Unpack(Pack(entries), &unpacked)) << name;
  }
}

// As CRIU runs it, by the launcher: archive at stdout, folder or archive at stdin.
TEST_F(SmallTarTest, DoesWhatCriuAsksForWithoutTar) {
  const std::string bundle = root_ + "/bundle";
  std::filesystem::create_directories(bundle + "/bin");
  std::filesystem::copy_file(LAUNCHER, bundle + "/criu");
  std::filesystem::create_symlink("../criu", bundle + "/bin/tar");
  const auto run = [&](std::vector<std::string> arguments, int in, int out) {
    arguments.insert(arguments.begin(), bundle + "/bin/tar");
    SpawnOptions options;
    options.stdin_fd = in;
    options.stdout_fd = out;
    absl::StatusOr<Child> child = Child::Spawn(arguments, options);
    EXPECT_TRUE(child.ok()) << child.status();
    return child->Wait(absl::Seconds(10))->code;
  };
  UniqueFd archive(open((root_ + "/archive").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  EXPECT_EQ(run(kCreate, Open("/dev").get(), archive.get()), 0);
  const std::vector<std::string> extract = {"--extract",      "--gzip",      "--no-unquote",
                                            "--no-wildcards", "--directory", root_ + "/out"};
  const UniqueFd in(open((root_ + "/archive").c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(run(extract, in.get(), -1), 0);
  EXPECT_EQ(Read("/out"), Read("/dev"));
  // What it does not do itself it gives to tar, which this bundle lacks.
  std::ofstream(root_ + "/dev/file") << "content";
  EXPECT_EQ(run(kCreate, Open("/dev").get(), archive.get()), 127);
  EXPECT_EQ(run({"--version"}, -1, archive.get()), 127);
}

}  // namespace
}  // namespace godwit::small_tar
