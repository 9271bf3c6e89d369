// SPDX-License-Identifier: Apache-2.0
#include "runtime/pager/agent_pages.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::pager {
namespace {

constexpr absl::Duration kLimit = absl::Seconds(5);
constexpr size_t kMaxReply = size_t{64} << 10;
constexpr size_t kMaxTasks = 65536;

bool IsRegular(const UniqueFd& file) {
  struct stat info;
  return fstat(file.get(), &info) == 0 && S_ISREG(info.st_mode);
}

absl::Status Take(const agent_api::PagesReply& reply, LineChannel& channel, std::vector<TaskStore>& stores) {
  if (!reply.ok) return absl::FailedPreconditionError(absl::StrCat("the agent refuses: ", reply.message));
  if (reply.tasks.size() > agent_api::kMaxPagesBatch || stores.size() + reply.tasks.size() > kMaxTasks)
    return absl::InvalidArgumentError("the agent names too many tasks");
  const size_t each = reply.pulled ? 2 : 1;
  GODWIT_ASSIGN_OR_RETURN(std::vector<UniqueFd> files, channel.TakeDescriptors(each * reply.tasks.size()));
  for (size_t i = 0; i < reply.tasks.size(); ++i) {
    const int64_t pid = reply.tasks[i];
    TaskStore task = {.pid = static_cast<pid_t>(pid), .store = std::move(files[each * i])};
    if (reply.pulled) task.map = std::move(files[each * i + 1]);
    if (pid <= 0 || pid > std::numeric_limits<pid_t>::max() || !IsRegular(task.store) ||
        (reply.pulled && !IsRegular(task.map))) {
      return absl::InvalidArgumentError(absl::StrCat("the agent sent no page store for task ", pid));
    }
    stores.push_back(std::move(task));
  }
  return absl::OkStatus();
}

absl::StatusOr<AgentPages> Ask(const agent_api::PagerSpec& spec, bool resume) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(spec.pages_socket, kLimit));
  LineChannel channel(std::move(socket), kMaxReply);
  channel.AcceptDescriptors(kMaxDescriptors);
  const agent_api::PagesRequest request = {
      .sandbox_uid = spec.sandbox_uid, .container = spec.container, .resume = resume};
  GODWIT_RETURN_IF_ERROR(channel.WriteLine(json::Encode(request), kLimit));
  AgentPages pages;
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(const std::string line, channel.ReadLine(kLimit));
    GODWIT_ASSIGN_OR_RETURN(const agent_api::PagesReply reply, json::Decode<agent_api::PagesReply>(line));
    GODWIT_RETURN_IF_ERROR(Take(reply, channel, pages.stores));
    if (reply.more) continue;
    pages.give = reply.give;
    if (reply.pulled || reply.give) pages.pull.emplace(std::move(channel));
    return pages;
  }
}

}  // namespace

absl::StatusOr<AgentPages> AskForPages(const agent_api::PagerSpec& spec, bool resume) {
  absl::StatusOr<AgentPages> pages = Ask(spec, resume);
  if (!pages.ok()) {
    return Annotate(pages.status(), absl::StrCat("cannot get the pages of container ", spec.container,
                                                 " of sandbox ", spec.sandbox_uid));
  }
  return pages;
}

absl::Status GivePages(LineChannel& channel, const std::vector<GivenStore>& stores) {
  size_t at = 0;
  do {
    const size_t end = std::min(stores.size(), at + agent_api::kMaxPagesBatch);
    agent_api::PagesReply line = {.ok = true, .more = end < stores.size(), .pulled = true};
    std::vector<int> descriptors;
    for (; at < end; ++at) {
      line.tasks.push_back(stores[at].pid);
      descriptors.push_back(stores[at].store);
      descriptors.push_back(stores[at].map);
    }
    GODWIT_RETURN_IF_ERROR(channel.WriteLine(json::Encode(line), descriptors, kLimit));
  } while (at < stores.size());
  return absl::OkStatus();
}

}  // namespace godwit::pager
