// SPDX-License-Identifier: Apache-2.0
// The receiving end of a stream's side connections (Stream::AddSide): who may be one, and how far each has
// come. Each is served by a thread of its own; the stream's thread waits for them where what it takes must
// come after theirs.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/transfer/stream.h"

namespace godwit::transfer {

// Thread-safe.
class SideConnections {
 public:
  static constexpr int64_t kMost = 3;
  // As many as this machine has processors for.
  static int64_t Useful();

  struct Offer {
    int64_t sides = 0;
    std::string session;  // by which they show that they are this stream's; empty when there are none
  };
  // For `stream`, which wants so many: as many as that, `useful` and kMost allow. Whatever was open before
  // must have been closed.
  Offer Open(std::shared_ptr<Stream> stream, int64_t wanted, int64_t useful) ABSL_LOCKS_EXCLUDED(mutex_);

  // A connection that says it is one, numbered from 1 on. FailedPrecondition: it is none of the stream's.
  // After OK, Leave.
  absl::Status Enter(const std::string& session, int64_t number, std::shared_ptr<Stream> side)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // One more of its frames was taken, with so many bytes of pages.
  void Took(int64_t number, int64_t page_bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // It brings no more, and why (never OK). The stream itself is left: it may have brought the reason already.
  void Leave(int64_t number, const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);

  // Why the first left that has brought anything, or that brought nonsense, if any did and that was not
  // Close's wish. Unavailable: its connection was lost. One that left before it was used is none that the
  // peer counts on.
  absl::Status ended() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Until so many frames of each were taken. DeadlineExceeded may be followed by another Await; other errors
  // are why one left before it came so far, or InvalidArgument: there are not so many.
  absl::Status Await(const std::vector<int64_t>& frames, absl::Time deadline) ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends all of them and waits until they have left. Returns ended().
  absl::Status Close() ABSL_LOCKS_EXCLUDED(mutex_);

  // Bytes of pages that all of them have brought, ever.
  int64_t page_bytes() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Side {
    std::shared_ptr<Stream> stream;  // nullptr: has not come, or has left
    bool came = false;
    int64_t frames = 0;
    absl::Status left;  // why it did
  };

  // OK when so many frames of each were taken, an error when one has left before, else nullopt.
  std::optional<absl::Status> OutcomeOf(const std::vector<int64_t>& frames) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::shared_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);  // nullptr: closed
  std::string session_ ABSL_GUARDED_BY(mutex_);
  std::vector<Side> sides_ ABSL_GUARDED_BY(mutex_);
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);  // ended()
  int64_t page_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace godwit::transfer
