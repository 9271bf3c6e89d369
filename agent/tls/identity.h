// SPDX-License-Identifier: Apache-2.0
// Who an agent is to others: a key (ECDSA P-256), a certificate for the DNS name "<node>.agent.godwit" and
// the authority that it and its peers are checked against. Read from PEM files, read again when they change.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/openssl.h"
#include "openssl/ssl.h"

namespace godwit::tls {

template <auto Free>
using Deleter = OpenSslDeleter<Free>;
using KeyPointer = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using CertificatePointer = std::unique_ptr<X509, Deleter<X509_free>>;
using StorePointer = std::unique_ptr<X509_STORE, Deleter<X509_STORE_free>>;
using godwit::ContextPointer;
using godwit::SslPointer;

inline constexpr char kControllerName[] = "controller.godwit";

// The DNS name in the certificate of a node's agent, and back: InvalidArgument for a name that is no agent's.
std::string AgentName(absl::string_view node);
absl::StatusOr<std::string> NodeOfAgentName(absl::string_view name);

// A new key and a request for a certificate with that one DNS name.
struct KeyAndRequest {
  std::string key_pem;
  std::string request_pem;
};
absl::StatusOr<KeyAndRequest> MakeKeyAndRequest(absl::string_view dns_name);

// What the first certificate of a PEM text says.
struct CertificateFacts {
  std::vector<std::string> dns_names;  // from subjectAltName; the subject's common name does not count
  absl::Time not_before;
  absl::Time not_after;
};
absl::StatusOr<CertificateFacts> ReadCertificate(absl::string_view pem);

// OK when the first certificate of `pem` is valid now and was issued by one of the certificates in
// `authority_pem`.
absl::Status CheckIssuer(absl::string_view pem, absl::string_view authority_pem);

// Where the PEM files are.
struct IdentityFiles {
  std::string
      certificate_and_key;  // the key and the certificate chain in one file, so that they change together
  std::string authority;    // one or more CA certificates
};

// Thread-safe. Contexts made from it must not outlive it.
class Identity {
 public:
  // Reads the files. The error names the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<Identity>> Load(const IdentityFiles& files);

  // For servers: each new handshake uses the newest files. The peer must show a certificate of our authority;
  // whose it is, is asked afterwards (peer.h). TLS 1.3 only.
  absl::StatusOr<ContextPointer> ServerContext();
  // Fills an existing context in the same way, for servers that make their own.
  absl::Status SetUpServer(SSL_CTX* context);

  // For one connection as a client, with the newest files.
  absl::StatusOr<ContextPointer> ClientContext();

  // When our certificate ends.
  absl::Time not_after();

  // Looks at the files now; also done, at most once a second, by everything above. An unreadable new file
  // leaves the old identity in use.
  absl::Status ReloadIfChanged();

 private:
  struct Material {
    KeyPointer key;
    CertificatePointer certificate;
    std::vector<CertificatePointer> chain;
    StorePointer authority;
    absl::Time not_after;
    std::string stamp;  // of the files: changes when they do
  };

  explicit Identity(IdentityFiles files) : files_(std::move(files)) {}
  absl::StatusOr<std::shared_ptr<const Material>> Read() const;
  std::string Stamp() const;
  std::shared_ptr<const Material> Newest();
  static STACK_OF(X509) * ChainOf(const Material& material);
  static absl::Status Use(const Material& material, SSL* ssl);
  static int OnHandshake(SSL* ssl, void* self);

  const IdentityFiles files_;
  absl::Mutex mutex_;
  std::shared_ptr<const Material> material_ ABSL_GUARDED_BY(mutex_);
  absl::Time looked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

// After a handshake: OK when the peer's certificate carries this DNS name, exactly and as subjectAltName.
absl::Status CheckPeerName(const SSL* ssl, absl::string_view dns_name);

// After a handshake: the node whose agent the peer is.
absl::StatusOr<std::string> PeerNode(const SSL* ssl);

// OpenSSL's queued errors of this thread as text; empties the queue.
std::string OpenSslErrors();

}  // namespace godwit::tls
