// SPDX-License-Identifier: Apache-2.0
#include "agent/migration/handover.h"

namespace godwit::migration {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;

// One row of the source's table: where each event leads.
struct SourceRow {
  std::optional<SourceStage> done;
  std::optional<SourceStage> failed;
  std::optional<SourceStage> unknown;
  std::optional<SourceStage> target_aborted;
};

SourceRow Row(SourceStage stage) {
  using enum SourceStage;
  switch (stage) {
    //                                done               failed       unknown        target aborted
    case kConnecting: return {kCopying, kAborting, std::nullopt, kAborting};
    case kCopying: return {kFreezing, kAborting, std::nullopt, kAborting};
    case kFreezing: return {kSending, kAborting, std::nullopt, kAborting};
    case kSending: return {kAwaitingPrepared, kAborting, std::nullopt, kAborting};
    case kAwaitingPrepared: return {kCeding, kAborting, std::nullopt, kAborting};
    case kCeding: return {kCommitting, kAborting, kAskingGuard, kAborting};
    case kAskingGuard: return {kCommitting, kAborting, kAskingGuard, kAborting};
    case kCommitting: return {kServingPages, std::nullopt, kAskingTarget, kTakingBack};
    case kAskingTarget: return {kCommitting, std::nullopt, kAskingTarget, kTakingBack};
    case kTakingBack: return {kAborted, std::nullopt, kTakingBack, std::nullopt};
    case kServingPages: return {kTargetRuns, std::nullopt, kAskingTarget, std::nullopt};
    case kTargetRuns: return {kKilling, std::nullopt, std::nullopt, std::nullopt};
    case kKilling: return {kDone, std::nullopt, kTargetRuns, std::nullopt};
    case kAborting: return {kAborted, std::nullopt, kAborting, std::nullopt};
    case kDone:
    case kAborted: return {};
  }
  return {};
}

}  // namespace

std::optional<SourceStage> Next(SourceStage stage, SourceEvent event) {
  const SourceRow row = Row(stage);
  switch (event) {
    case SourceEvent::kDone: return row.done;
    case SourceEvent::kFailed: return row.failed;
    case SourceEvent::kUnknown: return row.unknown;
    case SourceEvent::kTargetAborted: return row.target_aborted;
  }
  return std::nullopt;
}

SourceState StateOf(SourceStage stage) {
  switch (stage) {
    case SourceStage::kConnecting:
    case SourceStage::kCopying:
    case SourceStage::kFreezing: return SourceState::kOpen;
    case SourceStage::kSending:
    case SourceStage::kAwaitingPrepared:
    case SourceStage::kCeding:
    case SourceStage::kAskingGuard:
    case SourceStage::kAborting: return SourceState::kFrozen;
    case SourceStage::kCommitting:
    case SourceStage::kAskingTarget:
    case SourceStage::kTakingBack:
    case SourceStage::kServingPages:
    case SourceStage::kTargetRuns:
    case SourceStage::kKilling: return SourceState::kCeded;
    case SourceStage::kDone: return SourceState::kDone;
    case SourceStage::kAborted: return SourceState::kAborted;
  }
  return SourceState::kNone;
}

absl::string_view NameOf(SourceStage stage) {
  switch (stage) {
    case SourceStage::kConnecting: return "connecting";
    case SourceStage::kCopying: return "copying while the pod runs";
    case SourceStage::kFreezing: return "freezing";
    case SourceStage::kSending: return "dumping and sending";
    case SourceStage::kAwaitingPrepared: return "waiting until the target has restored";
    case SourceStage::kCeding: return "ceding";
    case SourceStage::kAskingGuard: return "asking the guard whether the source was ceded";
    case SourceStage::kCommitting: return "committing";
    case SourceStage::kAskingTarget: return "asking the target what became of the commit";
    case SourceStage::kTakingBack: return "thawing, because the target never ran";
    case SourceStage::kServingPages: return "serving the pages that the target lacks";
    case SourceStage::kTargetRuns: return "waiting for the source's end";
    case SourceStage::kKilling: return "killing the frozen source";
    case SourceStage::kDone: return "done";
    case SourceStage::kAborting: return "thawing";
    case SourceStage::kAborted: return "aborted";
  }
  return "";
}

bool IsFinal(SourceStage stage) { return stage == SourceStage::kDone || stage == SourceStage::kAborted; }

std::optional<TargetStage> Next(TargetStage stage, TargetEvent event) {
  using enum TargetStage;
  switch (stage) {
    case kRestoring:
      if (event == TargetEvent::kDone) return kPreparing;
      if (event == TargetEvent::kFailed) return kAborting;
      return std::nullopt;
    case kPreparing:
      if (event == TargetEvent::kDone) return kPrepared;
      if (event == TargetEvent::kFailed) return kAborting;
      return std::nullopt;
    case kPrepared:
      if (event == TargetEvent::kCommit) return kCommitting;
      if (event == TargetEvent::kFailed) return kAborting;
      return std::nullopt;
    case kCommitting:  // RUNNING may be on the disk: there is no way back
      if (event == TargetEvent::kDone) return kPulling;
      return std::nullopt;
    case kPulling:
      if (event == TargetEvent::kDone) return kRunning;
      return std::nullopt;
    case kAborting:
      if (event == TargetEvent::kDone) return kAborted;
      if (event == TargetEvent::kFailed) return kAborting;  // again: something of the copy may be left
      return std::nullopt;
    case kRunning:
    case kAborted: return std::nullopt;
  }
  return std::nullopt;
}

TargetState StateOf(TargetStage stage) {
  switch (stage) {
    case TargetStage::kRestoring:
    case TargetStage::kPreparing:
    case TargetStage::kAborting: return TargetState::kOpen;
    case TargetStage::kPrepared:
    case TargetStage::kCommitting: return TargetState::kPrepared;
    case TargetStage::kPulling:
    case TargetStage::kRunning: return TargetState::kRunning;
    case TargetStage::kAborted: return TargetState::kAborted;
  }
  return TargetState::kNone;
}

absl::string_view NameOf(TargetStage stage) {
  switch (stage) {
    case TargetStage::kRestoring: return "restoring";
    case TargetStage::kPreparing: return "preparing";
    case TargetStage::kPrepared: return "prepared";
    case TargetStage::kCommitting: return "committing";
    case TargetStage::kPulling: return "running, and pulling pages";
    case TargetStage::kRunning: return "running";
    case TargetStage::kAborting: return "destroying the copy";
    case TargetStage::kAborted: return "aborted";
  }
  return "";
}

bool IsFinal(TargetStage stage) { return stage == TargetStage::kRunning || stage == TargetStage::kAborted; }

}  // namespace godwit::migration
