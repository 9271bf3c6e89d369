// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_receiver.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::transfer {

absl::Status PageReceiver::Take(const Frame& frame) {
  switch (frame.type) {
    case FrameType::kPages: return TakePages(frame.payload);
    case FrameType::kKeepPages: return TakeKeepPages(frame.payload);
    case FrameType::kMissing: return TakeMissing(frame.payload);
    default:
      return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: a ",
                                                     FrameTypeName(frame.type), " frame among pages"));
  }
}

absl::StatusOr<memory::PageStore*> PageReceiver::StoreOf(const std::string& container) const {
  const auto found = stores_.find(container);
  if (found != stores_.end()) return found->second;
  return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: pages of container \"",
                                                 absl::CEscape(container), "\", which was not announced"));
}

absl::Status PageReceiver::TakePages(absl::string_view payload) {
  GODWIT_ASSIGN_OR_RETURN(const Pages pages, DecodePages(payload));
  GODWIT_ASSIGN_OR_RETURN(memory::PageStore * store, StoreOf(pages.container));
  GODWIT_ASSIGN_OR_RETURN(absl::string_view content,
                          decompressor_.Decode(pages.encoding, pages.encoded, pages.content_bytes));
  for (const PageRun& run : pages.runs) {
    if (run.zero) {
      GODWIT_RETURN_IF_ERROR(store->Zero(pages.container_pid, run.range));
      continue;
    }
    GODWIT_RETURN_IF_ERROR(
        store->Write(pages.container_pid, run.range.start, content.substr(0, run.range.bytes())));
    content.remove_prefix(run.range.bytes());
    page_bytes_ += static_cast<int64_t>(run.range.bytes());
  }
  return absl::OkStatus();
}

absl::StatusOr<TaskRanges> PageReceiver::TakeArriving(const Frame& frame) {
  GODWIT_ASSIGN_OR_RETURN(const Pages pages, DecodePages(frame.payload));
  GODWIT_ASSIGN_OR_RETURN(memory::PageStore * store, StoreOf(pages.container));
  GODWIT_ASSIGN_OR_RETURN(absl::string_view content,
                          decompressor_.Decode(pages.encoding, pages.encoded, pages.content_bytes));
  TaskRanges arrived{.container = pages.container, .container_pid = pages.container_pid};
  for (const PageRun& run : pages.runs) {
    const absl::string_view own = run.zero ? "" : content.substr(0, run.range.bytes());
    content.remove_prefix(own.size());
    GODWIT_ASSIGN_OR_RETURN(const memory::Ranges part, store->Arrive(pages.container_pid, run.range, own));
    for (const memory::Range& range : part) memory::Append(arrived.ranges, range);
    page_bytes_ += static_cast<int64_t>(own.size());
  }
  return arrived;
}

absl::Status PageReceiver::TakeMissing(absl::string_view payload) {
  GODWIT_ASSIGN_OR_RETURN(const TaskRanges task, DecodeTaskRanges(payload));
  GODWIT_ASSIGN_OR_RETURN(memory::PageStore * store, StoreOf(task.container));
  return store->Miss(task.container_pid, task.ranges);
}

absl::Status PageReceiver::TakeKeepPages(absl::string_view payload) {
  GODWIT_ASSIGN_OR_RETURN(const KeepPages keep, DecodeKeepPages(payload));
  GODWIT_ASSIGN_OR_RETURN(memory::PageStore * store, StoreOf(keep.container));
  if (keep.container_pid != 0) return store->Keep(keep.container_pid, keep.ranges, keep.window);
  store->KeepTasks(keep.tasks);
  return absl::OkStatus();
}

}  // namespace godwit::transfer
