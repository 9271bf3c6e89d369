// SPDX-License-Identifier: Apache-2.0
#include "k8s/client.h"

namespace godwit::k8s {
namespace {

using Allocator = rapidjson::Document::AllocatorType;

// Adds to `patch` what `now` has and it does not mention.
void Overlay(const rapidjson::Value& now, rapidjson::Value& patch, Allocator& allocator) {
  for (const auto& member : now.GetObject()) {
    auto known = patch.FindMember(member.name);
    if (known == patch.MemberEnd()) {
      patch.AddMember(rapidjson::Value(member.name, allocator), rapidjson::Value(member.value, allocator),
                      allocator);
    } else if (known->value.IsObject() && member.value.IsObject()) {
      Overlay(member.value, known->value, allocator);
    }
  }
}

}  // namespace

// Metadata that only the server writes is no change of ours. Of the status, what stays is sent too: a field
// that both objects have only because it is their struct's default would otherwise never reach the server.
Unstructured ChangesPatch(const Unstructured& before, const Unstructured& after, bool status) {
  Unstructured difference = MergeDiff(before.value(), after.value());
  Unstructured patch;
  if (status) {
    const rapidjson::Value* changed = difference.Find("/status");
    if (changed == nullptr) return patch;
    patch.SetValue("/status", *changed);
    if (const rapidjson::Value* now = after.Find("/status"); now != nullptr && changed->IsObject()) {
      Overlay(*now, *patch.Find("/status"), patch.allocator());
    }
  } else {
    for (const char* name : {"/status", "/metadata/resourceVersion", "/metadata/uid", "/metadata/generation",
                             "/metadata/creationTimestamp", "/metadata/name", "/metadata/namespace"}) {
      difference.Remove(name);
    }
    if (const rapidjson::Value* meta = difference.Find("/metadata"); meta != nullptr && meta->ObjectEmpty()) {
      difference.Remove("/metadata");
    }
    if (difference.value().ObjectEmpty()) return patch;
    patch = std::move(difference);
  }
  patch.Set("/metadata/resourceVersion", before.String("/metadata/resourceVersion"));
  patch.Set("/metadata/uid", before.String("/metadata/uid"));
  return patch;
}

}  // namespace godwit::k8s
