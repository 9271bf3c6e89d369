// SPDX-License-Identifier: Apache-2.0
// Hands the page stores' memfds to the pagers of this node (agent/api/host_protocol.h: PagesRequest,
// PagesReply), over a Unix socket in a folder of root's. Where pages are missing, the connection is then the
// pull's.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file.h"
#include "base/socket.h"

namespace godwit::memory {

class PageServer {
 public:
  using Stores = std::vector<std::pair<pid_t, UniqueFd>>;  // container_pid, memfd
  struct Found {
    Stores stores;
    // Not empty: pages are missing, and these are the maps of them, as many as stores.
    std::vector<UniqueFd> maps;
    // The stores are unknown, and the pager is to give them.
    bool give = false;
    // With `maps` or `give`: takes the connection once the answer is written. Does not wait.
    std::function<void(LineChannel)> pull;
    Found() = default;
    Found(Stores all) : stores(std::move(all)) {}  // NOLINT: what is mostly found
  };
  // What a container of a sandbox is to be filled from. NotFound: nothing is, for exactly that pod.
  using Lookup =
      std::function<absl::StatusOr<Found>(const std::string& sandbox_uid, const std::string& container)>;

  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const std::string& socket, Lookup lookup);
  ~PageServer();

 private:
  class Impl;
  explicit PageServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::memory
