// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/freezer.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/runtime/cgroup.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

// POLLPRI announces a change of cgroup.events; a look now and then does no harm and covers what does not
// announce.
constexpr absl::Duration kLookAgain = absl::Milliseconds(5);
// A task that was let go of needs a processor to come to its place.
constexpr absl::Duration kLetGoLimit = absl::Seconds(2);

// Writes `value` to cgroup.freeze of each folder, side by side: each write walks all tasks of its cgroup.
std::vector<absl::Status> WriteFreeze(const std::vector<std::string>& folders, absl::string_view value) {
  std::vector<absl::Status> results(folders.size());
  std::vector<std::thread> others;
  const auto write = [&](size_t i) {
    results[i] = WriteKernelFile(absl::StrCat(folders[i], "/cgroup.freeze"), value);
  };
  for (size_t i = 1; i < folders.size(); ++i) others.emplace_back(write, i);
  if (!folders.empty()) write(0);
  for (std::thread& thread : others) thread.join();
  return results;
}

// Returns when `wanted` ("frozen 1") is a line of cgroup.events. NotFound when the cgroup is gone.
absl::Status WaitEvent(const std::string& folder, absl::string_view wanted, absl::Time deadline) {
  const std::string path = absl::StrCat(folder, "/cgroup.events");
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY));
  while (true) {
    char events[512];
    const ssize_t size = pread(file.get(), events, sizeof(events), 0);
    if (size < 0) return ErrnoStatus(errno == ENODEV ? ENOENT : errno, absl::StrCat("read ", path));
    const absl::string_view text(events, static_cast<size_t>(size));
    if (absl::StrContains(absl::StrCat("\n", text), absl::StrCat("\n", wanted, "\n")))
      return absl::OkStatus();
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration())
      return absl::DeadlineExceededError(absl::StrCat(path, " does not become \"", wanted, "\""));
    pollfd change{file.get(), POLLPRI, 0};
    poll(&change, 1,
         static_cast<int>(
             absl::ToInt64Milliseconds(absl::Ceil(std::min(left, kLookAgain), absl::Milliseconds(1)))));
  }
}

}  // namespace

FrozenCgroups::FrozenCgroups(FrozenCgroups&& other) noexcept : folders_(std::exchange(other.folders_, {})) {}

FrozenCgroups& FrozenCgroups::operator=(FrozenCgroups&& other) noexcept {
  if (this != &other) {
    Thaw().IgnoreError();  // logged there; what does not thaw is not kept
    folders_ = std::exchange(other.folders_, {});
  }
  return *this;
}

FrozenCgroups::~FrozenCgroups() {
  Thaw().IgnoreError();  // logged there
}

absl::Status FrozenCgroups::Thaw() {
  const std::vector<std::string> folders = std::exchange(folders_, {});
  absl::Status first;
  const std::vector<absl::Status> results = WriteFreeze(folders, "0");
  for (size_t i = 0; i < folders.size(); ++i) {
    absl::Status status = results[i];
    // Once more: nothing else would ever let these processes go on.
    if (!status.ok() && !absl::IsNotFound(status))
      status = WriteKernelFile(absl::StrCat(folders[i], "/cgroup.freeze"), "0");
    if (status.ok() || absl::IsNotFound(status)) continue;
    folders_.push_back(folders[i]);
    LOG(ERROR) << Log("cannot thaw").With("cgroup", folders[i]).With(status);
    first.Update(Annotate(status, "cannot thaw"));
  }
  return first;
}

absl::StatusOr<FrozenCgroups> FreezeCgroups(std::vector<std::string> folders, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  FrozenCgroups frozen(std::move(folders));
  for (const absl::Status& status : WriteFreeze(frozen.folders_, "1")) {
    if (!status.ok()) {
      return Annotate(status,
                      "cannot freeze (is /sys/fs/cgroup mounted read-only here, or the container gone?)");
    }
  }
  GODWIT_RETURN_IF_ERROR(
      Annotate(WaitFrozen(frozen.folders_, deadline - SteadyNow()),
               "cannot freeze: a task does not stand still (is it in an uninterruptible wait for a disk?)"));
  return frozen;
}

FrozenCgroups AdoptFrozen(std::vector<std::string> folders) { return FrozenCgroups(std::move(folders)); }

absl::Status WaitFrozen(const std::vector<std::string>& folders, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  for (const std::string& folder : folders) GODWIT_RETURN_IF_ERROR(WaitEvent(folder, "frozen 1", deadline));
  return absl::OkStatus();
}

absl::Status CheckStandsStill(const std::string& folder) {
  GODWIT_ASSIGN_OR_RETURN(const std::string freeze, ReadFile(absl::StrCat(folder, "/cgroup.freeze")));
  if (!absl::StartsWith(freeze, "1")) {
    return absl::FailedPreconditionError(absl::StrCat("cgroup ", folder, " is not frozen any more"));
  }
  absl::Status still = WaitFrozen({folder}, kLetGoLimit);
  if (!absl::IsDeadlineExceeded(still)) return still;
  return absl::FailedPreconditionError(still.message());
}

absl::Status KillCgroup(const std::string& folder, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  absl::Status killed = WriteKernelFile(absl::StrCat(folder, "/cgroup.kill"), "1");
  if (absl::IsNotFound(killed) && FileExists(folder)) {
    // Before Linux 5.14. Frozen tasks die of SIGKILL too.
    GODWIT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, ProcessesInCgroup(folder));
    for (pid_t pid : pids) kill(pid, SIGKILL);
    killed = absl::OkStatus();
  }
  if (absl::IsNotFound(killed)) return absl::OkStatus();
  GODWIT_RETURN_IF_ERROR(Annotate(killed, "cannot kill"));
  const absl::Status empty = WaitEvent(folder, "populated 0", deadline);
  return absl::IsNotFound(empty) ? absl::OkStatus() : Annotate(empty, "killed, but processes are left");
}

}  // namespace godwit::runtime
