// SPDX-License-Identifier: Apache-2.0
// Keys, requests and what certificates say.
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <ctime>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "agent/tls/identity.h"
#include "base/status.h"

namespace godwit::tls {
namespace {

using BioPointer = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using RequestPointer = std::unique_ptr<X509_REQ, Deleter<X509_REQ_free>>;

constexpr absl::string_view kAgentSuffix = ".agent.godwit";

std::string Text(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return std::string(data, size);
}

absl::Status OpenSslError(absl::string_view what) {
  return absl::InternalError(absl::StrCat(what, ": ", OpenSslErrors()));
}

absl::Status AddDnsName(X509_REQ* request, absl::string_view dns_name) {
  const std::string value = absl::StrCat("DNS:", dns_name);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, value.c_str());
  if (extension == nullptr) return OpenSslError("cannot make a subjectAltName");
  STACK_OF(X509_EXTENSION)* extensions = sk_X509_EXTENSION_new_null();
  sk_X509_EXTENSION_push(extensions, extension);
  const int added = X509_REQ_add_extensions(request, extensions);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  return added == 1 ? absl::OkStatus() : OpenSslError("cannot add a subjectAltName");
}

std::vector<std::string> DnsNames(const X509* certificate) {
  std::vector<std::string> names;
  auto* general =
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(general); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(general, i);
    if (name->type != GEN_DNS) continue;
    const ASN1_IA5STRING* text = name->d.dNSName;
    names.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), ASN1_STRING_length(text));
  }
  GENERAL_NAMES_free(general);
  return names;
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

// All certificates in a PEM text, up to the first that cannot be read.
std::vector<CertificatePointer> ParseCertificates(absl::string_view pem) {
  std::vector<CertificatePointer> certificates;
  BioPointer bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr))
    certificates.emplace_back(certificate);
  ERR_clear_error();
  return certificates;
}

// The peer's certificate, verified by the handshake; null when there is none.
absl::StatusOr<CertificatePointer> VerifiedPeer(const SSL* ssl) {
  CertificatePointer peer(SSL_get1_peer_certificate(ssl));
  if (peer == nullptr) return absl::UnauthenticatedError("the peer showed no certificate");
  if (const long result = SSL_get_verify_result(ssl); result != X509_V_OK) {
    return absl::UnauthenticatedError(
        absl::StrCat("the peer's certificate was not verified: ", X509_verify_cert_error_string(result)));
  }
  return peer;
}

}  // namespace

std::string OpenSslErrors() {
  std::string text;
  while (const unsigned long code = ERR_get_error()) {
    char line[256];
    ERR_error_string_n(code, line, sizeof(line));
    const char* reason = ERR_reason_error_string(code);
    absl::StrAppend(&text, text.empty() ? "" : "; ", reason != nullptr ? reason : line);
  }
  return text.empty() ? "unknown OpenSSL error" : text;
}

std::string AgentName(absl::string_view node) { return absl::StrCat(node, kAgentSuffix); }

absl::StatusOr<std::string> NodeOfAgentName(absl::string_view name) {
  if (!absl::ConsumeSuffix(&name, kAgentSuffix) || name.empty()) {
    return absl::InvalidArgumentError("not the name of a node's agent (<node>.agent.godwit)");
  }
  return std::string(name);
}

absl::StatusOr<KeyAndRequest> MakeKeyAndRequest(absl::string_view dns_name) {
  // The name goes into OpenSSL's extension language, where ',' and others mean something: only what DNS names
  // have.
  if (dns_name.empty() || dns_name.size() > 253 || !absl::c_all_of(dns_name, [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.';
      })) {
    return absl::InvalidArgumentError(absl::StrCat("\"", dns_name, "\" is no DNS name"));
  }
  KeyPointer key(EVP_EC_gen("P-256"));
  if (key == nullptr) return OpenSslError("cannot make an ECDSA key");
  RequestPointer request(X509_REQ_new());
  if (request == nullptr || X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1) {
    return OpenSslError("cannot make a certificate request");
  }
  GODWIT_RETURN_IF_ERROR(AddDnsName(request.get(), dns_name));
  if (X509_REQ_sign(request.get(), key.get(), EVP_sha256()) <= 0) {
    return OpenSslError("cannot sign the certificate request");
  }
  BioPointer key_bio(BIO_new(BIO_s_mem()));
  BioPointer request_bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PrivateKey(key_bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1 ||
      PEM_write_bio_X509_REQ(request_bio.get(), request.get()) != 1) {
    return OpenSslError("cannot write key and certificate request as PEM");
  }
  return KeyAndRequest{Text(key_bio.get()), Text(request_bio.get())};
}

absl::StatusOr<CertificateFacts> ReadCertificate(absl::string_view pem) {
  BioPointer bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  CertificatePointer certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("no PEM certificate: ", OpenSslErrors()));
  }
  return CertificateFacts{DnsNames(certificate.get()), ToTime(X509_get0_notBefore(certificate.get())),
                          ToTime(X509_get0_notAfter(certificate.get()))};
}

absl::Status CheckIssuer(absl::string_view pem, absl::string_view authority_pem) {
  const std::vector<CertificatePointer> chain = ParseCertificates(pem);
  const std::vector<CertificatePointer> authorities = ParseCertificates(authority_pem);
  if (chain.empty() || authorities.empty()) return absl::InvalidArgumentError("no PEM certificate");
  StorePointer store(X509_STORE_new());
  for (const CertificatePointer& authority : authorities) X509_STORE_add_cert(store.get(), authority.get());
  STACK_OF(X509)* between = sk_X509_new_null();
  for (const CertificatePointer& certificate : chain) sk_X509_push(between, certificate.get());
  std::unique_ptr<X509_STORE_CTX, Deleter<X509_STORE_CTX_free>> check(X509_STORE_CTX_new());
  const bool good = X509_STORE_CTX_init(check.get(), store.get(), chain.front().get(), between) == 1 &&
                    X509_verify_cert(check.get()) == 1;
  const int why = X509_STORE_CTX_get_error(check.get());
  sk_X509_free(between);
  ERR_clear_error();
  if (good) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("certificate not valid: ", X509_verify_cert_error_string(why)));
}

absl::Status CheckPeerName(const SSL* ssl, absl::string_view dns_name) {
  GODWIT_ASSIGN_OR_RETURN(CertificatePointer peer, VerifiedPeer(ssl));
  const std::vector<std::string> names = DnsNames(peer.get());
  for (const std::string& name : names) {
    if (name == dns_name) return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("the peer's certificate is for ",
                                                  names.empty() ? "no DNS name" : names.front(), ", not for ",
                                                  dns_name));
}

absl::StatusOr<std::string> PeerNode(const SSL* ssl) {
  GODWIT_ASSIGN_OR_RETURN(CertificatePointer peer, VerifiedPeer(ssl));
  for (const std::string& name : DnsNames(peer.get())) {
    if (absl::StatusOr<std::string> node = NodeOfAgentName(name); node.ok()) return node;
  }
  return absl::PermissionDeniedError("the peer's certificate is not that of a node's agent");
}

}  // namespace godwit::tls
