// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/manifest.h"

#include <openssl/evp.h>

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::controller {

std::string Digest(absl::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned int length = 0;
  EVP_Digest(text.data(), text.size(), bytes.data(), &length, EVP_sha256(), nullptr);
  return absl::StrCat("sha256:", absl::BytesToHexString(
                                     absl::string_view(reinterpret_cast<const char*>(bytes.data()), length)));
}

absl::StatusOr<k8s::Unstructured> CheckedManifest(const std::string& text, const std::string& digest) {
  GODWIT_ASSIGN_OR_RETURN(k8s::Unstructured manifest, k8s::Unstructured::Parse(text));
  const std::string found = Digest(manifest.ToJson());
  if (found != digest) {
    return absl::FailedPreconditionError(absl::StrCat("the pod manifest in the archives has digest ", found,
                                                      ", and the Checkpoint says ", digest));
  }
  return manifest;
}

}  // namespace godwit::controller
