// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_sender.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <map>

#include "absl/container/flat_hash_set.h"
#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/checksum.h"
#include "agent/transfer/compression.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/known_pages.h"
#include "agent/transfer/page_frame.h"
#include "base/file.h"
#include "base/share_work.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

using memory::Range;
using memory::Ranges;

constexpr size_t kReadBytes = 256u << 10;     // small enough to be hashed while it is in the cache
constexpr size_t kContentBytes = 256u << 10;  // of a frame: on both sides it goes through several hands
constexpr uint64_t kCompareBytes = 4u << 20;  // by one thread at a time
constexpr int64_t kSampleEvery = 128;         // of this many frames with content, one is sampled
constexpr size_t kSampleBytes = 64u << 10;

bool IsZero(const char* page, size_t size) { return page[0] == 0 && memcmp(page, page + 1, size - 1) == 0; }

class PageHash {
 public:
  PageHash() { PCHECK(getentropy(secret_.data(), secret_.size()) == 0) << "cannot draw random bytes"; }
  // Never 0, which means that nothing is known.
  uint64_t operator()(const char* page, size_t size) const {
    return std::max<uint64_t>(XXH3_64bits_withSecret(page, size, secret_.data(), secret_.size()), 1);
  }

 private:
  std::array<char, XXH3_SECRET_SIZE_MIN> secret_;
};

absl::Duration ThreadCpuTime() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

int64_t Count(uint64_t bytes) { return static_cast<int64_t>(bytes); }

// Pages that the task itself may not read (PROT_NONE) have content all the same.
absl::StatusOr<size_t> ReadWhatIsProtected(pid_t task, uint64_t address, char* to, size_t size) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd memory, OpenFile(absl::StrCat("/proc/", task, "/mem"), O_RDONLY));
  const ssize_t got = pread(memory.get(), to, size, static_cast<off_t>(address));
  if (got >= 0) return static_cast<size_t>(got);
  if (errno == EIO || errno == EFAULT) return 0;
  return ErrnoStatus(absl::StrFormat("cannot read the memory of task %d at 0x%x", task, address));
}

}  // namespace

class PageSender::Impl {
 public:
  Impl(std::string container, Read read, TokenBucket* bucket)
      : container_(std::move(container)), read_(std::move(read)), bucket_(bucket) {}

  void SetStream(Stream* stream) {
    stream_ = stream;
    link_use_ = {};
    for (auto& [pid, task] : tasks_) ForgetAll(task.known, task.unacknowledged);
  }

  void Owe(pid_t container_pid, const Ranges& pages) {
    if (pages.empty()) return;
    Task& task = tasks_[container_pid];
    task.owed = memory::Union(task.owed, pages);
  }

  void ExpectAll() { expect_all_ = true; }

  absl::Status Send(pid_t pid, pid_t container_pid, const Ranges& pages, absl::Time deadline,
                    PageTotals* totals) {
    Task& task = tasks_[container_pid];
    deadline_ = deadline;
    totals_ = totals;
    unchanged_.clear();
    absl::Status status = SendPages(pid, container_pid, pages, task.known);
    if (absl::IsNotFound(status)) {
      frame_ = {};
      Forget(container_pid);
      if (!expect_all_) return absl::OkStatus();
      return absl::DataLossError(absl::StrCat("task ", container_pid, " of container ", container_,
                                              " ended while the pod stood still: it was killed"));
    }
    const Ranges sent = memory::Difference(pages, unchanged_);
    task.unacknowledged = memory::Union(task.unacknowledged, sent);
    if (status.ok()) {
      task.owed = memory::Difference(task.owed, pages);
      return status;
    }
    frame_ = {};
    ForgetAll(task.known, sent);
    return Annotate(status,
                    absl::StrCat("cannot send memory of task ", container_pid, " of container ", container_));
  }

  Ranges Differing(pid_t container_pid, const Ranges& pages, const char* memory) const {
    const auto task = tasks_.find(container_pid);
    if (task == tasks_.end()) return pages;
    Ranges pieces;
    for (Range left : pages) {
      for (; left.start < left.end; left.start = pieces.back().end)
        pieces.push_back({left.start, std::min(left.end, left.start + kCompareBytes)});
    }
    std::vector<Ranges> found(pieces.size());
    ShareWork(pieces.size(), [&](size_t i) {
      for (uint64_t at = pieces[i].start; at < pieces[i].end; at += page_) {
        if (HashOf(memory + at) != task->second.known.Find(at)) memory::Append(found[i], {at, at + page_});
      }
    });
    Ranges differing;
    for (const Ranges& ranges : found) {
      for (const Range& range : ranges) memory::Append(differing, range);
    }
    return differing;
  }

