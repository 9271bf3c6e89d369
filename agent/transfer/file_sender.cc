// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/file_sender.h"

#include <algorithm>

#include "agent/transfer/frame.h"
#include "base/status.h"

namespace godwit::transfer {

absl::Status FileSender::Send(FrameType type, absl::Span<const absl::string_view> parts) {
  return together_ ? stream_.Queue(type, parts, deadline_) : stream_.Send(type, parts, deadline_);
}

absl::StatusOr<std::unique_ptr<FileSender::File>> FileSender::Begin(FileKind kind, const std::string& name) {
  const uint32_t id = stream_.NextFileId();
  const FileBegin begin = {.id = id,
                           .container = container_,
                           .kind = kind,
                           .name = name,
                           .in_memory = images_in_memory_ && kind == FileKind::kImage};
  GODWIT_RETURN_IF_ERROR(Send(FrameType::kFileBegin, {json::Encode(begin)}));
  ++files_;
  return std::unique_ptr<File>(new File(*this, id));
}

absl::Status FileSender::End() {
  return stream_.SendMessage(FrameType::kContainerEnd, ContainerEnd{container_, files_, bytes_}, deadline_);
}

absl::Status FileSender::File::Write(absl::string_view bytes) {
  while (!bytes.empty()) {
    if (sender_.cancelled()) return absl::CancelledError("the sending was given up");
    const absl::string_view piece = bytes.substr(0, kMaxDataBytes);
    if (sender_.bucket_ != nullptr)
      sender_.bucket_->Take(static_cast<int64_t>(piece.size()), sender_.deadline_);
    const auto prefix = EncodeFileDataPrefix(id_, static_cast<uint64_t>(size_));
    GODWIT_RETURN_IF_ERROR(
        sender_.Send(FrameType::kFileData, {absl::string_view(prefix.data(), prefix.size()), piece}));
    checksum_.Update(piece);
    size_ += static_cast<int64_t>(piece.size());
    sender_.bytes_ += static_cast<int64_t>(piece.size());
    bytes.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

absl::Status FileSender::File::Finish() {
  return sender_.Send(FrameType::kFileEnd, {json::Encode(FileEnd{id_, size_, checksum_.Text()})});
}

}  // namespace godwit::transfer
