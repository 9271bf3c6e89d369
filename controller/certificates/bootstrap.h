// SPDX-License-Identifier: Apache-2.0
// Where agents get their certificates: an agent proves with its pod's token on which node it runs, and gets a
// certificate for that node's name and no other. Every replica serves it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "controller/certificates/authority.h"
#include "controller/certificates/identity.h"
#include "k8s/api.h"

namespace godwit {
class HttpsServer;
}

namespace godwit::controller {

struct CertificateRequest {
  std::string csr;  // PEM
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("csr", self.csr);
  }
};
struct CertificateAnswer {
  std::string certificate;  // PEM, the leaf first
  std::string ca;           // PEM
  absl::Time not_after;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("certificate", self.certificate);
    field.Required("ca", self.ca);
    field.Required("notAfter", self.not_after);
  }
};

struct BootstrapOptions {
  std::string name_space;  // of the agents' service account
  std::string service_account = "godwit-agent";
  std::string audience = "godwit-controller";  // that the token must be made for
  absl::Duration lifetime = absl::Hours(24);   // of certificates
  std::string listen = "0.0.0.0";
  int port = 9443;                                          // 0: any free one
  std::function<void(absl::string_view outcome)> observer;  // "signed", "refused", "failed"; may be empty
};

// The node whose agent the token belongs to, by a TokenReview. PermissionDenied when it is not a token of an
// agent's pod for us; other errors when the API server cannot say.
absl::StatusOr<std::string> NodeOfToken(const k8s::Api& api, const BootstrapOptions& options,
                                        const std::string& token);

class BootstrapServer {
 public:
  // What is pointed to outlives the server.
  BootstrapServer(k8s::Api api, const Authority* authority, const IdentityHolder* identity,
                  BootstrapOptions options);
  ~BootstrapServer();

  // Listens and serves on threads of its own. Unavailable when the port is taken.
  absl::Status Start();
  void Stop();
  int port() const;

 private:
  absl::StatusOr<CertificateAnswer> Answer(const std::string& authorization, const std::string& body) const;

  const k8s::Api api_;
  const Authority* const authority_;
  const IdentityHolder* const identity_;
  const BootstrapOptions options_;
  std::unique_ptr<HttpsServer> server_;
};

}  // namespace godwit::controller
