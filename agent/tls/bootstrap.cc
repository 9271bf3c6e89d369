// SPDX-License-Identifier: Apache-2.0
#include "agent/tls/bootstrap.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/api/messages.h"
#include "agent/tls/identity.h"
#include "base/backoff.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::tls {
namespace {

using CurlPointer = std::unique_ptr<CURL, Deleter<curl_easy_cleanup>>;
using ListPointer = std::unique_ptr<curl_slist, Deleter<curl_slist_free_all>>;

constexpr size_t kMaxAnswerBytes = 256u << 10;

size_t Collect(char* data, size_t size, size_t count, void* to) {
  auto* answer = static_cast<std::string*>(to);
  if (answer->size() + size * count > kMaxAnswerBytes) return 0;  // makes curl fail the transfer
  answer->append(data, size * count);
  return size * count;
}

// What the controller said when it refused.
absl::Status Refusal(long code, const std::string& body) {
  std::string why = absl::StrCat("HTTP status ", code);
  if (absl::StatusOr<agent_api::ErrorBody> error = json::Decode<agent_api::ErrorBody>(body); error.ok()) {
    absl::StrAppend(&why, ": ", error->error.reason, ": ", error->error.message);
  }
  return absl::PermissionDeniedError(why);
}

absl::StatusOr<std::string> Post(const BootstrapOptions& options, const std::string& token,
                                 const std::string& body) {
  CurlPointer curl(curl_easy_init());
  if (curl == nullptr) return absl::InternalError("cannot start libcurl");
  // The name in the URL is the one the certificate must carry; where to connect is said apart from it.
  const std::string connect_to = absl::StrCat("::", options.controller);
  const std::string url = absl::StrCat("https://", kControllerName, "/v1/certificates");
  ListPointer targets(curl_slist_append(nullptr, connect_to.c_str()));
  curl_slist* list = curl_slist_append(nullptr, absl::StrCat("Authorization: Bearer ", token).c_str());
  ListPointer headers(curl_slist_append(list, "Content-Type: application/json"));
  std::string answer;
  char error[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CONNECT_TO, targets.get());
  curl_easy_setopt(curl.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "https");
  curl_easy_setopt(curl.get(), CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_3);
  curl_easy_setopt(curl.get(), CURLOPT_CAINFO, options.authority_file.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CAPATH, nullptr);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options.request_limit)));
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, Collect);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer);
  if (const CURLcode code = curl_easy_perform(curl.get()); code != CURLE_OK) {
    return absl::UnavailableError(error[0] != '\0' ? error : curl_easy_strerror(code));
  }
  long code = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &code);
  if (code != 200) return Refusal(code, answer);
  return answer;
}

absl::Status CheckOwnCertificate(absl::string_view pem, const BootstrapOptions& options) {
  GODWIT_ASSIGN_OR_RETURN(CertificateFacts facts, ReadCertificate(pem));
  if (std::find(facts.dns_names.begin(), facts.dns_names.end(), AgentName(options.node)) ==
      facts.dns_names.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the certificate is not for ", AgentName(options.node)));
  }
  GODWIT_ASSIGN_OR_RETURN(std::string authority, ReadFile(options.authority_file, 256u << 10));
  return CheckIssuer(pem, authority);  // another authority is there after the chart was installed anew
}

}  // namespace

absl::Status ObtainCertificate(const BootstrapOptions& options) {
  const std::string what = absl::StrCat("cannot get a certificate for node ", options.node,
                                        " from the controller at ", options.controller);
  absl::StatusOr<std::string> token = ReadFile(options.token_file, 64u << 10);
  if (!token.ok()) return Annotate(token.status(), what);
  GODWIT_ASSIGN_OR_RETURN(KeyAndRequest made, MakeKeyAndRequest(AgentName(options.node)));
  absl::StatusOr<std::string> body = Post(options, std::string(absl::StripAsciiWhitespace(*token)),
                                          json::Encode(CertificateRequest{made.request_pem}));
  if (!body.ok()) return Annotate(body.status(), what);
  absl::StatusOr<CertificateAnswer> answer = json::Decode<CertificateAnswer>(*body);
  if (!answer.ok()) return Annotate(answer.status(), what);
  if (absl::Status status = CheckOwnCertificate(answer->certificate, options); !status.ok())
    return Annotate(status, what);
  return WriteFileDurably(options.certificate_and_key_file, absl::StrCat(made.key_pem, answer->certificate),
                          0600);
}

absl::Time RenewalTime(absl::Time not_before, absl::Time not_after) {
  return not_before + (not_after - not_before) / 2;
}

CertificateRenewal::CertificateRenewal(BootstrapOptions options,
                                       std::function<void(const absl::Status&)> attempted)
    : options_(std::move(options)), attempted_(std::move(attempted)), thread_([this] { Run(); }) {}

CertificateRenewal::~CertificateRenewal() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

absl::Status CertificateRenewal::AwaitCertificate(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  if (mutex_.AwaitWithTimeout(absl::Condition(&usable_), limit)) return absl::OkStatus();
  return absl::DeadlineExceededError(
      absl::StrCat("no certificate after ", absl::FormatDuration(limit), ": ", last_.message()));
}

bool CertificateRenewal::StopsWithin(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&stop_), duration);
}

// Zero when there is no certificate for us that will do.
absl::Duration CertificateRenewal::UntilRenewal() const {
  absl::StatusOr<std::string> pem = ReadFile(options_.certificate_and_key_file, 256u << 10);
  if (!pem.ok() || !CheckOwnCertificate(*pem, options_).ok()) return absl::ZeroDuration();
  const CertificateFacts facts = *ReadCertificate(*pem);
  return std::max(absl::ZeroDuration(), RenewalTime(facts.not_before, facts.not_after) - absl::Now());
}

void CertificateRenewal::Run() {
  absl::BitGen random;
  Backoff backoff({.first = absl::Milliseconds(250), .longest = absl::Seconds(30)});
  for (;;) {
    const absl::Duration wait = UntilRenewal();
    if (wait > absl::ZeroDuration()) {
      {
        absl::MutexLock lock(&mutex_);
        usable_ = true;
      }
      // In pieces: the file may be taken away or replaced, and the wall clock may be set.
      if (StopsWithin(std::min(wait, absl::Minutes(1)))) return;
      continue;
    }
    const absl::Status status = ObtainCertificate(options_);
    attempted_(status);
    {
      absl::MutexLock lock(&mutex_);
      last_ = status;
      if (status.ok()) usable_ = true;
    }
    if (status.ok()) {
      LOG(INFO) << Log("got a certificate").With("node", options_.node);
      backoff.Reset();
      // A certificate that must be renewed as soon as it is there (a wrong clock) must not become a busy
      // loop.
      if (UntilRenewal() > absl::ZeroDuration()) continue;
    } else {
      LOG(WARNING) << Log("no certificate yet").With(status);
    }
    if (StopsWithin(backoff.Next(random))) return;
  }
}

}  // namespace godwit::tls
