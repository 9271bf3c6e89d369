// SPDX-License-Identifier: Apache-2.0
// The other end of page_sender.h: takes PAGES, KEEP_PAGES and MISSING frames into page stores. All that the
// peer says is hostile: addresses, counts and compressed sizes are bounded before they are believed.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/compression.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/page_frame.h"

namespace godwit::transfer {

// Not thread-safe.
class PageReceiver {
 public:
  // `stores`: by container; they outlive the receiver.
  explicit PageReceiver(std::map<std::string, memory::PageStore*> stores) : stores_(std::move(stores)) {}

  // Takes one PAGES, KEEP_PAGES or MISSING frame. InvalidArgument: the peer broke a rule, and nothing was
  // changed; DataLoss: what was decompressed is not what was sent; ResourceExhausted: no room.
  absl::Status Take(const Frame& frame);
  // Takes a PAGES frame of a post-copy whose target runs: what is missing of its pages. Returns which those
  // were. Errors as of Take.
  absl::StatusOr<TaskRanges> TakeArriving(const Frame& frame);

  int64_t page_bytes() const { return page_bytes_; }  // content received, decompressed

 private:
  absl::Status TakePages(absl::string_view payload);
  absl::Status TakeKeepPages(absl::string_view payload);
  absl::Status TakeMissing(absl::string_view payload);
  absl::StatusOr<memory::PageStore*> StoreOf(const std::string& container) const;

  const std::map<std::string, memory::PageStore*> stores_;
  Decompressor decompressor_;
  int64_t page_bytes_ = 0;
};

}  // namespace godwit::transfer
