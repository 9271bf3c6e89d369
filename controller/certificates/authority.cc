// SPDX-License-Identifier: Apache-2.0
#include "controller/certificates/authority.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <array>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/openssl.h"
#include "base/status.h"

namespace godwit::controller {
namespace {

constexpr size_t kMaxRequest = 16u << 10;
constexpr absl::Duration kClockSkew = absl::Minutes(5);  // nodes' clocks may be behind ours

using KeyPointer = std::unique_ptr<EVP_PKEY, OpenSslDeleter<EVP_PKEY_free>>;
using X509Pointer = std::unique_ptr<X509, OpenSslDeleter<X509_free>>;
using RequestPointer = std::unique_ptr<X509_REQ, OpenSslDeleter<X509_REQ_free>>;
using BioPointer = std::unique_ptr<BIO, OpenSslDeleter<BIO_free_all>>;
using ExtensionPointer = std::unique_ptr<X509_EXTENSION, OpenSslDeleter<X509_EXTENSION_free>>;

absl::Status OpenSslError(absl::string_view what) {
  std::array<char, 256> text = {};
  ERR_error_string_n(ERR_get_error(), text.data(), text.size());
  ERR_clear_error();
  return absl::InternalError(absl::StrCat(what, ": ", text.data()));
}

BioPointer Read(absl::string_view pem) {
  return BioPointer(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

std::string Text(BIO* bio) {
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(length));
}

std::string CertificatePem(X509* certificate) {
  BioPointer bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate);
  return Text(bio.get());
}

std::string KeyPem(EVP_PKEY* key) {
  BioPointer bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return Text(bio.get());
}

KeyPointer NewKey() { return KeyPointer(EVP_EC_gen("P-256")); }

bool IsP256(EVP_PKEY* key) {
  std::array<char, 64> group = {};
  size_t length = 0;
  return EVP_PKEY_is_a(key, "EC") == 1 &&
         EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) == 1 &&
         absl::string_view(group.data(), length) == "prime256v1";
}

absl::Time TimeOf(const ASN1_TIME* time) {
  std::tm tm = {};
  if (ASN1_TIME_to_tm(time, &tm) != 1) return absl::InfinitePast();
  return absl::FromTM(tm, absl::UTCTimeZone());
}

bool AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  ExtensionPointer extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  return extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1;
}

// Serial, validity, subject and key: what all certificates have.
X509Pointer Blank(EVP_PKEY* key, const std::string& name, absl::Time from, absl::Time to) {
  X509Pointer certificate(X509_new());
  std::array<unsigned char, 16> serial;
  RAND_bytes(serial.data(), serial.size());
  serial[0] &= 0x7f;  // positive
  std::unique_ptr<BIGNUM, OpenSslDeleter<BN_free>> number(BN_bin2bn(serial.data(), serial.size(), nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get()));
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), absl::ToTimeT(from));
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(to));
  X509_set_pubkey(certificate.get(), key);
  // A common name has at most 64 characters; peers look at the DNS names alone.
  const std::string common = name.substr(0, 64);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(common.c_str()), -1, -1, 0);
  return certificate;
}

}  // namespace

absl::StatusOr<AuthorityPem> MakeAuthority(absl::Time now, absl::Duration lifetime) {
  KeyPointer key = NewKey();
  if (key == nullptr) return OpenSslError("cannot make a key");
  X509Pointer certificate = Blank(key.get(), "Godwit", now - kClockSkew, now + lifetime);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get()));
  if (!AddExtension(certificate.get(), certificate.get(), NID_basic_constraints,
                    "critical,CA:TRUE,pathlen:0") ||
      !AddExtension(certificate.get(), certificate.get(), NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !AddExtension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash") ||
      X509_sign(certificate.get(), key.get(), EVP_sha256()) == 0) {
    return OpenSslError("cannot make a certificate authority");
  }
  return AuthorityPem{.certificate = CertificatePem(certificate.get()), .key = KeyPem(key.get())};
}

