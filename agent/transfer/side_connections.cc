// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/side_connections.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"

namespace godwit::transfer {
namespace {

std::string NewSession() {
  std::array<char, 16> random;
  PCHECK(getentropy(random.data(), random.size()) == 0) << "cannot draw random bytes";
  return absl::BytesToHexString({random.data(), random.size()});
}

}  // namespace

int64_t SideConnections::Useful() {
  return std::min<int64_t>(kMost, std::max(1u, std::thread::hardware_concurrency()) - 1);
}

SideConnections::Offer SideConnections::Open(std::shared_ptr<Stream> stream, int64_t wanted, int64_t useful) {
  absl::MutexLock lock(&mutex_);
  stream_ = std::move(stream);
  sides_ = std::vector<Side>(static_cast<size_t>(std::clamp<int64_t>(std::min(wanted, useful), 0, kMost)));
  session_ = sides_.empty() ? "" : NewSession();
  ended_ = absl::OkStatus();
  return {static_cast<int64_t>(sides_.size()), session_};
}

absl::Status SideConnections::Enter(const std::string& session, int64_t number,
                                    std::shared_ptr<Stream> side) {
  absl::MutexLock lock(&mutex_);
  if (stream_ == nullptr || session.empty() || session != session_)
    return absl::FailedPreconditionError("it belongs to no stream that is open");
  if (number < 1 || number > static_cast<int64_t>(sides_.size()))
    return absl::FailedPreconditionError(
        absl::StrCat("side connection ", number, " of ", sides_.size(), " that were offered"));
  Side& place = sides_[static_cast<size_t>(number - 1)];
  if (place.came)
    return absl::FailedPreconditionError(absl::StrCat("side connection ", number, " was there already"));
  place.came = true;
  place.stream = side;
  stream_->AddSide(std::move(side));
  return absl::OkStatus();
}

void SideConnections::Took(int64_t number, int64_t page_bytes) {
  absl::MutexLock lock(&mutex_);
  ++sides_[static_cast<size_t>(number - 1)].frames;
  page_bytes_ += page_bytes;
}

void SideConnections::Leave(int64_t number, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  Side& side = sides_[static_cast<size_t>(number - 1)];
  side.stream.reset();
  const bool lost = absl::IsUnavailable(why) || absl::IsCancelled(why) || absl::IsDeadlineExceeded(why);
  side.left =
      lost ? absl::UnavailableError(absl::StrCat("side connection ", number, ": ", why.message())) : why;
  if (stream_ != nullptr && ended_.ok() && (side.frames > 0 || !lost)) ended_ = side.left;
}

absl::Status SideConnections::ended() const {
  absl::MutexLock lock(&mutex_);
  return ended_;
}

absl::Status SideConnections::Await(const std::vector<int64_t>& frames, absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  if (frames.size() > sides_.size())
    return absl::InvalidArgumentError(absl::StrCat("the peer broke the stream's rules: it tells of ",
                                                   frames.size(), " side connections, of ", sides_.size(),
                                                   " that were offered"));
  auto over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return OutcomeOf(frames).has_value(); };
  mutex_.AwaitWithTimeout(absl::Condition(&over), deadline - SteadyNow());
  return OutcomeOf(frames).value_or(absl::DeadlineExceededError("side connections have not come so far yet"));
}

std::optional<absl::Status> SideConnections::OutcomeOf(const std::vector<int64_t>& frames) const {
  bool taken = true;
  for (size_t i = 0; i < frames.size(); ++i) {
    const bool unused = frames[i] == 0 && !sides_[i].left.ok();  // lost before the peer will use it
    if (sides_[i].frames >= frames[i] && !unused) continue;
    if (!sides_[i].left.ok()) return sides_[i].left;
    taken = false;
  }
  return taken ? std::optional(absl::OkStatus()) : std::nullopt;
}

absl::Status SideConnections::Close() {
  absl::MutexLock lock(&mutex_);
  stream_.reset();
  for (const Side& side : sides_) {
    if (side.stream != nullptr) side.stream->Shutdown();
  }
  auto left = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return std::all_of(sides_.begin(), sides_.end(), [](const Side& side) { return side.stream == nullptr; });
  };
  mutex_.Await(absl::Condition(&left));
  return ended_;
}

int64_t SideConnections::page_bytes() const {
  absl::MutexLock lock(&mutex_);
  return page_bytes_;
}

}  // namespace godwit::transfer
