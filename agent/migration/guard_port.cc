// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/guard_port.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::GuardReply;

class RealGuard final : public Guard {
 public:
  explicit RealGuard(guard::GuardClient client) : client_(std::move(client)) {}
  absl::StatusOr<GuardReply> Arm() override { return client_.Arm(); }
  absl::StatusOr<GuardReply> Freeze() override { return client_.Freeze(); }
  absl::StatusOr<GuardReply> Dump(const std::string& container, absl::Duration limit) override {
    return client_.Dump(container, limit);
  }
  absl::StatusOr<GuardReply> Cede() override { return client_.Cede(); }
  absl::StatusOr<GuardReply> Thaw(const std::string& why) override { return client_.Thaw(why); }
  absl::StatusOr<GuardReply> TargetAborted(const std::string& why) override {
    return client_.TargetAborted(why);
  }
  absl::StatusOr<GuardReply> Kill() override { return client_.Kill(); }
  absl::StatusOr<GuardReply> Status() override { return client_.Status(); }
  bool Ended() override {
    pollfd polled{client_.fd(), POLLIN, 0};
    return poll(&polled, 1, 0) > 0;
  }
  void Shutdown() override { client_.Shutdown(); }

 private:
  guard::GuardClient client_;
};

std::string FolderOf(const std::string& path) { return path.substr(0, path.rfind('/')); }

}  // namespace

Guards RealGuards(const guard::GuardLaunch& launch) {
  return {.start = [launch](const agent_api::GuardSpec& spec) -> absl::StatusOr<std::unique_ptr<Guard>> {
            guard::GuardLaunch this_launch = launch;
            this_launch.spec_file = absl::StrCat(FolderOf(spec.socket), "/guard.json");
            GODWIT_ASSIGN_OR_RETURN(guard::GuardClient client, guard::StartGuard(spec, this_launch));
            return std::make_unique<RealGuard>(std::move(client));
          },
          .find = [](const std::string& socket) -> absl::StatusOr<std::unique_ptr<Guard>> {
            GODWIT_ASSIGN_OR_RETURN(guard::GuardClient client, guard::GuardClient::Connect(socket));
            return std::make_unique<RealGuard>(std::move(client));
          }};
}

}  // namespace godwit::migration
