// SPDX-License-Identifier: Apache-2.0
// A journal's file as the disk and the page cache have it: the last record that is durable, and one that was
// written and not yet synced. What may follow what is the product's MayFollow.
#pragma once

#include <optional>
#include <utility>

#include "agent/journal/journal.h"
#include "tests/simulator/random.h"

namespace godwit::simulator {

// What goes wrong with the next record.
enum class DiskFault {
  kNone,
  kNotWritten,     // known not to be there
  kWrittenAnyway,  // an error, and yet it is there
  kUnknown,        // there or not, and for a while the file cannot be read
};

template <class State>
class JournalFile {
 public:
  explicit JournalFile(State first) : durable_(first) {}

  State read() const { return pending_.value_or(durable_); }  // as any process sees it
  State durable() const { return durable_; }
  bool synced() const { return !pending_.has_value(); }
  // Whether the record is, or was, among those on the disk.
  bool holds(State state) const { return (held_ & Bit(state)) != 0 || durable_ == state; }

  void Write(State state) { pending_ = state; }
  void Sync() {
    if (!pending_.has_value()) return;
    held_ |= Bit(durable_);
    durable_ = *std::exchange(pending_, std::nullopt);
  }
  // Its writer died in the middle of the record: a torn tail, which every reader passes over.
  void Tear() { pending_.reset(); }
  void LosePower(Random& random) {
    if (random.OneIn(3)) Sync();
    pending_.reset();
  }

  // --- faults to come
  void Fail(DiskFault fault) { fault_ = fault; }
  DiskFault TakeFault() { return std::exchange(fault_, DiskFault::kNone); }
  // How often it cannot be opened from now on.
  void Hide(int times) { hidden_ = times; }
  bool LookHidden() { return hidden_ > 0 && hidden_-- > 0; }
  void Repair() {
    hidden_ = 0;
    fault_ = DiskFault::kNone;
  }

  bool broken = false;  // its writer has had an error, and must open it anew

 private:
  static unsigned Bit(State state) { return 1u << static_cast<unsigned>(state); }

  State durable_;
  std::optional<State> pending_;
  unsigned held_ = 0;
  DiskFault fault_ = DiskFault::kNone;
  int hidden_ = 0;
};

}  // namespace godwit::simulator
