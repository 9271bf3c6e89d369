// SPDX-License-Identifier: Apache-2.0
// Puts the custom resources into a real API server as a person would, from their YAML files.
#pragma once

#include <string>

#include "k8s/api.h"
#include "k8s/unstructured.h"

namespace godwit::apiserver {

// YAML as kubectl reads it: plain scalars that look like numbers or booleans are such.
k8s::Unstructured FromYaml(const std::string& text);

// Applies crds/*.yaml, waits until their kinds are served, and makes the RuntimeClass. Once for a server.
void InstallCrds(const k8s::Api& api);

}  // namespace godwit::apiserver
