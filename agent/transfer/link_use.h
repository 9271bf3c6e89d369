// SPDX-License-Identifier: Apache-2.0
// What the kernel says of a TCP connection's sending (TCP_INFO, linux/tcp.h).
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace godwit::transfer {

struct LinkUse {
  int64_t acknowledged = 0;  // bytes that the peer's kernel has
  absl::Duration busy;       // time in which there was something to send, or to be acknowledged
};

// Since the connection was made. All zeros where the kernel does not tell.
LinkUse LinkUseOf(int socket);

}  // namespace godwit::transfer
