// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/link_use.h"

#include <linux/tcp.h>  // netinet/tcp.h has the first fields of tcp_info alone, and both do not go together
#include <netinet/in.h>
#include <sys/socket.h>

namespace godwit::transfer {

LinkUse LinkUseOf(int socket) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  return {static_cast<int64_t>(info.tcpi_bytes_acked), absl::Microseconds(info.tcpi_busy_time)};
}

}  // namespace godwit::transfer
