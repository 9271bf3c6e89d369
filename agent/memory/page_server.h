// SPDX-License-Identifier: Apache-2.0
// Hands the page stores' memfds to the pagers of this node (agent/api/host_protocol.h: PagesRequest,
// PagesReply), over a Unix socket in a folder of root's.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit::memory {

class PageServer {
 public:
  using Stores = std::vector<std::pair<pid_t, UniqueFd>>;  // container_pid, memfd
  // What a container of a sandbox is to be filled from. NotFound: nothing is, for exactly that pod.
  using Lookup =
      std::function<absl::StatusOr<Stores>(const std::string& sandbox_uid, const std::string& container)>;

  static absl::StatusOr<std::unique_ptr<PageServer>> Start(const std::string& socket, Lookup lookup);
  ~PageServer();

 private:
  class Impl;
  explicit PageServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::memory
