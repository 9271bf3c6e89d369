// SPDX-License-Identifier: Apache-2.0
#include "base/socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace godwit {
namespace {

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(absl::StrCat("cannot use \"", path,
                                                   "\" as a Unix socket: its length must be 1 to ",
                                                   sizeof address.sun_path - 1, " bytes"));
  }
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Waits until `fd` is ready for `events`; an error or a hang-up counts as ready. The events that came.
absl::StatusOr<short> WaitReady(int fd, short events, absl::Time deadline, absl::string_view what) {
  while (true) {
    int timeout = -1;
    if (deadline != absl::InfiniteFuture()) {
      timeout = static_cast<int>(
          std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - absl::Now()) + 1, 0, 3'600'000));
    }
    pollfd source = {fd, events, 0};
    const int ready = poll(&source, 1, timeout);
    if (ready > 0) return source.revents;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(what);
    if (absl::Now() >= deadline)
      return absl::DeadlineExceededError(absl::StrCat(what, ": nothing happened in time"));
  }
}

// Removes a socket that nobody listens at; anything else at that path is left for bind to complain about.
void RemoveStaleSocket(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  if (absl::IsUnavailable(ConnectUnix(path, absl::Seconds(1)).status())) unlink(path.c_str());
}

}  // namespace

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, mode_t mode) {
  GODWIT_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  RemoveStaleSocket(path);
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.ok()) return ErrnoStatus("cannot make a Unix socket");
  // The mode of the open socket is that of the file which bind makes: it is never there with a wider one.
  if (fchmod(listener.get(), mode) != 0) return ErrnoStatus("cannot set the mode of a Unix socket");
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoStatus(absl::StrCat("cannot listen at ", path));
  }
  if (chmod(path.c_str(), mode) != 0) return ErrnoStatus(absl::StrCat("cannot set the mode of ", path));
  if (listen(listener.get(), SOMAXCONN) != 0) return ErrnoStatus(absl::StrCat("cannot listen at ", path));
  return listener;
}

absl::StatusOr<UniqueFd> AcceptUnix(int listener, absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(const short events,
                            WaitReady(listener, POLLIN, deadline, "cannot accept a connection"));
    UniqueFd socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.ok()) return socket;
    const int error = errno;
    // A non-blocking accept does not tell that the listener was shut down; poll does.
    if (error == EINVAL || (error == EAGAIN && (events & POLLHUP) != 0)) {
      return absl::CancelledError("cannot accept a connection: the listener was shut down");
    }
    if (error != EAGAIN && error != EINTR && error != ECONNABORTED) {
      return ErrnoStatus(error, "cannot accept a connection");
    }
  }
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path, absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  // A blocking connect waits only while the listener's queue is full, for as long as SO_SNDTIMEO says.
  UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.ok()) return ErrnoStatus("cannot make a Unix socket");
  const timeval timeout = absl::ToTimeval(std::clamp(limit, absl::Milliseconds(1), absl::Hours(24)));
  setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0)
    return connection;
  const std::string what = absl::StrCat("cannot connect to ", path);
  if (errno == ECONNREFUSED) return absl::UnavailableError(absl::StrCat(what, ": nobody listens there"));
  if (errno == EAGAIN) return absl::DeadlineExceededError(absl::StrCat(what, ": its queue stayed full"));
  return ErrnoStatus(what);
}

absl::StatusOr<PeerCredentials> PeerOf(int socket) {
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return ErrnoStatus("cannot tell who is connected");
  return PeerCredentials{peer.pid, peer.uid, peer.gid};
}

LineChannel::LineChannel(UniqueFd socket, size_t max_line)
    : socket_(std::move(socket)), max_line_(max_line) {}

absl::StatusOr<std::string> LineChannel::ReadLine(absl::Duration limit) {
  const absl::Time deadline = absl::Now() + limit;
  size_t searched = 0;
  while (true) {
    if (const size_t end = buffer_.find('\n', searched); end != std::string::npos && end <= max_line_) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end + 1);
      return line;
    }
    searched = buffer_.size();
    if (buffer_.size() > max_line_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the peer sent a line of more than ", max_line_, " bytes"));
    }
    GODWIT_RETURN_IF_ERROR(WaitReady(socket_.get(), POLLIN, deadline, "cannot read a line").status());
    char chunk[16384];
    const ssize_t n = recv(socket_.get(), chunk, sizeof chunk, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0 && errno != ECONNRESET) return ErrnoStatus("cannot read a line");
    if (n <= 0) {
      if (buffer_.empty()) return absl::OutOfRangeError("the peer has closed the connection");
      return absl::DataLossError("the peer has closed the connection in the middle of a line");
    }
    buffer_.append(chunk, static_cast<size_t>(n));
  }
}

absl::Status LineChannel::WriteLine(absl::string_view line, absl::Duration limit) {
  if (absl::StrContains(line, '\n'))
    return absl::InvalidArgumentError("cannot write a line that holds a newline");
  const absl::Time deadline = absl::Now() + limit;
  const std::string framed = absl::StrCat(line, "\n");
  absl::string_view left = framed;
  while (!left.empty()) {
    const ssize_t n = send(socket_.get(), left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      left.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      GODWIT_RETURN_IF_ERROR(WaitReady(socket_.get(), POLLOUT, deadline, "cannot write a line").status());
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return absl::UnavailableError("cannot write a line: the peer has closed the connection");
    } else if (errno != EINTR) {
      return ErrnoStatus("cannot write a line");
    }
  }
  return absl::OkStatus();
}

bool LineChannel::PeerClosed() const {
  pollfd source = {socket_.get(), POLLRDHUP, 0};
  return poll(&source, 1, 0) > 0;
}

void LineChannel::Shutdown() { shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace godwit
