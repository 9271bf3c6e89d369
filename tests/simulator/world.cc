// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/world.h"

#include "absl/strings/str_cat.h"

namespace godwit::simulator {

absl::string_view NameOf(Process process) {
  switch (process) {
    case Process::kSourceAgent: return "source";
    case Process::kGuard: return "guard";
    case Process::kTargetAgent: return "target";
  }
  return "";
}

void World::Tell(absl::string_view who, absl::string_view what, absl::string_view detail) {
  const auto mix = [this](uint64_t value) { hash_ = (hash_ ^ value) * 0x100000001b3; };
  for (const absl::string_view text : {who, what, detail}) {
    for (const char c : text) mix(static_cast<unsigned char>(c));
  }
  mix(static_cast<uint64_t>(now_));
  if (!tracing_) return;
  absl::StrAppend(&trace_, now_ / 1000, ".", absl::Dec(now_ % 1000, absl::kZeroPad3), " ms  ", who, ": ",
                  what, detail.empty() ? "" : " ", detail, "\n");
}

void World::Violate(absl::string_view what) {
  Tell("VIOLATED", what);
  if (violation_.empty()) violation_ = std::string(what);
}

// --- pods
// -------------------------------------------------------------------------------------------------------------

void World::CheckTwo() {
  const bool source_runs = source_ == Pod::kRuns || source_ == Pod::kAfresh;
  if (source_runs && copy_ == Pod::kRuns) Violate("I1: both copies can run");
}

void World::FreezeSource() {
  if (source_ != Pod::kRuns) return;
  source_ = Pod::kFrozen;
  Tell("pod", "the source stands still");
}

void World::ThawSource(absl::string_view who) {
  if (source_ != Pod::kFrozen) return;
  source_ = Pod::kRuns;
  Tell(who, "thaws the source");
  CheckTwo();
  if (fenced(Node::kTarget)) return;  // what the copy may have done is lost with its node
  if (copy_ran_) Violate("I1: the source goes on where the copy has run already");
  const bool ceded = source_journal.holds(SourceState::kCeded);
  if (ceded && target_journal.durable() != TargetState::kAborted)
    Violate("I1: the source was ceded, and goes on without the target's durable ABORTED");
}

void World::KillSource() {
  if (source_ == Pod::kDead || source_ == Pod::kAfresh) return;
  if (source_ == Pod::kRuns) Violate("I3: a source that runs is killed");
  source_ = Pod::kDead;
  Tell("guard", "kills the source");
  if (target_journal.durable() != TargetState::kRunning)
    Violate("I3: the source is killed before the target's RUNNING is durable");
  if (pages_missing && !pages_given_up) Violate("I3: the source is killed, and the copy lacks its pages");
  if (copy_ != Pod::kRuns && copy_ != Pod::kMoved && !copy_lost_) Violate("I2: no copy is left");
}

void World::RestoreCopy() {
  copy_ = Pod::kFrozen;
  Tell("pod", "the copy stands restored");
}

void World::ThawCopy() {
  if (copy_ == Pod::kMoved) Violate("I1: a copy that was moved on runs here again");
  if (copy_ != Pod::kFrozen) return;
  copy_ = Pod::kRuns;
  copy_ran_ = true;
  Tell("pod", "the copy runs");
  CheckTwo();
  if (target_journal.read() != TargetState::kRunning) Violate("I1: the copy runs before RUNNING is written");
}

void World::DestroyCopy() {
  if (copy_ == Pod::kRuns) Violate("I2: a copy that runs is destroyed");
  if (copy_ == Pod::kFrozen) Tell("target", "destroys the copy");
  if (copy_ == Pod::kFrozen || copy_ == Pod::kRuns) copy_ = Pod::kDead;
}

void World::StartCopyAfresh() {
  copy_ = Pod::kRuns;
  copy_ran_ = true;
  Tell("kubelet", "starts the copy's container afresh");
  CheckTwo();
}

void World::StartSourceAfresh() {
  source_ = Pod::kAfresh;
  Tell("kubelet", "starts the source's container afresh");
  CheckTwo();
  if (source_journal.holds(SourceState::kCeded) && target_journal.durable() != TargetState::kAborted &&
      !fenced(Node::kTarget))
    Violate("I1: the source was ceded, and is started afresh without the target's durable ABORTED");
}

void World::Fence(Node node) {
  fenced_[static_cast<int>(node)] = true;
  Tell("controller", "a node is fenced:", node == Node::kSource ? "the source's" : "the target's");
}

void World::MoveCopyOn() {
  copy_ = Pod::kMoved;
  Tell("pod", "a later migration has moved the copy on");
}

void World::LoseSource() {
  if (source_ != Pod::kDead) Tell("FAULT", "the source's processes are gone");
  source_ = Pod::kDead;
}

void World::LoseCopy() {
  if (copy_ != Pod::kFrozen && copy_ != Pod::kRuns) return;
  copy_lost_ = true;
  copy_ = Pod::kDead;
  pages_given_up = pages_missing;  // its pager ends with it, and nobody needs them
  Tell("FAULT", "the copy's processes are gone");
}

// --- disks
// ------------------------------------------------------------------------------------------------------------

bool World::CrashesAt(Process writer, int record, WriteCrash::Position position) {
  if (write_crash.record != record || write_crash.position != position) return false;
  ++figures.write_crashes[position];
  write_crash.record = -1;
  crash(writer, write_crash.node);
  return true;
}

}  // namespace godwit::simulator
