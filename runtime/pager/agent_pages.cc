// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/agent_pages.h"

#include <sys/stat.h>

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/socket.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

using Stores = std::vector<std::pair<pid_t, UniqueFd>>;

constexpr absl::Duration kLimit = absl::Seconds(5);
constexpr size_t kMaxReply = size_t{64} << 10;
constexpr size_t kMaxTasks = 65536;

absl::Status Take(const agent_api::PagesReply& reply, LineChannel& channel, Stores& stores) {
  if (!reply.ok) return absl::FailedPreconditionError(absl::StrCat("the agent refuses: ", reply.message));
  if (reply.tasks.size() > agent_api::kMaxPagesBatch || stores.size() + reply.tasks.size() > kMaxTasks)
    return absl::InvalidArgumentError("the agent names too many tasks");
  GODWIT_ASSIGN_OR_RETURN(std::vector<UniqueFd> files, channel.TakeDescriptors(reply.tasks.size()));
  for (size_t i = 0; i < files.size(); ++i) {
    const int64_t pid = reply.tasks[i];
    struct stat info;
    if (pid <= 0 || pid > std::numeric_limits<pid_t>::max() || fstat(files[i].get(), &info) != 0 ||
        !S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat("the agent sent no page store for task ", pid));
    }
    stores.emplace_back(static_cast<pid_t>(pid), std::move(files[i]));
  }
  return absl::OkStatus();
}

absl::StatusOr<Stores> Ask(const agent_api::PagerSpec& spec) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(spec.pages_socket, kLimit));
  LineChannel channel(std::move(socket), kMaxReply);
  channel.AcceptDescriptors(kMaxDescriptors);
  const agent_api::PagesRequest request = {.sandbox_uid = spec.sandbox_uid, .container = spec.container};
  GODWIT_RETURN_IF_ERROR(channel.WriteLine(json::Encode(request), kLimit));
  Stores stores;
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(const std::string line, channel.ReadLine(kLimit));
    GODWIT_ASSIGN_OR_RETURN(const agent_api::PagesReply reply, json::Decode<agent_api::PagesReply>(line));
    GODWIT_RETURN_IF_ERROR(Take(reply, channel, stores));
    if (!reply.more) return stores;
  }
}

}  // namespace

absl::StatusOr<Stores> AskForPages(const agent_api::PagerSpec& spec) {
  absl::StatusOr<Stores> stores = Ask(spec);
  if (!stores.ok()) {
    return Annotate(stores.status(), absl::StrCat("cannot get the pages of container ", spec.container,
                                                  " of sandbox ", spec.sandbox_uid));
  }
  return stores;
}

}  // namespace godwit::pager
