// SPDX-License-Identifier: Apache-2.0
// Throw-away certificates for a test's API server: ECDSA P-256, valid for a day.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "openssl/evp.h"
#include "openssl/x509.h"

namespace godwit::apiserver {

struct KeyPair {
  std::string certificate;  // PEM; empty for a bare key
  std::string key;          // PEM
};

// A key and nothing else, for signing service account tokens: private and public part as PEM.
struct SigningKey {
  std::string private_key;
  std::string public_key;
};
SigningKey MakeSigningKey();

class Authority {
 public:
  explicit Authority(const std::string& common_name);
  const std::string& certificate() const { return pem_; }

  // For a server at these addresses: "127.0.0.1", "localhost".
  KeyPair Server(const std::vector<std::string>& names) const;
  // For a user as the API server sees them: CN is the name, each O a group.
  KeyPair Client(const std::string& user, const std::vector<std::string>& groups) const;

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;
  KeyPair Issue(const std::string& user, const std::vector<std::string>& groups,
                const std::string& alternative_names, const char* usage) const;
  static Certificate Blank(EVP_PKEY* key, const std::string& user, const std::vector<std::string>& groups);
  void Sign(X509* certificate) const;

  Key key_;
  Certificate certificate_;
  std::string pem_;
};

}  // namespace godwit::apiserver
