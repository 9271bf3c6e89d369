// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/rehearsal.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/api/findings.h"
#include "agent/memory/shared_key.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/page_sender.h"
#include "base/clock.h"
#include "base/status.h"

namespace godwit::migration {
namespace {

using agent_api::CopyMode;
using transfer::FrameType;

constexpr absl::Duration kConnectLimit = absl::Seconds(5);
constexpr absl::Duration kAnswerLimit = absl::Seconds(10);
constexpr int kRoundTrips = 3;
constexpr uint64_t kSlice = uint64_t{2} << 20;
// Samples that sent less say little of the link.
constexpr int64_t kTellingBytes = int64_t{4} << 20;

// The connection to the target's agent.
class Link {
 public:
  static absl::StatusOr<Link> Open(const agent_api::RehearsalRequest& request, const RehearsalNode& node) {
    const absl::Time deadline = SteadyNow() + kConnectLimit;
    GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<transfer::Stream> stream,
                            node.connect(request.target_address, request.target_node, deadline));
    const transfer::Hello hello{.role = transfer::Role::kRehearsal,
                                .uid = request.pod.uid,
                                .from_node = node.node,
                                .to_node = request.target_node};
    GODWIT_RETURN_IF_ERROR(stream->SendMessage(FrameType::kHello, hello, deadline));
    GODWIT_ASSIGN_OR_RETURN(const transfer::Frame frame, stream->Receive(deadline));
    if (frame.type == FrameType::kHelloOk) return Link(std::move(stream));
    if (frame.type != FrameType::kRefused)
      return absl::InvalidArgumentError(absl::StrCat("it answered with ", FrameTypeName(frame.type)));
    GODWIT_ASSIGN_OR_RETURN(const transfer::Reason reason, transfer::DecodeMessage<transfer::Reason>(frame));
    return absl::FailedPreconditionError(absl::StrCat("it refused: ", reason.message));
  }

  transfer::Stream* stream() { return stream_.get(); }

  // Until all that was sent has been taken there; how long that took from now.
  absl::StatusOr<absl::Duration> AwaitArrival() {
    const absl::Time begin = SteadyNow(), deadline = begin + kAnswerLimit;
    GODWIT_RETURN_IF_ERROR(stream_->SendMessage(FrameType::kRoundEnd, transfer::Round{++rounds_}, deadline));
    GODWIT_ASSIGN_OR_RETURN(const transfer::Frame frame, stream_->Receive(deadline));
    if (frame.type != FrameType::kRoundOk)
      return absl::InvalidArgumentError(absl::StrCat("it answered with ", FrameTypeName(frame.type)));
    return SteadyNow() - begin;
  }

  absl::StatusOr<absl::Duration> RoundTrip() {
    absl::Duration shortest = absl::InfiniteDuration();
    for (int i = 0; i < kRoundTrips; ++i) {
      GODWIT_ASSIGN_OR_RETURN(const absl::Duration took, AwaitArrival());
      shortest = std::min(shortest, took);
    }
    return shortest;
  }

 private:
  explicit Link(std::unique_ptr<transfer::Stream> stream) : stream_(std::move(stream)) {}

  std::unique_ptr<transfer::Stream> stream_;
  int64_t rounds_ = 0;
};

// What was sent, and of what was not first, in what time.
struct Sent {
  int64_t looked_at = 0, wire = 0;
  transfer::PageTotals timed;
  absl::Duration took;
  void Add(const transfer::PageTotals& before, const transfer::PageTotals& after) {
    looked_at += after.looked_at - before.looked_at;
    wire += after.wire - before.wire;
  }
  void Time(const transfer::PageTotals& before, const transfer::PageTotals& after, absl::Duration more) {
    timed.looked_at += after.looked_at - before.looked_at;
    timed.sent += after.sent - before.sent;
    took += more;
  }
};

// Content that nothing compresses.
void Noise(uint64_t address, char* to, size_t size) {
  uint64_t state = address * 0x9e3779b97f4a7c15 + 1;
  for (size_t at = 0; at + sizeof(state) <= size; at += sizeof(state)) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memcpy(to + at, &state, sizeof(state));
  }
}

