// SPDX-License-Identifier: Apache-2.0
#include "agent/guard/client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::guard {
namespace {

using agent_api::GuardCommand;
using agent_api::GuardOp;
using agent_api::GuardReply;
using agent_api::GuardSpec;

constexpr absl::Duration kQuick = absl::Seconds(10);  // journal on a slow disk
constexpr absl::Duration kKill = absl::Seconds(60);   // 10 s a container within the guard
constexpr absl::Duration kStart = absl::Seconds(15);

}  // namespace

absl::StatusOr<GuardClient> GuardClient::Connect(const std::string& socket, absl::Duration limit) {
  absl::StatusOr<UniqueFd> connection = ConnectUnix(socket, limit);
  if (!connection.ok())
    return Annotate(connection.status(), absl::StrCat("cannot reach the guard at ", socket));
  return GuardClient(LineChannel(*std::move(connection)));
}

absl::StatusOr<GuardReply> GuardClient::Ask(const GuardCommand& command, absl::Duration limit) {
  const std::string what = absl::StrCat("asking the guard to ", json::Name(command.op));
  // A guard that turns this agent away says why and hangs up, perhaps before it is asked.
  const absl::Status written = channel_.WriteLine(json::Encode(command), kQuick);
  absl::StatusOr<std::string> line = channel_.ReadLine(written.ok() ? limit : absl::ZeroDuration());
  if (!written.ok() && !line.ok()) return Annotate(written, what);
  if (absl::IsOutOfRange(line.status()))
    return absl::UnavailableError(absl::StrCat(what, ": the guard has ended"));
  if (!line.ok()) {
    channel_.Shutdown();
    return Annotate(line.status(), what);
  }
  return json::Decode<GuardReply>(*line);
}

absl::StatusOr<GuardReply> GuardClient::Arm(absl::Duration limit) {
  return Ask({.op = GuardOp::kArm}, limit);
}
absl::StatusOr<GuardReply> GuardClient::Freeze(absl::Duration limit) {
  return Ask({.op = GuardOp::kFreeze}, limit);
}
absl::StatusOr<GuardReply> GuardClient::Dump(const std::string& container, absl::Duration limit) {
  return Ask({.op = GuardOp::kDump, .container = container}, limit);
}
absl::StatusOr<GuardReply> GuardClient::Cede() { return Ask({.op = GuardOp::kCede}, kQuick); }
absl::StatusOr<GuardReply> GuardClient::Thaw(const std::string& why) {
  return Ask({.op = GuardOp::kThaw, .message = why}, kQuick);
}
absl::StatusOr<GuardReply> GuardClient::TargetAborted(const std::string& why) {
  return Ask({.op = GuardOp::kTargetAborted, .message = why}, kQuick);
}
absl::StatusOr<GuardReply> GuardClient::Kill() { return Ask({.op = GuardOp::kKill}, kKill); }
absl::StatusOr<GuardReply> GuardClient::Status() { return Ask({.op = GuardOp::kStatus}, kQuick); }

namespace {

// The guard's program, run on the host.
RunOptions OnHost(const GuardLaunch& launch) {
  RunOptions options;
  options.limit = kStart;
  options.spawn.new_session = true;
  options.spawn.cwd = "/";
  options.spawn.env =
      std::vector<std::string>{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
  if (launch.host_namespaces.empty()) return options;
  // The mount namespace last: the others are opened by then, and the program is looked up in it. The pid
  // namespace is the host's already (hostPID).
  for (const char* name : {"cgroup", "net", "uts", "ipc", "mnt"}) {
    options.spawn.namespaces.push_back(absl::StrCat(launch.host_namespaces, "/", name));
  }
  return options;
}

}  // namespace

absl::StatusOr<GuardClient> StartGuard(const GuardSpec& spec, const GuardLaunch& launch) {
  GODWIT_RETURN_IF_ERROR(
      WriteFileDurably(absl::StrCat(launch.host_root, launch.spec_file), json::Encode(spec)));
  const absl::StatusOr<std::string> started =
      RunOrError({launch.binary, "--spec", launch.spec_file}, OnHost(launch));
  if (!started.ok())
    return Annotate(started.status(), "cannot start the guard on the host (is Godwit installed there?)");
  return GuardClient::Connect(absl::StrCat(launch.host_root, spec.socket));
}

absl::Status LiftFencesLeft(const GuardLaunch& launch, const std::string& criu_folder) {
  return Annotate(
      RunOrError({launch.binary, "--lift-fences", absl::StrCat(criu_folder, "/bin/nft")}, OnHost(launch))
          .status(),
      "cannot look for fences that were left");
}

}  // namespace godwit::guard
