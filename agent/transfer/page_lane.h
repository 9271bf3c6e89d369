// SPDX-License-Identifier: Apache-2.0
// What a page sender (page_sender.h) does for one of the connections that its pages go over: reads them,
// leaves out what the target has, and packs the rest into PAGES frames, compressed where that is faster.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/memory/range.h"
#include "agent/transfer/checksum.h"
#include "agent/transfer/compression.h"
#include "agent/transfer/known_pages.h"
#include "agent/transfer/link_use.h"
#include "agent/transfer/page_frame.h"
#include "agent/transfer/page_sender.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/token_bucket.h"

namespace godwit::transfer {

// By which the content of pages is known: XXH3-64 with a secret of its own, so that no content can be made to
// look like another. Threads may ask at the same time.
class PageHash {
 public:
  PageHash();
  // Never 0, which means that nothing is known.
  uint64_t operator()(const char* page) const { return IsZero(page) ? zero_ : Of(page); }
  bool IsZero(const char* page) const;
  uint64_t zero() const { return zero_; }
  // The same of a page that is known not to be all zeros.
  uint64_t Of(const char* page) const;

 private:
  const size_t page_ = memory::PageBytes();
  std::array<char, XXH3_SECRET_SIZE_MIN> secret_;
  uint64_t zero_ = 0;
};

// Not thread-safe; lanes of one sender may work at the same time.
class PageLane {
 public:
  // All of these outlive it.
  PageLane(const std::string& container, const PageSender::Read& read, const PageHash& hash,
           TokenBucket& bucket)
      : container_(container), read_(read), hash_(hash), bucket_(bucket) {}

  // Over this lane of the stream from now on.
  void SetStream(Stream* stream, size_t lane);

  struct Job {
    pid_t task = 0;  // to read from
    pid_t container_pid = 0;
    memory::Ranges pages;     // all of shards that no other lane works on
    bool expect_all = false;  // a page that has gone is DataLoss, not zeros
    absl::Time deadline;
  };
  // Sends what of a job's pages is not known to be at the target, and notes it in `known`. Errors as of
  // PageSender::Send, and NotFound: the task is gone.
  absl::Status Send(const Job& job, KnownPages& known);
  // Of the last Send: what it did, and the pages that it found unchanged.
  const PageTotals& totals() const { return totals_; }
  const memory::Ranges& unchanged() const { return unchanged_; }

 private:
  // Of a frame: on both sides it goes through several hands.
  static constexpr size_t kContentBytes = 256u << 10;
  // The frame that is being filled; its content is in buffer_.
  struct Filling {
    std::vector<PageRun> runs;
    size_t content = 0;
  };
  // Takes into the frame what has to go of pages that were read to `from`, at the end of its content.
  void Sort(memory::Range range, const char* from, KnownPages& known);
  void AddRun(memory::Range page, bool zero);
  absl::Status Flush(const Job& job);
  void Encode(Pages& pages, absl::string_view content);
  void Sample(absl::string_view content);
  void MeasureLink();

  const std::string& container_;
  const PageSender::Read& read_;
  const PageHash& hash_;
  TokenBucket& bucket_;
  const size_t page_ = memory::PageBytes();
  Stream* stream_ = nullptr;
  size_t lane_ = 0;
  const std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(kContentBytes);
  Filling frame_;
  Compressor compressor_;
  EncodingChoice choice_;
  LinkUse link_use_;
  int64_t frames_ = 0;  // with content
  PageTotals totals_;
  memory::Ranges unchanged_;
};

}  // namespace godwit::transfer
