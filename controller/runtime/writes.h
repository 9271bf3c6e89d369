// SPDX-License-Identifier: Apache-2.0
// Writes to pods, and to the finalizers of our own objects, that can be repeated: each says what is to be so,
// and that it is so already is success.
#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "k8s/api.h"
#include "k8s/client.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "k8s/unstructured.h"

namespace godwit::controller {

absl::Status CreatePod(const k8s::Api& api, const k8s::Unstructured& pod);

// The scheduling gate godwit.io/permit goes; others stay.
absl::Status OpenPermitGate(const k8s::Api& api, const k8s::Pod& pod);

// The pod's readiness gate: condition godwit.io/committed becomes true.
absl::Status MarkCommitted(const k8s::Api& api, const k8s::Pod& pod, absl::Time now);

// Only this very pod (by uid). `grace_seconds` < 0: the pod's own.
absl::Status DeletePod(const k8s::Api& api, const k8s::ObjectMeta& pod, int64_t grace_seconds);

// Any metadata patch with the uid as precondition.
absl::Status AnnotatePod(const k8s::Api& api, const k8s::ObjectMeta& pod, const std::string& key,
                         const std::string& value);

template <class T>
absl::Status SetFinalizer(const k8s::Api& api, const T& object, bool present) {
  T after = object;
  std::erase(after.metadata.finalizers, T::kFinalizer);
  if (present) after.metadata.finalizers.push_back(T::kFinalizer);
  const absl::Status status = k8s::Client<T>(api).PatchChanges(object, after).status();
  return !present && k8s::IsNotFound(status) ? absl::OkStatus() : status;
}

}  // namespace godwit::controller
