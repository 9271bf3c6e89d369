// SPDX-License-Identifier: Apache-2.0
#include "tests/apiserver/certificates.h"

#include <arpa/inet.h>

#include "absl/log/check.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "openssl/bio.h"
#include "openssl/pem.h"
#include "openssl/rand.h"
#include "openssl/x509v3.h"

namespace godwit::apiserver {
namespace {

constexpr long kADay = 24 * 3600;

template <class Write>
std::string Pem(Write write) {
  BIO* bio = BIO_new(BIO_s_mem());
  CHECK_EQ(write(bio), 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

std::string KeyPem(EVP_PKEY* key) {
  return Pem(
      [key](BIO* bio) { return PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr); });
}

std::string CertificatePem(X509* certificate) {
  return Pem([certificate](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

void AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  CHECK(extension != nullptr) << value;
  CHECK_EQ(X509_add_ext(certificate, extension, -1), 1);
  X509_EXTENSION_free(extension);
}

void AddName(X509_NAME* name, const char* field, const std::string& value) {
  CHECK_EQ(X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                      reinterpret_cast<const unsigned char*>(value.data()),
                                      static_cast<int>(value.size()), -1, 0),
           1);
}

bool IsAddress(const std::string& name) {
  unsigned char buffer[16];
  return inet_pton(AF_INET, name.c_str(), buffer) == 1 || inet_pton(AF_INET6, name.c_str(), buffer) == 1;
}

}  // namespace

SigningKey MakeSigningKey() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  CHECK(key != nullptr);
  SigningKey pair{.private_key = KeyPem(key),
                  .public_key = Pem([key](BIO* bio) { return PEM_write_bio_PUBKEY(bio, key); })};
  EVP_PKEY_free(key);
  return pair;
}

Authority::Certificate Authority::Blank(EVP_PKEY* key, const std::string& user,
                                        const std::vector<std::string>& groups) {
  Certificate certificate(X509_new());
  CHECK_EQ(X509_set_version(certificate.get(), X509_VERSION_3), 1);
  uint64_t serial = 0;
  CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial), 1);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), serial >> 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), kADay);
  X509_set_pubkey(certificate.get(), key);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  for (const std::string& group : groups) AddName(subject, "O", group);
  AddName(subject, "CN", user);
  return certificate;
}

void Authority::Sign(X509* certificate) const {
  CHECK_EQ(X509_set_issuer_name(certificate, X509_get_subject_name(certificate_.get())), 1);
  AddExtension(certificate, certificate_.get(), NID_authority_key_identifier, "keyid:always");
  CHECK_GT(X509_sign(certificate, key_.get(), EVP_sha256()), 0);
}

Authority::Authority(const std::string& common_name) : key_(EVP_EC_gen("P-256")) {
  CHECK(key_ != nullptr);
  certificate_ = Blank(key_.get(), common_name, {});
  AddExtension(certificate_.get(), certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate_.get(), certificate_.get(), NID_key_usage, "critical,keyCertSign,cRLSign");
  AddExtension(certificate_.get(), certificate_.get(), NID_subject_key_identifier, "hash");
  Sign(certificate_.get());
  pem_ = CertificatePem(certificate_.get());
}

KeyPair Authority::Issue(const std::string& user, const std::vector<std::string>& groups,
                         const std::string& alternative_names, const char* usage) const {
  const Key key(EVP_EC_gen("P-256"));
  CHECK(key != nullptr);
  const Certificate certificate = Blank(key.get(), user, groups);
  AddExtension(certificate.get(), certificate_.get(), NID_key_usage, "critical,digitalSignature");
  AddExtension(certificate.get(), certificate_.get(), NID_ext_key_usage, usage);
  if (!alternative_names.empty()) {
    AddExtension(certificate.get(), certificate_.get(), NID_subject_alt_name, alternative_names);
  }
  Sign(certificate.get());
  return {.certificate = CertificatePem(certificate.get()), .key = KeyPem(key.get())};
}

KeyPair Authority::Server(const std::vector<std::string>& names) const {
  std::vector<std::string> entries;
  for (const std::string& name : names)
    entries.push_back(absl::StrCat(IsAddress(name) ? "IP:" : "DNS:", name));
  return Issue(names.front(), {}, absl::StrJoin(entries, ","), "serverAuth");
}

KeyPair Authority::Client(const std::string& user, const std::vector<std::string>& groups) const {
  return Issue(user, groups, "", "clientAuth");
}

}  // namespace godwit::apiserver
