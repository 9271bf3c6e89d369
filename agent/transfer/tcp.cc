// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/tcp.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/tcp_listener.h"

namespace godwit::transfer {
namespace {

absl::Status AwaitConnected(int fd, absl::Time deadline) {
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(absl::Ceil(deadline - SteadyNow(), absl::Milliseconds(1)));
    pollfd polled{fd, POLLOUT, 0};
    const int ready = poll(&polled, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("cannot wait for the connection");
    if (ready > 0) break;
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError("no answer in time");
  }
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error == 0) return absl::OkStatus();
  return absl::UnavailableError(ErrnoStatus(error, "connect").message());
}

}  // namespace

void IgnoreBrokenPipes() { signal(SIGPIPE, SIG_IGN); }

absl::Status SetSocketOptions(int fd) {
  const struct {
    int level, name, value;
  } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},  {SOL_SOCKET, SO_KEEPALIVE, 1},
                 {IPPROTO_TCP, TCP_KEEPIDLE, 3}, {IPPROTO_TCP, TCP_KEEPINTVL, 2},
                 {IPPROTO_TCP, TCP_KEEPCNT, 3},  {IPPROTO_TCP, TCP_USER_TIMEOUT, 10'000}};
  for (const auto& option : options) {
    if (setsockopt(fd, option.level, option.name, &option.value, sizeof(option.value)) != 0) {
      return ErrnoStatus("cannot set a socket option");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, absl::Time deadline) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos)
    return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is not ip:port"));
  absl::string_view host = absl::string_view(address).substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  if (host.empty()) return absl::InvalidArgumentError(absl::StrCat("\"", address, "\" is not ip:port"));
  GODWIT_ASSIGN_OR_RETURN(TcpAddresses found, ResolveTcp(std::string(host), address.substr(colon + 1)));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, NewTcpSocket(found->ai_family));
  GODWIT_RETURN_IF_ERROR(SetSocketOptions(fd.get()));
  if (connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return absl::UnavailableError(ErrnoStatus("connect").message());
    GODWIT_RETURN_IF_ERROR(AwaitConnected(fd.get(), deadline));
  }
  return fd;
}

}  // namespace godwit::transfer
