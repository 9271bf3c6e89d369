// SPDX-License-Identifier: Apache-2.0
// Sends CRIU's images while the dump is still being written, so that the bulk of the memory is over when the
// dump ends.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "agent/transfer/file_sender.h"

namespace godwit::transfer {

// How the dump that writes the folder is doing; told by whoever drives it.
class DumpProgress {
 public:
  // Once. An error ends the sending with it.
  void Finish(absl::Status status);
  // True when the dump has ended within `limit`.
  bool AwaitEnd(absl::Duration limit) const { return ended_.WaitForNotificationWithTimeout(limit); }
  // After the end.
  absl::Status status() const { return status_; }

 private:
  absl::Notification ended_;
  absl::Status status_;  // written before the notification, read after
};

struct ImageTotals {
  int64_t page_bytes = 0;   // pages-*.img: memory
  int64_t other_bytes = 0;  // everything else
};

// Written by runc when it starts a dump, long before the images: the target needs it before it can begin.
inline constexpr char kDescriptors[] = "descriptors.json";

// Sends one file of `folder` that is complete.
absl::Status SendImage(const std::string& folder, const std::string& name, FileSender& sender);

// Sends every file of `folder` but kDescriptors. Page images (pages-*.img), which CRIU only ever appends to,
// are sent as they grow; all other files, small and in part rewritten by CRIU and runc, after the dump's end.
// Returns when all is sent.
absl::StatusOr<ImageTotals> SendImages(const std::string& folder, const DumpProgress& dump,
                                       FileSender& sender);

}  // namespace godwit::transfer
