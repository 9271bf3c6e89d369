// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/forecast.h"

#include <algorithm>

namespace godwit::migration {
namespace {

using agent_api::CopyMode;
using agent_api::PreCopyLimits;
using agent_api::WhenNotConverging;
using Verdict = Convergence::Verdict;

// CRIU's images of a small container without memory.
constexpr int64_t kImageBytes = int64_t{512} << 10;
constexpr int kMostRounds = 500;
// The rounds that go on until the target waits, and those that try for the budget then (source_copy.cc).
constexpr int kWaitingRounds = 5;
constexpr int kSwitchingRounds = 20;

// Between two looks as a straight line, beyond the last with its slope, never more than there is.
double Interpolated(const Sample& sample, absl::Duration within, int64_t Sample::Written::* figure,
                    int64_t most) {
  double seconds = 0, bytes = 0, slope = 0;
  const double wanted = absl::ToDoubleSeconds(within);
  for (const Sample::Written& look : sample.written) {
    const double at = absl::ToDoubleSeconds(look.within);
    const double found = std::max(bytes, static_cast<double>(look.*figure));
    if (at <= seconds) continue;
    slope = (found - bytes) / (at - seconds);
    if (wanted <= at) break;
    seconds = at;
    bytes = found;
  }
  return std::min(bytes + slope * (wanted - seconds), static_cast<double>(most));
}

class Rounds {
 public:
  Rounds(const Sample& sample, const FixedPart& fixed, CopyMode mode, const PreCopyLimits& limits)
      : sample_(sample),
        fixed_(fixed),
        limits_(limits),
        pulled_(mode == CopyMode::kPostCopy),
        convergence_(limits, fixed, pulled_),
        link_(ThroughputOrGuess(sample.throughput)) {
    content_rate_ = Limited(link_);
    page_rate_ = sample.page_rate > 0 ? Limited(sample.page_rate) : content_rate_;
  }

  Forecast Go(int64_t file_bytes) {
    Forecast forecast;
    copying_ = absl::Seconds(static_cast<double>(file_bytes) / content_rate_);
    Verdict verdict = Verdict::kCopyOn;
    double dirty = static_cast<double>(sample_.content_bytes),
           shared = static_cast<double>(sample_.shared_bytes);
    for (absl::Duration since; verdict == Verdict::kCopyOn && forecast.rounds < kMostRounds;
         ++forecast.rounds) {
      Copy(since, dirty, shared);
      verdict = convergence_.Decide(copying_, std::nullopt);
      since = took_;
      dirty = Written(since);
      shared = SharedWritten(since);
    }
    if (verdict == Verdict::kCopyOn) GoOnUntilTimeIsUp();
    forecast.converges = verdict == Verdict::kFreeze;
    forecast.copying = copying_;
    for (int i = 0; i < kWaitingRounds; ++i) CopyAgain(std::max(kShortestPause, kPauseFactor * took_));
    for (int i = 0; i < kSwitchingRounds && !convergence_.Fits(); ++i) CopyAgain(absl::ZeroDuration());
    const bool leaves =
        pulled_ || (!forecast.converges && limits_.when_not_converging == WhenNotConverging::kPostCopy &&
                    convergence_.PullingPays());
    forecast.freeze = Freeze(leaves);
    if (leaves) {
      const double left = Written(took_ + kToTheFreeze) - SharedWritten(took_ + kToTheFreeze);
      forecast.pulling = absl::Seconds(left / content_rate_);
      wire_ += left * sample_.wire_share;
    }
    forecast.transfer_bytes = static_cast<int64_t>(wire_) + file_bytes + sample_.criu_bytes + kImageBytes;
    return forecast;
  }

 private:
  double Limited(double rate) const {
    return limits_.bandwidth_limit > 0 ? std::min(rate, static_cast<double>(limits_.bandwidth_limit)) : rate;
  }
  double Written(absl::Duration within) const {
    return Interpolated(sample_, within, &Sample::Written::bytes, sample_.memory_bytes);
  }
  double SharedWritten(absl::Duration within) const {
    return Interpolated(sample_, within, &Sample::Written::shared_bytes, sample_.shared_bytes);
  }

  void Copy(absl::Duration since, double dirty, double shared) {
    took_ = sample_.look + sample_.comparing + absl::Seconds(dirty / page_rate_);
    copying_ += took_;
    wire_ += dirty * sample_.wire_share;
    convergence_.Add(
        {.since_last = since,
         .took = took_,
         .memory_bytes = sample_.memory_bytes,
         .dirty_bytes = static_cast<int64_t>(dirty),
         .shared_bytes = static_cast<int64_t>(shared),
         .sent_bytes = static_cast<int64_t>(dirty * content_rate_ / std::max(content_rate_, page_rate_)),
         .comparing = sample_.comparing,
         .criu_bytes = sample_.criu_bytes});
  }
  void CopyAgain(absl::Duration pause) {
    const absl::Duration since = took_ + pause, before = copying_;
    Copy(since, Written(since), SharedWritten(since));
    copying_ = before;  // the target is on its way meanwhile
  }
  // More rounds of the kind that the last one was.
  void GoOnUntilTimeIsUp() {
    const absl::Duration rest = limits_.pre_copy_timeout - copying_;
    if (rest <= absl::ZeroDuration() || took_ <= absl::ZeroDuration()) return;
    wire_ += Written(took_) * sample_.wire_share * absl::FDivDuration(rest, took_);
    copying_ = limits_.pre_copy_timeout;
  }

  // As Convergence::PredictedFreeze, but for what a mean rate cannot tell.
  absl::Duration Freeze(bool leaves) const {
    const absl::Duration since = took_ + kToTheFreeze;
    const double left = leaves ? SharedWritten(since) : Written(since);
    const absl::Duration sending = absl::Seconds(left / link_);
    return fixed_.freeze + std::max(absl::ZeroDuration(), sample_.comparing + sending - fixed_.dump) +
           CriuTakes(sample_.criu_bytes, link_);
  }

  const Sample& sample_;
  const FixedPart fixed_;
  const PreCopyLimits limits_;
  const bool pulled_;
  Convergence convergence_;
  const double link_;  // in the freeze nothing is held back
  double content_rate_ = 0, page_rate_ = 0;
  absl::Duration took_, copying_;
  double wire_ = 0;
};

}  // namespace

Forecast ForecastCopy(const Sample& sample, const FixedPart& fixed, CopyMode mode,
                      const PreCopyLimits& limits, int64_t file_bytes) {
  return Rounds(sample, fixed, mode, limits).Go(file_bytes);
}

Forecast ForecastStopAndCopy(const Sample& sample, const FixedPart& fixed, int64_t memory_bytes,
                             int64_t file_bytes, bool files_before) {
  const double link = ThroughputOrGuess(sample.throughput);
  const absl::Duration files = absl::Seconds(static_cast<double>(file_bytes) / link);
  Forecast forecast{.converges = true};
  forecast.freeze = fixed.freeze + CriuTakes(memory_bytes, link);
  (files_before ? forecast.copying : forecast.freeze) += files;
  forecast.transfer_bytes = memory_bytes + file_bytes + kImageBytes;
  return forecast;
}

}  // namespace godwit::migration
