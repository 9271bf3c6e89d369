// SPDX-License-Identifier: Apache-2.0
// Sends the files of one container over a stream: any number of files at a time, from any number of threads.
//
//   FileSender sender(stream, "app", deadline);
//   GODWIT_ASSIGN_OR_RETURN(auto file, sender.Begin(FileKind::kRootfs, "0"));
//   GODWIT_RETURN_IF_ERROR(file->Write(bytes));
//   GODWIT_RETURN_IF_ERROR(file->Finish());
//   GODWIT_RETURN_IF_ERROR(sender.End());       // CONTAINER_END, after all files
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/transfer/checksum.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/token_bucket.h"

namespace godwit::transfer {

class FileSender {
 public:
  class File {
   public:
    // Appends to the file; any length.
    absl::Status Write(absl::string_view bytes);
    // Sends FILE_END. A file that goes without it was not sent: the receiver never takes it for complete.
    absl::Status Finish();
    int64_t size() const { return size_; }

   private:
    friend class FileSender;
    File(FileSender& sender, uint32_t id) : sender_(sender), id_(id) {}
    FileSender& sender_;
    const uint32_t id_;
    Checksum checksum_;
    int64_t size_ = 0;
  };

  // `stream` must outlive it, and `bucket` too, which is waited for before the files' content; nullptr: no
  // limit. `deadline` is that of every frame sent, until it is set anew, while no file is open.
  FileSender(Stream& stream, std::string container, absl::Time deadline, TokenBucket* bucket = nullptr)
      : stream_(stream), container_(std::move(container)), deadline_(deadline), bucket_(bucket) {}

  // Of all frames from now on; nothing may be under way.
  void SetDeadline(absl::Time deadline) { deadline_ = deadline; }

  // Tells the receiver that the images are small and need no disk. Before the first of them.
  void KeepImagesInMemory() { images_in_memory_ = true; }

  // From now on frames may stay here until End, or until somebody else sends: many small files travel
  // together. Nothing may be under way.
  void SendTogether() { together_ = true; }

  absl::StatusOr<std::unique_ptr<File>> Begin(FileKind kind, const std::string& name);
  absl::Status End();
  // From now on every Write fails with Cancelled. Safe from any thread.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  const std::string& container() const { return container_; }
  int64_t bytes() const { return bytes_; }

 private:
  absl::Status Send(FrameType type, absl::Span<const absl::string_view> parts);

  Stream& stream_;
  const std::string container_;
  absl::Time deadline_;
  TokenBucket* const bucket_;
  bool together_ = false;
  bool images_in_memory_ = false;
  std::atomic<int64_t> files_ = 0;
  std::atomic<int64_t> bytes_ = 0;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace godwit::transfer
