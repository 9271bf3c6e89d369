// SPDX-License-Identifier: Apache-2.0
#include "controller/testing/fake_agents.h"

#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::controller::testing {

using agent_api::CheckpointState;
using agent_api::SourceState;
using agent_api::TargetState;

// The agent of one node. Every call holds the one lock: what is tested is the controller.
class FakeAgent : public Agent {
 public:
  FakeAgent(FakeAgents* world, std::string node) : world_(*world), node_(std::move(node)) {}

  absl::StatusOr<agent_api::NodeInfo> Node() override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    return node->info;
  }
  absl::StatusOr<agent_api::PreflightReport> Preflight(const agent_api::PreflightRequest&) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    return node->preflight;
  }
  absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    GODWIT_RETURN_IF_ERROR(world_.Reach(request.target_node).status());
    return node->rehearsal;
  }

  absl::StatusOr<agent_api::TargetStatus> PutTarget(const std::string& uid,
                                                    const agent_api::TargetSpec& spec) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto [target, added] = node->targets.try_emplace(uid);
    if (!added && target->second.spec != spec)
      return absl::FailedPreconditionError("another target of that uid");
    target->second.spec = spec;
    if (added) target->second.status.state = TargetState::kOpen;
    GODWIT_RETURN_IF_ERROR(world_.Answered());
    return target->second.status;
  }
  absl::StatusOr<agent_api::TargetStatus> GetTarget(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto target = node->targets.find(uid);
    if (target == node->targets.end()) return absl::NotFoundError("no such target");
    return target->second.status;
  }
  absl::Status AbortTarget(const std::string& uid, const agent_api::AbortRequest& why) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto target = node->targets.find(uid);
    if (target == node->targets.end()) return absl::NotFoundError("no such target");
    agent_api::TargetStatus& status = target->second.status;
    if (status.state == TargetState::kRunning) return absl::FailedPreconditionError("the target runs");
    if (status.state != TargetState::kAborted)
      status = {.state = TargetState::kAborted, .reason = why.reason, .message = why.message};
    return world_.Answered();
  }
  absl::Status TakeOver(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto target = node->targets.find(uid);
    if (target == node->targets.end()) return absl::NotFoundError("no such target");
    if (target->second.status.state == TargetState::kRunning) return world_.Answered();
    if (target->second.status.state != TargetState::kPrepared)
      return absl::FailedPreconditionError("not prepared");
    if (world_.MayRun(target->second.spec.source_node, uid)) ++world_.violations_;
    target->second.status = {.state = TargetState::kRunning};
    node->running.insert(target->second.spec.pod.uid);
    return world_.Answered();
  }
  absl::Status ForgetTarget(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto target = node->targets.find(uid);
    if (target == node->targets.end()) return absl::OkStatus();
    const TargetState state = target->second.status.state;
    if (state != TargetState::kAborted && state != TargetState::kRunning)
      return absl::FailedPreconditionError("not at its end");
    node->targets.erase(target);
    return world_.Answered();
  }

  absl::StatusOr<agent_api::SourceStatus> PutSource(const std::string& uid,
                                                    const agent_api::SourceSpec& spec) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto [source, added] = node->sources.try_emplace(uid);
    if (!added && source->second.spec != spec)
      return absl::FailedPreconditionError("another source of that uid");
    if (added) {
      ++world_.starts_;
      source->second.spec = spec;
      source->second.status.state = SourceState::kOpen;
      source->second.status.limits = spec.limits;
      source->second.copies = std::exchange(world_.next_pre_copy_, PreCopyStory{});
      std::tie(source->second.reason, source->second.message) = std::exchange(world_.next_source_fails_, {});
      source->second.fails = !source->second.reason.empty();
    }
    GODWIT_RETURN_IF_ERROR(world_.Answered());
    return source->second.status;
  }
  absl::StatusOr<agent_api::SourceStatus> GetSource(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto source = node->sources.find(uid);
    if (source == node->sources.end()) return absl::NotFoundError("no such source");
    const agent_api::SourceStatus now = source->second.status;
    world_.Advance(uid, source->second);
    return now;
  }
  absl::Status SetSourceLimits(const std::string& uid, const agent_api::PreCopyLimits& limits) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Source * source, world_.Copying(node_, uid));
    source->status.limits = limits;
    return world_.Answered();
  }
  absl::Status SwitchSource(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Source * source, world_.Copying(node_, uid));
    const FakeAgents::Target* target = world_.TargetOf(uid, source->spec.target_node);
    if (target == nullptr || target->status.waiting.empty()) ++world_.violations_;
    source->status.switching = true;
    return world_.Answered();
  }
  absl::Status AbortSource(const std::string& uid, const agent_api::AbortRequest& why) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto source = node->sources.find(uid);
    if (source == node->sources.end()) return absl::NotFoundError("no such source");
    const SourceState state = source->second.status.state;
    if (state == SourceState::kCeded || state == SourceState::kDone)
      return absl::FailedPreconditionError("too late: ceded");
    if (state != SourceState::kAborted) world_.AbortSource(uid, source->second, why.reason, why.message);
    return world_.Answered();
  }
  absl::Status FinishSource(const std::string& uid, const agent_api::FinishRequest& request) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto source = node->sources.find(uid);
    if (source == node->sources.end()) return absl::NotFoundError("no such source");
    agent_api::SourceStatus& status = source->second.status;
    if (status.state == SourceState::kDone) return world_.Answered();
    if (status.state == SourceState::kCeded && request.unconfirmed) status.target_running = true;
    if (status.state != SourceState::kCeded || !status.target_running)
      return absl::FailedPreconditionError("the target does not run yet");
    if (status.serving && !request.abandon)
      return absl::FailedPreconditionError("it serves pages that the target lacks");
    status.state = SourceState::kDone;
    return world_.Answered();
  }
  absl::Status ReclaimSource(const std::string& uid, const agent_api::AbortRequest& why) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto source = node->sources.find(uid);
    if (source == node->sources.end()) return absl::NotFoundError("no such source");
    agent_api::SourceStatus& status = source->second.status;
    if (status.state == SourceState::kAborted) return world_.Answered();
    if (status.state != SourceState::kCeded || status.target_running)
      return absl::FailedPreconditionError("it waits for nobody's word");
    if (!world_.nodes_.at(source->second.spec.target_node).off) ++world_.violations_;  // its copy may run
    status.state = SourceState::kAborted;
    status.reason = why.reason;
    status.message = why.message;
    return world_.Answered();
  }
  absl::Status ForgetSource(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto source = node->sources.find(uid);
    if (source == node->sources.end()) return absl::OkStatus();
    const SourceState state = source->second.status.state;
    if (state != SourceState::kAborted && state != SourceState::kDone)
      return absl::FailedPreconditionError("not at its end");
    node->sources.erase(source);
    return world_.Answered();
  }

  absl::StatusOr<agent_api::CheckpointStatus> PutCheckpoint(const std::string& uid,
                                                            const agent_api::CheckpointSpec& spec) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto [checkpoint, added] = node->checkpoints.try_emplace(uid);
    if (added) {
      checkpoint->second.spec = spec;
      checkpoint->second.status.state = CheckpointState::kRunning;
    }
    GODWIT_RETURN_IF_ERROR(world_.Answered());
    return checkpoint->second.status;
  }
  absl::StatusOr<agent_api::CheckpointStatus> GetCheckpoint(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto checkpoint = node->checkpoints.find(uid);
    if (checkpoint == node->checkpoints.end()) return absl::NotFoundError("no such checkpoint");
    const agent_api::CheckpointStatus now = checkpoint->second.status;
    agent_api::CheckpointStatus& status = checkpoint->second.status;
    if (status.state != CheckpointState::kRunning) return now;
    if (const auto [reason, message] = std::exchange(world_.next_checkpoint_fails_, {}); !reason.empty()) {
      status = {.state = CheckpointState::kFailed, .reason = reason, .message = message};
      return now;
    }
    status = {.state = CheckpointState::kReady,
              .frozen_at = absl::FromUnixSeconds(1'700'000'000),
              .freeze = absl::Milliseconds(120),
              .criu_version = "4.2.1",
              .memory_bytes = 1 << 20};
    for (const auto& container : checkpoint->second.spec.containers) {
      status.archives.push_back(
          {container.name, absl::StrCat("/var/lib/godwit/checkpoints/", uid, "/", container.name, ".tar"),
           4096, "sha256:00"});
    }
    return now;
  }
  absl::StatusOr<std::string> GetManifest(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto checkpoint = node->checkpoints.find(uid);
    if (checkpoint == node->checkpoints.end()) return absl::NotFoundError("no such checkpoint");
    // As the wire would bring it: through a struct and back.
    return json::Decode<agent_api::CheckpointSpec>(json::Encode(checkpoint->second.spec))->pod_manifest.text;
  }
  absl::Status RemoveCheckpoint(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    node->checkpoints.erase(uid);
    return world_.Answered();
  }

  absl::StatusOr<agent_api::TargetStatus> PutRestore(const std::string& uid,
                                                     const agent_api::RestoreSpec& spec) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto [restore, added] = node->restores.try_emplace(uid);
    if (!added && restore->second.spec != spec)
      return absl::FailedPreconditionError("another restore of that uid");
    restore->second.spec = spec;
    if (added) restore->second.status.state = TargetState::kOpen;
    GODWIT_RETURN_IF_ERROR(world_.Answered());
    return restore->second.status;
  }
  absl::StatusOr<agent_api::TargetStatus> GetRestore(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto restore = node->restores.find(uid);
    if (restore == node->restores.end()) return absl::NotFoundError("no such restore");
    const agent_api::TargetStatus now = restore->second.status;
    if (now.state == TargetState::kOpen && now.waiting.size() == restore->second.spec.archives.size()) {
      restore->second.status = {.state = TargetState::kRunning};
      node->running.insert(restore->second.spec.pod.uid);
    }
    return now;
  }
  absl::Status AbortRestore(const std::string& uid, const agent_api::AbortRequest& why) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    auto restore = node->restores.find(uid);
    if (restore == node->restores.end()) return absl::NotFoundError("no such restore");
    if (restore->second.status.state == TargetState::kRunning)
      return absl::FailedPreconditionError("it runs");
    restore->second.status = {.state = TargetState::kAborted, .reason = why.reason, .message = why.message};
    return world_.Answered();
  }
  absl::Status ForgetRestore(const std::string& uid) override {
    absl::MutexLock lock(&world_.mutex_);
    GODWIT_ASSIGN_OR_RETURN(FakeAgents::Node * node, world_.Reach(node_));
    node->restores.erase(uid);
    return world_.Answered();
  }

 private:
  FakeAgents& world_;
  const std::string node_;
};

