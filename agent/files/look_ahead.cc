// SPDX-License-Identifier: Apache-2.0
#include "agent/files/look_ahead.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace godwit::files {
namespace {

constexpr size_t kMaxThreads = 4;
constexpr size_t kPiece = 256;         // files that one thread takes at a time
constexpr size_t kWorthAThread = 500;  // below, starting one takes longer than it saves

struct Piece {
  std::string folder;
  std::span<Node> nodes;
};

void Collect(const std::string& folder, std::vector<Node>& nodes, std::vector<Piece>& pieces) {
  for (size_t at = 0; at < nodes.size(); at += kPiece)
    pieces.push_back({folder, std::span(nodes).subspan(at, std::min(kPiece, nodes.size() - at))});
  for (Node& node : nodes) {
    if (!node.children.empty()) Collect(absl::StrCat(folder, "/", node.name), node.children, pieces);
  }
}

}  // namespace

void LookAhead(int root, Snapshot& snapshot,
               const std::function<bool(const Node& node, const struct stat& info)>& unchanged) {
  std::vector<Piece> pieces;
  Collect(".", snapshot.root.children, pieces);
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i = next++; i < pieces.size(); i = next++) {
      open_how how{};
      how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
      how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
      const UniqueFd folder(
          static_cast<int>(syscall(SYS_openat2, root, pieces[i].folder.c_str(), &how, sizeof(how))));
      if (!folder.ok()) continue;
      for (Node& node : pieces[i].nodes) {
        struct stat info{};
        node.unchanged = S_ISREG(node.seen.mode) &&
                         fstatat(folder.get(), node.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                         info.st_nlink == 1 && unchanged(node, info);
      }
    }
  };
  const size_t files = static_cast<size_t>(snapshot.entries);
  std::vector<std::thread> helpers(std::min<size_t>(
      {kMaxThreads - 1, std::max(1u, std::thread::hardware_concurrency()) - 1, files / kWorthAThread}));
  for (std::thread& helper : helpers) helper = std::thread(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace godwit::files
