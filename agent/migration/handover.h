// SPDX-License-Identifier: Apache-2.0
// What follows what on either side of a migration: two tables, no I/O, no clock. source.cc and target.cc
// perform the stages and feed what happened back in; the tests walk all of it.
//
// Which stages stand for which states of the journals (docs/design/handover.md) is in StateOf. The one rule
// behind the tables: a source that may have ceded is thawed only by kTargetAborted, and a target that may
// have told PREPARED runs only after kCommit and says ABORTED only when its copy can never run. And of a
// post-copy: the source, which then holds the only copy of some pages, comes to kTargetRuns, where alone it
// may be killed, only by the target's word that none is missing.
#pragma once

#include <optional>

#include "absl/strings/string_view.h"
#include "agent/api/messages.h"

namespace godwit::migration {

enum class SourceStage {
  kConnecting,        // finds the containers, has the target agent's HELLO_OK
  kCopying,           // sends memory in rounds while the pod runs; at last starts the guard and arms it
  kFreezing,          // nothing runs from here on
  kSending,           // dumps and sends, container after container
  kAwaitingPrepared,  // the target restores
  kCeding,            // the decision is being written
  kAskingGuard,       // was it? the guard did not answer
  kCommitting,        // ceded; COMMIT is sent, RUNNING is awaited
  kAskingTarget,      // ceded; the connection is gone: connects again and asks
  kTakingBack,        // ceded; the target said that it never ran: thaws
  kServingPages,      // ceded, the target runs, and pulls what was left in the freeze
  kTargetRuns,        // the frozen source waits for its end; nobody needs its memory
  kKilling,
  kDone,
  kAborting,  // not ceded: thaws, tells the target
  kAborted,
};

enum class SourceEvent {
  kDone,           // the stage did what it is there for
  kFailed,         // it did not, and nothing was decided: an error, a deadline, somebody's wish to abort
  kUnknown,        // nobody answered; what was asked for may or may not have happened
  kTargetAborted,  // the target's ABORTED is durable
};

// nullopt: the event cannot happen in this stage.
std::optional<SourceStage> Next(SourceStage stage, SourceEvent event);
agent_api::SourceState StateOf(SourceStage stage);
absl::string_view NameOf(SourceStage stage);
bool IsFinal(SourceStage stage);

enum class TargetStage {
  kRestoring,   // permits are out; state comes in, each `create` that waits becomes a restore
  kPreparing,   // all stand restored; PREPARED is being written
  kPrepared,    // waits for the source's verdict
  kCommitting,  // RUNNING is being written, then permits are spent and the copies are thawed
  kPulling,     // running; what the source left in the freeze is pulled from it
  kRunning,     // and needs the source no more
  kAborting,    // permits are ended, copies destroyed, ABORTED written
  kAborted,
};

enum class TargetEvent {
  kDone,    // the stage did what it is there for
  kFailed,  // the copy can never run: an error, a deadline, a death, the source's ABORT
  kCommit,  // the source has ceded
};

std::optional<TargetStage> Next(TargetStage stage, TargetEvent event);
agent_api::TargetState StateOf(TargetStage stage);
absl::string_view NameOf(TargetStage stage);
bool IsFinal(TargetStage stage);

}  // namespace godwit::migration
