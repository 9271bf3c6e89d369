// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/convergence.h"

#include <algorithm>

namespace godwit::migration {
namespace {

// Measured on two cores (docs/design/page-engine.md): a container of one small process.
constexpr absl::Duration kFixedForOne = absl::Milliseconds(75);
constexpr absl::Duration kFixedForEachMore = absl::Milliseconds(65);
constexpr absl::Duration kDump = absl::Milliseconds(35);

// What each more of something takes.
struct Costs {
  absl::Duration process, thread, descriptor, mapping;
  absl::Duration Of(const agent_api::Weight& weight) const {
    return weight.processes * process + weight.threads * thread + weight.descriptors * descriptor +
           weight.mappings * mapping;
  }
};
// From tests/node/weight_test.cc (DISABLED_Measure), on two cores: what dump and restore take more for 50 and
// 100 processes, 100 and 400 threads, 500 to 2,000 descriptors of four kinds, 1,000 and 10,000 mappings.
constexpr Costs kDumpCosts = {.process = absl::Milliseconds(8),
                              .thread = absl::Microseconds(1500),
                              .descriptor = absl::Microseconds(60),
                              .mapping = absl::Microseconds(12)};
constexpr Costs kRestoreCosts = {.process = absl::Milliseconds(4),
                                 .thread = absl::Microseconds(700),
                                 .descriptor = absl::Microseconds(30),
                                 .mapping = absl::Microseconds(20)};
// What the container of one small process has, which is in kFixedForOne.
constexpr agent_api::Weight kSmall = {.processes = 1, .threads = 1, .descriptors = 6, .mappings = 20};

// Beyond that of so many small containers.
agent_api::Weight Beyond(const agent_api::Weight& weight, int containers) {
  const auto beyond = [containers](int64_t all, int64_t small) {
    return std::max<int64_t>(0, all - containers * small);
  };
  return {.processes = beyond(weight.processes, kSmall.processes),
          .threads = std::max<int64_t>(0, weight.threads - weight.processes),  // no process' first
          .descriptors = beyond(weight.descriptors, kSmall.descriptors),
          .mappings = beyond(weight.mappings, kSmall.mappings)};
}

// CRIU's dump and restore of memory that is its own, together: 768 MiB in 1.2 s
// (docs/design/page-engine.md).
constexpr double kCriuRate = 650e6;
// What one connection carries where the link lets it (`make bench PARTS=stream`: random pages).
constexpr double kOneConnection = 1e9;
// What of any container's memory is CRIU's (data of its libraries, written), and of each further process'.
constexpr int64_t kCriuBytesOfSmall = int64_t{4} << 20;
constexpr int64_t kCriuBytesOfProcess = int64_t{1} << 20;

// A rate is the mean of what was and what is; one round is a small sample.
constexpr double kNewWeight = 0.5;
// Rounds that sent less say little of the link.
constexpr int64_t kTellingBytes = int64_t{1} << 20;
// And what a round takes besides sending is nothing beside so much.
constexpr int64_t kTellingOfLink = int64_t{16} << 20;
// Less than that is not worth a round: it goes over while CRIU starts to dump. More takes processors from the
// dump even where it is done before it.
constexpr absl::Duration kShortSending = absl::Milliseconds(10);
constexpr double kClearlyLess = 0.75;

void Mix(double& value, double sample, bool first) {
  value = first ? sample : value + kNewWeight * (sample - value);
}

}  // namespace

FixedPart FixedPartFor(int containers, const agent_api::Weight& weight) {
  const agent_api::Weight more = Beyond(weight, containers);
  const absl::Duration dump = kDumpCosts.Of(more);
  return {.freeze = kFixedForOne + (containers - 1) * kFixedForEachMore + dump + kRestoreCosts.Of(more),
          .dump = kDump * containers + dump};
}

int64_t BeyondSmall(int64_t criu_bytes, int containers, int64_t processes) {
  const int64_t further = std::max<int64_t>(0, processes - containers);
  return std::max<int64_t>(0, criu_bytes - containers * kCriuBytesOfSmall - further * kCriuBytesOfProcess);
}

absl::Duration CriuTakes(int64_t bytes, double throughput) {
  const double all = static_cast<double>(bytes);
  return absl::Seconds(all / kCriuRate + all / ThroughputOrGuess(throughput));
}

bool IsTooLate(std::optional<absl::Duration> switching) {
  return switching.value_or(absl::ZeroDuration()) > kLatestFreeze;
}

void Convergence::Add(const RoundFigures& round) {
  ++rounds_;
  if (round.since_last > absl::ZeroDuration()) {
    const double seconds = absl::ToDoubleSeconds(round.since_last);
    Mix(dirty_rate_, static_cast<double>(round.dirty_bytes) / seconds, rounds_ == 2);
    Mix(shared_rate_, static_cast<double>(round.shared_bytes) / seconds, rounds_ == 2);
  }
  const absl::Duration sending = round.took - round.comparing;
  if (round.sent_bytes >= kTellingBytes && sending > absl::ZeroDuration()) {
    Mix(throughput_, static_cast<double>(round.sent_bytes) / absl::ToDoubleSeconds(sending),
        throughput_ == 0);
    if (round.sent_bytes >= kTellingOfLink && limits_.bandwidth_limit == 0)
      link_ = std::max(link_, static_cast<double>(round.sent_bytes) / absl::ToDoubleSeconds(sending));
  }
  last_ = round;
}

absl::Duration Convergence::Sending() const {
  const double rate = pulled_ ? shared_rate_ : dirty_rate_;
  const double left = std::min(rate * absl::ToDoubleSeconds(last_.took + kToTheFreeze),
                               static_cast<double>(last_.memory_bytes));
  return absl::Seconds(left / ThroughputOrGuess(throughput_));
}

// Images go over one connection: all that the link gives, or what one can carry.
absl::Duration Convergence::CriuPart() const {
  const double even = link_ / static_cast<double>(last_.lanes);
  return CriuTakes(last_.criu_bytes, std::min(link_, std::max(even, kOneConnection)));
}

absl::Duration Convergence::OverLink(int64_t bytes) const {
  return absl::Seconds(static_cast<double>(bytes) / ThroughputOrGuess(link_));
}

bool Convergence::IsWorthARound(int64_t bytes) const { return OverLink(bytes) > kShortSending; }

bool Convergence::PullingPays() const { return PredictedFreeze() - CriuPart() > Bearable(); }

bool Convergence::AnotherRoundPays() const {
  const absl::Duration sending = Sending();
  if (rounds_ < 2 || sending <= kShortSending) return false;
  const absl::Duration looking = std::max(
      absl::ZeroDuration(),
      last_.took - absl::Seconds(static_cast<double>(last_.sent_bytes) / ThroughputOrGuess(throughput_)));
  return looking + sending + kToTheFreeze < kClearlyLess * (last_.took + kToTheFreeze);
}

absl::Duration Convergence::PredictedFreeze() const {
  const bool known = rounds_ > 1 || (rounds_ == 1 && pulled_ && last_.shared_bytes == 0);
  if (!known) return absl::InfiniteDuration();
  return fixed_.freeze + CriuPart() +
         std::max(absl::ZeroDuration(), last_.comparing + Sending() - fixed_.dump);
}

// What a post-copy is asked for is the shortest freeze there is.
absl::Duration Convergence::Bearable() const {
  return pulled_ ? std::max(limits_.freeze_budget, fixed_.freeze + CriuPart()) : limits_.freeze_budget;
}

Convergence::Verdict Convergence::Decide(absl::Duration copying,
                                         std::optional<absl::Duration> switching) const {
  if (IsTooLate(switching)) return Verdict::kTooLate;
  if (Fits()) return Verdict::kFreeze;
  if (rounds_ < 2) return Verdict::kCopyOn;
  const bool late =
      copying > limits_.pre_copy_timeout || switching.value_or(absl::ZeroDuration()) > kSwitchPatience;
  // No round makes the fixed part shorter, nor what CRIU copies, nor the comparing.
  const absl::Duration least =
      fixed_.freeze + CriuPart() + std::max(absl::ZeroDuration(), last_.comparing - fixed_.dump);
  const bool hopeless = least > Bearable() && Sending() <= fixed_.dump;
  if (!late && !hopeless) return Verdict::kCopyOn;
  return limits_.when_not_converging == agent_api::WhenNotConverging::kFail ? Verdict::kGiveUp
                                                                            : Verdict::kInsist;
}

Convergence::Surprise Convergence::JudgeUnseen(int64_t bytes, absl::Duration freeze_limit) const {
  if (pulled_) return Surprise::kLeave;
  const absl::Duration sending = OverLink(bytes);
  const bool possible = fixed_.freeze + CriuPart() + last_.comparing + Sending() + sending <= freeze_limit;
  const bool bearable = possible && sending <= limits_.freeze_budget + kSurprise;
  switch (limits_.when_not_converging) {
    case agent_api::WhenNotConverging::kFail: return bearable ? Surprise::kSend : Surprise::kGiveUp;
    case agent_api::WhenNotConverging::kPostCopy: return bearable ? Surprise::kSend : Surprise::kLeave;
    case agent_api::WhenNotConverging::kFreeze: return possible ? Surprise::kSend : Surprise::kGiveUp;
  }
  return Surprise::kSend;
}

}  // namespace godwit::migration
