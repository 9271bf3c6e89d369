// SPDX-License-Identifier: Apache-2.0
// A tree as text, for comparing two.
#pragma once

#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::files {

// Everything that should survive the journey, as text: one line a file.
inline std::string Describe(const std::string& folder, const std::string& below = "") {
  std::string text;
  const std::vector<std::string> names = *ListFolder(absl::StrCat(folder, "/", below));
  for (const std::string& name : names) {
    const std::string path = below.empty() ? name : absl::StrCat(below, "/", name);
    const std::string full = absl::StrCat(folder, "/", path);
    struct stat info{};
    EXPECT_EQ(lstat(full.c_str(), &info), 0) << full;
    absl::StrAppend(&text, path, absl::StrFormat(" %o", info.st_mode), " ", info.st_uid, ":", info.st_gid,
                    " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec);
    if (S_ISREG(info.st_mode))
      absl::StrAppend(&text, " n", info.st_nlink, " ", std::hash<std::string>{}(*ReadFile(full, 1 << 28)),
                      " ", info.st_size);
    if (S_ISLNK(info.st_mode)) {
      char target[4096] = "";
      EXPECT_GT(readlink(full.c_str(), target, sizeof(target) - 1), 0);
      absl::StrAppend(&text, " -> ", target);
    }
    char names_of_attributes[4096];
    const ssize_t size = llistxattr(full.c_str(), names_of_attributes, sizeof(names_of_attributes));
    std::vector<std::string> attributes;  // the file system's order says nothing
    for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(strlen(names_of_attributes + at)) + 1) {
      char value[256];
      const ssize_t length = lgetxattr(full.c_str(), names_of_attributes + at, value, sizeof(value));
      if (absl::StartsWith(names_of_attributes + at, "trusted.overlay.")) continue;
      attributes.push_back(absl::StrCat(" ", names_of_attributes + at, "=",
                                        absl::string_view(value, std::max<ssize_t>(length, 0))));
    }
    std::sort(attributes.begin(), attributes.end());
    for (const std::string& attribute : attributes) text += attribute;
    absl::StrAppend(&text, "\n");
    if (S_ISDIR(info.st_mode)) absl::StrAppend(&text, Describe(folder, path));
  }
  return text;
}

}  // namespace godwit::files
