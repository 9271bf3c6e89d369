// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_lane.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/str_format.h"
#include "agent/transfer/frame.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

using memory::Range;

constexpr size_t kReadBytes = 256u << 10;  // small enough to be hashed while it is in the cache
constexpr int64_t kSampleEvery = 128;      // of this many frames with content, one is sampled
constexpr size_t kSampleBytes = 64u << 10;

absl::Duration ThreadCpuTime() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

int64_t Count(uint64_t bytes) { return static_cast<int64_t>(bytes); }

}  // namespace

PageHash::PageHash() {
  PCHECK(getentropy(secret_.data(), secret_.size()) == 0) << "cannot draw random bytes";
  zero_ = Of(std::string(page_, '\0').data());
}

uint64_t PageHash::Of(const char* page) const {
  return std::max<uint64_t>(XXH3_64bits_withSecret(page, page_, secret_.data(), secret_.size()), 1);
}

bool PageHash::IsZero(const char* page) const {
  return page[0] == 0 && memcmp(page, page + 1, page_ - 1) == 0;
}

void PageLane::SetStream(Stream* stream, size_t lane) {
  stream_ = stream;
  lane_ = lane;
  link_use_ = {};
}

absl::Status PageLane::Send(const Job& job, KnownPages& known) {
  frame_ = {};
  totals_ = {};
  unchanged_.clear();
  for (const Range& range : job.pages) {
    for (uint64_t at = range.start; at < range.end;) {
      if (frame_.content == kContentBytes || frame_.runs.size() + kReadBytes / page_ > kMaxPagesRuns) {
        GODWIT_RETURN_IF_ERROR(Flush(job));
      }
      char* to = buffer_.get() + frame_.content;
      const size_t size = std::min({range.end - at, kContentBytes - frame_.content, kReadBytes});
      GODWIT_ASSIGN_OR_RETURN(size_t got, read_(job.task, at, to, size));
      got -= got % page_;
      if (got == 0) {  // the first page has gone
        if (job.expect_all)
          return absl::DataLossError(absl::StrFormat("the page at 0x%x cannot be read any more", at));
        memset(to, 0, page_);
        got = page_;
      }
      Sort({at, at + got}, to, known);
      at += got;
    }
  }
  return frame_.runs.empty() ? absl::OkStatus() : Flush(job);
}

void PageLane::Sort(Range range, const char* from, KnownPages& known) {
  totals_.looked_at += Count(range.bytes());
  for (uint64_t at = range.start; at < range.end; at += page_, from += page_) {
    const Range page{at, at + page_};
    const bool zero = hash_.IsZero(from);
    const uint64_t hash = zero ? hash_.zero() : hash_.Of(from);
    uint64_t& last_sent = known.HashOf(at);
    if (last_sent == hash) {
      totals_.unchanged += Count(page_);
      memory::Append(unchanged_, page);
      continue;
    }
    last_sent = hash;
    AddRun(page, zero);
    if (zero) {
      totals_.zero += Count(page_);
      continue;
    }
    char* to = buffer_.get() + frame_.content;
    if (to != from) memmove(to, from, page_);
    frame_.content += page_;
    totals_.sent += Count(page_);
  }
}

void PageLane::AddRun(Range page, bool zero) {
  if (!frame_.runs.empty()) {
    PageRun& last = frame_.runs.back();
    if (last.zero == zero && last.range.end == page.start && last.range.bytes() < kMaxRunBytes) {
      last.range.end = page.end;
      return;
    }
  }
  frame_.runs.push_back({page, zero});
}

absl::Status PageLane::Flush(const Job& job) {
  const absl::string_view content(buffer_.get(), frame_.content);
  Pages pages{.container = container_,
              .container_pid = job.container_pid,
              .runs = std::move(frame_.runs),
              .content_bytes = content.size(),
              .encoded = content};
  frame_ = {};
  if (!content.empty()) Encode(pages, content);
  const std::string head = EncodePagesHead(pages);
  const size_t wire = kFrameHeaderBytes + head.size() + pages.encoded.size();
  bucket_.Take(Count(wire), job.deadline);
  const absl::Duration start = ThreadCpuTime();
  GODWIT_RETURN_IF_ERROR(stream_->SendPages(lane_, {head, pages.encoded}, job.deadline));
  choice_.Sent(wire, ThreadCpuTime() - start);
  MeasureLink();
  totals_.wire += Count(wire);
  return absl::OkStatus();
}

void PageLane::MeasureLink() {
  const LinkUse now = stream_->link_use(lane_);
  choice_.Carried(now.acknowledged - link_use_.acknowledged, now.busy - link_use_.busy);
  link_use_ = now;
}

void PageLane::Encode(Pages& pages, absl::string_view content) {
  if (frames_++ % kSampleEvery == 0) Sample(content);
  const Encoding encoding = choice_.Best(bucket_.limit() / Count(stream_->lanes()));
  const absl::Duration start = ThreadCpuTime();
  const absl::string_view encoded = compressor_.Encode(encoding, content);
  if (encoding != Encoding::kRaw) {
    choice_.Encoded(encoding, content.size(), encoded.empty() ? content.size() : encoded.size(),
                    ThreadCpuTime() - start);
  }
  if (encoded.empty()) return;
  pages.encoding = encoding;
  pages.encoded = encoded;
}

void PageLane::Sample(absl::string_view content) {
  const absl::string_view sample = content.substr(content.size() / 2, kSampleBytes);
  for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
    const absl::Duration start = ThreadCpuTime();
    const absl::string_view encoded = compressor_.Encode(encoding, sample);
    choice_.Encoded(encoding, sample.size(), encoded.empty() ? sample.size() : encoded.size(),
                    ThreadCpuTime() - start);
  }
}

}  // namespace godwit::transfer
