// SPDX-License-Identifier: Apache-2.0
// Pods for tests, as an API server would show them.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "controller/pods/whole_pod.h"

namespace godwit::controller {

// A running pod with one container, on a node. `change` is a list of JSON pointer and JSON value pairs.
inline WholePod PodWith(std::initializer_list<std::pair<std::string, std::string>> changes = {}) {
  auto raw = k8s::Unstructured::Parse(R"({
    "apiVersion": "v1", "kind": "Pod",
    "metadata": {"name": "cache-0", "namespace": "shop", "uid": "5d9c3e50-0000-4000-8000-000000000001",
                 "resourceVersion": "42", "generation": 1, "labels": {"app": "cache"}},
    "spec": {"nodeName": "node-a", "restartPolicy": "Always",
             "containers": [{"name": "app", "image": "registry/app:1"}], "volumes": []},
    "status": {"phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.1.0.5",
               "conditions": [{"type": "Ready", "status": "True"}],
               "containerStatuses": [{"name": "app", "image": "registry/app:1", "ready": true, "started": true,
                 "imageID": "registry/app@sha256:1111111111111111111111111111111111111111111111111111111111111111",
                 "containerID": "containerd://aaaa", "state": {"running": {}}}]}})");
  for (const auto& [pointer, json] : changes) {
    if (json.empty()) {
      raw->Remove(pointer);
      continue;
    }
    rapidjson::Document value;
    value.Parse(json.c_str());
    raw->SetValue(pointer, value);
  }
  return *WholePod::From(*std::move(raw));
}

inline k8s::Pod PodView(std::initializer_list<std::pair<std::string, std::string>> changes = {}) {
  return PodWith(changes).view;
}

}  // namespace godwit::controller
