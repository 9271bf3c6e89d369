// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/quick_moves.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/log/log.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(1);  // shorter than any grace period

}  // namespace

QuickMoves::QuickMoves(const std::string& procs) {
  absl::StatusOr<UniqueFd> file = OpenFile(procs, O_WRONLY);
  if (!file.ok()) {
    LOG_FIRST_N(WARNING, 1)
        << Log("restores take some 15 ms longer: cannot write to the own cgroup").With(file.status());
    return;
  }
  procs_ = *std::move(file);
  thread_ = std::thread([this] { Write(); });
}

QuickMoves::~QuickMoves() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

void QuickMoves::Write() {
  for (; !stop_; absl::SleepFor(kPause)) {
    if (write(procs_.get(), "0", 1) == 1) continue;  // the writer's process, with all its threads
    LOG_FIRST_N(WARNING, 1)
        << Log("restores take some 15 ms longer").With(ErrnoStatus("cannot write to the own cgroup"));
    return;
  }
}

}  // namespace godwit::runtime
