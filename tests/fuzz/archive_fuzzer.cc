// SPDX-License-Identifier: Apache-2.0
// Any bytes as a tar: applied to a folder as a writable layer, as a volume and as changes, and unpacked as a
// checkpoint's archive. What lies beside the folder must stay as it was.
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/checkpoint/tar.h"
#include "agent/files/layer.h"
#include "base/file.h"

namespace {

const std::string& Folder() {
  struct Temporary {
    std::string name = "/tmp/godwit-archive-fuzzer-XXXXXX";
    Temporary() {
      if (mkdtemp(name.data()) == nullptr) std::abort();
      if (!godwit::WriteFileDurably(name + "/precious", "precious").ok()) std::abort();
    }
    ~Temporary() { godwit::RemoveTree(name).IgnoreError(); }
  };
  static const Temporary folder;
  return folder.name;
}

void CheckOutside() {
  const auto names = godwit::ListFolder(Folder());
  if (!names.ok() || *names != std::vector<std::string>{"input.tar", "inside", "precious"}) std::abort();
  const auto precious = godwit::ReadFile(Folder() + "/precious");
  if (!precious.ok() || *precious != "precious") std::abort();
}

// A folder with something in it, a link out of it among them.
std::string FreshInside() {
  const std::string inside = Folder() + "/inside";
  if (!godwit::RemoveTree(inside).ok() || !godwit::MakeFolders(inside + "/etc").ok()) std::abort();
  if (symlink("../precious", (inside + "/file").c_str()) != 0 ||
      symlink("..", (inside + "/way").c_str()) != 0 ||
      !godwit::WriteFileDurably(inside + "/etc/known", "known").ok())
    std::abort();
  return inside;
}

void Unpack(const std::string& tar, const std::string& inside) {
  auto fd = godwit::OpenFile(tar, O_RDONLY);
  if (!fd.ok()) std::abort();
  int count = 0;
  (void)godwit::checkpoint::ExtractTar(fd->get(), 1 << 20,
                                       [&](const std::string&) -> absl::StatusOr<std::string> {
                                         return absl::StrCat(inside, "/extracted-", ++count);
                                       });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string tar = Folder() + "/input.tar";
  {
    auto file = godwit::OpenFile(tar, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file.ok() ||
        !godwit::WriteAll(file->get(), absl::string_view(reinterpret_cast<const char*>(data), size), tar)
             .ok())
      std::abort();
  }
  using godwit::files::Layout;
  for (Layout layout : {Layout::kOverlay, Layout::kPlain, Layout::kChanges}) {
    (void)godwit::files::Apply(tar, FreshInside(), layout);
    CheckOutside();
  }
  Unpack(tar, FreshInside());
  CheckOutside();
  return 0;
}
