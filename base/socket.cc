// SPDX-License-Identifier: Apache-2.0
#include "base/socket.h"

#include <fcntl.h>
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
#include "base/clock.h"
#include "base/status.h"

namespace godwit {
namespace {

// An address takes 107 bytes of path. A longer one is reached through a descriptor of its folder, which must
// stay open while the address is used.
struct Address {
  sockaddr_un name = {};
  UniqueFd folder;
};

absl::StatusOr<Address> AddressOf(const std::string& path) {
  Address address;
  address.name.sun_family = AF_UNIX;
  std::string short_path = path;
  const size_t slash = path.rfind('/');
  if (path.size() >= sizeof address.name.sun_path && slash != std::string::npos) {
    GODWIT_ASSIGN_OR_RETURN(address.folder, OpenFile(path.substr(0, slash + 1), O_PATH | O_DIRECTORY));
    short_path = absl::StrCat("/proc/self/fd/", address.folder.get(), path.substr(slash));
  }
  if (short_path.empty() || short_path.size() >= sizeof address.name.sun_path) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot use \"", path, "\" as a Unix socket: its name is empty or too long"));
  }
  memcpy(address.name.sun_path, short_path.data(), short_path.size());
  return address;
}

// Waits until `fd` is ready for `events`; an error or a hang-up counts as ready. The events that came.
absl::StatusOr<short> WaitReady(int fd, short events, absl::Time deadline, absl::string_view what) {
  while (true) {
    int timeout = -1;
    if (deadline != absl::InfiniteFuture()) {
      timeout = static_cast<int>(
          std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - SteadyNow()) + 1, 0, 3'600'000));
    }
    pollfd source = {fd, events, 0};
    const int ready = poll(&source, 1, timeout);
    if (ready > 0) return source.revents;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(what);
    if (SteadyNow() >= deadline)
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
  GODWIT_ASSIGN_OR_RETURN(const Address address, AddressOf(path));
  RemoveStaleSocket(path);
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.ok()) return ErrnoStatus("cannot make a Unix socket");
  // The mode of the open socket is that of the file which bind makes: it is never there with a wider one.
  if (fchmod(listener.get(), mode) != 0) return ErrnoStatus("cannot set the mode of a Unix socket");
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address.name), sizeof address.name) != 0) {
    return ErrnoStatus(absl::StrCat("cannot listen at ", path));
  }
  if (chmod(path.c_str(), mode) != 0) return ErrnoStatus(absl::StrCat("cannot set the mode of ", path));
  if (listen(listener.get(), SOMAXCONN) != 0) return ErrnoStatus(absl::StrCat("cannot listen at ", path));
  return listener;
}

absl::StatusOr<UniqueFd> AcceptUnix(int listener, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
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
  GODWIT_ASSIGN_OR_RETURN(const Address address, AddressOf(path));
  // A blocking connect waits only while the listener's queue is full, for as long as SO_SNDTIMEO says.
  UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.ok()) return ErrnoStatus("cannot make a Unix socket");
  const timeval timeout = absl::ToTimeval(std::clamp(limit, absl::Milliseconds(1), absl::Hours(24)));
  setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  if (connect(connection.get(), reinterpret_cast<const sockaddr*>(&address.name), sizeof address.name) == 0)
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
  const absl::Time deadline = SteadyNow() + limit;
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
    const absl::StatusOr<size_t> got = Receive(chunk, sizeof chunk);
    if (absl::IsUnavailable(got.status())) continue;
    GODWIT_RETURN_IF_ERROR(got.status());
    if (*got == 0) {
      if (buffer_.empty()) return absl::OutOfRangeError("the peer has closed the connection");
      return absl::DataLossError("the peer has closed the connection in the middle of a line");
    }
    buffer_.append(chunk, *got);
  }
}

// Unavailable: nothing is there after all. 0: the peer has closed.
absl::StatusOr<size_t> LineChannel::Receive(char* data, size_t size) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  iovec part = {data, size};
  msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
  if (most_descriptors_ > 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
  }
  const ssize_t n = recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return absl::UnavailableError("nothing to read");
  if (n < 0) return errno == ECONNRESET ? absl::StatusOr<size_t>(0) : ErrnoStatus("cannot read a line");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = CMSG_LEN(0); at + sizeof(int) <= header->cmsg_len; at += sizeof(int)) {
      int fd = -1;
      memcpy(&fd, reinterpret_cast<const char*>(header) + at, sizeof fd);
      descriptors_.emplace_back(fd);
    }
  }
  if (most_descriptors_ > 0 &&
      ((message.msg_flags & MSG_CTRUNC) != 0 || descriptors_.size() > most_descriptors_)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the peer sent more than ", most_descriptors_, " descriptors, or more than fit here"));
  }
  return static_cast<size_t>(n);
}

absl::StatusOr<std::vector<UniqueFd>> LineChannel::TakeDescriptors(size_t count) {
  if (descriptors_.size() < count) {
    return absl::DataLossError(
        absl::StrCat("the peer sent ", descriptors_.size(), " descriptors instead of ", count));
  }
  std::vector<UniqueFd> taken;
  for (; count > 0; --count) {
    taken.push_back(std::move(descriptors_.front()));
    descriptors_.pop_front();
  }
  return taken;
}

absl::Status LineChannel::WriteLine(absl::string_view line, absl::Duration limit) {
  return WriteLine(line, {}, limit);
}

absl::Status LineChannel::WriteLine(absl::string_view line, const std::vector<int>& descriptors,
                                    absl::Duration limit) {
  if (descriptors.size() > kMaxDescriptors) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write a line with ", descriptors.size(), " descriptors"));
  }
  if (absl::StrContains(line, '\n'))
    return absl::InvalidArgumentError("cannot write a line that holds a newline");
  const absl::Time deadline = SteadyNow() + limit;
  const std::string framed = absl::StrCat(line, "\n");
  absl::string_view left = framed;
  // They go with the line's first bytes.
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  size_t control_size = 0;
  if (!descriptors.empty()) {
    control_size = CMSG_SPACE(descriptors.size() * sizeof(int));
    auto* header = reinterpret_cast<cmsghdr*>(control);
    *header = {.cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int)),
               .cmsg_level = SOL_SOCKET,
               .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size() * sizeof(int));
  }
  while (!left.empty()) {
    iovec part = {const_cast<char*>(left.data()), left.size()};
    msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (control_size > 0) {
      message.msg_control = control;
      message.msg_controllen = control_size;
    }
    const ssize_t n = sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      left.remove_prefix(static_cast<size_t>(n));
      control_size = 0;
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
