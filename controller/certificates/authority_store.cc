// SPDX-License-Identifier: Apache-2.0
#include "controller/certificates/authority_store.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/error.h"

namespace godwit::controller {
namespace {

constexpr absl::Duration kLifetime = absl::Hours(24 * 3650);
constexpr char kCertificate[] = "tls.crt";
constexpr char kKey[] = "tls.key";
constexpr char kBundle[] = "ca.crt";

absl::StatusOr<std::unique_ptr<Authority>> FromSecret(const k8s::Secret& secret) {
  const auto certificate = secret.data.find(kCertificate);
  const auto key = secret.data.find(kKey);
  if (certificate == secret.data.end() || key == secret.data.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("Secret ", kAuthoritySecret, " lacks ", kCertificate, " or ", kKey,
                     " (delete it: a new certificate authority is made then)"));
  }
  auto authority = Authority::Load({.certificate = certificate->second.bytes, .key = key->second.bytes});
  if (!authority.ok()) return Annotate(authority.status(), absl::StrCat("Secret ", kAuthoritySecret));
  return authority;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Authority>> EnsureAuthority(const k8s::Api& api, const std::string& name_space,
                                                           absl::Time now) {
  const k8s::Client<k8s::Secret> secrets(api);
  absl::StatusOr<k8s::Secret> secret = secrets.Get(name_space, kAuthoritySecret);
  if (secret.ok()) return FromSecret(*secret);
  if (!k8s::IsNotFound(secret.status())) return secret.status();
  GODWIT_ASSIGN_OR_RETURN(const AuthorityPem made, MakeAuthority(now, kLifetime));
  k8s::Secret fresh{.metadata = {.name = kAuthoritySecret,
                                 .name_space = name_space,
                                 .labels = {{"app.kubernetes.io/name", "godwit"}}},
                    .type = "kubernetes.io/tls",
                    .data = {{kCertificate, {made.certificate}}, {kKey, {made.key}}}};
  secret = secrets.Create(fresh);
  // Another replica was faster: its authority is everybody's.
  if (!secret.ok() && k8s::IsAlreadyExists(secret.status()))
    secret = secrets.Get(name_space, kAuthoritySecret);
  if (!secret.ok()) return secret.status();
  return FromSecret(*secret);
}

absl::Status PublishBundle(const k8s::Api& api, const std::string& name_space, const Authority& authority) {
  const k8s::Client<k8s::ConfigMap> maps(api);
  k8s::ConfigMap wanted{.metadata = {.name = kAuthorityBundle,
                                     .name_space = name_space,
                                     .labels = {{"app.kubernetes.io/name", "godwit"}}},
                        .data = {{kBundle, authority.certificate()}}};
  absl::StatusOr<k8s::ConfigMap> there = maps.Get(name_space, kAuthorityBundle);
  if (!there.ok() && k8s::IsNotFound(there.status())) {
    const absl::Status created = maps.Create(wanted).status();
    if (!k8s::IsAlreadyExists(created)) return created;
    there = maps.Get(name_space, kAuthorityBundle);
  }
  if (!there.ok()) return there.status();
  k8s::ConfigMap after = *there;
  after.data[kBundle] = authority.certificate();
  return maps.PatchChanges(*there, after).status();
}

}  // namespace godwit::controller
