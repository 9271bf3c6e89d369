// SPDX-License-Identifier: Apache-2.0
// TCP sockets that others connect to, and what one that connects needs as well.
#pragma once

#include <netdb.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit {

// Listens at a numeric address, non-blocking; an empty one is every address of the machine, of both families
// where it has both. Port 0 takes a free one and says which. Unavailable: another process is there.
absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t& port);

// The addresses that getaddrinfo(3) has for a numeric host and port; no names. InvalidArgument: they are
// none.
struct FreeAddresses {
  void operator()(addrinfo* list) const { freeaddrinfo(list); }
};
using TcpAddresses = std::unique_ptr<addrinfo, FreeAddresses>;
absl::StatusOr<TcpAddresses> ResolveTcp(const std::string& host, const std::string& port);

// A non-blocking TCP socket of AF_INET or AF_INET6.
absl::StatusOr<UniqueFd> NewTcpSocket(int family);

// Who is at the other end, as far as connections are counted by it: an IPv4 address, the first half of an
// IPv6 address (one machine has all of it), and one name for this machine's own 127.0.0.0/8.
std::string PeerAddress(int socket);

}  // namespace godwit