void FakeAgents::AddNode(const std::string& node) {
  absl::MutexLock lock(&mutex_);
  Node& added = nodes_[node];
  added.info = {.node = node,
                .version = "0.1.0",
                .architecture = "amd64",
                .kernel = "6.12",
                .criu_version = "4.2.1",
                .runc_version = "1.3.6",
                .runtime_ready = true,
                .memory_available = int64_t{8} << 30,
                .storage_available = int64_t{50} << 30};
  added.preflight = {.memory_bytes = int64_t{16} << 20, .file_bytes = int64_t{1} << 20};
  added.rehearsal = {.converges = true,
                     .rounds = 3,
                     .copying = absl::Milliseconds(300),
                     .freeze = absl::Milliseconds(80),
                     .fixed = absl::Milliseconds(75),
                     .transfer_bytes = int64_t{18} << 20,
                     .weight = {.processes = 1, .threads = 1, .descriptors = 5, .mappings = 20},
                     .memory_bytes = int64_t{16} << 20,
                     .throughput = int64_t{100} << 20};
}

void FakeAgents::Change(const std::string& node, const std::function<void(agent_api::NodeInfo&)>& change) {
  absl::MutexLock lock(&mutex_);
  change(nodes_.at(node).info);
}

void FakeAgents::Silence(const std::string& node, absl::Status error) {
  absl::MutexLock lock(&mutex_);
  nodes_.at(node).silence = std::move(error);
}

