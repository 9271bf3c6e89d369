// SPDX-License-Identifier: Apache-2.0
// What outlives every process: the pods' processes, the disks, the network, time; and the invariants, which
// are looked at whenever something of it changes. Also the faults that come with a record or in the middle of
// an act.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/api/messages.h"
#include "tests/simulator/journal_file.h"
#include "tests/simulator/mutation.h"
#include "tests/simulator/network.h"
#include "tests/simulator/random.h"

namespace godwit::simulator {

using agent_api::SourceState;
using agent_api::TargetState;

inline constexpr Micros kMillisecond = 1000;
inline constexpr Micros kSecond = 1'000'000;
inline constexpr Micros kNever = INT64_MAX;

enum class Process { kSourceAgent, kGuard, kTargetAgent };
enum class Node { kSource, kTarget };
inline Node NodeOf(Process process) {
  return process == Process::kTargetAgent ? Node::kTarget : Node::kSource;
}
absl::string_view NameOf(Process process);

enum class Pod {
  kAbsent,
  kFrozen,
  kRuns,
  kDead,
  kAfresh,  // without its state: kubelet has started the container anew
  kMoved,   // on, by a later migration, which has ceded it: it stands frozen and must never run
};

// A process or its node ends at one record.
struct WriteCrash {
  int record = -1;  // counted over all journals; -1: never
  enum Position { kBefore, kUnsynced, kAfter } position = kBefore;
  bool node = false;
};

struct Figures {
  int64_t schedules = 0;
  int64_t steps = 0;
  int64_t process_crashes = 0;
  int64_t node_crashes = 0;
  int64_t write_crashes[3] = {0, 0, 0};  // by position
  int64_t cuts = 0;
  int64_t stalls = 0;
  int64_t clock_jumps = 0;
  int64_t disk_faults = 0;
  int64_t aborts = 0;
  int64_t done = 0;     // ended with a moved pod
  int64_t aborted = 0;  // or with one that stayed
};

class World {
 public:
  World(uint64_t seed, Mutation mutation, bool tracing, Figures& figures)
      : random(seed), figures(figures), mutation_(mutation), tracing_(tracing) {}

  bool Mutated(Mutation one) const { return mutation_ == one; }

  // --- time, in microseconds: CLOCK_MONOTONIC of both nodes, and the clocks on the wall
  Micros now() const { return now_; }
  Micros wall(Node node) const { return now_ + offset_[static_cast<int>(node)]; }
  void Advance(Micros by) { now_ += by; }
  void Jump(Node node, Micros by) { offset_[static_cast<int>(node)] += by; }

  // --- what is remembered of a run
  void Tell(absl::string_view who, absl::string_view what, absl::string_view detail = "");
  void Violate(absl::string_view what);
  const std::string& violation() const { return violation_; }
  const std::string& trace() const { return trace_; }
  uint64_t trace_hash() const { return hash_; }

  // --- pods
  Pod source() const { return source_; }
  Pod copy() const { return copy_; }
  void FreezeSource();
  void ThawSource(absl::string_view who);
  void KillSource();
  void RestoreCopy();
  void ThawCopy();
  void DestroyCopy();      // by an abort
  void StartCopyAfresh();  // by kubelet
  void StartSourceAfresh();
  void MoveCopyOn();
  // Faults.
  void LoseSource();
  void LoseCopy();
  // The node is off for good, and its pod's object gone: nothing of the pod runs there, nor will when it
  // comes back.
  void Fence(Node node);
  bool fenced(Node node) const { return fenced_[static_cast<int>(node)]; }
  bool copy_lost() const { return copy_lost_; }
  // In the freeze some pages were left with the source.
  bool pages_missing = false;
  bool pages_given_up = false;  // and the copy ended

  // --- disks
  JournalFile<SourceState> source_journal{SourceState::kOpen};
  JournalFile<TargetState> target_journal{TargetState::kOpen};
  bool source_thawed_noted = false;
  bool guard_spec = false;  // guard.json
  bool copies_noted = false;
  bool copies_missing = false;  // said there
  bool target_thawed_noted = false;
  bool pulled_noted = false;
  enum class Permit { kWaiting, kAborted, kSpent } permit = Permit::kWaiting;
  // Appends as journal::Journal does, and after an error opens the file anew. `now`: the state that it is in
  // then; nullopt: it cannot be read. When the writer has died, nothing matters any more: see alive.
  template <class State>
  struct Appended {
    bool ok = false;
    std::optional<State> now;
  };
  template <class State>
  Appended<State> Append(Process writer, JournalFile<State>& file, State state);

  WriteCrash write_crash;
  // Set by whoever owns the processes.
  std::function<bool(Process)> alive;
  std::function<void(Process, bool node)> crash;
  std::function<void(Process)> interleave;  // the others go on while this one is in the middle of something

  Random random;
  Figures& figures;

 private:
  bool CrashesAt(Process writer, int record, WriteCrash::Position position);
  void CheckTwo();

  const Mutation mutation_;
  const bool tracing_;
  Micros now_ = 0;
  Micros offset_[2] = {0, 0};
  int records_ = 0;
  Pod source_ = Pod::kRuns;
  Pod copy_ = Pod::kAbsent;
  bool copy_lost_ = false;
  bool copy_ran_ = false;
  bool fenced_[2] = {false, false};
  std::string violation_;
  std::string trace_;
  uint64_t hash_ = 0xcbf29ce484222325;

 public:
  Network network{random, now_};
};

// --- implementation

template <class State>
World::Appended<State> World::Append(Process writer, JournalFile<State>& file, State state) {
  const Appended<State> died{};
  if (std::exchange(file.broken, false)) {  // opened anew, or not; nothing is written
    if (file.LookHidden()) {
      file.broken = true;
      return {};
    }
    file.Sync();
    return {false, file.read()};
  }
  if (file.read() == state) return {true, state};
  if (!journal::MayFollow(file.read(), state)) return {false, file.read()};
  const int record = records_++;
  if (CrashesAt(writer, record, WriteCrash::kBefore)) return died;
  switch (file.TakeFault()) {
    case DiskFault::kNone: break;
    case DiskFault::kNotWritten: ++figures.disk_faults; return {false, file.read()};
    case DiskFault::kWrittenAnyway:
      ++figures.disk_faults;
      file.Write(state);
      file.Sync();
      return {false, state};
    case DiskFault::kUnknown:
      ++figures.disk_faults;
      if (random.OneIn(2)) {
        file.Write(state);
        file.Sync();
      }
      file.broken = true;
      file.Hide(static_cast<int>(random.Between(0, 3)));
      Tell(NameOf(writer), "does not know whether its record was written");
      return {};
  }
  file.Write(state);
  interleave(writer);
  if (!alive(writer)) return died;
  if (CrashesAt(writer, record, WriteCrash::kUnsynced)) {
    if (random.OneIn(3)) file.Tear();
    return died;
  }
  file.Sync();
  if (CrashesAt(writer, record, WriteCrash::kAfter)) return died;
  return {true, state};
}

}  // namespace godwit::simulator
