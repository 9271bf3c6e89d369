// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/frame.h"

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/transfer/checksum.h"
#include "agent/transfer/little_endian.h"

namespace godwit::transfer {
namespace {

constexpr size_t kChecksummedHeaderBytes = 16;

uint64_t ChecksumOf(absl::string_view header, absl::Span<const absl::string_view> parts) {
  Checksum checksum;
  checksum.Update(header.substr(0, kChecksummedHeaderBytes));
  for (absl::string_view part : parts) checksum.Update(part);
  return checksum.Value();
}

size_t PayloadLimit(FrameType type) {
  switch (type) {
    case FrameType::kFileData: return kMaxPayloadBytes;
    case FrameType::kPages:
    case FrameType::kKeepPages:
    case FrameType::kMissing: return kMaxPagesPayloadBytes;
    default: return kMaxMessageBytes;
  }
}

}  // namespace

absl::string_view FrameTypeName(FrameType type) {
  switch (type) {
    case FrameType::kHello: return "HELLO";
    case FrameType::kHelloOk: return "HELLO_OK";
    case FrameType::kFileBegin: return "FILE_BEGIN";
    case FrameType::kFileData: return "FILE_DATA";
    case FrameType::kFileEnd: return "FILE_END";
    case FrameType::kContainerEnd: return "CONTAINER_END";
    case FrameType::kPrepared: return "PREPARED";
    case FrameType::kCommit: return "COMMIT";
    case FrameType::kRunning: return "RUNNING";
    case FrameType::kAbort: return "ABORT";
    case FrameType::kPing: return "PING";
    case FrameType::kRefused: return "REFUSED";
    case FrameType::kPages: return "PAGES";
    case FrameType::kKeepPages: return "KEEP_PAGES";
    case FrameType::kRoundEnd: return "ROUND_END";
    case FrameType::kRoundOk: return "ROUND_OK";
    case FrameType::kAtGate: return "AT_GATE";
    case FrameType::kMissing: return "MISSING";
    case FrameType::kMissingEnd: return "MISSING_END";
    case FrameType::kWanted: return "WANTED";
    case FrameType::kPagesLost: return "PAGES_LOST";
    case FrameType::kSides: return "SIDES";
  }
  return "unknown";
}

HeaderBytes EncodeHeader(FrameType type, absl::Span<const absl::string_view> payload_parts) {
  size_t length = 0;
  for (absl::string_view part : payload_parts) length += part.size();
  CHECK_LE(length, PayloadLimit(type)) << "frame payload too long: type=" << FrameTypeName(type);
  HeaderBytes header{};
  Store<uint32_t>(&header[0], kFrameMagic);
  Store<uint8_t>(&header[4], kFrameVersion);
  Store<uint8_t>(&header[5], static_cast<uint8_t>(type));
  Store<uint16_t>(&header[6], 0);  // flags
  Store<uint32_t>(&header[8], static_cast<uint32_t>(length));
  Store<uint32_t>(&header[12], 0);  // reserved
  Store<uint64_t>(&header[16], ChecksumOf(absl::string_view(header.data(), header.size()), payload_parts));
  return header;
}

absl::StatusOr<FrameHeader> DecodeHeader(absl::string_view bytes) {
  if (bytes.size() != kFrameHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("frame header of ", bytes.size(), " bytes"));
  }
  const char* at = bytes.data();
  if (Load<uint32_t>(at) != kFrameMagic) {
    return absl::InvalidArgumentError(
        absl::StrFormat("frame header starts with %08x, not with GDWT", Load<uint32_t>(at)));
  }
  if (const int version = Load<uint8_t>(at + 4); version != kFrameVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame of stream version ", version, "; this agent speaks version ",
                     static_cast<int>(kFrameVersion), " (are both nodes' agents of one release?)"));
  }
  FrameHeader header;
  header.type = static_cast<FrameType>(Load<uint8_t>(at + 5));
  if (FrameTypeName(header.type) == "unknown") {
    return absl::InvalidArgumentError(absl::StrCat("frame of unknown type ", static_cast<int>(header.type)));
  }
  if (Load<uint16_t>(at + 6) != 0 || Load<uint32_t>(at + 12) != 0) {
    return absl::InvalidArgumentError("frame with flags or reserved bits set");
  }
  header.length = Load<uint32_t>(at + 8);
  if (header.length > PayloadLimit(header.type)) {
    return absl::InvalidArgumentError(absl::StrCat(FrameTypeName(header.type), " frame announces ",
                                                   header.length, " bytes; at most ",
                                                   PayloadLimit(header.type), " are allowed"));
  }
  header.checksum = Load<uint64_t>(at + 16);
  return header;
}

absl::Status CheckPayload(absl::string_view header_bytes, const FrameHeader& header,
                          absl::string_view payload) {
  if (header_bytes.size() != kFrameHeaderBytes || payload.size() != header.length) {
    return absl::InvalidArgumentError("frame of the wrong length");
  }
  if (ChecksumOf(header_bytes, {payload}) != header.checksum) {
    return absl::DataLossError(absl::StrCat("checksum of a ", FrameTypeName(header.type), " frame is wrong"));
  }
  return absl::OkStatus();
}

std::array<char, kFileDataPrefixBytes> EncodeFileDataPrefix(uint32_t id, uint64_t offset) {
  std::array<char, kFileDataPrefixBytes> prefix;
  Store<uint32_t>(&prefix[0], id);
  Store<uint64_t>(&prefix[4], offset);
  return prefix;
}

absl::StatusOr<FileData> DecodeFileData(absl::string_view payload) {
  if (payload.size() <= kFileDataPrefixBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("FILE_DATA frame of ", payload.size(), " bytes carries no data"));
  }
  if (payload.size() > kFileDataPrefixBytes + kMaxDataBytes) {
    return absl::InvalidArgumentError("FILE_DATA frame carries more than 1 MiB");
  }
  return FileData{Load<uint32_t>(payload.data()), Load<uint64_t>(payload.data() + 4),
                  payload.substr(kFileDataPrefixBytes)};
}

}  // namespace godwit::transfer
