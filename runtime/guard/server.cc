// SPDX-License-Identifier: Apache-2.0
#include "runtime/guard/server.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/failpoint.h"
#include "base/json.h"
#include "base/log.h"

namespace godwit::guard {
namespace {

constexpr absl::Duration kReplyLimit = absl::Seconds(1);
constexpr size_t kMaxCommands = 16;  // waiting for a dump to end

}  // namespace

Server::Server(const GuardSpec& spec, HostActs& acts, UniqueFd listener, int end_signal, Clock& clock)
    : acts_(acts),
      listener_(std::move(listener)),
      end_signal_(end_signal),
      clock_(clock),
      guard_(spec, acts, acts.journaled()),
      idle_since_(clock.Monotonic()) {
  guard_.Recover(clock_.Monotonic());
}

void Server::Run() {
  while (!Finished()) {
    Wait();
    WatchDump();
    guard_.Tick(clock_.Monotonic());
    HandleCommands();
  }
}

bool Server::Finished() const {
  return MayEnd(guard_, had_agent_, agent_.has_value(), clock_.Monotonic() - idle_since_);
}

int Server::Timeout() const {
  absl::Duration sleep = absl::InfiniteDuration();
  const absl::Duration now = clock_.Monotonic();
  if (const std::optional<absl::Duration> limit = guard_.deadline(); limit.has_value()) sleep = *limit - now;
  if (acts_.dump() != nullptr && acts_.dump()->kill_at().has_value()) {
    sleep = std::min(sleep, *acts_.dump()->kill_at() - now);
  }
  if (guard_.finished() || !had_agent_) sleep = std::min(sleep, absl::Seconds(1));
  if (sleep == absl::InfiniteDuration()) return -1;
  return static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Milliseconds(absl::Ceil(sleep, absl::Milliseconds(1))), 0, 60'000));
}

void Server::Wait() {
  pollfd sources[5] = {{listener_.get(), POLLIN, 0},
                       {end_signal_, POLLIN, 0},
                       {agent_.has_value() ? agent_->fd() : -1, POLLIN, 0},
                       {acts_.dump() != nullptr ? acts_.dump()->pidfd() : -1, POLLIN, 0},
                       {acts_.dump() != nullptr ? acts_.dump()->done_fd() : -1, POLLIN, 0}};
  if (poll(sources, 5, Timeout()) <= 0) return;
  if (sources[2].revents != 0) ReadCommands();
  if (sources[0].revents != 0) Accept();
  if (sources[1].revents != 0) {
    LOG(WARNING) << Log("told to end").With("state", json::Name(guard_.state()));
    guard_.AgentGone(clock_.Monotonic());
    end_signal_ = -1;
  }
}

void Server::Accept() {
  absl::StatusOr<UniqueFd> connection = AcceptUnix(listener_.get(), absl::ZeroDuration());
  if (!connection.ok()) return;
  LineChannel channel(*std::move(connection), size_t{64} << 10);
  if (agent_.has_value()) {
    // Not a second voice beside the first: the agent that is gone is seen by its closed connection.
    GuardReply reply = guard_.Status(clock_.Monotonic());
    reply.ok = false;
    reply.reason = "Busy";
    reply.message = "another connection to this guard is open";
    channel.WriteLine(json::Encode(reply), kReplyLimit).IgnoreError();  // it is refused either way
    return;
  }
  agent_ = std::move(channel);
  had_agent_ = true;
  idle_since_ = clock_.Monotonic();
}

void Server::ReadCommands() {
  while (agent_.has_value()) {
    absl::StatusOr<std::string> line = agent_->ReadLine(absl::ZeroDuration());
    if (absl::IsDeadlineExceeded(line.status())) return;
    if (!line.ok() || commands_.size() >= kMaxCommands) return LoseAgent();
    commands_.push_back(*std::move(line));
  }
}

void Server::HandleCommands() {
  while (!commands_.empty()) {
    const absl::StatusOr<GuardCommand> command = json::Decode<GuardCommand>(commands_.front());
    if (guard_.dumping()) {
      // Answers go out in the order of the commands; but who wants to thaw need not wait for the dump.
      const bool thaw = std::any_of(commands_.begin(), commands_.end(), [](const std::string& line) {
        const absl::StatusOr<GuardCommand> waiting = json::Decode<GuardCommand>(line);
        return waiting.ok() && waiting->op == GuardOp::kThaw;
      });
      if (thaw) guard_.Hurry();
      return;
    }
    commands_.pop_front();
    if (!command.ok()) {
      GuardReply reply = guard_.Status(clock_.Monotonic());
      reply.ok = false;
      reply.reason = "BadCommand";
      reply.message = std::string(command.status().message());
      Reply(reply);
      continue;
    }
    const std::optional<GuardReply> reply = guard_.Handle(*command, clock_.Monotonic());
    if (reply.has_value()) Reply(*reply);
  }
}

void Server::WatchDump() {
  Dump* dump = acts_.dump();
  if (dump == nullptr) return;
  if (!dump->succeeded() && !dump->ended()) {
    if (dump->kill_at().has_value() && clock_.Monotonic() >= *dump->kill_at()) dump->Kill();
    return;
  }
  const absl::Status result = acts_.FinishDump();
  Reply(guard_.DumpEnded(result, clock_.Monotonic()));
}

void Server::Reply(const GuardReply& reply) {
  idle_since_ = clock_.Monotonic();
  if (!agent_.has_value()) return;
  const absl::Status sent = agent_->WriteLine(json::Encode(reply), kReplyLimit);
  if (!sent.ok()) LoseAgent();
}

void Server::LoseAgent() {
  agent_.reset();
  commands_.clear();
  idle_since_ = clock_.Monotonic();
  LOG(INFO) << Log("the agent's connection ended").With("state", json::Name(guard_.state()));
  if (GODWIT_MUTATED("thaws-when-agent-gone") && guard_.state() == SourceState::kCeded)
    acts_.Thaw().IgnoreError();
  guard_.AgentGone(idle_since_);
}

}  // namespace godwit::guard