void FakeAgents::TurnOff(const std::string& node) {
  absl::MutexLock lock(&mutex_);
  nodes_.at(node).silence = absl::UnavailableError("no route to host");
  nodes_.at(node).off = true;
}

void FakeAgents::TurnOn(const std::string& node) {
  absl::MutexLock lock(&mutex_);
  Node& at = nodes_.at(node);
  at.silence = absl::OkStatus();
  at.off = false;
  at.running.clear();
  for (auto& [uid, target] : at.targets) {
    if (target.status.state == TargetState::kOpen || target.status.state == TargetState::kPrepared)
      target.status = {
          .state = TargetState::kAborted, .reason = "CopyDied", .message = "the node was restarted"};
  }
}

void FakeAgents::SetPreflight(const std::string& node, agent_api::PreflightReport report) {
  absl::MutexLock lock(&mutex_);
  nodes_.at(node).preflight = std::move(report);
}

void FakeAgents::SetRehearsal(const std::string& node, agent_api::RehearsalReport report) {
  absl::MutexLock lock(&mutex_);
  nodes_.at(node).rehearsal = std::move(report);
}

void FakeAgents::FailNextSource(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  next_source_fails_ = {reason, message};
}

void FakeAgents::TellNextPreCopy(PreCopyStory story) {
  absl::MutexLock lock(&mutex_);
  next_pre_copy_ = std::move(story);
}

