// SPDX-License-Identifier: Apache-2.0
#include "tests/apiserver/controller/crds.h"

#include <yaml-cpp/yaml.h>

#include "absl/log/check.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "k8s/client.h"
#include "tests/apiserver/conditions.h"

namespace godwit::apiserver {
namespace {

constexpr k8s::Resource kCrd{"apiextensions.k8s.io", "v1", "customresourcedefinitions",
                             "CustomResourceDefinition", false};
constexpr k8s::Resource kRuntimeClass{"node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false};
// The API server refuses pods of a RuntimeClass that it does not have.
constexpr char kGodwitClass[] =
    "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: godwit}\nhandler: godwit\n";

rapidjson::Value Scalar(const YAML::Node& node, rapidjson::Document::AllocatorType& allocator) {
  const std::string text = node.Scalar();
  const bool plain = node.Tag() == "?";  // quoted ones have the tag "!"
  int64_t number = 0;
  if (plain && absl::SimpleAtoi(text, &number)) return rapidjson::Value(number);
  if (plain && (text == "true" || text == "false")) return rapidjson::Value(text == "true");
  return rapidjson::Value(text.c_str(), allocator);
}

rapidjson::Value Json(const YAML::Node& node, rapidjson::Document::AllocatorType& allocator) {
  rapidjson::Value out;
  if (node.IsMap()) {
    out.SetObject();
    for (const auto& member : node) {
      out.AddMember(rapidjson::Value(member.first.Scalar().c_str(), allocator),
                    Json(member.second, allocator), allocator);
    }
  } else if (node.IsSequence()) {
    out.SetArray();
    for (const auto& element : node) out.PushBack(Json(element, allocator), allocator);
  } else if (node.IsScalar()) {
    out = Scalar(node, allocator);
  }
  return out;
}

}  // namespace

k8s::Unstructured FromYaml(const std::string& text) {
  rapidjson::Document document;
  const rapidjson::Value value = Json(YAML::Load(text), document.GetAllocator());
  return k8s::Unstructured(value);
}

void InstallCrds(const k8s::Api& api) {
  const k8s::Client<k8s::Unstructured> classes(api, kRuntimeClass);
  CHECK_OK(classes.Apply(FromYaml(kGodwitClass), {.field_manager = "test", .force = true}).status());
  const k8s::Client<k8s::Unstructured> crds(api, kCrd);
  for (const char* plural : {"migrations", "checkpoints", "restores"}) {
    const auto text = ReadFile(absl::StrCat(CRDS_FOLDER, "/", plural, ".yaml"));
    CHECK_OK(text.status());
    const k8s::Unstructured crd = FromYaml(*text);
    CHECK_OK(crds.Apply(crd, {.field_manager = "test", .force = true}).status());
    const std::string name = crd.String("/metadata/name");
    CHECK(WaitUntil([&] {
      const auto there = crds.Get("", name);
      const std::string path = absl::StrCat("/apis/godwit.io/v1alpha1/", plural, "?limit=1");
      return there.ok() && api.GetPath(path).ok();
    })) << name
        << " is not served";
  }
}

}  // namespace godwit::apiserver
