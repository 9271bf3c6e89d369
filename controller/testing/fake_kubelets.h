// SPDX-License-Identifier: Apache-2.0
// The scheduler and the kubelets of a cluster that has none, as far as a Migration or Restore meets them:
// pods without gates get the node that their affinity requires, `create` waits at that node's (fake) agent,
// running pods become ready, deleted ones are seen and go. Works on a fake and on a real API server.
#pragma once

#include <set>
#include <string>

#include "controller/testing/fake_agents.h"
#include "k8s/api.h"
#include "k8s/pod.h"

namespace godwit::controller::testing {

class FakeKubelets {
 public:
  // `agents` is not owned. Pods that require no node run on `first_node`.
  FakeKubelets(k8s::Api api, FakeAgents* agents, std::string first_node)
      : api_(std::move(api)), agents_(agents), first_node_(std::move(first_node)) {}

  // Looks once at all pods of a namespace and does the next thing for each. True when it did something.
  bool Step(const std::string& name_space);

  // Pods that never become ready.
  void NeverReady(const std::string& pod) { never_ready_.insert(pod); }
  // Pods on this node are not looked at (its kubelet is down).
  void StopNode(const std::string& node) { stopped_.insert(node); }
  void StartNode(const std::string& node) { stopped_.erase(node); }

 private:
  bool Schedule(const k8s::Unstructured& raw, const k8s::Pod& pod);
  bool Run(const k8s::Pod& pod);
  bool Remove(const k8s::Pod& pod);
  bool WriteStatus(const k8s::Pod& pod, const std::string& phase, bool running);

  const k8s::Api api_;
  FakeAgents* const agents_;
  const std::string first_node_;
  std::set<std::string> never_ready_;
  std::set<std::string> stopped_;
};

}  // namespace godwit::controller::testing
