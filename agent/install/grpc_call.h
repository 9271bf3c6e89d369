// SPDX-License-Identifier: Apache-2.0
// One unary gRPC call over a Unix socket: as much of HTTP/2 (RFC 9113) as that needs, instead of a gRPC
// library.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace godwit::install {

inline constexpr size_t kMaxGrpcReply = 4u << 20;  // bytes

// Calls `method` ("/package.Service/Method") with the bytes of a protobuf message; gives the bytes of the
// answer. Unavailable: nobody listens. Internal: the call failed there, or what came was no HTTP/2.
absl::StatusOr<std::string> CallGrpc(const std::string& socket, const std::string& method,
                                     absl::string_view request, absl::Duration limit);

}  // namespace godwit::install