void FakeAgents::FailNextCheckpoint(const std::string& reason, const std::string& message) {
  absl::MutexLock lock(&mutex_);
  next_checkpoint_fails_ = {reason, message};
}

void FakeAgents::LoseAnswers(std::function<bool()> lose) {
  absl::MutexLock lock(&mutex_);
  lose_ = std::move(lose);
}

void FakeAgents::HoldBefore(SourceState state) {
  absl::MutexLock lock(&mutex_);
  hold_ = state;
}

absl::StatusOr<FakeAgents::Node*> FakeAgents::Reach(const std::string& node) {
  auto found = nodes_.find(node);
  if (found == nodes_.end()) return absl::UnavailableError("cannot connect");
  GODWIT_RETURN_IF_ERROR(found->second.silence);
  return &found->second;
}

absl::Status FakeAgents::Answered() {
  return lose_ && lose_() ? absl::UnavailableError("the connection broke before the answer came")
                          : absl::OkStatus();
}

absl::StatusOr<FakeAgents::Source*> FakeAgents::Copying(const std::string& node, const std::string& uid) {
  GODWIT_ASSIGN_OR_RETURN(Node * at, Reach(node));
  auto source = at->sources.find(uid);
  if (source == at->sources.end()) return absl::NotFoundError("no such source");
  const bool copies = source->second.spec.mode != agent_api::CopyMode::kStopAndCopy;
  if (!copies || source->second.status.state != SourceState::kOpen)
    return absl::FailedPreconditionError("it does not copy, or no more");
  return &source->second;
}

bool FakeAgents::MayRun(const std::string& node, const std::string& uid) {
  const auto at = nodes_.find(node);
  if (at == nodes_.end() || at->second.off) return false;
  const auto source = at->second.sources.find(uid);
  return source != at->second.sources.end() && source->second.status.state != SourceState::kCeded &&
         source->second.status.state != SourceState::kDone;
}

