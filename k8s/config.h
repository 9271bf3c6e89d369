// SPDX-License-Identifier: Apache-2.0
// Where the API server is and who we are: from a pod's service account or from a kubeconfig file.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "k8s/token.h"

namespace godwit::k8s {

struct Config {
  std::string server;                  // "https://host:port[/prefix]"; http only for loopback addresses
  std::string ca;                      // PEM; empty: the system's certificate authorities
  std::string tls_server_name;         // verified instead of the host in `server`; empty: that host
  std::string client_certificate;      // PEM chain; empty: none
  std::string client_key;              // PEM
  std::shared_ptr<TokenSource> token;  // null: no bearer token
  std::string name_space;  // where objects without a namespace of their own belong; "default" if unknown
  std::string user_agent = "k8s-cpp";  // seen in audit logs; its part before '/' is the default field manager
};

// Inside a pod: the environment's KUBERNETES_SERVICE_HOST and _PORT, and token, ca.crt and namespace under
// `folder`. NotFound when this is not a pod.
absl::StatusOr<Config> InClusterConfig(
    absl::string_view folder = "/var/run/secrets/kubernetes.io/serviceaccount");

// A kubeconfig file; files it names are relative to its folder. `context` empty: its current-context. Exec
// and auth provider plug-ins, passwords, impersonation, proxies and insecure-skip-tls-verify are refused: a
// client that cannot do what the file says must not do something else.
absl::StatusOr<Config> KubeconfigFile(const std::string& path, absl::string_view context = "");

// The same from text; `folder` is what relative file names are relative to.
absl::StatusOr<Config> Kubeconfig(const std::string& yaml, const std::string& folder,
                                  absl::string_view context = "");

// In this order: `kubeconfig` when not empty, the file $KUBECONFIG names, the pod's service account,
// ~/.kube/config.
absl::StatusOr<Config> LoadConfig(const std::string& kubeconfig = "", absl::string_view context = "");

// InvalidArgument unless `config` can be used safely: an https server, or http on a loopback address; a key
// for each certificate.
absl::Status Validate(const Config& config);

}  // namespace godwit::k8s
