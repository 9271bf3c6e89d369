// SPDX-License-Identifier: Apache-2.0
// The Unix socket on which godwit-runtime asks the agent what a `create` is to become
// (agent/api/host_protocol.h). One connection a `create`, one JSON object a line. Only root may ask;
// everything that is said is bounded and checked.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "agent/permits/permit_table.h"
#include "base/file.h"

namespace godwit::permits {

inline constexpr size_t kMaxRequest = 64u << 10;  // bytes of one line
inline constexpr int kMaxConnections = 256;       // `create`s at one time on a node

class PermitServer {
 public:
  // Listens at `path` (its folder is made) until it goes; `table` must outlive it.
  static absl::StatusOr<std::unique_ptr<PermitServer>> Start(const std::string& path, PermitTable* table);
  // Closes every connection, which the runtimes take for a refusal, and waits for its threads.
  ~PermitServer();
  PermitServer(const PermitServer&) = delete;
  PermitServer& operator=(const PermitServer&) = delete;

 private:
  class Connection;
  PermitServer(UniqueFd listener, PermitTable* table) : listener_(std::move(listener)), table_(table) {}
  void AcceptLoop();
  void Serve(const std::shared_ptr<Connection>& connection);

  UniqueFd listener_;
  PermitTable* const table_;
  std::thread acceptor_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_set<std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::permits
