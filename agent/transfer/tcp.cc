// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/tcp.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

absl::StatusOr<Addresses> Resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | flags;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &list);
  if (error != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("\"", host, "\" port \"", port, "\": ", gai_strerror(error)));
  return Addresses(list);
}

absl::StatusOr<UniqueFd> NewSocket(int family) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return ErrnoStatus("cannot make a TCP socket");
  return fd;
}

absl::Status AwaitConnected(int fd, absl::Time deadline) {
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1)));
    pollfd polled{fd, POLLOUT, 0};
    const int ready = poll(&polled, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("cannot wait for the connection");
    if (ready > 0) break;
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("no answer in time");
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
  GODWIT_ASSIGN_OR_RETURN(Addresses found, Resolve(std::string(host), address.substr(colon + 1), 0));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(found->ai_family));
  GODWIT_RETURN_IF_ERROR(SetSocketOptions(fd.get()));
  if (connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return absl::UnavailableError(ErrnoStatus("connect").message());
    GODWIT_RETURN_IF_ERROR(AwaitConnected(fd.get(), deadline));
  }
  return fd;
}

absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t& port) {
  const std::string what = absl::StrCat("cannot listen on port ", port);
  absl::StatusOr<Addresses> found = Resolve(address.empty() ? "::" : address, absl::StrCat(port), AI_PASSIVE);
  absl::StatusOr<UniqueFd> fd = found.ok() ? NewSocket((*found)->ai_family) : found.status();
  if (address.empty() && !fd.ok()) {  // a machine without IPv6
    found = Resolve("0.0.0.0", absl::StrCat(port), AI_PASSIVE);
    fd = found.ok() ? NewSocket((*found)->ai_family) : found.status();
  }
  if (!fd.ok()) return Annotate(fd.status(), what);
  const int on = 1;
  const int off = 0;
  setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if ((*found)->ai_family == AF_INET6) setsockopt(fd->get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(fd->get(), (*found)->ai_addr, (*found)->ai_addrlen) != 0 || listen(fd->get(), 64) != 0)
    return ErrnoStatus(what);
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(fd->get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) return ErrnoStatus(what);
  port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return fd;
}

}  // namespace godwit::transfer
