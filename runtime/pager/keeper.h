// SPDX-License-Identifier: Apache-2.0
// The second holder of everything: a child of the pager that shares its table of descriptors, so that each
// descriptor the kernel gives to the pager is the keeper's at the same instant. It waits for the pager's end,
// and becomes a new pager then (`godwit-pager --resume LEDGER`). It never closes a descriptor: that would
// close the pager's.
#pragma once

#include <sys/types.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace godwit::pager {

class Keeper {
 public:
  // `ledger`: the ledger's descriptor. The caller may have other threads; the calling one must be the last to
  // end.
  static absl::StatusOr<std::unique_ptr<Keeper>> Start(int ledger);
  // Ends it. What it shares stays open.
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  pid_t pid() const { return pid_; }
  // Readable once it has ended.
  int pidfd() const { return pidfd_.get(); }

 private:
  Keeper(pid_t pid, UniqueFd pidfd, UniqueFd pager)
      : pid_(pid), pidfd_(std::move(pidfd)), pager_(std::move(pager)) {}
  const pid_t pid_;
  const UniqueFd pidfd_;
  const UniqueFd pager_;  // this process, as the keeper looks at it
};

}  // namespace godwit::pager
