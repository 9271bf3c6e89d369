// SPDX-License-Identifier: Apache-2.0
#include "runtime/guard/dump.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "agent/criu/criu_log.h"
#include "agent/criu/gate.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::guard {
namespace {

// From being asked to end to being killed. CRIU heals a task in milliseconds; one write of pages to a slow
// disk may be under way. Below the 5 s within which a frozen pod must go on when its agent is gone.
constexpr absl::Duration kGrace = absl::Seconds(3);

constexpr absl::Duration kCriuLook = absl::Milliseconds(1);
constexpr absl::Duration kGatePause = absl::Milliseconds(5);  // between looks at runc itself

std::string ReadOutput(int fd) {
  std::string text(4096, '\0');
  const ssize_t size = pread(fd, text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return std::string(absl::StripAsciiWhitespace(text));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Dump>> Dump::Start(const criu::Plan& plan) {
  // What an earlier attempt left would be taken for this one's.
  unlink(plan.log_file.c_str());
  unlink(plan.messages.c_str());
  UniqueFd output(memfd_create("runc", MFD_CLOEXEC));
  if (!output.ok()) return ErrnoStatus("cannot make a memory file for runc's messages");
  GODWIT_ASSIGN_OR_RETURN(UniqueFd done, OpenFile(plan.done, O_RDONLY | O_NONBLOCK));
  SpawnOptions options;
  options.env = plan.env;
  options.stdout_fd = output.get();
  options.stderr_fd = output.get();
  options.cwd = "/";
  GODWIT_ASSIGN_OR_RETURN(Child child, Child::Spawn(plan.argv, options));
  return std::unique_ptr<Dump>(new Dump(plan, std::move(child), std::move(output), std::move(done)));
}

absl::Status Dump::ReachGate(absl::Time deadline) {
  while (!gate_.ok()) {
    absl::StatusOr<UniqueFd> gate = criu::ReachGate(plan_.gate, kGatePause);
    if (gate.ok()) {
      gate_ = *std::move(gate);
      break;
    }
    if (!absl::IsDeadlineExceeded(gate.status())) return gate.status();
    if (ended()) {
      const absl::Status ended = Result();
      return absl::FailedPreconditionError(ended.ok() ? "it ended without waiting at its gate"
                                                      : ended.message());
    }
    if (SteadyNow() >= deadline) return absl::DeadlineExceededError("CRIU did not come to its gate in time");
  }
  return absl::OkStatus();
}

absl::Status Dump::OpenGate() {
  const UniqueFd gate = std::move(gate_);
  return criu::OpenGate(gate);
}

void Dump::Dismiss() {
  gate_.Reset();
  if (!child_.Wait(kGrace).ok()) {
    LOG(ERROR) << Log("killing a dump that was never begun and does not end").With("gate", plan_.gate);
    child_.Signal(SIGKILL).IgnoreError();  // gone already
    child_.Wait(kGrace).IgnoreError();     // reaped with this object at the latest
  }
  unlink(plan_.gate.c_str());
}

bool Dump::succeeded() {
  char word = 0;
  if (!succeeded_) succeeded_ = read(done_.get(), &word, 1) == 1;
  return succeeded_;
}

absl::Status Dump::Result() {
  if (succeeded()) return absl::OkStatus();
  const absl::StatusOr<ExitStatus> end = child_.Wait(absl::Seconds(1));
  if (!end.ok()) return end.status();
  AwaitCriu();
  if (end->ok() || succeeded()) return absl::OkStatus();
  // The preload library may have said why.
  const std::string messages = criu::PreloadSays(plan_.messages);
  if (FileExists(plan_.log_file))
    return absl::InternalError(absl::StrCat(messages, criu::ExplainFailure(plan_.log_file)));
  // runc did not come as far as CRIU.
  return absl::InternalError(absl::StrCat(messages, plan_.argv[0], " checkpoint: ", end->ToString(), ": ",
                                          ReadOutput(output_.get())));
}

// A runc that was killed leaves CRIU, of its process group, with the tasks under its hand. It must heal them,
// and will freeze their cgroup once more before it lets them go: whoever thawed before that would have thawed
// for nothing.
void Dump::AwaitCriu() {
  const pid_t group = child_.pid();
  const auto gone = [group] { return kill(-group, 0) != 0 && errno == ESRCH; };
  if (gone()) return;
  LOG(WARNING) << Log("runc has ended without its CRIU, which is asked to end").With("log", plan_.log_file);
  Abort();
  for (const absl::Time limit = SteadyNow() + kGrace; !gone() && SteadyNow() < limit;)
    absl::SleepFor(kCriuLook);
  if (gone()) return;
  LOG(ERROR) << Log("killing a CRIU that does not end; the application may not survive it")
                    .With("log", plan_.log_file);
  kill(-group, SIGKILL);
}

void Dump::Abort() {
  if (kill_at_.has_value()) return;
  kill_at_ = Clock::Real().Monotonic() + kGrace;
  const absl::StatusOr<UniqueFd> file = OpenFile(plan_.abort_file, O_WRONLY);
  if (!file.ok() || pwrite(file->get(), "\1", 1, 0) != 1) {
    LOG(ERROR) << Log("cannot ask CRIU to end")
                      .With("file", plan_.abort_file)
                      .With(file.ok() ? ErrnoStatus("write") : file.status());
  }
}

void Dump::Kill() {
  LOG(ERROR) << Log("killing a dump that does not end; the application may not survive it")
                    .With("log", plan_.log_file);
  child_.Signal(SIGKILL).IgnoreError();  // gone already
}

Dump::~Dump() {
  // Never by the destructor of the child, which kills, where it is about to end.
  if (succeeded_) child_.Wait(kGrace).IgnoreError();  // killed then
}

}  // namespace godwit::guard
