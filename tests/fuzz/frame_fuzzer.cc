// SPDX-License-Identifier: Apache-2.0
// Any bytes as frames of the stream between agents, and as what they carry. The first byte chooses: the bytes
// as they would come over the wire, checksums and all, or as frames that have passed their checksum already,
// into a receiver.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "agent/transfer/file_receiver.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/page_frame.h"
#include "agent/transfer/stream.h"
#include "base/file.h"

namespace {

using namespace godwit::transfer;

void ReadAs(const Frame& frame) {
  (void)DecodeFileData(frame.payload);
  (void)DecodeMessage<Hello>(frame);
  (void)DecodeMessage<HelloOk>(frame);
  (void)DecodeMessage<FileBegin>(frame);
  (void)DecodeMessage<FileEnd>(frame);
  (void)DecodeMessage<ContainerEnd>(frame);
  (void)DecodeMessage<Round>(frame);
  (void)DecodeMessage<SideFrames>(frame);
  (void)DecodeMessage<Timings>(frame);
  (void)DecodeMessage<Reason>(frame);
  (void)DecodeMessage<MissingEnd>(frame);
  (void)DecodeTaskRanges(frame.payload);
}

void FromTheWire(absl::string_view bytes) {
  while (bytes.size() >= kFrameHeaderBytes) {
    const absl::string_view header_bytes = bytes.substr(0, kFrameHeaderBytes);
    const auto header = DecodeHeader(header_bytes);
    if (!header.ok()) return;
    const absl::string_view payload = bytes.substr(kFrameHeaderBytes, header->length);
    (void)CheckPayload(header_bytes, *header, payload);
    ReadAs({header->type, std::string(payload)});
    bytes.remove_prefix(kFrameHeaderBytes + payload.size());
  }
}

// One folder for the whole run, emptied after each input; nothing beside it may ever appear.
const std::string& Folder() {
  struct Temporary {
    std::string name = "/tmp/godwit-frame-fuzzer-XXXXXX";
    Temporary() {
      if (mkdtemp(name.data()) == nullptr) std::abort();
    }
    ~Temporary() { godwit::RemoveTree(name).IgnoreError(); }
  };
  static const Temporary folder;
  return folder.name;
}

// Frames as type byte, two bytes of length, payload.
void IntoAReceiver(absl::string_view bytes) {
  const std::string inside = absl::StrCat(Folder(), "/inside");
  if (!godwit::MakeFolders(inside).ok()) std::abort();
  FileReceiver receiver({.folder = inside,
                         .containers = {"app", "side"},
                         .kinds = {FileKind::kImage, FileKind::kRootfs, FileKind::kVolume},
                         .max_bytes = 1 << 16,
                         .max_files = 8});
  while (bytes.size() >= 3) {
    const auto type = static_cast<FrameType>(static_cast<uint8_t>(bytes[0]) % 12 + 1);
    const size_t length = static_cast<uint8_t>(bytes[1]) | size_t{static_cast<uint8_t>(bytes[2])} << 8;
    const Frame frame{type, std::string(bytes.substr(3, length))};
    bytes.remove_prefix(3 + frame.payload.size());
    if (!receiver.Take(frame).ok()) break;
  }
  const auto names = godwit::ListFolder(Folder());
  if (!names.ok() || names->size() != 1) std::abort();
  if (!godwit::RemoveTree(inside).ok()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (bytes[0] % 2 == 0) {
    FromTheWire(bytes.substr(1));
  } else {
    IntoAReceiver(bytes.substr(1));
  }
  return 0;
}
