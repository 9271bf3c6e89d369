// SPDX-License-Identifier: Apache-2.0
// Unix stream sockets that carry lines: who is at the other end, how long a line may be, how long to wait for
// it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

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

// Of one line: the kernel's own bound is 253.
inline constexpr size_t kMaxDescriptors = 250;

// Lines over a connected socket. One thread reads, one may write meanwhile; Shutdown is safe from any.
class LineChannel {
 public:
  explicit LineChannel(UniqueFd socket, size_t max_line = size_t{4} << 20);
  LineChannel(LineChannel&&) noexcept = default;
  LineChannel& operator=(LineChannel&&) noexcept = default;

  int fd() const { return socket_.get(); }
  // The next line without its '\n'. OutOfRange: the peer has closed and nothing is left. DeadlineExceeded
  // after `limit` (what came so far is kept). ResourceExhausted: longer than max_line; the channel is useless
  // then.
  absl::StatusOr<std::string> ReadLine(absl::Duration limit);
  // `line` must not hold a '\n'; one is added. Unavailable: the peer is gone.
  absl::Status WriteLine(absl::string_view line, absl::Duration limit);
  // The same with descriptors beside it, at most kMaxDescriptors; they stay the caller's.
  absl::Status WriteLine(absl::string_view line, const std::vector<int>& descriptors, absl::Duration limit);
  // From now on descriptors that come beside lines are kept (otherwise the kernel drops them), at most
  // `most` at a time: more of them are ResourceExhausted.
  void AcceptDescriptors(size_t most) { most_descriptors_ = most; }
  // The next `count` of the descriptors that came beside the lines read so far, close-on-exec. DataLoss when
  // there are fewer.
  absl::StatusOr<std::vector<UniqueFd>> TakeDescriptors(size_t count);
  // True when the peer has closed its end, lines that were not yet read aside. Does not wait.
  bool PeerClosed() const;
  // Ends both directions, and with them a ReadLine that waits.
  void Shutdown();

 private:
  // As recv(2).
  absl::StatusOr<size_t> Receive(char* data, size_t size);

  UniqueFd socket_;
  size_t max_line_;
  std::string buffer_;  // received, not yet returned
  size_t most_descriptors_ = 0;
  std::deque<UniqueFd> descriptors_;  // received, not yet taken
};

}  // namespace godwit
