// SPDX-License-Identifier: Apache-2.0
// Sparse files under paths that do and do not fit into a ustar header: 100 bytes, or 155 and 100 around a
// "/".
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::files {

// Bytes of a sparse file, and where it has data.
inline constexpr off_t kSparseBytes = 1 << 20;
inline constexpr off_t kDataAt = 512 << 10;

// A path of so many bytes, of parts of `part` bytes and the rest.
inline std::string PathOfBytes(size_t bytes, size_t part) {
  std::string path;
  while (path.size() < bytes) path.append(path.size() % (part + 1) == part ? "/" : "p");
  if (path.back() == '/') path.back() = 'p';  // the last part is longer by one
  return path;
}

inline std::vector<std::string> LongPaths() {
  std::set<std::string> paths;
  for (const size_t name : {97, 98, 99, 100, 101, 154, 155, 156, 200, 254, 255}) {
    paths.insert(std::string(name, 'n'));
    for (const size_t folder : {1, 50, 99, 100, 154, 155, 156, 255})
      paths.insert(absl::StrCat(std::string(folder, 'f'), "/", std::string(name, 'n')));
  }
  for (const size_t bytes : {250, 254, 255, 256, 257, 258, 300, 1000, 2000, 3999, 4000}) {
    for (const size_t part : {90, 100, 200, 254}) {
      const std::string own = absl::StrCat(bytes, "-", part, "-");  // none is another's folder
      paths.insert(PathOfBytes(bytes, part).replace(0, own.size(), own));
    }
  }
  paths.insert(std::string(120, 'n') + " with space\nand newline");
  for (const std::string& path : {"\xff/" + std::string(150, 'n'), std::string(100, 'f') + "/\xc3\xa4\xfe"})
    paths.insert(path);
  return {paths.begin(), paths.end()};
}

inline void WriteAt(const std::string& path, off_t at, const std::string& text) {
  const UniqueFd fd = *OpenFile(path, O_WRONLY);
  ASSERT_EQ(pwrite(fd.get(), text.data(), text.size(), at), static_cast<ssize_t>(text.size())) << path;
}

// Each with its own path as its data; every third is nothing but a hole.
inline void MakeSparseFiles(const std::string& root) {
  int number = 0;
  for (const std::string& path : LongPaths()) {
    const std::string full = absl::StrCat(root, "/", path);
    ASSERT_TRUE(MakeFolders(full.substr(0, full.rfind('/'))).ok()) << full;
    const UniqueFd fd(open(full.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644));
    ASSERT_TRUE(fd.ok()) << full;
    ASSERT_EQ(ftruncate(fd.get(), kSparseBytes), 0);
    if (++number % 3 != 0) WriteAt(full, kDataAt, path);
  }
}

}  // namespace godwit::files
