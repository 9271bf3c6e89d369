// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/volumes.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

struct Config {
  struct Mount {
    std::string destination, source, type;
    std::vector<std::string> options;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("destination", self.destination);
      field("source", self.source);
      field("type", self.type);
      field("options", self.options);
    }
  };
  std::vector<Mount> mounts;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("mounts", self.mounts);
  }
};

}  // namespace

absl::StatusOr<std::vector<BundleMount>> ReadBundleMounts(const HostView& host, const std::string& bundle) {
  const std::string path = absl::StrCat(bundle, "/config.json");
  GODWIT_ASSIGN_OR_RETURN(std::string text, ReadFile(host.At(path)));
  auto config = json::Decode<Config>(text);
  if (!config.ok()) return Annotate(config.status(), path);
  std::vector<BundleMount> mounts;
  for (Config::Mount& mount : config->mounts) {
    mounts.push_back({std::move(mount.destination), std::move(mount.source), std::move(mount.type),
                      std::move(mount.options)});
  }
  return mounts;
}

std::string EmptyDirFolder(const std::vector<BundleMount>& mounts, absl::string_view pod_uid,
                           absl::string_view volume) {
  // Kubelet's own folder may be anywhere; what lies below it is fixed (its volume plugin
  // "kubernetes.io/empty-dir").
  const std::string tail = absl::StrCat("/pods/", pod_uid, "/volumes/kubernetes.io~empty-dir/", volume);
  for (const BundleMount& mount : mounts) {
    const size_t at = mount.source.find(tail);
    if (at == std::string::npos) continue;
    const size_t end = at + tail.size();
    // A subPath mount names a folder below the volume.
    if (end == mount.source.size() || mount.source[end] == '/') return mount.source.substr(0, end);
  }
  return "";
}

}  // namespace godwit::runtime