// One container under its tracker.
class Tracked {
 public:
  Tracked(const std::string& name, std::unique_ptr<TrackedMemory> memory, const MemoryNode& node)
      : memory_(std::move(memory)),
        sender_(
            name,
            [this, &node](pid_t task, uint64_t address, char* to, size_t size) {
              return ReadTracked(node, *memory_, task, address, to, size);
            },
            &bucket_) {}

  TrackedMemory& memory() { return *memory_; }

  absl::Status First(const MemoryNode& node, const std::string& cgroup) {
    began_ = SteadyNow();
    GODWIT_ASSIGN_OR_RETURN(LookAndContents around, LookAround(node, *memory_, cgroup, kFirstContentsLimit));
    first_ = std::move(around.look);
    looked_at_ = began_;
    std::map<pid_t, Told> told;
    criu_bytes_ = LeftToCriu(around.contents, first_, told);
    return absl::OkStatus();
  }
  int64_t criu_bytes() const { return criu_bytes_; }
  int64_t memory_bytes() const { return static_cast<int64_t>(first_.owned_bytes()); }
  int64_t shared_bytes() const {
    int64_t bytes = 0;
    for (const memory::TaskPages& object : first_.shared)
      bytes += static_cast<int64_t>(memory::Bytes(object.dirty));
    return bytes;
  }
  int64_t content_bytes() const { return static_cast<int64_t>(first_.dirty_bytes()) + shared_bytes(); }
  absl::Duration look() const { return first_.took; }

  // One in `every` bytes of the content, by `deadline` at most.
  absl::Status Send(Link& link, uint64_t every, absl::Time deadline, Sent& sent) {
    sender_.SetStream(link.stream());
    bool warm = false;
    for (const std::vector<memory::TaskPages>* pages : {&first_.tasks, &first_.shared}) {
      for (const memory::TaskPages& task : *pages) {
        memory::Ranges sample = Evenly(task.dirty, every);
        while (!sample.empty() && SteadyNow() < deadline) {
          const memory::Ranges slice = TakeSlice(sample);
          const transfer::PageTotals before = totals_;
          const absl::Time begin = SteadyNow();
          GODWIT_RETURN_IF_ERROR(
              sender_.Send(task.pid, task.container_pid, slice, begin + kAnswerLimit, &totals_));
          if (memory::IsShared(task.pid)) known_[task.pid] = memory::Union(known_[task.pid], slice);
          // The first slice finds an empty congestion window and compressors that nobody has measured.
          if (!warm) GODWIT_RETURN_IF_ERROR(link.AwaitArrival().status());
          sent.Add(before, totals_);
          if (std::exchange(warm, true)) sent.Time(before, totals_, SteadyNow() - begin);
        }
      }
    }
    const absl::StatusOr<absl::Duration> arrival = link.AwaitArrival();
    GODWIT_RETURN_IF_ERROR(arrival.status());
    sent.took += *arrival;
    return absl::OkStatus();
  }

  // What was written since the last look, or, in shared memory, since its sample was sent.
  absl::StatusOr<Sample::Written> Look() {
    const absl::Time now = SteadyNow();
    GODWIT_ASSIGN_OR_RETURN(const memory::Look look, memory_->Round());
    Sample::Written written{.within = now - std::exchange(looked_at_, now),
                            .bytes = static_cast<int64_t>(look.dirty_bytes())};
    for (const memory::TaskPages& object : look.shared) {
      // What has no content any more is not to be touched: reading it would take memory.
      const memory::Ranges known = memory::Intersection(known_[object.pid], object.dirty);
      if (known.empty()) continue;
      const absl::Time begin = SteadyNow();
      const memory::Ranges differing =
          sender_.Differing(object.container_pid, known, memory_->SharedMemory(object.pid));
      const double share =
          static_cast<double>(memory::Bytes(object.dirty)) / static_cast<double>(memory::Bytes(known));
      comparing_[object.pid] = share * (SteadyNow() - begin);
      const double since_sent = absl::ToDoubleSeconds(now - began_);
      const double changed = static_cast<double>(memory::Bytes(differing)) * share;
      // As if it had been written at a steady pace: what was sent is not sent again.
      written.shared_bytes += static_cast<int64_t>(
          changed * std::min(1.0, absl::ToDoubleSeconds(written.within) / std::max(since_sent, 1e-6)));
    }
    written.bytes += written.shared_bytes;
    return written;
  }

