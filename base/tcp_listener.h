// SPDX-License-Identifier: Apache-2.0
// TCP sockets that others connect to.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit {

// Listens at a numeric address, non-blocking; an empty one is every address of the machine, of both families
// where it has both. Port 0 takes a free one and says which. Unavailable: another process is there.
absl::StatusOr<UniqueFd> ListenTcp(const std::string& address, uint16_t& port);

// Who is at the other end, as far as connections are counted by it: an IPv4 address, the first half of an
// IPv6 address (one machine has all of it), and one name for this machine's own 127.0.0.0/8.
std::string PeerAddress(int socket);

}  // namespace godwit
