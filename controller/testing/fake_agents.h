// SPDX-License-Identifier: Apache-2.0
// Agents that behave, in memory: both sides of migrations, checkpoints and restores with the states and
// refusals of the real ones, but no processes. A migration goes on by one state each time its source is
// asked, so that tests see every state.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "controller/agents/agent.h"

namespace godwit::controller::testing {

// How a pre-copy goes: a round each time its source is asked, and after so many it has converged, or gives
// up.
struct PreCopyStory {
  int rounds = 3;
  bool converges = true;
  std::string fallback;  // not empty: found at the first look, nothing is copied
};

// What a post-copy leaves to be pulled.
inline constexpr int64_t kPulledBytes = int64_t{8} << 20;

// All agents of a cluster. Thread-safe.
class FakeAgents : public Agents {
 public:
  FakeAgents() = default;

  // A node with an agent that is well.
  void AddNode(const std::string& node);
  void Change(const std::string& node, const std::function<void(agent_api::NodeInfo&)>& change);
  // The agent's answers become this error (OK: they are its own again).
  void Silence(const std::string& node, absl::Status error);
  // The node is off: silent, and nothing runs there. When it is on again, no copy that had not run stands
  // there.
  void TurnOff(const std::string& node);
  void TurnOn(const std::string& node);
  void SetPreflight(const std::string& node, agent_api::PreflightReport report);
  void SetRehearsal(const std::string& node, agent_api::RehearsalReport report);
  // The next source that is started aborts when it is frozen, with this reason.
  void FailNextSource(const std::string& reason, const std::string& message);
  // The next source that is started with CopyMode::kPreCopy.
  void TellNextPreCopy(PreCopyStory story);
  // The next checkpoint fails.
  void FailNextCheckpoint(const std::string& reason, const std::string& message);
  // Each write that an agent carries out is answered with Unavailable, as when the answer is lost, if `lose`
  // says so.
  void LoseAnswers(std::function<bool()> lose);
  // Migrations stop before this state of the source is reached (kDone: they do not stop).
  void HoldBefore(agent_api::SourceState state);

  // What kubelet and godwit-runtime do. `create` of the containers of this pod: false when the agent refuses
  // (no permit). They wait from then on.
  bool CreateWaits(const std::string& node, const std::string& pod_uid,
                   const std::vector<std::string>& containers);
  // Whether this pod's copy runs (its `create` has returned, and it was thawed), or its permit was aborted.
  bool Runs(const std::string& node, const std::string& pod_uid);
  bool Aborted(const std::string& node, const std::string& pod_uid);
  // Whether this pod's processes stand frozen for good.
  bool IsCeded(const std::string& node, const std::string& pod_uid);
  // The source's processes were killed by kubelet (its pod is gone).
  void PodKilled(const std::string& node, const std::string& pod_uid);

  // For expectations: what agents still hold, as "node-a source <uid>".
  std::vector<std::string> Left() const;
  // I1: how often source and target of one migration were runnable at once; I3: sources killed before the
  // target ran; and orders to switch while no `create` waited.
  int violations() const;
  int starts() const;  // PUT source that began something

  std::shared_ptr<Agent> At(const std::string& node, const std::string& address) override;

 private:
  friend class FakeAgent;
  struct Target {
    agent_api::TargetSpec spec;
    agent_api::TargetStatus status;
  };
  struct Source {
    agent_api::SourceSpec spec;
    agent_api::SourceStatus status;
    PreCopyStory copies;
    bool fails = false;
    std::string reason;
    std::string message;
  };
  struct Checkpoint {
    agent_api::CheckpointSpec spec;
    agent_api::CheckpointStatus status;
  };
  struct Restore {
    agent_api::RestoreSpec spec;
    agent_api::TargetStatus status;
  };
  struct Node {
    agent_api::NodeInfo info;
    agent_api::PreflightReport preflight;
    agent_api::RehearsalReport rehearsal;
    absl::Status silence;
    bool off = false;
    std::map<std::string, Target> targets;
    std::map<std::string, Source> sources;
    std::map<std::string, Checkpoint> checkpoints;
    std::map<std::string, Restore> restores;
    std::set<std::string>
        running;  // pods whose copy was thawed here; survives Forget, as a spent permit does
  };

  absl::StatusOr<Node*> Reach(const std::string& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Answered() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<Source*> Copying(const std::string& node, const std::string& uid)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CopyRound(const std::string& uid, Source& source) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the source of the migration may run, on a node that is not off.
  bool MayRun(const std::string& node, const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PullOne(Source& source, Target& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Advance(const std::string& uid, Source& source) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AbortSource(const std::string& uid, Source& source, const std::string& reason,
                   const std::string& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Target* TargetOf(const std::string& uid, const std::string& node) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, Node> nodes_ ABSL_GUARDED_BY(mutex_);
  std::function<bool()> lose_ ABSL_GUARDED_BY(mutex_);
  std::pair<std::string, std::string> next_source_fails_ ABSL_GUARDED_BY(mutex_);
  PreCopyStory next_pre_copy_ ABSL_GUARDED_BY(mutex_);
  std::pair<std::string, std::string> next_checkpoint_fails_ ABSL_GUARDED_BY(mutex_);
  agent_api::SourceState hold_ ABSL_GUARDED_BY(mutex_) = agent_api::SourceState::kDone;
  int violations_ ABSL_GUARDED_BY(mutex_) = 0;
  int starts_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace godwit::controller::testing
