// SPDX-License-Identifier: Apache-2.0
#include "k8s/pod.h"

namespace godwit::k8s {

absl::Status ReadScalar(const rapidjson::Value& in, absl::string_view path, Volume& out) {
  if (!in.IsObject()) return json::internal::WrongType(path, "an object", in);
  out = Volume();
  out.source = Unstructured(in);
  out.name = out.source.String("/name");
  for (const auto& member : in.GetObject()) {
    const absl::string_view field(member.name.GetString(), member.name.GetStringLength());
    if (field != "name" && !member.value.IsNull()) out.kind = std::string(field);
  }
  if (const rapidjson::Value* empty_dir = out.source.Find("/emptyDir");
      empty_dir != nullptr && empty_dir->IsObject()) {
    absl::StatusOr<EmptyDir> typed = json::FromValue<EmptyDir>(*empty_dir, absl::StrCat(path, ".emptyDir"));
    if (!typed.ok()) return typed.status();
    out.empty_dir = *std::move(typed);
  }
  return absl::OkStatus();
}

rapidjson::Value WriteScalar(const Volume& in, rapidjson::Document::AllocatorType& allocator) {
  rapidjson::Value out;
  out.CopyFrom(in.source.value(), allocator);
  return out;
}

// As the scheduler compares them (core/v1 Toleration.ToleratesTaint): an empty effect or, with Exists, an
// empty key stands for all.
bool Toleration::Tolerates(const Taint& taint) const {
  if (!effect.empty() && effect != taint.effect) return false;
  if (!key.empty() && key != taint.key) return false;
  if (op == "Exists") return true;
  return (op.empty() || op == "Equal") && !key.empty() && value == taint.value;
}

const ContainerStatus* Pod::FindStatus(absl::string_view container) const {
  for (const ContainerStatus& found : status.container_statuses) {
    if (found.name == container) return &found;
  }
  return nullptr;
}

}  // namespace godwit::k8s