  absl::Duration comparing() const {
    absl::Duration sum;
    for (const auto& [key, took] : comparing_) sum += took;
    return sum;
  }

 private:
  // The first kSlice bytes of `from`, taken off it.
  static memory::Ranges TakeSlice(memory::Ranges& from) {
    memory::Ranges slice;
    size_t whole = 0;
    for (uint64_t left = kSlice; whole < from.size() && left > 0;) {
      memory::Range& next = from[whole];
      const uint64_t taken = std::min(left, next.bytes());
      slice.push_back({next.start, next.start + taken});
      next.start += taken;
      left -= taken;
      if (next.start == next.end) ++whole;
    }
    from.erase(from.begin(), from.begin() + static_cast<ptrdiff_t>(whole));
    return slice;
  }

  std::unique_ptr<TrackedMemory> memory_;
  transfer::TokenBucket bucket_{0};
  transfer::PageSender sender_;
  transfer::PageTotals totals_;
  memory::Look first_;
  int64_t criu_bytes_ = 0;
  absl::Time began_, looked_at_;
  std::map<pid_t, memory::Ranges> known_;  // of shared memory, what was sent
  std::map<pid_t, absl::Duration> comparing_;
};

// How fast the link is for content that does not compress.
absl::Status SendNoise(Link& link, int64_t bytes, absl::Time deadline, Sent& sent) {
  transfer::TokenBucket no_limit(0);
  transfer::PageSender sender(
      "noise",
      [](pid_t, uint64_t address, char* to, size_t size) -> absl::StatusOr<size_t> {
        Noise(address, to, size);
        return size;
      },
      &no_limit);
  sender.SetStream(link.stream());
  transfer::PageTotals totals;
  const absl::Time begin = SteadyNow();
  for (uint64_t at = 0; at < static_cast<uint64_t>(bytes) && SteadyNow() < deadline; at += kSlice) {
    GODWIT_RETURN_IF_ERROR(sender.Send(1, 1, {{at, at + kSlice}}, SteadyNow() + kAnswerLimit, &totals));
  }
  GODWIT_RETURN_IF_ERROR(link.AwaitArrival().status());
  sent.Add({}, totals);
  sent.Time({}, totals, SteadyNow() - begin);
  return absl::OkStatus();
}

class Rehearsal {
 public:
  Rehearsal(const agent_api::RehearsalRequest& request, const RehearsalNode& node, const RehearsalPace& pace)
      : request_(request), node_(node), pace_(pace) {}

  absl::StatusOr<agent_api::RehearsalReport> Run() {
    GODWIT_ASSIGN_OR_RETURN(pod_, node_.find_pod(request_));
    GODWIT_RETURN_IF_ERROR(CheckFilled());
    for (const PodOnNode::Part& part : pod_.parts) {
      if (node_.memory.weigh) report_.weight += node_.memory.weigh(node_.cgroup_here(part.container.cgroup));
    }
    if (absl::Status linked = UseLink(); !linked.ok()) {
      report_.findings.push_back(
          agent_api::MakeFinding("StreamUnreachable", "",
                                 absl::StrCat("node ", node_.node, " cannot send to the agent of node ",
                                              request_.target_node, " at ", request_.target_address),
                                 std::string(linked.message())));
    }
    Foretell();
    return std::move(report_);
  }

 private:
  absl::Status CheckFilled() const {
    std::vector<std::string> ids;
    for (const PodOnNode::Part& part : pod_.parts) ids.push_back(part.container.id);
    if (!node_.filling || !node_.filling(ids)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        "the pod's memory is still being filled after its last move: try again when it has arrived");
  }