  absl::Status KeepPages(pid_t container_pid, const Ranges& populated, absl::Time deadline) {
    auto task = tasks_.find(container_pid);
    if (task != tasks_.end()) {
      ForgetAll(task->second.known, memory::Difference({{0, memory::kAddressEnd}}, populated));
    }
    transfer::KeepPages keep{.container = container_, .container_pid = container_pid};
    for (Range left : populated) {
      while (left.start < left.end) {
        if (keep.ranges.size() == kMaxKeptRanges) {
          keep.window.end = keep.ranges.back().end;
          GODWIT_RETURN_IF_ERROR(stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline));
          keep.window.start = keep.window.end;
          keep.ranges.clear();
        }
        keep.ranges.push_back({left.start, std::min(left.end, left.start + kMaxRunBytes)});
        left.start = keep.ranges.back().end;
      }
    }
    keep.window.end = memory::kAddressEnd;
    return stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline);
  }

  absl::Status MissPages(pid_t container_pid, const Ranges& missing, absl::Time deadline) {
    const TaskRanges task{.container = container_, .container_pid = container_pid, .ranges = missing};
    for (const std::string& payload : EncodeMissing(task))
      GODWIT_RETURN_IF_ERROR(stream_->Send(FrameType::kMissing, {payload}, deadline));
    return absl::OkStatus();
  }

  absl::Status KeepTasks(const std::vector<pid_t>& container_pids, absl::Time deadline) {
    if (container_pids.size() > memory::PageStore::kMaxTasks) {
      return absl::ResourceExhaustedError(absl::StrCat("container ", container_, " has ",
                                                       container_pids.size(), " tasks; at most ",
                                                       memory::PageStore::kMaxTasks, " can be moved"));
    }
    const absl::flat_hash_set<pid_t> kept(container_pids.begin(), container_pids.end());
    std::erase_if(tasks_, [&](const auto& entry) { return !kept.contains(entry.first); });
    const transfer::KeepPages keep{.container = container_, .tasks = container_pids};
    return stream_->Send(FrameType::kKeepPages, {EncodeKeepPages(keep)}, deadline);
  }

  void Acknowledge() {
    for (auto& [pid, task] : tasks_) task.unacknowledged.clear();
  }

  std::vector<std::pair<pid_t, Ranges>> Unacknowledged() const {
    std::vector<std::pair<pid_t, Ranges>> list;
    for (const auto& [pid, task] : tasks_) {
      Ranges pages = memory::Union(task.unacknowledged, task.owed);
      if (!pages.empty()) list.emplace_back(pid, std::move(pages));
    }
    return list;
  }

  void Forget(pid_t container_pid) { tasks_.erase(container_pid); }

 private:
  struct Task {
    KnownPages known;
    Ranges unacknowledged;
    Ranges owed;
  };
  // The frame that is being filled; its content is in buffer_.
  struct Filling {
    std::vector<PageRun> runs;
    size_t content = 0;
  };

  uint64_t HashOf(const char* page) const { return IsZero(page, page_) ? zero_hash_ : hash_(page, page_); }

  static void ForgetAll(KnownPages& known, const Ranges& ranges) {
    for (const Range& range : ranges) known.Forget(range);
  }

  absl::Status SendPages(pid_t pid, pid_t container_pid, const Ranges& pages, KnownPages& known) {
    for (const Range& range : pages) {
      for (uint64_t at = range.start; at < range.end;) {
        if (frame_.content == kContentBytes || frame_.runs.size() + kReadBytes / page_ > kMaxPagesRuns) {
          GODWIT_RETURN_IF_ERROR(Flush(container_pid));
        }
        char* to = buffer_.get() + frame_.content;
        const size_t size = std::min({range.end - at, kContentBytes - frame_.content, kReadBytes});
        GODWIT_ASSIGN_OR_RETURN(size_t got, read_(pid, at, to, size));
        got -= got % page_;
        if (got == 0) {  // the first page has gone
          if (expect_all_)
            return absl::DataLossError(absl::StrFormat("the page at 0x%x cannot be read any more", at));
          memset(to, 0, page_);
          got = page_;
        }
        Sort({at, at + got}, to, known);
        at += got;
      }
    }
    return frame_.runs.empty() ? absl::OkStatus() : Flush(container_pid);
  }

  // Takes into the frame what has to go of pages that were read to `from`, at the end of its content.
  void Sort(Range range, const char* from, KnownPages& known) {
    totals_->looked_at += Count(range.bytes());
    for (uint64_t at = range.start; at < range.end; at += page_, from += page_) {
      const Range page{at, at + page_};
      const bool zero = IsZero(from, page_);
      const uint64_t hash = zero ? zero_hash_ : hash_(from, page_);
      uint64_t& last_sent = known.HashOf(at);
      if (last_sent == hash) {
        totals_->unchanged += Count(page_);
        memory::Append(unchanged_, page);
        continue;
      }
      last_sent = hash;
      AddRun(page, zero);
      if (zero) {
        totals_->zero += Count(page_);
        continue;
      }
      char* to = buffer_.get() + frame_.content;
      if (to != from) memmove(to, from, page_);
      frame_.content += page_;
      totals_->sent += Count(page_);
    }
  }

  void AddRun(Range page, bool zero) {
    if (!frame_.runs.empty()) {
      PageRun& last = frame_.runs.back();
      if (last.zero == zero && last.range.end == page.start && last.range.bytes() < kMaxRunBytes) {
        last.range.end = page.end;
        return;
      }
    }
    frame_.runs.push_back({page, zero});
  }

  absl::Status Flush(pid_t container_pid) {
    const absl::string_view content(buffer_.get(), frame_.content);
    Pages pages{.container = container_,
                .container_pid = container_pid,
                .runs = std::move(frame_.runs),
                .content_bytes = content.size(),
                .encoded = content};
    frame_ = {};
    if (!content.empty()) Encode(pages, content);
    const std::string head = EncodePagesHead(pages);
    const size_t wire = kFrameHeaderBytes + head.size() + pages.encoded.size();
    bucket_->Take(Count(wire), deadline_);
    const absl::Duration start = ThreadCpuTime();
    GODWIT_RETURN_IF_ERROR(stream_->Send(FrameType::kPages, {head, pages.encoded}, deadline_));
    choice_.Sent(wire, ThreadCpuTime() - start);
    MeasureLink();
    totals_->wire += Count(wire);
    return absl::OkStatus();
  }

  void MeasureLink() {
    const LinkUse now = stream_->link_use();
    choice_.Carried(now.acknowledged - link_use_.acknowledged, now.busy - link_use_.busy);
    link_use_ = now;
  }

  void Encode(Pages& pages, absl::string_view content) {
    if (frames_++ % kSampleEvery == 0) Sample(content);
    const Encoding encoding = choice_.Best(bucket_->limit());
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

  void Sample(absl::string_view content) {
    const absl::string_view sample = content.substr(content.size() / 2, kSampleBytes);
    for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
      const absl::Duration start = ThreadCpuTime();
      const absl::string_view encoded = compressor_.Encode(encoding, sample);
      choice_.Encoded(encoding, sample.size(), encoded.empty() ? sample.size() : encoded.size(),
                      ThreadCpuTime() - start);
    }
  }

  const std::string container_;
  const Read read_;
  TokenBucket* const bucket_;
  const size_t page_ = memory::PageBytes();
  const PageHash hash_;
  const uint64_t zero_hash_ = hash_(std::string(page_, '\0').data(), page_);
  Stream* stream_ = nullptr;
  std::map<pid_t, Task> tasks_;  // by container_pid
  const std::unique_ptr<char[]> buffer_ = std::make_unique_for_overwrite<char[]>(kContentBytes);
  Filling frame_;
  Compressor compressor_;
  EncodingChoice choice_;
  LinkUse link_use_;
  int64_t frames_ = 0;  // with content
  bool expect_all_ = false;

  // Of the Send that is under way.
  absl::Time deadline_;
  PageTotals* totals_ = nullptr;
  Ranges unchanged_;
};

