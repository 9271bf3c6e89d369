// SPDX-License-Identifier: Apache-2.0
#include "controller/runtime/cluster.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/pods/names.h"
#include "k8s/error.h"

namespace godwit::controller {
namespace {

constexpr char kByNode[] = "node";
constexpr char kByOwner[] = "owner";

// What decisions read of pods that they did not fetch anew, and of all the cluster's other pods, is little;
// the rest is most of them: annotations, environments and what is mounted may be of hundreds of kilobytes.
void CutPod(k8s::Pod& pod) {
  std::erase_if(pod.metadata.annotations, [](const auto& annotation) {
    return !IsGodwitKey(annotation.first) && annotation.first != kDeletionCost;
  });
  for (auto* containers : {&pod.spec.init_containers, &pod.spec.containers, &pod.spec.ephemeral_containers}) {
    for (k8s::Container& container : *containers) {
      container.env = {};
      container.command = {};
      container.args = {};
      container.volume_mounts = {};
      container.lifecycle.reset();
    }
  }
  for (k8s::Volume& volume : pod.spec.volumes) volume.source = k8s::Unstructured();
  pod.spec.affinity = {};
  pod.spec.tolerations = {};
}

// Nothing is decided by what people write on our own kinds.
void CutOwn(auto& object) { object.metadata.annotations.clear(); }

template <class T>
std::vector<T> Copies(const std::vector<std::shared_ptr<const T>>& objects) {
  std::vector<T> out;
  for (const auto& object : objects) out.push_back(*object);
  return out;
}

}  // namespace

Cluster::Cluster(k8s::Api api, Agents* agents, ClusterOptions options)
    : api_(std::move(api)),
      agents_(agents),
      options_(std::move(options)),
      migrations_(k8s::Client<crds::Migration>(api_), options_.informer),
      checkpoints_(k8s::Client<crds::Checkpoint>(api_), options_.informer),
      restores_(k8s::Client<crds::Restore>(api_), options_.informer),
      pods_(k8s::Client<k8s::Pod>(api_), options_.informer),
      nodes_(k8s::Client<k8s::Node>(api_), options_.informer) {
  migrations_.SetCut(CutOwn<crds::Migration>);
  checkpoints_.SetCut(CutOwn<crds::Checkpoint>);
  restores_.SetCut(CutOwn<crds::Restore>);
  pods_.SetCut(CutPod);
  pods_.AddIndex(kByNode, [](const k8s::Pod& pod) {
    return pod.spec.node_name.empty() ? std::vector<std::string>()
                                      : std::vector<std::string>{pod.spec.node_name};
  });
  pods_.AddIndex(kByOwner, [](const k8s::Pod& pod) {
    const k8s::OwnerReference* owner = pod.metadata.Controller();
    return owner == nullptr ? std::vector<std::string>() : std::vector<std::string>{owner->uid};
  });
}

void Cluster::Start() {
  nodes_.Start();
  pods_.Start();
  migrations_.Start();
  checkpoints_.Start();
  restores_.Start();
}

void Cluster::Stop() {
  migrations_.Stop();
  checkpoints_.Stop();
  restores_.Stop();
  pods_.Stop();
  nodes_.Stop();
}

bool Cluster::synced() const {
  return migrations_.HasSynced() && checkpoints_.HasSynced() && restores_.HasSynced() && pods_.HasSynced() &&
         nodes_.HasSynced();
}

absl::Status Cluster::WaitForSync(absl::Duration limit) const {
  const absl::Time deadline = absl::Now() + limit;
  auto left = [&] { return std::max(absl::ZeroDuration(), deadline - absl::Now()); };
  GODWIT_RETURN_IF_ERROR(nodes_.WaitForSync(left()));
  GODWIT_RETURN_IF_ERROR(pods_.WaitForSync(left()));
  GODWIT_RETURN_IF_ERROR(migrations_.WaitForSync(left()));
  GODWIT_RETURN_IF_ERROR(checkpoints_.WaitForSync(left()));
  return restores_.WaitForSync(left());
}

absl::StatusOr<std::optional<WholePod>> Cluster::ReadPod(const k8s::ObjectName& name) const {
  auto raw = k8s::Client<k8s::Unstructured>(api_, k8s::Pod::kResource).Get(name.name_space, name.name);
  if (!raw.ok() && k8s::IsNotFound(raw.status())) return std::nullopt;
  if (!raw.ok()) return raw.status();
  GODWIT_ASSIGN_OR_RETURN(WholePod pod, WholePod::From(*std::move(raw)));
  return pod;
}

absl::StatusOr<std::optional<k8s::ReplicaSet>> Cluster::ReadReplicaSet(const k8s::ObjectName& name) const {
  auto set = k8s::Client<k8s::ReplicaSet>(api_).Get(name.name_space, name.name);
  if (!set.ok() && k8s::IsNotFound(set.status())) return std::nullopt;
  if (!set.ok()) return set.status();
  return *std::move(set);
}

std::string Cluster::LastWarning(const k8s::ObjectMeta& object) const {
  auto events = k8s::Client<k8s::Event>(api_).List(
      object.name_space,
      {.field_selector = absl::StrCat("involvedObject.uid=", object.uid, ",type=Warning"), .limit = 100});
  if (!events.ok() || events->items.empty()) return "";
  const auto last =
      std::max_element(events->items.begin(), events->items.end(), [](const auto& a, const auto& b) {
        return a.last_timestamp.value_or(absl::InfinitePast()) <
               b.last_timestamp.value_or(absl::InfinitePast());
      });
  return absl::StrCat(last->reason, ": ", last->message);
}

std::optional<k8s::Pod> Cluster::Pod(const k8s::ObjectName& name) const {
  const auto pod = pods_.Get(name);
  return pod == nullptr ? std::nullopt : std::optional<k8s::Pod>(*pod);
}

std::vector<k8s::Pod> Cluster::PodsOwnedBy(const std::string& uid) const {
  return Copies(pods_.ByIndex(kByOwner, uid));
}

std::vector<k8s::Pod> Cluster::PodsOnNode(const std::string& node) const {
  return Copies(pods_.ByIndex(kByNode, node));
}

std::vector<std::string> Cluster::NodesWith(const std::map<std::string, std::string>& labels) const {
  const k8s::LabelSelector selector{.match_labels = labels};
  std::vector<std::string> names;
  for (const auto& node : nodes_.List()) {
    if (selector.Matches(node->metadata.labels)) names.push_back(node->metadata.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

bool Cluster::IsAgent(const k8s::Pod& pod) const {
  return pod.metadata.name_space == options_.name_space &&
         pod.metadata.Label("app.kubernetes.io/name") == "godwit" &&
         pod.metadata.Label("app.kubernetes.io/component") == "agent";
}

std::string Cluster::AgentAddress(const std::string& node) const {
  for (const auto& pod : pods_.ByIndex(kByNode, node)) {
    if (IsAgent(*pod) && pod->running() && !pod->metadata.terminating()) return pod->status.host_ip;
  }
  return "";
}

NodeView Cluster::View(const std::string& name, bool ask) const {
  const auto node = nodes_.Get("", name);
  NodeView view = ViewOf(name, node.get(), AgentAddress(name));
  if (!ask) return view;
  const std::shared_ptr<Agent> agent = AgentOn(view);
  view.agent = agent == nullptr
                   ? absl::StatusOr<agent_api::NodeInfo>(absl::UnavailableError("no agent runs on the node"))
                   : agent->Node();
  return view;
}

std::vector<NodeView> Cluster::Views(const std::vector<std::string>& nodes) const {
  std::vector<NodeView> views(nodes.size());
  std::vector<std::thread> asking;
  constexpr size_t kAtOnce = 16;
  for (size_t begin = 0; begin < nodes.size(); begin += kAtOnce) {
    for (size_t i = begin; i < std::min(nodes.size(), begin + kAtOnce); ++i) {
      asking.emplace_back([this, &views, &nodes, i] { views[i] = View(nodes[i], true); });
    }
    for (std::thread& thread : asking) thread.join();
    asking.clear();
  }
  return views;
}

std::shared_ptr<Agent> Cluster::AgentOn(const NodeView& node) const {
  return node.address.empty() ? nullptr : agents_->At(node.name, node.address);
}

}  // namespace godwit::controller
