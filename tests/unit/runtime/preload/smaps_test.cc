// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/smaps.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::preload {
namespace {

TEST(SmapsTest, TellsTheTaskByItsFolder) {
  EXPECT_EQ(TaskOfFolder("/proc/1234"), 1234u);
  for (const char* path : {"", "/proc", "/proc/", "/proc/self", "/proc/12x", "/proc/12/task/12", "/sys/12",
                           "/proc/12 (deleted)", "/proc/123456789012345678901"})
    EXPECT_EQ(TaskOfFolder(path), 0u) << path;
}

TEST(SmapsTest, OpensTheTasksFileAndNoOther) {
  char folder[] = "/tmp/godwit-smaps-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::string proc = absl::StrCat("/proc/", getpid());
  const UniqueFd task(open(proc.c_str(), O_RDONLY | O_DIRECTORY)),
      other(open("/tmp", O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(OpenSmaps(folder, task.get()), -1) << "there is none";
  const std::string file = absl::StrCat(folder, "/", getpid());
  ASSERT_TRUE(WriteFileDurably(file, "text").ok());
  const UniqueFd smaps(OpenSmaps(folder, task.get()));
  ASSERT_TRUE(smaps.ok());
  char text[8];
  EXPECT_EQ(read(smaps.get(), text, sizeof text), 4);
  EXPECT_EQ(OpenSmaps(folder, other.get()), -1);
  EXPECT_EQ(OpenSmaps(folder, -1), -1);
  unlink(file.c_str());
  ASSERT_EQ(symlink("/etc/passwd", file.c_str()), 0);
  EXPECT_EQ(OpenSmaps(folder, task.get()), -1) << "a link is not followed";
  unlink(file.c_str());
  rmdir(folder);
}

}  // namespace
}  // namespace godwit::preload
