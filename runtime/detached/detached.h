// SPDX-License-Identifier: Apache-2.0
// How a host program becomes a process of its own, which ends neither with who started it nor with the
// container that one is in: a session and a cgroup of its own, none of its descriptors.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"

namespace godwit::detached {

// Tells the parent that this process serves from now on; to be called once.
using Ready = std::function<absl::Status()>;

// Forks; the child, in a session of its own and without this process' descriptors, runs `serve`. The exit
// code of whichever process returns: the parent's is 0 once the child was ready, else 1 with the reason on
// stderr.
int Detach(absl::string_view binary, const std::function<absl::Status(const Ready&)>& serve);

// A cgroup of its own: <mount>/<family>/<name>, on the cgroup2 mount that `beside` lies in. Entering one that
// this process is in already is fine. Removed when it goes, as far as no other process is in it.
class OwnCgroup {
 public:
  static absl::StatusOr<std::unique_ptr<OwnCgroup>> Enter(const std::string& beside, absl::string_view family,
                                                          absl::string_view name);
  ~OwnCgroup();
  OwnCgroup(const OwnCgroup&) = delete;
  OwnCgroup& operator=(const OwnCgroup&) = delete;

 private:
  OwnCgroup(std::string root, absl::string_view family, absl::string_view name);
  std::string root_, parent_, folder_;
};

// Standard output and error to the log, input from nowhere.
absl::Status OpenLog(const std::string& path);

// Readable when SIGTERM or SIGINT has come; SIGHUP and SIGPIPE are ignored.
absl::StatusOr<UniqueFd> EndSignal();

}  // namespace godwit::detached
