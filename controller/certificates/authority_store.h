// SPDX-License-Identifier: Apache-2.0
// Where the certificate authority is kept: Secret godwit-ca (it survives upgrades), and its certificate for
// all to read in ConfigMap godwit-ca-bundle.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "controller/certificates/authority.h"
#include "k8s/api.h"

namespace godwit::controller {

inline constexpr char kAuthoritySecret[] = "godwit-ca";
inline constexpr char kAuthorityBundle[] = "godwit-ca-bundle";

// The authority of this installation; whoever comes first makes it, and all replicas agree on that one.
absl::StatusOr<std::unique_ptr<Authority>> EnsureAuthority(const k8s::Api& api, const std::string& name_space,
                                                           absl::Time now);

// Puts the authority's certificate into the ConfigMap, unless it is there.
absl::Status PublishBundle(const k8s::Api& api, const std::string& name_space, const Authority& authority);

}  // namespace godwit::controller
