// SPDX-License-Identifier: Apache-2.0
#include "controller/certificates/bootstrap.h"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "agent/api/messages.h"
#include "base/https_server.h"
#include "base/log.h"
#include "base/status.h"
#include "k8s/client.h"
#include "k8s/core.h"

namespace godwit::controller {
namespace {

constexpr char kNodeName[] = "authentication.kubernetes.io/node-name";
constexpr size_t kMaxBody = 64u << 10;

// Gives each new connection the newest certificate. `holder` is the IdentityHolder.
int UseIdentity(SSL* ssl, void* holder) {
  const auto identity = static_cast<const IdentityHolder*>(holder)->Get();
  BIO* certificate =
      BIO_new_mem_buf(identity->certificate.data(), static_cast<int>(identity->certificate.size()));
  BIO* key = BIO_new_mem_buf(identity->key.data(), static_cast<int>(identity->key.size()));
  X509* x509 = PEM_read_bio_X509(certificate, nullptr, nullptr, nullptr);
  EVP_PKEY* private_key = PEM_read_bio_PrivateKey(key, nullptr, nullptr, nullptr);
  const bool used = x509 != nullptr && private_key != nullptr && SSL_use_certificate(ssl, x509) == 1 &&
                    SSL_use_PrivateKey(ssl, private_key) == 1;
  X509_free(x509);
  EVP_PKEY_free(private_key);
  BIO_free(certificate);
  BIO_free(key);
  return used ? 1 : 0;
}

absl::string_view ReasonName(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument: return "InvalidArgument";
    case absl::StatusCode::kPermissionDenied: return "PermissionDenied";
    case absl::StatusCode::kUnavailable: return "Unavailable";
    default: return "Internal";
  }
}

int HttpCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument: return 400;
    case absl::StatusCode::kPermissionDenied: return 403;
    case absl::StatusCode::kUnavailable: return 503;
    default: return 500;
  }
}

}  // namespace

absl::StatusOr<std::string> NodeOfToken(const k8s::Api& api, const BootstrapOptions& options,
                                        const std::string& token) {
  const k8s::TokenReview question{.spec = {.token = token, .audiences = {options.audience}}};
  GODWIT_ASSIGN_OR_RETURN(const k8s::TokenReview review, k8s::Client<k8s::TokenReview>(api).Create(question));
  const k8s::TokenReviewStatus& status = review.status;
  if (!status.authenticated) {
    return absl::PermissionDeniedError(absl::StrCat("the token is not valid: ", status.error));
  }
  // A server that does not know of audiences answers for its own.
  if (std::find(status.audiences.begin(), status.audiences.end(), options.audience) ==
      status.audiences.end()) {
    return absl::PermissionDeniedError(absl::StrCat("the token is not for audience ", options.audience));
  }
  const std::string agent =
      absl::StrCat("system:serviceaccount:", options.name_space, ":", options.service_account);
  if (status.user.username != agent) {
    return absl::PermissionDeniedError(
        absl::StrCat("the token belongs to ", status.user.username, ", not to ", agent));
  }
  const auto node = status.user.extra.find(kNodeName);
  if (node == status.user.extra.end() || node->second.size() != 1 || node->second.front().empty()) {
    return absl::PermissionDeniedError(
        "the token does not name the node of its pod (Kubernetes 1.30 or newer is needed)");
  }
  return node->second.front();
}

BootstrapServer::BootstrapServer(k8s::Api api, const Authority* authority, const IdentityHolder* identity,
                                 BootstrapOptions options)
    : api_(std::move(api)), authority_(authority), identity_(identity), options_(std::move(options)) {}

BootstrapServer::~BootstrapServer() { Stop(); }

absl::StatusOr<CertificateAnswer> BootstrapServer::Answer(const std::string& authorization,
                                                          const std::string& body) const {
  absl::string_view token = authorization;
  if (!absl::ConsumePrefix(&token, "Bearer ") || token.empty()) {
    return absl::PermissionDeniedError("the request has no bearer token");
  }
  GODWIT_ASSIGN_OR_RETURN(const CertificateRequest request,
                          json::Decode<CertificateRequest>(body, {.max_bytes = kMaxBody}));
  GODWIT_ASSIGN_OR_RETURN(const std::string node, NodeOfToken(api_, options_, std::string(token)));
  GODWIT_ASSIGN_OR_RETURN(
      Authority::Signed made,
      authority_->Sign(request.csr, {absl::StrCat(node, ".agent.godwit")}, options_.lifetime, absl::Now()));
  LOG(INFO) << Log("signed an agent's certificate").With("node", node).With("until", made.not_after);
  return CertificateAnswer{.certificate = std::move(made.certificate),
                           .ca = authority_->certificate(),
                           .not_after = made.not_after};
}

absl::Status BootstrapServer::Start() {
  ContextPointer context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return absl::InternalError("the bootstrap server's TLS cannot be set up");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  SSL_CTX_set_cert_cb(context.get(), UseIdentity, const_cast<IdentityHolder*>(identity_));
  // Callers have no certificates yet: they are told apart by their addresses.
  server_ = std::make_unique<HttpsServer>(
      [](const SSL*, const std::string& from) { return from; },
      HttpsServer::Limits{.connections = 128, .of_one = 8, .reading = absl::Seconds(10), .requests = 1});
  server_->set_payload_max_length(kMaxBody);
  server_->Post("/v1/certificates", [this](const httplib::Request& request, httplib::Response& response) {
    const auto answer = Answer(request.get_header_value("Authorization"), request.body);
    const absl::StatusCode code = answer.status().code();
    const bool refused =
        code == absl::StatusCode::kPermissionDenied || code == absl::StatusCode::kInvalidArgument;
    if (options_.observer) options_.observer(answer.ok() ? "signed" : refused ? "refused" : "failed");
    if (answer.ok()) return response.set_content(json::Encode(*answer), "application/json");
    LOG(WARNING)
        << Log("no certificate for an agent").With("peer", request.remote_addr).With(answer.status());
    response.status = HttpCode(code);
    response.set_content(json::Encode(agent_api::ErrorBody{
                             {std::string(ReasonName(code)), std::string(answer.status().message())}}),
                         "application/json");
  });
  return server_->Open(options_.listen, options_.port, std::move(context));
}

void BootstrapServer::Stop() {
  if (server_ != nullptr) server_->Close();
}

int BootstrapServer::port() const { return server_ == nullptr ? 0 : server_->tls_port(); }

}  // namespace godwit::controller