FakeAgents::Target* FakeAgents::TargetOf(const std::string& uid, const std::string& node) {
  auto found = nodes_.find(node);
  if (found == nodes_.end()) return nullptr;
  auto target = found->second.targets.find(uid);
  return target == found->second.targets.end() ? nullptr : &target->second;
}

void FakeAgents::AbortSource(const std::string& uid, Source& source, const std::string& reason,
                             const std::string& message) {
  source.status.state = SourceState::kAborted;
  source.status.reason = reason;
  source.status.message = message;
  Target* target = TargetOf(uid, source.spec.target_node);
  if (target == nullptr) return;
  if (target->status.state == TargetState::kRunning) ++violations_;
  target->status = {.state = TargetState::kAborted, .reason = reason, .message = message};
}

// One round further: 16 MiB of memory, of which the pod writes 1 MiB a round.
void FakeAgents::CopyRound(const std::string& uid, Source& source) {
  agent_api::PreCopyProgress& progress = source.status.pre_copy;
  progress.fallback = source.copies.fallback;
  if (!progress.fallback.empty()) {
    progress.converged = true;
    return;
  }
  progress.memory_bytes = 16 << 20;
  progress.sent_bytes += progress.rounds == 0 ? progress.memory_bytes : progress.dirty_bytes;
  progress.dirty_bytes = 1 << 20;
  ++progress.rounds;
  const bool enough = progress.rounds >= source.copies.rounds;
  progress.predicted_freeze =
      source.status.limits.freeze_budget * (source.copies.converges && enough ? 0.5 : 3.0);
  progress.converged = source.copies.converges && enough;
  if (!enough || source.copies.converges) return;
  progress.gave_up = true;
  if (source.status.limits.when_not_converging == agent_api::WhenNotConverging::kFail)
    AbortSource(uid, source, "NotConverging", "the pod writes faster than the link carries");
}