  // All containers, or none.
  absl::Status Attach() {
    for (const PodOnNode::Part& part : pod_.parts) {
      const std::string what = absl::StrCat("container ", part.container.name);
      absl::StatusOr<std::unique_ptr<TrackedMemory>> memory =
          Track(node_.memory, node_.cgroup_here(part.container.cgroup));
      if (!memory.ok()) return Annotate(memory.status(), what);
      tracked_.push_back(std::make_unique<Tracked>(part.container.name, *std::move(memory), node_.memory));
      const std::vector<memory::Pinned> pinned = tracked_.back()->memory().FindPinned();
      if (!pinned.empty())
        return absl::FailedPreconditionError(absl::StrCat(what, ": ", pinned.front().what));
    }
    for (size_t i = 0; i < tracked_.size(); ++i) {
      const std::string cgroup = node_.cgroup_here(pod_.parts[i].container.cgroup);
      GODWIT_RETURN_IF_ERROR(tracked_[i]->First(node_.memory, cgroup));
    }
    return absl::OkStatus();
  }

  // Tracks, sends, looks, lets go. An error is the link's.
  absl::Status UseLink() {
    const absl::Time begin = SteadyNow();
    if (request_.mode != CopyMode::kStopAndCopy) {
      if (absl::Status attached = Attach(); !attached.ok()) {
        report_.fallback = std::string(attached.message());
        tracked_.clear();
      }
    }
    const absl::Status linked = SendSample();
    if (!tracked_.empty()) LookAgain();
    for (const auto& one : tracked_) sample_.comparing += one->comparing();
    if (!tracked_.empty()) report_.sampled = SteadyNow() - begin;
    tracked_.clear();
    return linked;
  }

  absl::Status SendSample() {
    for (const auto& one : tracked_) {
      sample_.memory_bytes += one->memory_bytes();
      sample_.content_bytes += one->content_bytes();
      sample_.shared_bytes += one->shared_bytes();
      sample_.criu_bytes += one->criu_bytes();
      sample_.look += one->look();
    }
    GODWIT_ASSIGN_OR_RETURN(Link link, Link::Open(request_, node_));
    GODWIT_ASSIGN_OR_RETURN(report_.round_trip, link.RoundTrip());
    const absl::Time deadline = SteadyNow() + pace_.sending;
    const uint64_t pieces = std::max<uint64_t>(1, static_cast<uint64_t>(pace_.sample_bytes) / kSamplePiece);
    const uint64_t every = std::max(kSamplePiece, static_cast<uint64_t>(sample_.content_bytes) / pieces /
                                                      memory::PageBytes() * memory::PageBytes());
    Sent sent;
    for (const auto& one : tracked_) GODWIT_RETURN_IF_ERROR(one->Send(link, every, deadline, sent));
    report_.sampled_bytes = sent.wire;
    if (sent.looked_at > 0)
      sample_.wire_share = static_cast<double>(sent.wire) / static_cast<double>(sent.looked_at);
    if (sent.took > absl::ZeroDuration()) {
      sample_.page_rate = static_cast<double>(sent.timed.looked_at) / absl::ToDoubleSeconds(sent.took);
      sample_.throughput = static_cast<double>(sent.timed.sent) / absl::ToDoubleSeconds(sent.took);
    }
    if (sent.timed.sent >= kTellingBytes) return absl::OkStatus();
    Sent noise;
    GODWIT_RETURN_IF_ERROR(SendNoise(link, pace_.filler_bytes, SteadyNow() + pace_.sending, noise));
    report_.sampled_bytes += noise.wire;
    if (noise.took > absl::ZeroDuration())
      sample_.throughput = static_cast<double>(noise.timed.sent) / absl::ToDoubleSeconds(noise.took);
    sample_.page_rate = std::max(sample_.page_rate, sample_.throughput);
    return absl::OkStatus();
  }