PageSender::PageSender(std::string container, Read read, TokenBucket* bucket)
    : impl_(std::make_unique<Impl>(std::move(container), std::move(read), bucket)) {}
PageSender::~PageSender() = default;
void PageSender::SetStream(Stream* stream) { impl_->SetStream(stream); }
void PageSender::Owe(pid_t container_pid, const Ranges& pages) { impl_->Owe(container_pid, pages); }
void PageSender::ExpectAll() { impl_->ExpectAll(); }
absl::Status PageSender::Send(pid_t task, pid_t container_pid, const Ranges& pages, absl::Time deadline,
                              PageTotals* totals) {
  return impl_->Send(task, container_pid, pages, deadline, totals);
}
Ranges PageSender::Differing(pid_t container_pid, const Ranges& pages, const char* memory) const {
  return impl_->Differing(container_pid, pages, memory);
}
absl::Status PageSender::KeepPages(pid_t container_pid, const Ranges& populated, absl::Time deadline) {
  return impl_->KeepPages(container_pid, populated, deadline);
}
absl::Status PageSender::MissPages(pid_t container_pid, const Ranges& missing, absl::Time deadline) {
  return impl_->MissPages(container_pid, missing, deadline);
}
absl::Status PageSender::KeepTasks(const std::vector<pid_t>& container_pids, absl::Time deadline) {
  return impl_->KeepTasks(container_pids, deadline);
}
void PageSender::Acknowledge() { impl_->Acknowledge(); }
std::vector<std::pair<pid_t, Ranges>> PageSender::Unacknowledged() const { return impl_->Unacknowledged(); }
void PageSender::Forget(pid_t container_pid) { impl_->Forget(container_pid); }

absl::StatusOr<size_t> ReadTaskMemory(pid_t task, uint64_t address, char* to, size_t size) {
  const iovec local{to, size};
  const iovec remote{reinterpret_cast<void*>(address), size};
  const ssize_t got = process_vm_readv(task, &local, 1, &remote, 1, 0);
  if (got >= 0) return static_cast<size_t>(got);
  if (errno == EFAULT) return ReadWhatIsProtected(task, address, to, size);
  if (errno == ESRCH) return absl::NotFoundError(absl::StrCat("task ", task, " is gone"));
  return ErrnoStatus(absl::StrFormat("cannot read the memory of task %d at 0x%x", task, address));
}

}  // namespace godwit::transfer
