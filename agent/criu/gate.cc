// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/gate.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::criu {
namespace {

constexpr absl::Duration kPause = absl::Microseconds(500);  // nothing tells that a FIFO got a reader

}  // namespace

absl::Status MakeGate(const std::string& path) {
  unlink(path.c_str());
  if (mkfifo(path.c_str(), 0600) != 0) return ErrnoStatus(absl::StrCat("cannot make the gate ", path));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ReachGate(const std::string& path, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  while (true) {
    UniqueFd gate(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW));
    if (gate.ok()) return gate;
    if (errno != ENXIO && errno != EINTR) return ErrnoStatus(absl::StrCat("cannot open the gate ", path));
    if (SteadyNow() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("CRIU did not come to the gate ", path, " within ", absl::FormatDuration(limit)));
    }
    absl::SleepFor(kPause);
  }
}

absl::Status OpenGate(const UniqueFd& gate) {
  ssize_t written = 0;
  do {
    written = write(gate.get(), "1", 1);
  } while (written < 0 && errno == EINTR);
  if (written == 1) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("CRIU waits no more at its gate: ", ErrnoStatus("write").message()));
}

absl::Status OpenGate(const std::string& path, absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd gate, ReachGate(path, limit));
  return OpenGate(gate);
}

}  // namespace godwit::criu
