// SPDX-License-Identifier: Apache-2.0
#include "k8s/connection.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/clock.h"
#include "k8s/error.h"

namespace godwit::k8s {
namespace {

constexpr size_t kMaxErrorBytes = 1 << 20;

void InitCurlOnce() {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)once;
}

// The text is not copied: it is the configuration's, which lives as long as the transport.
curl_blob Borrowed(const std::string& text) {
  return {.data = const_cast<char*>(text.data()), .len = text.size(), .flags = CURL_BLOB_NOCOPY};
}

absl::StatusCode CodeFor(CURLcode code) {
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT: return absl::StatusCode::kDeadlineExceeded;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR: return absl::StatusCode::kFailedPrecondition;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL: return absl::StatusCode::kInvalidArgument;
    default: return absl::StatusCode::kUnavailable;
  }
}

absl::string_view Advice(CURLcode code) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
      return " (is the configured certificate authority the one that signed the server's?)";
    case CURLE_SSL_CERTPROBLEM: return " (do the client certificate and its key belong together?)";
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST: return " (is the API server running, and its address right?)";
    default: return "";
  }
}

}  // namespace

struct Transport::Connection::Incoming {
  CURL* easy;
  Piece piece;
  absl::Status refused;    // what `piece` returned, when not OK
  std::string error_body;  // of an answer that is not 2xx
};

Transport::Connection::Connection() : multi_((InitCurlOnce(), curl_multi_init())), easy_(curl_easy_init()) {}

Transport::Connection::~Connection() {
  curl_easy_cleanup(easy_);
  curl_multi_cleanup(multi_);
  curl_slist_free_all(headers_);
  curl_slist_free_all(connect_to_);
}

size_t Transport::Connection::OnBody(char* data, size_t size, size_t count, void* opaque) {
  Incoming& incoming = *static_cast<Incoming*>(opaque);
  const absl::string_view piece(data, size * count);
  long code = 0;
  curl_easy_getinfo(incoming.easy, CURLINFO_RESPONSE_CODE, &code);
  if (code < 200 || code > 299) {
    const size_t room = kMaxErrorBytes - incoming.error_body.size();
    incoming.error_body.append(piece.data(), std::min(piece.size(), room));
    return piece.size();
  }
  incoming.refused = incoming.piece(piece);
  return incoming.refused.ok() ? piece.size() : CURL_WRITEFUNC_ERROR;
}

void Transport::Connection::AddHeader(const std::string& line) {
  headers_ = curl_slist_append(headers_, line.c_str());
}

// curl verifies the certificate against the host in the URL; a name of its own is put there, and the
// connection is led to the real address.
void Transport::Connection::PrepareAddress(const Config& config, const std::string& path) {
  if (config.tls_server_name.empty()) {
    curl_easy_setopt(easy_, CURLOPT_URL, absl::StrCat(config.server, path).c_str());
    return;
  }
  absl::string_view rest = config.server;
  absl::ConsumePrefix(&rest, "https://");
  const absl::string_view authority = rest.substr(0, rest.find('/'));
  const bool has_port =
      authority.find(':', authority.rfind(']') == absl::string_view::npos ? 0 : authority.rfind(']')) !=
      absl::string_view::npos;
  connect_to_ = curl_slist_append(nullptr, absl::StrCat("::", authority, has_port ? "" : ":443").c_str());
  curl_easy_setopt(easy_, CURLOPT_CONNECT_TO, connect_to_);
  const absl::string_view prefix = rest.substr(authority.size());
  curl_easy_setopt(easy_, CURLOPT_URL,
                   absl::StrCat("https://", config.tls_server_name, prefix, path).c_str());
}

void Transport::Connection::PrepareTls(const Config& config) {
  curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(easy_, CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
  if (!config.ca.empty()) {
    // Only this authority, not the system's beside it.
    curl_easy_setopt(easy_, CURLOPT_CAINFO, nullptr);
    curl_easy_setopt(easy_, CURLOPT_CAPATH, nullptr);
    curl_blob ca = Borrowed(config.ca);
    curl_easy_setopt(easy_, CURLOPT_CAINFO_BLOB, &ca);
  }
  if (!config.client_certificate.empty()) {
    curl_blob certificate = Borrowed(config.client_certificate);
    curl_blob key = Borrowed(config.client_key);
    curl_easy_setopt(easy_, CURLOPT_SSLCERTTYPE, "PEM");
    curl_easy_setopt(easy_, CURLOPT_SSLKEYTYPE, "PEM");
    curl_easy_setopt(easy_, CURLOPT_SSLCERT_BLOB, &certificate);
    curl_easy_setopt(easy_, CURLOPT_SSLKEY_BLOB, &key);
  }
}

void Transport::Connection::Prepare(const Config& config, const TransportOptions& options,
                                    const Request& request) {
  curl_easy_reset(easy_);
  curl_slist_free_all(std::exchange(connect_to_, nullptr));
  error_[0] = '\0';
  PrepareAddress(config, request.path);
  PrepareTls(config);
  curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy_, CURLOPT_PROXY, "");
  curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, error_);
  curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(options.connect_timeout)));
  // A peer that is gone without a word is noticed within a minute and a half, also by a watch on which
  // nothing happens.
  curl_easy_setopt(easy_, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy_, CURLOPT_TCP_KEEPIDLE, 30L);
  curl_easy_setopt(easy_, CURLOPT_TCP_KEEPINTVL, 10L);
  curl_easy_setopt(easy_, CURLOPT_TCP_KEEPCNT, 6L);
  curl_easy_setopt(easy_, CURLOPT_USERAGENT, config.user_agent.c_str());
  curl_easy_setopt(easy_, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  if (!request.content_type.empty()) {
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDS, request.body.data());
  }
}

