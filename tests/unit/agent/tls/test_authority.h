// SPDX-License-Identifier: Apache-2.0
// A certificate authority for tests: issues real certificates, signed with a key made for the run.
#pragma once

#include <cstdlib>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "agent/tls/identity.h"
#include "gtest/gtest.h"
#include "openssl/pem.h"
#include "openssl/x509v3.h"

namespace godwit::tls {

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name = "test authority") : key_(EVP_EC_gen("P-256")) {
    certificate_ = Make(name, key_.get(), nullptr, key_.get(), {"CA:TRUE"}, {}, absl::Now() - absl::Hours(1),
                        absl::Now() + absl::Hours(1));
  }

  std::string Pem() const { return PemOf(certificate_.get()); }

  // Key and certificate with these DNS names, as PEM.
  std::string Issue(const std::vector<std::string>& dns_names,
                    absl::Time not_before = absl::Now() - absl::Minutes(1),
                    absl::Time not_after = absl::Now() + absl::Hours(1)) const {
    KeyPointer key(EVP_EC_gen("P-256"));
    CertificatePointer leaf =
        Make("leaf", key.get(), certificate_.get(), key_.get(), {}, dns_names, not_before, not_after);
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    return absl::StrCat(TextOf(bio), PemOf(leaf.get()));
  }

  // Signs a request as the controller does; the names are those given, whatever the request says.
  std::string Sign(const std::string& request_pem, const std::vector<std::string>& dns_names) const {
    BIO* bio = BIO_new_mem_buf(request_pem.data(), static_cast<int>(request_pem.size()));
    X509_REQ* request = PEM_read_bio_X509_REQ(bio, nullptr, nullptr, nullptr);
    BIO_free(bio);
    if (request == nullptr) return "";
    CertificatePointer leaf = Make("leaf", X509_REQ_get0_pubkey(request), certificate_.get(), key_.get(), {},
                                   dns_names, absl::Now() - absl::Minutes(1), absl::Now() + absl::Hours(1));
    X509_REQ_free(request);
    return PemOf(leaf.get());
  }

 private:
  static std::string TextOf(BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    std::string text(data, size);
    BIO_free(bio);
    return text;
  }
  static std::string PemOf(X509* certificate) {
    BIO* bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, certificate);
    return TextOf(bio);
  }
  static void Extend(X509* certificate, int nid, const std::string& value) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  static CertificatePointer Make(const std::string& name, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key,
                                 const std::vector<std::string>& constraints,
                                 const std::vector<std::string>& dns_names, absl::Time not_before,
                                 absl::Time not_after) {
    CertificatePointer certificate(X509_new());
    X509* x = certificate.get();
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), std::rand());
    ASN1_TIME_set(X509_getm_notBefore(x), absl::ToTimeT(not_before));
    ASN1_TIME_set(X509_getm_notAfter(x), absl::ToTimeT(not_after));
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(issuer != nullptr ? issuer : x));
    if (!constraints.empty())
      Extend(x, NID_basic_constraints, absl::StrCat("critical,", absl::StrJoin(constraints, ",")));
    if (!dns_names.empty()) {
      Extend(x, NID_subject_alt_name, absl::StrCat("DNS:", absl::StrJoin(dns_names, ",DNS:")));
      Extend(x, NID_ext_key_usage, "serverAuth,clientAuth");
    }
    X509_sign(x, issuer_key, EVP_sha256());
    return certificate;
  }

  KeyPointer key_;
  CertificatePointer certificate_;
};

// Writes a file; replaces it as a whole, so that readers see a change.
inline void PutFile(const std::string& path, absl::string_view content) {
  const std::string next = absl::StrCat(path, ".next");
  std::ofstream(next) << content;
  ASSERT_EQ(std::rename(next.c_str(), path.c_str()), 0) << path;
}

// A folder for one test, under the test's temporary folder.
inline std::string TestFolder() {
  std::string name = absl::StrCat(testing::TempDir(), "godwit-XXXXXX");
  EXPECT_NE(mkdtemp(name.data()), nullptr);
  return name;
}

// Files of an identity with these names, issued by `authority`.
inline IdentityFiles MakeIdentityFiles(const std::string& folder, const TestAuthority& authority,
                                       const std::vector<std::string>& dns_names) {
  static int number = 0;
  const IdentityFiles files{absl::StrCat(folder, "/identity-", ++number, ".pem"),
                            absl::StrCat(folder, "/ca-", number, ".pem")};
  PutFile(files.certificate_and_key, authority.Issue(dns_names));
  PutFile(files.authority, authority.Pem());
  return files;
}

}  // namespace godwit::tls
