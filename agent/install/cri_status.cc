// SPDX-License-Identifier: Apache-2.0
#include "agent/install/cri_status.h"

#include <map>
#include <set>
#include <utility>

#include "agent/criu/protobuf.h"
#include "agent/install/grpc_call.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::install {
namespace {

// runtime.v1: StatusRequest.verbose = 1; StatusResponse.info = 2 (a map: key = 1, value = 2) and
// .runtime_handlers = 3, with RuntimeHandler.name = 1.
constexpr char kMethod[] = "/runtime.v1.RuntimeService/Status";
constexpr absl::string_view kVerbose("\x08\x01", 2);

// info["config"] of containerd, as JSON.
struct CriConfig {
  struct Containerd {
    std::map<std::string, json::Raw> runtimes;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("runtimes", self.runtimes);
    }
  };
  Containerd containerd;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("containerd", self.containerd);
  }
};

// The fields 1 and 2 of a message, where they are strings.
std::pair<std::string, std::string> Strings(absl::string_view message) {
  std::pair<std::string, std::string> strings;
  for (criu::ProtobufFields fields(message); fields.Next();) {
    if (fields.is_bytes() && fields.number() == 1) strings.first = std::string(fields.bytes());
    if (fields.is_bytes() && fields.number() == 2) strings.second = std::string(fields.bytes());
  }
  return strings;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> HandlersInStatus(absl::string_view response) {
  std::set<std::string> handlers;
  criu::ProtobufFields fields(response);
  while (fields.Next()) {
    if (!fields.is_bytes()) continue;
    const auto [first, second] = Strings(fields.bytes());
    if (fields.number() == 3) handlers.insert(first);
    if (fields.number() != 2 || first != "config") continue;
    absl::StatusOr<CriConfig> config = json::Decode<CriConfig>(second);
    if (!config.ok()) continue;  // for people, and of no fixed form
    for (const auto& [name, runtime] : config->containerd.runtimes) handlers.insert(name);
  }
  if (!fields.ok()) return absl::InternalError("the container runtime's status cannot be read");
  handlers.erase("");
  return std::vector<std::string>(handlers.begin(), handlers.end());
}

absl::StatusOr<std::vector<std::string>> RuntimeHandlers(const std::string& socket, absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const std::string response, CallGrpc(socket, kMethod, kVerbose, limit));
  return HandlersInStatus(response);
}

}  // namespace godwit::install
