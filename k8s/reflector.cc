// SPDX-License-Identifier: Apache-2.0
#include "k8s/reflector.h"

#include <algorithm>
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

// Objects are of a few kilobytes as a rule, but may be of more than a megabyte each: the first page is small,
// and those that follow are made so that their parsed text takes about kPageBytes.
constexpr int64_t kFirstPage = 50;
constexpr int64_t kPageBytes = int64_t{8} << 20;

int64_t NextPage(int64_t objects, size_t bytes, int64_t page_size) {
  const int64_t each = std::max<int64_t>(1, static_cast<int64_t>(bytes) / objects);
  return std::clamp<int64_t>(kPageBytes / each, 1, page_size);
}

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

// Gives the sink the objects of all pages; the list's version.
absl::StatusOr<std::string> Reflector::ListPages(bool in_pages) {
  sink_->BeginList();
  ListOptions list{.label_selector = options_.label_selector, .field_selector = options_.field_selector};
  if (in_pages) list.limit = std::min(options_.page_size, kFirstPage);
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(rapidjson::Document page, api_.List(resource_, options_.name_space, list));
    const auto meta = page.FindMember("metadata");
    if (meta == page.MemberEnd()) return absl::DataLossError("a list without metadata");
    GODWIT_ASSIGN_OR_RETURN(const ListMeta parsed, json::FromValue<ListMeta>(meta->value, "metadata"));
    if (parsed.resource_version.empty()) return absl::DataLossError("a list without a resourceVersion");
    const auto items = page.FindMember("items");
    if (items != page.MemberEnd() && items->value.IsArray()) {
      for (const rapidjson::Value& item : items->value.GetArray()) sink_->List(item);
      if (in_pages && !items->value.Empty())
        list.limit = NextPage(items->value.Size(), page.GetAllocator().Size(), options_.page_size);
    }
    if (parsed.continue_token.empty()) return parsed.resource_version;
    list.continue_token = parsed.continue_token;
  }
}

absl::Status Reflector::Relist(absl::string_view reason) {
  if (options_.on_list) options_.on_list(resource_.plural, reason);
  absl::StatusOr<std::string> version = ListPages(true);
  // The pages took longer than the server keeps their version.
  if (IsGone(version.status())) version = ListPages(false);
  GODWIT_RETURN_IF_ERROR(version.status());
  sink_->EndList();
  version_ = *std::move(version);
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
