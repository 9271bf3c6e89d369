// SPDX-License-Identifier: Apache-2.0
// The wire format between two agents (docs/stream.md): frames of a 24-byte header and a payload. Pure: no
// I/O, no clock. Everything decoded here comes from the network: each function bounds what it reads and says
// what was wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace godwit::transfer {

inline constexpr uint32_t kFrameMagic = 0x54574447;  // "GDWT" in little endian
inline constexpr uint8_t kFrameVersion = 1;
inline constexpr size_t kFrameHeaderBytes = 24;
inline constexpr size_t kMaxDataBytes = 1u << 20;               // file content in one FILE_DATA
inline constexpr size_t kMaxPayloadBytes = kMaxDataBytes + 64;  // of a FILE_DATA
inline constexpr size_t kMaxPagesPayloadBytes =
    kMaxDataBytes + (64u << 10);                       // of PAGES, KEEP_PAGES and MISSING
inline constexpr size_t kMaxMessageBytes = 64u << 10;  // JSON payloads, and WANTED

enum class FrameType : uint8_t {
  kHello = 1,
  kHelloOk = 2,
  kFileBegin = 3,
  kFileData = 4,
  kFileEnd = 5,
  kContainerEnd = 6,
  kPrepared = 7,
  kCommit = 8,
  kRunning = 9,
  kAbort = 10,
  kPing = 11,
  kRefused = 12,
  kPages = 13,      // pages of a task (page_sender.h)
  kKeepPages = 14,  // what a task's memory is made of in the end
  kRoundEnd = 15,   // all pages of a round were sent
  kRoundOk = 16,    // and have arrived
  kAtGate = 17,     // a restore waits for nothing but the state
  // Post-copy:
  kMissing = 18,     // pages of a task that the target has yet to get
  kMissingEnd = 19,  // all that are missing were listed; or: none is any more
  kWanted = 20,      // missing pages that a process waits for
  kPagesLost = 21,   // the source cannot give them any more
  kSides = 22,       // how far the side connections have come; what follows waits for that
};

// "HELLO", "FILE_DATA", ...; for messages.
absl::string_view FrameTypeName(FrameType type);

struct Frame {
  FrameType type = FrameType::kPing;
  std::string payload;
  bool operator==(const Frame&) const = default;
};

struct FrameHeader {
  FrameType type = FrameType::kPing;
  uint32_t length = 0;    // of the payload, bytes
  uint64_t checksum = 0;  // XXH3-64 of the header's first 16 bytes followed by the payload
};

using HeaderBytes = std::array<char, kFrameHeaderBytes>;

// The header of a frame whose payload is the parts joined. The parts together are at most what the type
// allows.
HeaderBytes EncodeHeader(FrameType type, absl::Span<const absl::string_view> payload_parts);

// Reads a header: InvalidArgument for a wrong magic, version, type, flag or length. `bytes` is
// kFrameHeaderBytes long.
absl::StatusOr<FrameHeader> DecodeHeader(absl::string_view bytes);

// DataLoss when the checksum of `header_bytes` and `payload` is not the one the header carries.
absl::Status CheckPayload(absl::string_view header_bytes, const FrameHeader& header,
                          absl::string_view payload);

// FILE_DATA's payload: u32 file id, u64 offset, then the bytes.
struct FileData {
  uint32_t id = 0;
  uint64_t offset = 0;
  absl::string_view bytes;  // inside the payload that was decoded
};
inline constexpr size_t kFileDataPrefixBytes = 12;
std::array<char, kFileDataPrefixBytes> EncodeFileDataPrefix(uint32_t id, uint64_t offset);
absl::StatusOr<FileData> DecodeFileData(absl::string_view payload);

}  // namespace godwit::transfer
