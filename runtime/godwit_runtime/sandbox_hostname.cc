// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/sandbox_hostname.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::godwit_runtime {
namespace {

// Calls `inside` in the UTS namespace and comes back.
template <class Inside>
absl::Status In(int uts, Inside inside) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd own, OpenFile("/proc/self/ns/uts", O_RDONLY));
  if (setns(uts, CLONE_NEWUTS) != 0) return ErrnoStatus("cannot enter the sandbox's UTS namespace");
  absl::Status status = inside();
  if (setns(own.get(), CLONE_NEWUTS) != 0) return ErrnoStatus("cannot leave the sandbox's UTS namespace");
  return status;
}

}  // namespace

absl::StatusOr<SandboxHostname> SandboxHostname::Remember(const std::string& uts_path) {
  SandboxHostname name;
  if (uts_path.empty()) return name;
  GODWIT_ASSIGN_OR_RETURN(name.uts_, OpenFile(uts_path, O_RDONLY));
  GODWIT_RETURN_IF_ERROR(In(name.uts_.get(), [&name]() -> absl::Status {
    utsname system{};
    if (uname(&system) != 0) return ErrnoStatus("uname");
    name.host_ = system.nodename;
    name.domain_ = system.domainname;
    return absl::OkStatus();
  }));
  return name;
}

absl::Status SandboxHostname::PutBack() const {
  if (!uts_.ok()) return absl::OkStatus();
  return In(uts_.get(), [this]() -> absl::Status {
    if (sethostname(host_.data(), host_.size()) != 0 || setdomainname(domain_.data(), domain_.size()) != 0) {
      return ErrnoStatus(absl::StrCat("cannot give the sandbox its hostname ", host_, " back"));
    }
    return absl::OkStatus();
  });
}

}  // namespace godwit::godwit_runtime
