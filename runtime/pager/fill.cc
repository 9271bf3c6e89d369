// SPDX-License-Identifier: Apache-2.0
// The pager's second and third thread: filling what nobody waits for, and giving it back.
#include <poll.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/pager/pager.h"

namespace godwit::pager {
namespace {

// Less is not worth the call; more would keep those who search the store waiting.
constexpr uint64_t kPunchAtLeast = uint64_t{1} << 20;
constexpr uint64_t kPunchAtMost = uint64_t{2} << 20;
constexpr int kMessagePauseMs = 1;
constexpr absl::Duration kMemoryPause = absl::Milliseconds(20);
// For a task that has begun to change its mappings to be through with it.
constexpr absl::Duration kChangePatience = absl::Minutes(1);
// When all is filled but what is missing: how long before the caller may look around.
constexpr absl::Duration kArrivalPause = absl::Milliseconds(100);

}  // namespace

// What has come late goes first: somebody waited for it, or waits for what is near. nullopt: all is filled.
std::optional<Pager::Work> Pager::NextWork() {
  absl::MutexLock lock(&mutex_);
  bool all = true;
  for (const auto& source : sources_) {
    if (source->arrived.empty()) continue;
    memory::Range& first = source->arrived.front();
    const memory::Range range = {first.start, std::min(first.end, first.start + kChunk)};
    first.start = range.end;
    if (first.start == first.end) {
      source->arrived.pop_front();
      --arrivals_;
    }
    return Work{.source = source.get(), .arrived = range};
  }
  for (const auto& source : sources_) {
    if (!source->done && !source->passed) return Work{.source = source.get()};
    all = all && source->done;
  }
  if (all) return std::nullopt;
  return Work{};
}

absl::StatusOr<bool> Pager::FillNext(const std::atomic<bool>& stop) {
  const std::optional<Work> work = NextWork();
  if (!work.has_value()) return false;
  if (work->source == nullptr) {
    absl::MutexLock lock(&mutex_);
    const auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return arrivals_ > 0; };
    mutex_.AwaitWithTimeout(absl::Condition(&some), kArrivalPause);
    return true;
  }
  GODWIT_RETURN_IF_ERROR(work->arrived.has_value() ? FillArrived(*work->source, *work->arrived, stop)
                                                   : FillInOrder(*work->source, stop));
  return true;
}

absl::Status Pager::FillInOrder(Source& source, const std::atomic<bool>& stop) {
  if (source.filled >= source.run.end) {
    GODWIT_ASSIGN_OR_RETURN(const std::optional<memory::Range> run, source.store.NextRun(source.filled));
    if (!run.has_value()) {
      source.may_be_punched = source.filled.load();
      // Nobody will find in order what comes above the last run: it is FillArrived's.
      source.filled = kAddressEnd;
      source.passed = true;
      return EndIfFilled(source);
    }
    source.run = *run;
    source.filled = run->start;
  }
  memory::Range chunk = {source.filled, std::min(source.run.end, source.filled + kChunk)};
  chunk = WithoutLate(source, chunk);
  if (chunk.bytes() > 0) {
    GODWIT_ASSIGN_OR_RETURN(const char* const pages, source.store.Map(chunk));
    GODWIT_RETURN_IF_ERROR(FillEverywhere(source, chunk, pages, stop));
    if (stop) return absl::OkStatus();
  }
  source.filled = chunk.end;
  source.may_be_punched = source.store.mapped_from();
  return absl::OkStatus();
}

// The beginning of the chunk, up to what is late; where that is its beginning, an empty range at its end.
memory::Range Pager::WithoutLate(Source& source, memory::Range chunk) {
  absl::MutexLock lock(&mutex_);
  const memory::Ranges late = source.late.Inside(chunk);
  if (late.empty()) return chunk;
  if (late[0].start > chunk.start) return memory::Range{chunk.start, late[0].start};
  return memory::Range{late[0].end, late[0].end};
}

// Where the filling in order has not come yet, it finds what has arrived in its place.
absl::Status Pager::FillArrived(Source& source, memory::Range offsets, const std::atomic<bool>& stop) {
  const memory::Range behind = {offsets.start, std::clamp(source.filled.load(), offsets.start, offsets.end)};
  for (uint64_t at = behind.start; at < behind.end;) {
    GODWIT_ASSIGN_OR_RETURN(const std::optional<memory::Range> run, source.store.NextRun(at));
    if (!run.has_value() || run->start >= behind.end) break;  // zeros
    const memory::Range chunk = {run->start, std::min(run->end, behind.end)};
    GODWIT_RETURN_IF_ERROR(source.store.ReadAt(chunk.start, arrived_buffer_.get(), chunk.bytes()));
    GODWIT_RETURN_IF_ERROR(FillEverywhere(source, chunk, arrived_buffer_.get(), stop));
    if (stop) return absl::OkStatus();
    at = chunk.end;
  }
  if (behind.bytes() > 0) GODWIT_RETURN_IF_ERROR(source.store.Punch(behind));
  {
    absl::MutexLock lock(&mutex_);
    source.late.Erase(offsets);
  }
  return EndIfFilled(source);
}

