// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/pager_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "agent/memory/pagers.h"
#include "agent/runtime/freezer.h"
#include "base/log.h"

namespace godwit::memory {
namespace {

constexpr int kLookMs = 100;  // for new ones
constexpr absl::Duration kKillLimit = absl::Seconds(10);

// Of a cgroup that is gone the kernel says ENODEV. Whatever else goes wrong tells nothing.
bool IsEmpty(int cgroup_events) {
  char text[256];
  const ssize_t size = pread(cgroup_events, text, sizeof text, 0);
  if (size < 0) return errno == ENODEV;
  return absl::StrContains(absl::string_view(text, static_cast<size_t>(size)), "populated 0");
}

}  // namespace

PagerWatch::PagerWatch(Options options)
    : options_(std::move(options)), stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  thread_ = std::thread([this] { Watch(); });
}

PagerWatch::~PagerWatch() {
  eventfd_write(stop_.get(), 1);
  thread_.join();
}

void PagerWatch::Watch() {
  while (true) {
    Look();
    std::vector<pollfd> polled = {{.fd = stop_.get(), .events = POLLIN, .revents = 0}};
    for (const auto& [id, events] : cgroups_)
      polled.push_back({.fd = events.get(), .events = POLLPRI, .revents = 0});
    poll(polled.data(), polled.size(), kLookMs);
    if ((polled.front().revents & POLLIN) != 0) return;
  }
}

void PagerWatch::Look() {
  const absl::StatusOr<std::vector<std::string>> names = ListFolder(options_.folder);
  if (!names.ok() && !absl::IsNotFound(names.status())) return;
  std::map<std::string, UniqueFd> before = std::exchange(cgroups_, {});
  for (const std::string& name : names.value_or(std::vector<std::string>())) {
    absl::string_view id = name;
    if (!absl::ConsumeSuffix(&id, kStatusSuffix)) continue;
    if (auto known = before.extract(std::string(id))) cgroups_.insert(std::move(known));
    LookAt(std::string(id));
  }
}

void PagerWatch::LookAt(const std::string& container_id) {
  auto events = cgroups_.find(container_id);
  if (events == cgroups_.end()) {
    absl::StatusOr<UniqueFd> opened =
        OpenFile(absl::StrCat(options_.pagers_cgroup, "/", container_id, "/cgroup.events"), O_RDONLY);
    if (!opened.ok() && !absl::IsNotFound(opened.status())) return;
    if (opened.ok()) events = cgroups_.emplace(container_id, *std::move(opened)).first;
  }
  if (events != cgroups_.end() && !IsEmpty(events->second.get())) return;
  // Nobody is left. One that ended well had removed its file before.
  const std::string file = absl::StrCat(options_.folder, "/", container_id, kStatusSuffix);
  std::optional<agent_api::PagerStatus> status = ReadPagerStatus(file);
  if (!status.has_value()) return;
  if (!status->failed) {
    status->failed = true;
    status->message = "its pager and the pager's keeper were killed before its memory was filled";
    absl::Status killed;  // a pager of an older version did not say where
    if (!status->cgroup.empty())
      killed = runtime::KillCgroup(options_.cgroup_here(status->cgroup), kKillLimit);
    if (!killed.ok()) {  // tried again at the next look
      LOG_EVERY_N_SEC(ERROR, 10) << Log("a container runs with memory that is lost, and cannot be killed")
                                        .With("migration", status->migration_uid)
                                        .With("container", container_id)
                                        .With(killed);
      cgroups_.erase(container_id);  // its descriptor may say so again and again
      return;
    }
  }
  LOG(ERROR) << Log("a container was killed, because its memory could not be filled")
                    .With("migration", status->migration_uid)
                    .With("container", container_id)
                    .With("why", status->message);
  options_.lost(*status);
  cgroups_.erase(container_id);
  unlink(file.c_str());
  rmdir(absl::StrCat(options_.pagers_cgroup, "/", container_id).c_str());  // of one that was killed
}

}  // namespace godwit::memory
