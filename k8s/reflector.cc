// SPDX-License-Identifier: Apache-2.0
#include "k8s/reflector.h"

#include <utility>

#include "absl/log/log.h"
#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "k8s/error.h"

namespace godwit::k8s {
namespace {

// A watch that the server ended sooner than this was no success: it must not be asked again without a pause.
constexpr absl::Duration kShortWatch = absl::Seconds(1);
// So many cut watches in a row, and the version we resume from is no longer believed.
constexpr int kCutsBeforeRelist = 5;

std::string VersionOf(const rapidjson::Value& object) {
  auto meta = object.FindMember("metadata");
  if (meta == object.MemberEnd() || !meta->value.IsObject()) return "";
  auto version = meta->value.FindMember("resourceVersion");
  if (version == meta->value.MemberEnd() || !version->value.IsString()) return "";
  return std::string(version->value.GetString(), version->value.GetStringLength());
}

}  // namespace

Reflector::Reflector(Api api, const Resource& resource, InformerOptions options, ReflectorSink* sink)
    : resource_(resource), options_(std::move(options)), sink_(sink), api_(api.With(&cancellation_)) {}

void Reflector::Start() {
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void Reflector::Stop() {
  cancellation_.Cancel();
  if (thread_.joinable()) thread_.join();
}

absl::Status Reflector::last_error() const {
  absl::MutexLock lock(&mutex_);
  return last_error_;
}

void Reflector::Run() {
  absl::string_view reason = "start";
  while (!cancellation_.cancelled()) {
    const bool listing = version_.empty();
    const absl::Duration begin = Clock::Real().Monotonic();
    const absl::Status status = listing ? Relist(reason) : WatchOnce();
    if (cancellation_.cancelled()) return;
    if (status.ok() && (listing || Clock::Real().Monotonic() - begin >= kShortWatch)) {
      failures_ = 0;
      continue;
    }
    ++failures_;
    if (!status.ok()) {
      absl::MutexLock lock(&mutex_);
      last_error_ = status;
    }
    if (IsGone(status)) {
      version_.clear();
      reason = "expired";
    } else if (absl::IsDataLoss(status) || IsBadRequest(status) ||
               (!listing && !status.ok() && failures_ % kCutsBeforeRelist == 0)) {
      version_.clear();
      reason = "broken";
    }
    if (!status.ok() && !IsGone(status)) {
      LOG(WARNING) << Log("list or watch failed, trying again")
                          .With("resource", resource_.plural)
                          .With("failures", failures_)
                          .With(status);
      if (options_.on_error) options_.on_error(resource_.plural, status);
    }
    // An expired version is nothing to wait for, the first time.
    if (IsGone(status) && failures_ == 1) continue;
    if (cancellation_.WaitFor(NextPause())) return;
  }
}

absl::Duration Reflector::NextPause() {
  static thread_local absl::BitGen random;
  const BackoffPolicy policy{.first = options_.backoff, .longest = options_.max_backoff, .jitter = 0.5};
  return BackoffDelay(policy, failures_ - 1, absl::Uniform(random, 0.0, 1.0));
}

absl::Status Reflector::ListPages(int64_t page_size, std::vector<rapidjson::Document>& pages) {
  ListOptions list{.label_selector = options_.label_selector,
                   .field_selector = options_.field_selector,
                   .limit = page_size};
  do {
    GODWIT_ASSIGN_OR_RETURN(rapidjson::Document page, api_.List(resource_, options_.name_space, list));
    auto meta = page.FindMember("metadata");
    if (meta == page.MemberEnd()) return absl::DataLossError("a list without metadata");
    GODWIT_ASSIGN_OR_RETURN(const ListMeta parsed, json::FromValue<ListMeta>(meta->value, "metadata"));
    if (parsed.resource_version.empty()) return absl::DataLossError("a list without a resourceVersion");
    list.continue_token = parsed.continue_token;
    pages.push_back(std::move(page));
  } while (!list.continue_token.empty());
  return absl::OkStatus();
}

absl::Status Reflector::Relist(absl::string_view reason) {
  if (options_.on_list) options_.on_list(resource_.plural, reason);
  std::vector<rapidjson::Document> pages;
  absl::Status status = ListPages(options_.page_size, pages);
  if (IsGone(status) && !pages.empty()) {  // the pages took longer than the server keeps their version
    pages.clear();
    status = ListPages(0, pages);
  }
  GODWIT_RETURN_IF_ERROR(status);
  sink_->Replace(pages);
  version_ = VersionOf(pages.back());
  return absl::OkStatus();
}

absl::Status Reflector::WatchOnce() {
  static thread_local absl::BitGen random;
  WatchOptions watch{.label_selector = options_.label_selector,
                     .field_selector = options_.field_selector,
                     .resource_version = version_};
  watch.timeout = options_.watch_timeout * absl::Uniform(random, 1.0, 2.0);
  return api_.Watch(resource_, options_.name_space, watch,
                    [this](WatchEventType type, const rapidjson::Value& object) {
                      std::string version = VersionOf(object);
                      if (version.empty())
                        return absl::DataLossError("a watch event without a resourceVersion");
                      sink_->Apply(type, object);
                      version_ = std::move(version);
                      failures_ = 0;
                      return absl::OkStatus();
                    });
}

}  // namespace godwit::k8s
