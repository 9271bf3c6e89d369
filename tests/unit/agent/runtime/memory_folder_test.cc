// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/memory_folder.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace godwit::runtime {
namespace {

constexpr int64_t kSize = int64_t{1} << 20;

std::optional<MemoryFolder> Make() {
  absl::StatusOr<MemoryFolder> made = MemoryFolder::Make(kSize);
  if (absl::IsFailedPrecondition(made.status())) return std::nullopt;
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

#define MAKE_OR_SKIP(folder)                   \
  std::optional<MemoryFolder> folder = Make(); \
  if (!folder.has_value()) GTEST_SKIP() << "not allowed to mount anything"

TEST(MemoryFolder, OtherProcessesReachIt) {
  MAKE_OR_SKIP(folder);
  const std::string inside = absl::StrCat(folder->path(), "/app/images");
  ASSERT_TRUE(MakeFolders(inside, 0700).ok());
  const pid_t child = fork();
  if (child == 0) _exit(WriteFileDurably(absl::StrCat(inside, "/core-1.img"), "core").ok() ? 0 : 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(ReadFile(absl::StrCat(inside, "/core-1.img")).value_or("none"), "core");
}

TEST(MemoryFolder, HoldsNoMoreThanItMay) {
  MAKE_OR_SKIP(folder);
  const std::string path = absl::StrCat(folder->path(), "/pages-1.img");
  absl::StatusOr<UniqueFd> file = OpenFile(path, O_WRONLY | O_CREAT);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(WriteAll(file->get(), std::string(kSize / 2, 'x'), path).ok());
  EXPECT_FALSE(WriteAll(file->get(), std::string(kSize, 'x'), path).ok());
}

TEST(MemoryFolder, NothingIsLeft) {
  MAKE_OR_SKIP(folder);
  const std::string file = absl::StrCat(folder->path(), "/file");
  ASSERT_TRUE(WriteFileDurably(file, "x").ok());
  const auto mounts = ReadFile("/proc/self/mountinfo");
  ASSERT_TRUE(mounts.ok());
  EXPECT_EQ(mounts->find("/file"), std::string::npos);
  folder.reset();
  EXPECT_FALSE(FileExists(file));
}

}  // namespace
}  // namespace godwit::runtime
