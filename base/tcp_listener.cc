// SPDX-License-Identifier: Apache-2.0
#include "base/tcp_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit {
namespace {

// A burst of connections must not make the kernel drop one that matters: it comes again only after a second.
constexpr int kBacklog = 1024;

}  // namespace

absl::StatusOr<TcpAddresses> ResolveTcp(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &list);
  if (error != 0)
    return absl::InvalidArgumentError(
        absl::StrCat("\"", host, "\" port \"", port, "\": ", gai_strerror(error)));
  return TcpAddresses(list);
}

absl::StatusOr<UniqueFd> NewTcpSocket(int family) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return ErrnoStatus("cannot make a TCP socket");
  return fd;
}

absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t& port) {
  const std::string what = absl::StrCat("cannot listen on ", address.empty() ? "port " : address + ":", port);
  absl::StatusOr<TcpAddresses> found = ResolveTcp(address.empty() ? "::" : address, absl::StrCat(port));
  absl::StatusOr<UniqueFd> fd = found.ok() ? NewTcpSocket((*found)->ai_family) : found.status();
  if (address.empty() && !fd.ok()) {  // a machine without IPv6
    found = ResolveTcp("0.0.0.0", absl::StrCat(port));
    fd = found.ok() ? NewTcpSocket((*found)->ai_family) : found.status();
  }
  if (!fd.ok()) return Annotate(fd.status(), what);
  const int on = 1;
  const int off = 0;
  setsockopt(fd->get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if ((*found)->ai_family == AF_INET6) setsockopt(fd->get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(fd->get(), (*found)->ai_addr, (*found)->ai_addrlen) != 0 || listen(fd->get(), kBacklog) != 0) {
    if (errno != EADDRINUSE) return ErrnoStatus(what);
    return absl::UnavailableError(absl::StrCat(what, ": another process is there"));
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  if (getsockname(fd->get(), reinterpret_cast<sockaddr*>(&bound), &size) != 0) return ErrnoStatus(what);
  port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  return fd;
}

std::string PeerAddress(int socket) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &size) != 0) return "";
  in_addr v4{};
  if (peer.ss_family == AF_INET6) {
    in6_addr v6 = reinterpret_cast<sockaddr_in6*>(&peer)->sin6_addr;
    if (!IN6_IS_ADDR_V4MAPPED(&v6)) {
      if (!IN6_IS_ADDR_LOOPBACK(&v6)) memset(v6.s6_addr + 8, 0, 8);
      char text[INET6_ADDRSTRLEN] = "";
      return inet_ntop(AF_INET6, &v6, text, sizeof(text)) == nullptr ? "" : text;
    }
    memcpy(&v4, v6.s6_addr + 12, sizeof(v4));
  } else if (peer.ss_family == AF_INET) {
    v4 = reinterpret_cast<sockaddr_in*>(&peer)->sin_addr;
  } else {
    return "";
  }
  if ((ntohl(v4.s_addr) >> 24) == 127) return "127.0.0.0/8";
  char text[INET_ADDRSTRLEN] = "";
  return inet_ntop(AF_INET, &v4, text, sizeof(text)) == nullptr ? "" : text;
}

}  // namespace godwit
