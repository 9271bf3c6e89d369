// SPDX-License-Identifier: Apache-2.0
#include "controller/controllers.h"

#include <array>
#include <map>

#include "base/json.h"
#include "controller/pods/names.h"

namespace godwit::controller {
namespace {

constexpr char kByPod[] = "pod";
constexpr char kByUid[] = "uid";

ReconcileLoop::Options LoopOptions(const k8s::Resource& resource, int workers,
                                   metrics::ControllerMetrics* metrics) {
  return {.kind = std::string(resource.kind), .workers = workers, .metrics = metrics};
}

template <class T>
void CountPhases(const k8s::Informer<T>& informer, std::map<std::array<std::string, 2>, double>& counts) {
  for (const auto& object : informer.List()) {
    ++counts[{std::string(T::kResource.kind), std::string(json::Name(object->status.phase))}];
  }
}

// An object that has ended and left nothing behind has no more interest in pods.
template <class T>
bool Asleep(const T& object) {
  return crds::Ended(object.status.phase) && k8s::IsConditionTrue(object.status.conditions, crds::kCleanedUp);
}

}  // namespace

Controllers::Controllers(Cluster* cluster, k8s::EventRecorder* events, metrics::ControllerMetrics* metrics,
                         const ControllersSettings& settings)
    : cluster_(cluster),
      metrics_(metrics),
      telemetry_(metrics),
      migration_(cluster, events, &telemetry_, settings.migration),
      checkpoint_(cluster, events, &telemetry_, settings.checkpoint),
      restore_(cluster, events, &telemetry_, settings.restore),
      labels_(cluster, metrics, settings.nodes),
      migrations_(LoopOptions(crds::Migration::kResource, settings.workers, metrics),
                  [this](const k8s::ObjectName& name) { return migration_.Reconcile(name); }),
      checkpoints_(LoopOptions(crds::Checkpoint::kResource, settings.workers, metrics),
                   [this](const k8s::ObjectName& name) { return checkpoint_.Reconcile(name); }),
      restores_(LoopOptions(crds::Restore::kResource, settings.workers, metrics),
                [this](const k8s::ObjectName& name) { return restore_.Reconcile(name); }),
      nodes_(LoopOptions(k8s::Node::kResource, settings.workers, metrics),
             [this](const k8s::ObjectName& name) { return labels_.Reconcile(name); }) {
  Listen();
}

void Controllers::Listen() {
  cluster_->migrations().AddIndex(kByPod, [](const crds::Migration& migration) {
    return std::vector<std::string>{
        k8s::ObjectName{migration.metadata.name_space, migration.spec.pod_ref.name}.ToString()};
  });
  cluster_->migrations().AddIndex(kByUid, [](const crds::Migration& migration) {
    return std::vector<std::string>{migration.metadata.uid};
  });
  cluster_->restores().AddIndex(
      kByUid, [](const crds::Restore& restore) { return std::vector<std::string>{restore.metadata.uid}; });
  cluster_->migrations().OnChange([this](const k8s::Change<crds::Migration>& change) {
    migrations_.Add(change.object->metadata.object_name());
  });
  cluster_->checkpoints().OnChange([this](const k8s::Change<crds::Checkpoint>& change) {
    checkpoints_.Add(change.object->metadata.object_name());
  });
  cluster_->restores().OnChange([this](const k8s::Change<crds::Restore>& change) {
    restores_.Add(change.object->metadata.object_name());
  });
  cluster_->nodes().OnChange(
      [this](const k8s::Change<k8s::Node>& change) { nodes_.Add(change.object->metadata.object_name()); });
  cluster_->pods().OnChange([this](const k8s::Change<k8s::Pod>& change) { OnPod(change); });
}

void Controllers::OnPod(const k8s::Change<k8s::Pod>& change) {
  const k8s::Pod& pod = *change.object;
  if (cluster_->IsAgent(pod) && !pod.spec.node_name.empty()) nodes_.Add({"", pod.spec.node_name});
  for (const auto& migration :
       cluster_->migrations().ByIndex(kByPod, pod.metadata.object_name().ToString())) {
    if (!Asleep(*migration)) migrations_.Add(migration->metadata.object_name());
  }
  const std::string uid = pod.metadata.Label(kMigrationKey);
  if (uid.empty()) return;
  for (const auto& migration : cluster_->migrations().ByIndex(kByUid, uid)) {
    if (!Asleep(*migration)) migrations_.Add(migration->metadata.object_name());
  }
  for (const auto& restore : cluster_->restores().ByIndex(kByUid, uid)) {
    if (!Asleep(*restore)) restores_.Add(restore->metadata.object_name());
  }
}

void Controllers::Start() {
  migrations_.Start();
  checkpoints_.Start();
  restores_.Start();
  nodes_.Start();
}

void Controllers::Stop() {
  migrations_.Stop();
  checkpoints_.Stop();
  restores_.Stop();
  nodes_.Stop();
}

void Controllers::Publish() {
  if (metrics_ == nullptr) return;
  std::map<std::array<std::string, 2>, double> objects;
  CountPhases(cluster_->migrations(), objects);
  CountPhases(cluster_->checkpoints(), objects);
  CountPhases(cluster_->restores(), objects);
  metrics_->objects.Replace(objects);
  for (const ReconcileLoop* loop : {&migrations_, &checkpoints_, &restores_, &nodes_}) {
    metrics_->queue_depth.With(loop->kind()).Set(static_cast<double>(loop->depth()));
  }
  labels_.Publish();
}

}  // namespace godwit::controller
