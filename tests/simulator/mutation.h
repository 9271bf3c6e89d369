// SPDX-License-Identifier: Apache-2.0
// Deliberate errors, one at a time: each must be found, or the simulator looks in the wrong places. Those of
// the second half the product once had.
#pragma once

#include <array>
#include <utility>

#include "absl/strings/string_view.h"

namespace godwit::simulator {

enum class Mutation {
  kNone,
  kThawsAfterCeding,        // the guard thaws at the freeze limit though it has ceded
  kRunsWithoutCommit,       // the target takes the end of a connection for a commit
  kCedesAfterThaw,          // the source agent goes on though the guard has refused to cede
  kBelievesUnwrittenAbort,  // the source takes a target that is about to abort for one that has aborted
  kKillsWhenCeded,          // the source is killed as soon as it has ceded
  kThawsBeforeRunning,      // the target thaws its copy, then writes RUNNING
  kDestroysLast,            // the target writes ABORTED, then destroys its copy
  kThawsWhenAgentGone,      // the guard thaws for a lost agent also when it has ceded

  kStartsHeldSource,   // kubelet starts a ceded source's container afresh: nobody holds it back
  kReclaimsUnfenced,   // the source takes back what it has ceded because the target is merely silent
  kTakesOverUnfenced,  // the copy runs because the source is merely silent
  kKeepsFencedPods,    // the pod's object stays when its node is given up, and kubelet starts it there again

  kNoRowForAborted,      // the table does not know the target's ABORTED while the source cedes
  kAbortedStaysFrozen,   // nobody thaws when the guard dies between its ABORTED and the thaw
  kRestartAbortsFrozen,  // a restarted source agent takes FROZEN for not ceded, while a guard still cedes
  kUnknownIsRefused,     // the source takes "CEDED may or may not be written" for "not ceded"
  kAsksTheJournalAlone,  // the source does not take a guard's own word for it that it has not ceded
  kReadsUnsynced,        // the source acts on a CEDED that is not on the disk yet
  kEndThawsCeded,        // a guard that took over what was ceded, and then cannot serve, thaws it as it ends
  kThawsAgain,           // a restarted target agent thaws what was moved on since
};

inline constexpr std::array<std::pair<Mutation, absl::string_view>, 20> kMutations = {{
    {Mutation::kThawsAfterCeding, "thaws-after-ceding"},
    {Mutation::kRunsWithoutCommit, "runs-without-commit"},
    {Mutation::kCedesAfterThaw, "cedes-after-thaw"},
    {Mutation::kBelievesUnwrittenAbort, "believes-unwritten-abort"},
    {Mutation::kKillsWhenCeded, "kills-when-ceded"},
    {Mutation::kThawsBeforeRunning, "thaws-before-running"},
    {Mutation::kDestroysLast, "destroys-last"},
    {Mutation::kThawsWhenAgentGone, "thaws-when-agent-gone"},
    {Mutation::kStartsHeldSource, "starts-held-source"},
    {Mutation::kReclaimsUnfenced, "reclaims-unfenced"},
    {Mutation::kTakesOverUnfenced, "takes-over-unfenced"},
    {Mutation::kKeepsFencedPods, "keeps-fenced-pods"},
    {Mutation::kNoRowForAborted, "no-row-for-aborted"},
    {Mutation::kAbortedStaysFrozen, "aborted-stays-frozen"},
    {Mutation::kRestartAbortsFrozen, "restart-aborts-frozen"},
    {Mutation::kUnknownIsRefused, "unknown-is-refused"},
    {Mutation::kAsksTheJournalAlone, "asks-the-journal-alone"},
    {Mutation::kReadsUnsynced, "reads-unsynced"},
    {Mutation::kEndThawsCeded, "end-thaws-ceded"},
    {Mutation::kThawsAgain, "thaws-again"},
}};

}  // namespace godwit::simulator
