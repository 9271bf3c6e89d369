// SPDX-License-Identifier: Apache-2.0
// A TCP relay between a client and a server on 127.0.0.1 that a test can cut and mend, as a bad network does.
#pragma once

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/file.h"

namespace godwit::apiserver {

class Relay {
 public:
  explicit Relay(int target_port);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  int port() const { return port_; }
  // Resets all connections, and each new one at once, until Mend.
  void Cut();
  void Mend();
  // Connections that were refused while it was cut.
  int refused() const { return refused_; }
  int open() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Pair {
    UniqueFd client;
    UniqueFd server;
  };
  void Run();
  void Accept();
  // False when either end has closed.
  static bool Pump(int from, int to);

  const int target_port_;
  UniqueFd listener_;
  UniqueFd wake_;  // eventfd
  int port_ = 0;
  std::atomic<bool> cut_ = false;
  std::atomic<bool> stop_ = false;
  std::atomic<int> refused_ = 0;
  mutable absl::Mutex mutex_;
  std::vector<Pair> pairs_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::apiserver
