// SPDX-License-Identifier: Apache-2.0
#include "k8s/resource.h"

namespace godwit::k8s {
namespace {

// Percent-encodes what a path segment must not hold, so that no name can change the path's shape.
void AppendSegment(std::string& path, absl::string_view segment) {
  constexpr absl::string_view kHex = "0123456789ABCDEF";
  path.push_back('/');
  for (char c : segment) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '~' || c == ':' ||
                       (c == '.' && segment != "." && segment != "..");
    if (plain) {
      path.push_back(c);
    } else {
      const unsigned char byte = static_cast<unsigned char>(c);
      path.append({'%', kHex[byte >> 4], kHex[byte & 15]});
    }
  }
}

}  // namespace

ObjectName ObjectName::Parse(absl::string_view text) {
  const size_t slash = text.find('/');
  if (slash == absl::string_view::npos) return {"", std::string(text)};
  return {std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
}

std::string ResourcePath(const Resource& resource, absl::string_view name_space, absl::string_view name,
                         absl::string_view subresource) {
  std::string path = resource.group.empty() ? "/api" : absl::StrCat("/apis/", resource.group);
  absl::StrAppend(&path, "/", resource.version);
  if (resource.namespaced && !name_space.empty()) {
    absl::StrAppend(&path, "/namespaces");
    AppendSegment(path, name_space);
  }
  absl::StrAppend(&path, "/", resource.plural);
  if (!name.empty()) AppendSegment(path, name);
  if (!subresource.empty()) absl::StrAppend(&path, "/", subresource);
  return path;
}

}  // namespace godwit::k8s
