// SPDX-License-Identifier: Apache-2.0
// As much of CRIU's RPC (images/rpc.proto, CRIU 4.2) as the library needs to follow the conversation with
// runc.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace godwit::preload {

// enum criu_req_type
inline constexpr uint64_t kRequestDump = 1;
inline constexpr uint64_t kRequestRestore = 2;
inline constexpr uint64_t kNotify = 6;

// The type of a CriuReq or CriuResp (both: field 1), or 0 when the bytes are none.
uint64_t MessageType(const void* message, size_t size);

// True for a CriuResp that is a notification (type NOTIFY) with this name (field 5 notify, in it field 1
// script).
bool IsNotification(const void* message, size_t size, const char* name);

// True for the CriuResp that ends a dump well (type DUMP, field 2 success).
bool IsDumpSuccess(const void* message, size_t size);

// Lowers the log level that a CriuReq asks for (field 2 opts, in it field 9 log_level) to `most`, below 128,
// in place. A request that asks for less, or for none, is left as it is.
void LimitLogLevel(void* message, size_t size, uint8_t most);

}  // namespace godwit::preload
