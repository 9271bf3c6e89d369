// SPDX-License-Identifier: Apache-2.0
// A real Kubernetes API server with its etcd, for tests: on free ports of 127.0.0.1, with certificates of its
// own, in a folder of its own, all gone when the object goes. On request with a controller manager. No
// scheduler and no kubelets: pods are created, but nobody runs them. The programs come from the environment:
// KUBE is a program whose first argument names the component ("kube-apiserver"), ETCD is etcd (`eval
// "$(tests/cluster/parts kube etcd)"; export KUBE ETCD`).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/process.h"
#include "k8s/api.h"
#include "k8s/config.h"
#include "k8s/transport.h"
#include "tests/apiserver/certificates.h"

namespace godwit::apiserver {

struct EnvironmentOptions {
  // Comma-separated names as for kube-controller-manager's --controllers
  // ("replicaset-controller,deployment-controller");
  // "*" is all, "" is none and no controller manager. With any, default service accounts are needed by pods:
  // name "serviceaccount-controller" too.
  std::string controllers;
  std::vector<std::string> api_server_flags;  // in addition
};

class Environment {
 public:
  // Starts it and waits until it is ready. An error quotes the end of the log.
  static absl::StatusOr<std::unique_ptr<Environment>> Start(EnvironmentOptions options = {});
  // One for the whole test program, started by the first call without a controller manager, stopped at the
  // program's end. Dies when it cannot be started.
  static Environment& Shared();
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  // As a member of system:masters, by client certificate.
  k8s::Config config() const;
  // As anybody else: has no rights but what a test grants.
  k8s::Config ConfigFor(const std::string& user, const std::vector<std::string>& groups = {}) const;
  k8s::Api api(k8s::TransportOptions options = {}) const;
  static k8s::Api ApiFor(k8s::Config config, k8s::TransportOptions options = {});
  // The administrator's, as a file; for programs that are started.
  std::string kubeconfig() const { return folder_ + "/kubeconfig"; }

  const Authority& authority() const { return authority_; }
  int port() const { return api_port_; }

  // Makes a namespace that no other test uses, "<prefix>-<number>".
  std::string NewNamespace(const std::string& prefix = "test");

  // Has etcd forget all versions before the newest. (A watch may still begin at the last but one: its first
  // event is the newest. And the API server's own cache knows more; resources in --watch-cache-sizes=NAME#0
  // have none.)
  absl::Status Compact();
  // Kills the API server (etcd stays), and starts it again on the same port.
  void StopApiServer();
  absl::Status StartApiServer();

 private:
  explicit Environment(EnvironmentOptions options) : options_(std::move(options)) {}
  absl::Status Prepare();
  absl::Status StartEtcd();
  absl::Status StartControllerManager();
  absl::Status WaitUntilReady();
  absl::StatusOr<Child> Spawn(const std::string& name, std::vector<std::string> command);
  absl::Status Write(const std::string& name, const std::string& content) const;
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string LogTail(const std::string& name) const;

  const EnvironmentOptions options_;
  const Authority authority_{"test-authority"};
  KeyPair admin_;
  std::string folder_;
  std::string kube_;
  int etcd_port_ = 0;
  int api_port_ = 0;
  int namespaces_ = 0;
  std::optional<Child> etcd_;
  std::optional<Child> api_server_;
  std::optional<Child> controller_manager_;
};

}  // namespace godwit::apiserver
