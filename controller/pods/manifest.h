// SPDX-License-Identifier: Apache-2.0
// The pod manifest that archives hold, as text, and how it is recognised again when an agent hands it back.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "k8s/unstructured.h"

namespace godwit::controller {

// "sha256:<hex>" of the text.
std::string Digest(absl::string_view text);

// The manifest, if it is the one with that digest: an agent's word alone does not decide what the controller
// creates. FailedPrecondition when it is another.
absl::StatusOr<k8s::Unstructured> CheckedManifest(const std::string& text, const std::string& digest);

}  // namespace godwit::controller
