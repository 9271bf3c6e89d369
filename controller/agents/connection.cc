// SPDX-License-Identifier: Apache-2.0
#include "controller/agents/connection.h"

#include <curl/curl.h>

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/api/messages.h"
#include "base/json.h"
#include "controller/agents/agent.h"

namespace godwit::controller {
namespace {

constexpr size_t kMaxAnswer = 16u << 20;
constexpr size_t kMaxIdle = 4;

struct Collected {
  std::string body;
  bool too_long = false;
};

size_t Collect(char* data, size_t size, size_t count, void* into) {
  auto* collected = static_cast<Collected*>(into);
  if (collected->body.size() + size * count > kMaxAnswer) {
    collected->too_long = true;
    return 0;
  }
  collected->body.append(data, size * count);
  return size * count;
}

curl_blob Blob(const std::string& pem) {
  return {.data = const_cast<char*>(pem.data()), .len = pem.size(), .flags = CURL_BLOB_COPY};
}

// An alert by which the agent refuses our certificate comes as an ordinary receive or connect error
// (TLS 1.3).
bool SaysCertificate(CURLcode code, absl::string_view error) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: return true;
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
      return absl::StrContains(error, "alert") || absl::StrContains(error, "certificate");
    default: return false;
  }
}

absl::Status NoAnswer(CURLcode code, absl::string_view error, const AgentEndpoint& endpoint) {
  const std::string what = absl::StrCat("https://", HostPort(endpoint.address, endpoint.port), ": ",
                                        error.empty() ? curl_easy_strerror(code) : error);
  if (SaysCertificate(code, error)) return absl::UnauthenticatedError(what);
  // The times in curl's own sentence differ from try to try; a condition's message must not.
  if (code == CURLE_OPERATION_TIMEDOUT) {
    return absl::DeadlineExceededError(
        absl::StrCat("https://", HostPort(endpoint.address, endpoint.port), ": no answer in time"));
  }
  if (code == CURLE_COULDNT_CONNECT) {
    return absl::UnavailableError(
        absl::StrCat("https://", HostPort(endpoint.address, endpoint.port), ": cannot connect"));
  }
  return absl::UnavailableError(what);
}

}  // namespace

// A curl handle with its connection; made for one identity, dropped when that was renewed.
struct AgentConnection::Session {
  CURL* curl = nullptr;
  curl_slist* connect_to = nullptr;
  curl_slist* headers = nullptr;
  std::shared_ptr<const Identity> identity;

  ~Session() {
    if (curl != nullptr) curl_easy_cleanup(curl);
    curl_slist_free_all(connect_to);
    curl_slist_free_all(headers);
  }
};

AgentConnection::AgentConnection(AgentEndpoint endpoint, const IdentityHolder* identity)
    : endpoint_(std::move(endpoint)), identity_(identity) {}
AgentConnection::~AgentConnection() = default;

std::unique_ptr<AgentConnection::Session> AgentConnection::Borrow() {
  std::shared_ptr<const Identity> identity = identity_->Get();
  {
    absl::MutexLock lock(&mutex_);
    while (!idle_.empty()) {
      auto session = std::move(idle_.back());
      idle_.pop_back();
      if (session->identity == identity) return session;
    }
  }
  auto session = std::make_unique<Session>();
  session->curl = curl_easy_init();
  if (session->curl == nullptr) return nullptr;
  session->identity = std::move(identity);
  const std::string name = absl::StrCat(endpoint_.node, ".agent.godwit:", endpoint_.port, ":");
  session->connect_to =
      curl_slist_append(nullptr, absl::StrCat(name, HostPort(endpoint_.address, endpoint_.port)).c_str());
  session->headers = curl_slist_append(nullptr, "Content-Type: application/json");
  session->headers = curl_slist_append(session->headers, "Expect:");
  const curl_blob certificate = Blob(session->identity->certificate);
  const curl_blob key = Blob(session->identity->key);
  const curl_blob authorities = Blob(session->identity->authorities);
  CURL* curl = session->curl;
  curl_easy_setopt(curl, CURLOPT_CONNECT_TO, session->connect_to);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, session->headers);
  curl_easy_setopt(curl, CURLOPT_SSLCERT_BLOB, &certificate);
  curl_easy_setopt(curl, CURLOPT_SSLKEY_BLOB, &key);
  curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &authorities);
  curl_easy_setopt(curl, CURLOPT_CAPATH, nullptr);
  curl_easy_setopt(curl, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_3));
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(endpoint_.connect_timeout)));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Collect);
  return session;
}

void AgentConnection::Return(std::unique_ptr<Session> session) {
  absl::MutexLock lock(&mutex_);
  if (idle_.size() < kMaxIdle) idle_.push_back(std::move(session));
}

absl::StatusOr<AgentAnswer> AgentConnection::Send(absl::string_view method, const std::string& path,
                                                  const std::string& body, absl::Duration timeout) {
  std::unique_ptr<Session> session = Borrow();
  if (session == nullptr) return absl::ResourceExhaustedError("libcurl has no handle");
  CURL* curl = session->curl;
  const std::string url = absl::StrCat("https://", endpoint_.node, ".agent.godwit:", endpoint_.port, path);
  Collected collected;
  std::array<char, CURL_ERROR_SIZE> error = {};
  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, static_cast<long>(absl::ToInt64Milliseconds(timeout)));
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &collected);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error.data());
  curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
  const bool with_body = method == "PUT" || method == "POST";
  if (with_body) {
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.data());
  }
  const std::string verb(method);
  curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method == "GET" ? nullptr : verb.c_str());
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, nullptr);
  if (collected.too_long)
    return absl::ResourceExhaustedError(
        absl::StrCat(url, ": the answer is longer than ", kMaxAnswer, " bytes"));
  if (code != CURLE_OK) return NoAnswer(code, error.data(), endpoint_);
  long status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
  Return(std::move(session));
  return AgentAnswer{.code = static_cast<int>(status), .body = std::move(collected.body)};
}

absl::Status StatusFromAnswer(const AgentAnswer& answer) {
  absl::StatusCode code = absl::StatusCode::kInternal;
  switch (answer.code) {
    case 400: code = absl::StatusCode::kInvalidArgument; break;
    case 401:
    case 403: code = absl::StatusCode::kUnauthenticated; break;  // our certificate is not the controller's
    case 404: code = absl::StatusCode::kNotFound; break;
    case 409: code = absl::StatusCode::kFailedPrecondition; break;
    case 501: code = absl::StatusCode::kUnimplemented; break;
    case 503: code = absl::StatusCode::kUnavailable; break;
    case 504: code = absl::StatusCode::kDeadlineExceeded; break;
    case 507: code = absl::StatusCode::kResourceExhausted; break;
    default: break;
  }
  auto body = json::Decode<agent_api::ErrorBody>(answer.body, {.max_bytes = 64u << 10});
  return absl::Status(code, body.ok() ? body->error.message : absl::StrCat("HTTP status ", answer.code));
}

}  // namespace godwit::controller