// Until the transfer is over. When we end it ourselves, `stopped` says why.
CURLcode Transport::Connection::Wait(const Request& request, absl::Duration deadline, absl::Status& stopped) {
  int running = 1;
  for (;;) {
    if (request.cancellation != nullptr && request.cancellation->cancelled()) {
      stopped = absl::CancelledError("cancelled");
      return CURLE_ABORTED_BY_CALLBACK;
    }
    if (const CURLMcode code = curl_multi_perform(multi_, &running); code != CURLM_OK)
      return CURLE_FAILED_INIT;
    if (running == 0) break;
    const absl::Duration left = deadline - Clock::Real().Monotonic();
    if (left <= absl::ZeroDuration()) {
      stopped = absl::DeadlineExceededError(
          absl::StrCat("no answer within ", absl::FormatDuration(request.timeout)));
      return CURLE_OPERATION_TIMEDOUT;
    }
    const int64_t wait = std::clamp<int64_t>(absl::ToInt64Milliseconds(left) + 1, 1, 60'000);
    curl_multi_poll(multi_, nullptr, 0, static_cast<int>(wait), nullptr);
  }
  int left = 0;
  const CURLMsg* message = curl_multi_info_read(multi_, &left);
  return message != nullptr && message->msg == CURLMSG_DONE ? message->data.result : CURLE_FAILED_INIT;
}

absl::Status Transport::Connection::Outcome(CURLcode code, const Config& config, const Request& request,
                                            Incoming& incoming) {
  if (!incoming.refused.ok()) return incoming.refused;
  if (code != CURLE_OK) {
    const char* detail = error_[0] != '\0' ? error_ : curl_easy_strerror(code);
    return absl::Status(CodeFor(code), absl::StrCat(request.method, " ", config.server, request.path, ": ",
                                                    detail, Advice(code)));
  }
  if (http_code_ >= 200 && http_code_ <= 299) return absl::OkStatus();
  curl_off_t retry_after = 0;
  curl_easy_getinfo(easy_, CURLINFO_RETRY_AFTER, &retry_after);
  return StatusFromResponse(http_code_, incoming.error_body,
                            retry_after > 0 ? absl::StrCat(retry_after) : "");
}

absl::Status Transport::Connection::Perform(const Config& config, const TransportOptions& options,
                                            const Request& request, const std::string& token,
                                            absl::Duration deadline, Piece piece) {
  http_code_ = 0;
  if (multi_ == nullptr || easy_ == nullptr) return absl::ResourceExhaustedError("libcurl gave no handle");
  Prepare(config, options, request);
  AddHeader("Accept: application/json");
  AddHeader("Expect:");
  if (!request.content_type.empty()) AddHeader(absl::StrCat("Content-Type: ", request.content_type));
  if (!token.empty()) AddHeader(absl::StrCat("Authorization: Bearer ", token));
  curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers_);
  Incoming incoming{.easy = easy_, .piece = piece};
  curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, &Connection::OnBody);
  curl_easy_setopt(easy_, CURLOPT_WRITEDATA, &incoming);

  absl::Status stopped;
  curl_multi_add_handle(multi_, easy_);
  const CURLcode code = Wait(request, deadline, stopped);
  curl_multi_remove_handle(multi_, easy_);
  curl_slist_free_all(std::exchange(headers_, nullptr));
  long http_code = 0;
  curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &http_code);
  http_code_ = static_cast<int>(http_code);
  if (!stopped.ok()) {
    return absl::Status(stopped.code(), absl::StrCat(request.method, " ", config.server, request.path, ": ",
                                                     stopped.message()));
  }
  return Outcome(code, config, request, incoming);
}

}  // namespace godwit::k8s