absl::Status Pager::EndIfFilled(Source& source) {
  absl::MutexLock lock(&mutex_);
  if (!source.passed || !source.late.empty()) return absl::OkStatus();
  for (const auto& space : source.spaces) GODWIT_RETURN_IF_ERROR(Forget(*space));
  source.done = true;
  return absl::OkStatus();
}

absl::Status Pager::FillEverywhere(Source& source, memory::Range offsets, const char* pages,
                                   const std::atomic<bool>& stop) {
  absl::MutexLock lock(&mutex_);
  // Children that are forked meanwhile come last.
  for (size_t i = 0; i < source.spaces.size(); ++i) {
    GODWIT_RETURN_IF_ERROR(FillSpace(*source.spaces[i], offsets, pages, stop));
  }
  return absl::OkStatus();
}

absl::Status Pager::FillSpace(Space& space, memory::Range offsets, const char* pages,
                              const std::atomic<bool>& stop) {
  const auto nobody_waits = [this] { return urgent_ == 0; };
  const uint64_t page_bytes = memory::PageBytes();
  uint64_t at = offsets.start;
  uint64_t most = offsets.bytes();
  std::optional<absl::Duration> changing_since;
  while (!space.gone && !stop) {
    mutex_.Await(absl::Condition(&nobody_waits));
    const std::optional<Piece> piece = space.layout.NextStored(at, offsets.end);
    if (!piece.has_value()) break;
    const uint64_t bytes = std::min(piece->bytes, most);
    GODWIT_ASSIGN_OR_RETURN(
        const Installation installation,
        CopyPages(space.uffd, piece->address, pages + (piece->offset - offsets.start), bytes));
    at = piece->offset + installation.bytes;
    GODWIT_RETURN_IF_ERROR(NoteMemory(installation.outcome != Outcome::kNoMemory));
    if (installation.outcome != Outcome::kChanging) changing_since.reset();
    switch (installation.outcome) {
      case Outcome::kInstalled: most = offsets.bytes(); break;
      case Outcome::kPresent: at += page_bytes; break;
      case Outcome::kUnmapped:
        // Two mappings side by side, unless it is a single page.
        if (bytes > page_bytes) {
          most = std::max(page_bytes, bytes / 2 / page_bytes * page_bytes);
          break;
        }
        if (!space.forked) {
          return absl::DataLossError(
              absl::StrFormat("the page at %x of a task has no mapping to go to", piece->address));
        }
        at += page_bytes;
        break;
      case Outcome::kGone: GODWIT_RETURN_IF_ERROR(Forget(space)); break;
      case Outcome::kChanging:
        if (!changing_since.has_value()) changing_since = clock_.Monotonic();
        GODWIT_RETURN_IF_ERROR(WaitForMessages(space, *changing_since));
        break;
      case Outcome::kNoMemory: GODWIT_RETURN_IF_ERROR(WaitForMemory()); break;
    }
  }
  return absl::OkStatus();
}

absl::Status Pager::WaitForMessages(Space& space, absl::Duration waiting_since) {
  GODWIT_ASSIGN_OR_RETURN(const int count, ReadMessages(space, clock_.Monotonic()));
  if (count > 0) return absl::OkStatus();
  if (clock_.Monotonic() - waiting_since > kChangePatience) {
    return absl::DeadlineExceededError(absl::StrCat("a task changes its mappings for more than ",
                                                    absl::FormatDuration(kChangePatience), " already"));
  }
  pollfd messages = {space.uffd, POLLIN, 0};
  mutex_.Unlock();
  poll(&messages, 1, kMessagePauseMs);
  mutex_.Lock();
  return absl::OkStatus();
}

absl::Status Pager::WaitForMemory() {
  mutex_.Unlock();
  clock_.SleepFor(kMemoryPause);
  mutex_.Lock();
  return absl::OkStatus();
}

absl::StatusOr<bool> Pager::PunchNext() {
  std::vector<Source*> sources;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& source : sources_) sources.push_back(source.get());
  }
  for (Source* source : sources) {
    const bool done = source->done;
    const uint64_t end = source->may_be_punched;
    GODWIT_ASSIGN_OR_RETURN(const std::optional<uint64_t> held, source->store.NextHeld(source->punched));
    if (!held.has_value() || *held >= end) continue;
    const memory::Range range = {*held, std::min(end, *held + kPunchAtMost)};
    if (range.bytes() < kPunchAtLeast && !done) continue;
    memory::Ranges late;  // is given back when it is filled
    {
      absl::MutexLock lock(&mutex_);
      late = source->late.Inside(range);
    }
    for (const memory::Range& part : memory::Difference({range}, late))
      GODWIT_RETURN_IF_ERROR(source->store.Punch(part));
    source->punched = range.end;
    return true;
  }
  return false;
}

}  // namespace godwit::pager