// One state further. The target's agent takes part even where the controller cannot reach it.
void FakeAgents::Advance(const std::string& uid, Source& source) {
  Target* target = TargetOf(uid, source.spec.target_node);
  const bool target_gone = target == nullptr || target->status.state == TargetState::kAborted;
  switch (source.status.state) {
    case SourceState::kOpen:
      if (target_gone) return AbortSource(uid, source, "TargetAborted", "the target refused");
      if (source.spec.mode != agent_api::CopyMode::kStopAndCopy) CopyRound(uid, source);
      if (source.spec.mode != agent_api::CopyMode::kStopAndCopy && !source.status.switching) return;
      if (source.status.state != SourceState::kOpen || hold_ == SourceState::kFrozen) return;
      source.status.state = SourceState::kFrozen;
      source.status.frozen_at = absl::FromUnixSeconds(1'700'000'000);
      return;
    case SourceState::kFrozen:
      if (source.fails) return AbortSource(uid, source, source.reason, source.message);
      if (target_gone) return AbortSource(uid, source, "TargetAborted", "the target aborted");
      if (hold_ == SourceState::kCeded) return;
      target->status.state = TargetState::kPrepared;
      source.status.state = SourceState::kCeded;
      return;
    case SourceState::kCeded:
      if (target == nullptr || nodes_.at(source.spec.target_node).off) return;
      if (target_gone) return AbortSource(uid, source, "TargetAborted", "the target aborted");
      if (source.status.serving) return PullOne(source, *target);
      if (source.status.target_running) return;
      target->status = {.state = TargetState::kRunning};
      if (source.spec.mode == agent_api::CopyMode::kPostCopy) {
        source.status.pull_bytes = kPulledBytes;
        source.status.serving = true;
        target->status.pull = {.pulling = true, .total_bytes = kPulledBytes, .missing_bytes = kPulledBytes};
      }
      nodes_.at(source.spec.target_node).running.insert(source.spec.target_pod.uid);
      source.status.target_running = true;
      source.status.freeze = absl::Milliseconds(412);
      source.status.memory_bytes = 16 << 20;
      return;
    case SourceState::kNone:
    case SourceState::kDone:
    case SourceState::kAborted: return;
  }
}

// A quarter of what is missing comes.
void FakeAgents::PullOne(Source& source, Target& target) {
  if (hold_ == SourceState::kCeded || !target.status.pull.pulling) return;
  agent_api::PullStatus& pull = target.status.pull;
  pull.missing_bytes -= kPulledBytes / 4;
  pull.faults += 10;
  pull.fault_p50 = absl::Milliseconds(1);
  pull.fault_p99 = absl::Milliseconds(3);
  source.status.pulled_bytes = kPulledBytes - pull.missing_bytes;
  if (pull.missing_bytes > 0) return;
  pull.pulling = false;
  source.status.serving = false;
}

bool FakeAgents::CreateWaits(const std::string& node, const std::string& pod_uid,
                             const std::vector<std::string>& containers) {
  absl::MutexLock lock(&mutex_);
  Node& at = nodes_[node];
  for (auto& [uid, target] : at.targets) {
    if (target.spec.pod.uid != pod_uid || target.status.state != TargetState::kOpen) continue;
    target.status.waiting = {containers.front()};
    return true;
  }
  for (auto& [uid, restore] : at.restores) {
    if (restore.spec.pod.uid != pod_uid || restore.status.state != TargetState::kOpen) continue;
    restore.status.waiting = containers;
    return true;
  }
  return false;
}

bool FakeAgents::Runs(const std::string& node, const std::string& pod_uid) {
  absl::MutexLock lock(&mutex_);
  return nodes_[node].running.contains(pod_uid);
}

bool FakeAgents::Aborted(const std::string& node, const std::string& pod_uid) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [uid, target] : nodes_[node].targets) {
    if (target.spec.pod.uid == pod_uid && target.status.state == TargetState::kAborted) return true;
  }
  return false;
}

bool FakeAgents::IsCeded(const std::string& node, const std::string& pod_uid) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [uid, source] : nodes_[node].sources) {
    if (source.spec.pod.uid == pod_uid && source.status.state == SourceState::kCeded) return true;
  }
  return false;
}

void FakeAgents::PodKilled(const std::string& node, const std::string& pod_uid) {
  absl::MutexLock lock(&mutex_);
  for (auto& [uid, source] : nodes_[node].sources) {
    if (source.spec.pod.uid != pod_uid) continue;
    if (source.status.state == SourceState::kOpen || source.status.state == SourceState::kFrozen) {
      AbortSource(uid, source, "PodGone", "the source's processes are gone");
    } else if (source.status.state == SourceState::kCeded &&
               (!source.status.target_running || source.status.serving)) {
      ++violations_;  // I3, and memory that only the source had
    }
  }
}

std::vector<std::string> FakeAgents::Left() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::string> left;
  for (const auto& [name, node] : nodes_) {
    for (const auto& [uid, source] : node.sources) left.push_back(absl::StrCat(name, " source ", uid));
    for (const auto& [uid, target] : node.targets) left.push_back(absl::StrCat(name, " target ", uid));
    for (const auto& [uid, checkpoint] : node.checkpoints)
      left.push_back(absl::StrCat(name, " checkpoint ", uid));
    for (const auto& [uid, restore] : node.restores) left.push_back(absl::StrCat(name, " restore ", uid));
  }
  return left;
}

int FakeAgents::violations() const {
  absl::MutexLock lock(&mutex_);
  return violations_;
}

int FakeAgents::starts() const {
  absl::MutexLock lock(&mutex_);
  return starts_;
}

std::shared_ptr<Agent> FakeAgents::At(const std::string& node, const std::string&) {
  return std::make_shared<FakeAgent>(this, node);
}

}  // namespace godwit::controller::testing
