// SPDX-License-Identifier: Apache-2.0
// The certificate authority of one installation: signs the certificates by which controller and agents know
// each other. ECDSA P-256 throughout.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "controller/certificates/identity.h"
#include "openssl/evp.h"
#include "openssl/x509.h"

namespace godwit::controller {

// A new authority, as it is kept in a Secret.
struct AuthorityPem {
  std::string certificate;
  std::string key;
};
absl::StatusOr<AuthorityPem> MakeAuthority(absl::Time now, absl::Duration lifetime);

// Thread-safe.
class Authority {
 public:
  // InvalidArgument when the two do not belong together or are no authority.
  static absl::StatusOr<std::unique_ptr<Authority>> Load(const AuthorityPem& pem);

  // A certificate for client and server use with exactly these DNS names; the request contributes its public
  // key alone, and proves by its signature that its sender has the private one. InvalidArgument for anything
  // that is no such request.
  struct Signed {
    std::string certificate;
    absl::Time not_before;
    absl::Time not_after;
  };
  absl::StatusOr<Signed> Sign(absl::string_view request_pem, const std::vector<std::string>& dns_names,
                              absl::Duration lifetime, absl::Time now) const;

  // The same for ourselves, with a new key.
  absl::StatusOr<Identity> Issue(const std::vector<std::string>& dns_names, absl::Duration lifetime,
                                 absl::Time now) const;

  const std::string& certificate() const { return pem_.certificate; }
  absl::Time not_after() const { return not_after_; }

 private:
  struct FreeKey {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  struct FreeCertificate {
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  Authority() = default;
  absl::StatusOr<Signed> SignKey(EVP_PKEY* subject_key, const std::vector<std::string>& dns_names,
                                 absl::Duration lifetime, absl::Time now) const;

  AuthorityPem pem_;
  absl::Time not_after_;
  std::unique_ptr<EVP_PKEY, FreeKey> key_;
  std::unique_ptr<X509, FreeCertificate> x509_;
};

}  // namespace godwit::controller