absl::StatusOr<std::unique_ptr<Authority>> Authority::Load(const AuthorityPem& pem) {
  std::unique_ptr<Authority> authority(new Authority);
  authority->pem_ = pem;
  authority->x509_.reset(PEM_read_bio_X509(Read(pem.certificate).get(), nullptr, nullptr, nullptr));
  authority->key_.reset(PEM_read_bio_PrivateKey(Read(pem.key).get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (authority->x509_ == nullptr || authority->key_ == nullptr) {
    return absl::InvalidArgumentError("the certificate authority's certificate or key is no PEM text");
  }
  if (X509_check_private_key(authority->x509_.get(), authority->key_.get()) != 1 ||
      X509_check_ca(authority->x509_.get()) < 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        "the certificate authority's certificate and key do not belong together");
  }
  authority->not_after_ = TimeOf(X509_get0_notAfter(authority->x509_.get()));
  return authority;
}

absl::StatusOr<Authority::Signed> Authority::SignKey(EVP_PKEY* subject_key,
                                                     const std::vector<std::string>& dns_names,
                                                     absl::Duration lifetime, absl::Time now) const {
  const absl::Time to = std::min(now + lifetime, not_after_);
  if (to <= now)
    return absl::FailedPreconditionError(
        "the certificate authority has expired (delete its Secret, then restart the controller)");
  X509Pointer certificate = Blank(subject_key, dns_names.front(), now - kClockSkew, to);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(x509_.get()));
  const std::string names = absl::StrJoin(
      dns_names, ",", [](std::string* out, const std::string& name) { absl::StrAppend(out, "DNS:", name); });
  if (!AddExtension(certificate.get(), x509_.get(), NID_basic_constraints, "critical,CA:FALSE") ||
      !AddExtension(certificate.get(), x509_.get(), NID_key_usage, "critical,digitalSignature") ||
      !AddExtension(certificate.get(), x509_.get(), NID_ext_key_usage, "serverAuth,clientAuth") ||
      !AddExtension(certificate.get(), x509_.get(), NID_subject_alt_name, names) ||
      !AddExtension(certificate.get(), x509_.get(), NID_authority_key_identifier, "keyid") ||
      X509_sign(certificate.get(), key_.get(), EVP_sha256()) == 0) {
    return OpenSslError(absl::StrCat("cannot sign a certificate for ", names));
  }
  return Signed{.certificate = CertificatePem(certificate.get()),
                .not_before = now - kClockSkew,
                .not_after = TimeOf(X509_get0_notAfter(certificate.get()))};
}

absl::StatusOr<Authority::Signed> Authority::Sign(absl::string_view request_pem,
                                                  const std::vector<std::string>& dns_names,
                                                  absl::Duration lifetime, absl::Time now) const {
  if (request_pem.size() > kMaxRequest)
    return absl::InvalidArgumentError("the certificate request is too long");
  RequestPointer request(PEM_read_bio_X509_REQ(Read(request_pem).get(), nullptr, nullptr, nullptr));
  EVP_PKEY* key = request == nullptr ? nullptr : X509_REQ_get0_pubkey(request.get());
  const bool good = key != nullptr && IsP256(key) && X509_REQ_verify(request.get(), key) == 1;
  ERR_clear_error();
  if (!good)
    return absl::InvalidArgumentError("not a certificate request that is signed by its own P-256 key");
  return SignKey(key, dns_names, lifetime, now);
}

absl::StatusOr<Identity> Authority::Issue(const std::vector<std::string>& dns_names, absl::Duration lifetime,
                                          absl::Time now) const {
  KeyPointer key = NewKey();
  if (key == nullptr) return OpenSslError("cannot make a key");
  GODWIT_ASSIGN_OR_RETURN(Signed certificate, SignKey(key.get(), dns_names, lifetime, now));
  return Identity{.certificate = std::move(certificate.certificate),
                  .key = KeyPem(key.get()),
                  .authorities = pem_.certificate,
                  .not_before = certificate.not_before,
                  .not_after = certificate.not_after};
}

}  // namespace godwit::controller
