// SPDX-License-Identifier: Apache-2.0
// TCP sockets for the stream: non-blocking, with a deadline, and soon aware of a peer that has gone.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit::transfer {

// "192.0.2.7:9552" or "[2001:db8::7]:9552"; no names: agents are known by address, and proven by certificate.
absl::StatusOr<UniqueFd> ConnectTcp(const std::string& address, absl::Time deadline);

// No delay, keepalive, and an end for data that nobody acknowledges: a dead peer is noticed within about ten
// seconds.
absl::Status SetSocketOptions(int socket);

// OpenSSL writes with write(2), so a peer that has gone would end the process by SIGPIPE: ignored from now
// on, for the whole process. Children get the default again (base/process.h).
void IgnoreBrokenPipes();

}  // namespace godwit::transfer
