// SPDX-License-Identifier: Apache-2.0
// Unix stream sockets that carry lines: who is at the other end, how long a line may be, how long to wait for
// it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit {

// The process that connected (or listens), as the kernel saw it at that moment.
struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
};

// Listens at `path`, which gets exactly `mode`; a socket left there by a process that is gone is replaced.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, mode_t mode = 0600);

// The next connection. DeadlineExceeded after `limit`; Cancelled when another thread has called shutdown(2)
// on the listener.
absl::StatusOr<UniqueFd> AcceptUnix(int listener, absl::Duration limit);

// NotFound when the socket is not there, Unavailable when nobody listens.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, absl::Duration limit);

absl::StatusOr<PeerCredentials> PeerOf(int socket);

// Lines over a connected socket. One thread reads, one may write meanwhile; Shutdown is safe from any.
class LineChannel {
 public:
  explicit LineChannel(UniqueFd socket, size_t max_line = size_t{4} << 20);
  LineChannel(LineChannel&&) = default;
  LineChannel& operator=(LineChannel&&) = default;

  int fd() const { return socket_.get(); }
  // The next line without its '\n'. OutOfRange: the peer has closed and nothing is left. DeadlineExceeded
  // after `limit` (what came so far is kept). ResourceExhausted: longer than max_line; the channel is useless
  // then.
  absl::StatusOr<std::string> ReadLine(absl::Duration limit);
  // `line` must not hold a '\n'; one is added. Unavailable: the peer is gone.
  absl::Status WriteLine(absl::string_view line, absl::Duration limit);
  // True when the peer has closed its end, lines that were not yet read aside. Does not wait.
  bool PeerClosed() const;
  // Ends both directions, and with them a ReadLine that waits.
  void Shutdown();

 private:
  UniqueFd socket_;
  size_t max_line_;
  std::string buffer_;  // received, not yet returned
};

}  // namespace godwit
