// SPDX-License-Identifier: Apache-2.0
#include "controller/nodes/machines.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "controller/pods/findings.h"

namespace godwit::controller {
namespace {

using agent_api::NodeInfo;

// "6.12.3-cloud" as {6, 12}; zeros where it is nothing of the kind.
std::pair<int, int> KernelSeries(absl::string_view release) {
  const size_t dot = release.find('.');
  if (dot == absl::string_view::npos) return {};
  const absl::string_view rest = release.substr(dot + 1);
  int major = 0, minor = 0;
  if (!absl::SimpleAtoi(release.substr(0, dot), &major) ||
      !absl::SimpleAtoi(rest.substr(0, rest.find_first_not_of("0123456789")), &minor))
    return {};
  return {major, minor};
}

bool Has(const std::vector<std::string>& list, absl::string_view one) {
  return std::find(list.begin(), list.end(), one) != list.end();
}

}  // namespace

std::vector<crds::Finding> CompareMachines(const NodeInfo& source, const NodeInfo& target, bool other_users) {
  std::vector<crds::Finding> findings;
  const auto both = [&](absl::string_view what, absl::string_view a, absl::string_view b) {
    return absl::StrCat(what, " is ", a, " on node ", source.node, " and ", b, " on node ", target.node);
  };
  std::vector<std::string> missing;
  std::set_difference(source.cpu_features.begin(), source.cpu_features.end(), target.cpu_features.begin(),
                      target.cpu_features.end(), std::back_inserter(missing));
  if (!missing.empty() && !target.cpu_features.empty()) {
    findings.push_back(Found("CpuFeaturesMissing",
                             absl::StrCat("the CPU of node ", target.node, " lacks what that of node ",
                                          source.node, " has: ", absl::StrJoin(missing, " ")),
                             "/proc/cpuinfo of both nodes"));
  }
  if (source.criu_version != target.criu_version)
    findings.push_back(Found("CriuVersionDiffers", both("CRIU", source.criu_version, target.criu_version)));
  if (KernelSeries(target.kernel) < KernelSeries(source.kernel))
    findings.push_back(Found("KernelOlder", both("the kernel", source.kernel, target.kernel)));
  if (!source.cgroup_mode.empty() && !target.cgroup_mode.empty() && source.cgroup_mode != target.cgroup_mode)
    findings.push_back(Found("CgroupModeDiffers", both("cgroup", source.cgroup_mode, target.cgroup_mode)));
  for (const char* module : {"apparmor", "selinux"}) {
    if (source.security_modules.empty() || target.security_modules.empty()) break;
    const bool here = Has(source.security_modules, module), there = Has(target.security_modules, module);
    if (here == there) continue;
    findings.push_back(Found("SecurityModulesDiffer",
                             both(module, here ? "active" : "not active", there ? "active" : "not active"),
                             "/sys/kernel/security/lsm of both nodes"));
  }
  if (target.lacks_sys_resource && other_users) {
    findings.push_back(Found("NoSysResource",
                             absl::StrCat("node ", target.node,
                                          " lacks CAP_SYS_RESOURCE, and processes of the pod are not root's"),
                             "CapBnd in /proc/1/status of the node"));
  }
  if (!target.criu_check.empty())
    findings.push_back(Found("CriuCheckFailed",
                             absl::StrCat("criu check is not content with node ", target.node),
                             target.criu_check));
  return findings;
}

}  // namespace godwit::controller
