// SPDX-License-Identifier: Apache-2.0
// What a pager must not lose when it is killed, in memory that its keeper holds too: which descriptors are
// whose, and what the tasks did to their mappings. The kernel writes each message straight into the ledger's
// next record, so that there is no moment at which a message was taken and is not in it. A new pager that
// goes through the records from the first knows all that the old one knew; what was installed already it sees
// by the holes in the stores and by the kernel's answers.
//
// Descriptors in it are numbers of the table that pager and keeper share. Not thread-safe.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/file.h"

namespace godwit::pager {

enum class RecordKind : uint32_t {
  kNone,
  kStore,    // pid has its pages in fd
  kTask,     // CRIU's word: pid, then a userfaultfd in `control`; pid 0 or no descriptor: not come yet
  kMessage,  // read from the userfaultfd fd; event 0: not come yet
  kClosed,   // fd is no longer a task's, and about to be closed
  kMap,      // the map of pid's missing pages is in fd (agent/memory/page_set.h); kept up to date
};

struct Record {
  RecordKind kind = RecordKind::kNone;
  int32_t fd = -1;
  int32_t pid = 0;  // in the container's pid namespace
  uint32_t reserved = 0;
  union {
    uffd_msg message;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  };
};
// The userfaultfd that came with a kTask, or -1.
int TaskDescriptor(const Record& record);
static_assert(sizeof(uffd_msg) >= CMSG_SPACE(sizeof(int)));

// Milestones, each set once, and what is counted over all pagers of a container.
struct Milestones {
  std::atomic<bool> stores_known;    // the agent has told all of them
  std::atomic<bool> restored;        // CRIU has said that it is done with the tasks
  std::atomic<bool> criu_gone;       // its connection has ended
  std::atomic<bool> thawed;          // the container may run
  std::atomic<bool> failed;          // the container was killed; before `finished`
  std::atomic<bool> finished;        // nothing is left to be done but to tidy up
  std::atomic<int64_t> pagers;       // how many there have been
  std::atomic<int64_t> total_bytes;  // to be filled in all, once thawed
  std::atomic<int64_t> started_ns;   // CLOCK_MONOTONIC
  std::atomic<int64_t> thawed_ns;
};

class Ledger {
 public:
  // A new one. `spec` is kept as it is.
  static absl::StatusOr<std::unique_ptr<Ledger>> Make(absl::string_view spec);
  // The one of an earlier pager, by its descriptor. InvalidArgument when it is none.
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(UniqueFd memory);
  ~Ledger();
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  int fd() const { return memory_.get(); }
  absl::string_view spec() const;
  Milestones& milestones();

  absl::Span<const Record> records() const;
  // What is in use by the records and the next one.
  std::set<int> Descriptors() const;
  // The record after the last one. What an earlier pager left in it is still there.
  Record& next();
  // The same, empty, of this kind.
  Record& Begin(RecordKind kind, int fd);
  void Clear();
  // The next record counts from now on. ResourceExhausted when there is no room for another one.
  absl::Status Keep();

 private:
  struct Head;
  Ledger(UniqueFd memory, void* address) : memory_(std::move(memory)), head_(static_cast<Head*>(address)) {}
  Record* First() const;

  UniqueFd memory_;
  Head* head_;
};

}  // namespace godwit::pager
