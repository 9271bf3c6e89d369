// SPDX-License-Identifier: Apache-2.0
#include "controller/agents/agent.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace godwit::controller {

std::string HostPort(const std::string& ip, int port) {
  return absl::StrContains(ip, ':') ? absl::StrCat("[", ip, "]:", port) : absl::StrCat(ip, ":", port);
}

}  // namespace godwit::controller
