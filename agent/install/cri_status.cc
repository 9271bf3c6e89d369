// SPDX-License-Identifier: Apache-2.0
#include "agent/install/cri_status.h"

#include <algorithm>
#include <initializer_list>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agent/criu/protobuf.h"
#include "agent/install/grpc_call.h"
#include "agent/runtime/fence.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::install {
namespace {

// runtime.v1: StatusRequest.verbose = 1; StatusResponse.info = 2 (a map: key = 1, value = 2) and
// .runtime_handlers = 3, with RuntimeHandler.name = 1.
constexpr char kMethod[] = "/runtime.v1.RuntimeService/Status";
constexpr absl::string_view kVerbose("\x08\x01", 2);
// runtime.v1: ContainerStatusRequest.container_id = 1; ContainerStatusResponse.status = 1, in it state = 3, a
// ContainerState, of which CONTAINER_CREATED, 0, is not written.
constexpr char kContainerMethod[] = "/runtime.v1.RuntimeService/ContainerStatus";
constexpr uint64_t kRunning = 1;
// runtime.v1: PodSandboxStatusRequest.pod_sandbox_id = 1; PodSandboxStatusResponse.status = 1, in it network
// = 5, a PodSandboxNetworkStatus: ip = 1, additional_ips = 2, each a PodIP: ip = 1.
constexpr char kSandboxMethod[] = "/runtime.v1.RuntimeService/PodSandboxStatus";

// A message whose field 1 is this string.
absl::StatusOr<std::string> IdRequest(const std::string& id) {
  if (id.size() > 127) return absl::InvalidArgumentError("the id is too long");
  return absl::StrCat("\x0a", std::string(1, static_cast<char>(id.size())), id);
}

// The fields that are bytes at the end of this path of field numbers; InternalError when a message on it is
// broken.
absl::StatusOr<std::vector<std::string>> BytesAt(absl::string_view message,
                                                 std::initializer_list<uint32_t> path) {
  std::vector<std::string> found = {std::string(message)};
  for (const uint32_t number : path) {
    std::vector<std::string> below;
    for (const std::string& one : found) {
      criu::ProtobufFields fields(one);
      while (fields.Next()) {
        if (fields.is_bytes() && fields.number() == number) below.emplace_back(fields.bytes());
      }
      if (!fields.ok()) return absl::InternalError("the container runtime's answer cannot be read");
    }
    found = std::move(below);
  }
  return found;
}

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

absl::Status IsStartedIn(absl::string_view response) {
  const auto broken = absl::InternalError("the container's status cannot be read");
  uint64_t state = 0;
  criu::ProtobufFields fields(response);
  while (fields.Next()) {
    if (!fields.is_bytes() || fields.number() != 1) continue;
    criu::ProtobufFields status(fields.bytes());
    while (status.Next()) {
      if (!status.is_bytes() && status.number() == 3) state = status.value();
    }
    if (!status.ok()) return broken;
  }
  if (!fields.ok()) return broken;
  if (state <= kRunning) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the container runtime has given up starting the container: kubelet, or the runtime, was restarted");
}

absl::Status ContainerIsStarted(const std::string& socket, const std::string& container_id,
                                absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const std::string request, IdRequest(container_id));
  absl::StatusOr<std::string> response = CallGrpc(socket, kContainerMethod, request, limit);
  return response.ok() ? IsStartedIn(*response) : response.status();
}

absl::StatusOr<std::vector<std::string>> AddressesIn(absl::string_view response) {
  GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> addresses, BytesAt(response, {1, 5, 1}));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> more, BytesAt(response, {1, 5, 2, 1}));
  addresses.insert(addresses.end(), more.begin(), more.end());
  return addresses;
}

absl::StatusOr<std::vector<std::string>> PodAddresses(const std::string& socket,
                                                      const std::string& sandbox_id, absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const std::string request, IdRequest(sandbox_id));
  GODWIT_ASSIGN_OR_RETURN(const std::string response, CallGrpc(socket, kSandboxMethod, request, limit));
  return AddressesIn(response);
}

absl::Status CheckAddresses(const std::vector<std::string>& asked, const std::vector<std::string>& own) {
  for (const std::string& address : asked) {
    const std::string key = runtime::AddressKey(address);
    const bool found = !key.empty() && std::any_of(own.begin(), own.end(), [&](const std::string& one) {
      return runtime::AddressKey(one) == key;
    });
    if (!found)
      return absl::InvalidArgumentError(absl::StrCat("the container runtime gave the pod no address ",
                                                     absl::CHexEscape(address), ", as its status says"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> RuntimeHandlers(const std::string& socket, absl::Duration limit) {
  GODWIT_ASSIGN_OR_RETURN(const std::string response, CallGrpc(socket, kMethod, kVerbose, limit));
  return HandlersInStatus(response);
}

}  // namespace godwit::install
