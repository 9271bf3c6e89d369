// SPDX-License-Identifier: Apache-2.0
// Kills containers whose memory nobody fills any more. With the last holder of a userfaultfd the kernel
// forgets it, and what is touched from then on reads as zeros (runtime/pager/README.md): a container that has
// lost its pager and its keeper must not run on. One that its pager had to kill is told of here, too.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <thread>

#include "agent/api/host_protocol.h"
#include "base/file.h"

namespace godwit::memory {

class PagerWatch {
 public:
  struct Options {
    std::string folder;  // kPagersFolder as seen from here
    // Where each pager and its keeper have a cgroup of their own, by the container's id, as seen from here.
    std::string pagers_cgroup;
    std::function<std::string(const std::string& cgroup)> cgroup_here;
    // A container was killed, and why. Once for each, from a thread of the watch; not after its end.
    std::function<void(const agent_api::PagerStatus& status)> lost;
  };
  // Looks at once, for what died while nobody watched, then at every death within milliseconds.
  explicit PagerWatch(Options options);
  ~PagerWatch();
  PagerWatch(const PagerWatch&) = delete;
  PagerWatch& operator=(const PagerWatch&) = delete;

 private:
  void Watch();
  void Look();
  void LookAt(const std::string& container_id);

  const Options options_;
  UniqueFd stop_;                            // an eventfd
  std::map<std::string, UniqueFd> cgroups_;  // cgroup.events of pagers at work, by container id
  std::thread thread_;
};

}  // namespace godwit::memory
