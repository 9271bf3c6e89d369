// SPDX-License-Identifier: Apache-2.0
// A cluster for tests of the reconcilers: an API server (fake or real), two nodes with fake agents, fake
// kubelets, and a controller that can be killed and started at any moment. One thread drives it all, look by
// look.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "controller/checkpoint/reconciler.h"
#include "controller/migration/reconciler.h"
#include "controller/restore/reconciler.h"
#include "controller/runtime/cluster.h"
#include "controller/testing/fake_agents.h"
#include "controller/testing/fake_kubelets.h"
#include "k8s/api.h"
#include "k8s/client.h"
#include "k8s/events.h"

namespace godwit::controller::testing {

class TestCluster {
 public:
  // Everything happens in `name_space` and `system`, which must exist where the server wants that. Nodes have
  // this name prefix and a letter ("node-a", "node-b").
  TestCluster(k8s::Api api, std::string name_space, std::string system, std::string node_prefix = "node-");
  ~TestCluster();

  FakeAgents& agents() { return agents_; }
  FakeKubelets& kubelets() { return kubelets_; }
  const k8s::Api& api() const { return api_; }
  FakeClock& clock() { return clock_; }
  std::string Node(char letter) const { return node_prefix_ + letter; }

  // A bare pod on node a with one container, running.
  k8s::Pod AddPod(const std::string& name, const std::function<void(k8s::Unstructured&)>& change = nullptr);
  crds::Migration Migrate(const std::string& name, const std::string& pod, const std::string& node,
                          crds::Strategy strategy = crds::Strategy::kAuto, bool dry_run = false);
  crds::Checkpoint Keep(const std::string& name, const std::string& pod);
  crds::Restore Bring(const std::string& name, const std::string& checkpoint, const std::string& node = "");

  template <class T>
  std::optional<T> Get(const std::string& name) const {
    auto object = k8s::Client<T>(api_).Get(name_space_, name);
    return object.ok() ? std::optional<T>(*std::move(object)) : std::nullopt;
  }
  template <class T>
  void Delete(const std::string& name) {
    k8s::Client<T>(api_).Delete(name_space_, name).IgnoreError();
  }
  std::vector<k8s::Pod> Pods() const;

  // The controller's memory is lost: what it knew it must find again.
  void Restart();
  // Before each look.
  void RestartAlways(bool always) { restart_always_ = always; }

  // One look of the controller at every object, and of the kubelets at every pod; `after` is called after
  // each look at an object. Then the clock goes on by what the controller asked for at least.
  void Step(const std::function<void()>& after = nullptr);
  // Steps until `condition` holds; false when it does not within `steps`.
  bool Until(const std::function<bool()>& condition, int steps = 400,
             const std::function<void()>& after = nullptr);
  // Steps until the Migration has ended and is clean, and answers it.
  crds::Migration Finish(const std::string& migration, const std::function<void()>& after = nullptr);

  // Reasons of all events so far about the object, in order.
  std::vector<std::string> Events(const std::string& uid);
  // The last error of a look, for messages of failing tests.
  const absl::Status& last_error() const { return last_error_; }

 private:
  struct Controller;
  void AddNode(char letter);
  void CatchUp();
  template <class T, class Reconciler>
  void Look(Reconciler& reconciler, const std::function<void()>& after);

  const k8s::Api api_;
  const std::string name_space_;
  const std::string system_;
  const std::string node_prefix_;
  FakeClock clock_{absl::Now()};
  FakeAgents agents_;
  FakeKubelets kubelets_;
  bool restart_always_ = false;
  std::unique_ptr<Controller> controller_;
  absl::Status last_error_;
};

}  // namespace godwit::controller::testing