  // Of all containers together; what one of them cannot tell any more is left out.
  void LookAgain() {
    std::map<absl::Duration, std::vector<Sample::Written>> by_pause;
    for (size_t i = 0; i <= pace_.pauses.size(); ++i) {
      // The first look ends the time in which the sample was sent.
      const absl::Duration pause = i == 0 ? absl::ZeroDuration() : pace_.pauses[i - 1];
      absl::SleepFor(pause);
      Sample::Written all;
      for (const auto& one : tracked_) {
        const absl::StatusOr<Sample::Written> written = one->Look();
        if (!written.ok()) continue;
        all.within = std::max(all.within, written->within);
        all.bytes += written->bytes;
        all.shared_bytes += written->shared_bytes;
      }
      by_pause[i == 0 ? all.within : pause].push_back(all);
    }
    for (const auto& [pause, looks] : by_pause) sample_.written.push_back(Mean(looks));
    std::sort(sample_.written.begin(), sample_.written.end(),
              [](const Sample::Written& a, const Sample::Written& b) { return a.within < b.within; });
  }
  static Sample::Written Mean(const std::vector<Sample::Written>& looks) {
    Sample::Written mean;
    for (const Sample::Written& look : looks) {
      mean.within += look.within;
      mean.bytes += look.bytes;
      mean.shared_bytes += look.shared_bytes;
    }
    const auto count = static_cast<int64_t>(looks.size());
    return {mean.within / count, mean.bytes / count, mean.shared_bytes / count};
  }

  void Foretell() {
    const int containers = static_cast<int>(pod_.parts.size());
    const FixedPart fixed = FixedPartFor(containers, report_.weight);
    const bool stops = request_.mode == CopyMode::kStopAndCopy;
    sample_.criu_bytes = BeyondSmall(sample_.criu_bytes, containers, report_.weight.processes);
    const Forecast forecast =
        stops || !report_.fallback.empty()
            ? ForecastStopAndCopy(sample_, fixed, request_.memory_bytes, request_.file_bytes, !stops)
            : ForecastCopy(sample_, fixed, request_.mode, request_.limits, request_.file_bytes);
    report_.converges = forecast.converges;
    report_.rounds = forecast.rounds;
    report_.copying = forecast.copying;
    report_.freeze = forecast.freeze;
    report_.fixed = fixed.freeze;
    report_.pulling = forecast.pulling;
    report_.transfer_bytes = forecast.transfer_bytes;
    report_.memory_bytes = sample_.memory_bytes;
    report_.throughput = static_cast<int64_t>(sample_.throughput);
    if (sample_.written.empty()) return;
    const Sample::Written& longest = sample_.written.back();
    report_.dirty_bytes = longest.bytes;
    if (longest.within > absl::ZeroDuration())
      report_.dirty_rate =
          static_cast<int64_t>(static_cast<double>(longest.bytes) / absl::ToDoubleSeconds(longest.within));
  }

  const agent_api::RehearsalRequest& request_;
  const RehearsalNode& node_;
  const RehearsalPace& pace_;
  PodOnNode pod_;
  std::vector<std::unique_ptr<Tracked>> tracked_;
  Sample sample_;
  agent_api::RehearsalReport report_;
};

}  // namespace

memory::Ranges Evenly(const memory::Ranges& pages, uint64_t every) {
  memory::Ranges out;
  uint64_t at = 0;  // in all of them, one after the other
  for (const memory::Range& range : pages) {
    for (uint64_t start = range.start; start < range.end;) {
      const uint64_t within = at % every;
      const uint64_t next = within < kSamplePiece ? std::min(kSamplePiece, every) : every;
      const uint64_t step = std::min(range.end - start, next - within);
      if (within < kSamplePiece) memory::Append(out, {start, start + step});
      start += step;
      at += step;
    }
  }
  return out;
}

absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request,
                                                    const RehearsalNode& node, const RehearsalPace& pace) {
  return Rehearsal(request, node, pace).Run();
}

}  // namespace godwit::migration
