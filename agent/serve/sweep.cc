// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/sweep.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "agent/api/host_protocol.h"
#include "agent/journal/journal.h"
#include "agent/permits/permit_store.h"
#include "base/file.h"
#include "base/json.h"

namespace godwit::serve {
namespace {

using agent_api::SourceState;

std::vector<std::string> Names(const std::string& folder) {
  auto names = ListFolder(folder);
  return names.ok() ? *std::move(names) : std::vector<std::string>();
}

}  // namespace

bool Sweep::Says(const std::string& cgroup, const char* event) const {
  const auto events = ReadFile(absl::StrCat(cgroup, "/cgroup.events"), 4096);
  return events.ok() && absl::StrContains(*events, event);
}

// A guard that lives is alone in a cgroup of its own (runtime/detached).
bool Sweep::GuardLives(const std::string& uid) const {
  return Says(absl::StrCat(options_.host.At(options_.host.cgroup), "/godwit-guard/", uid), "populated 1");
}

void Sweep::LookAtGuard(const std::string& spec_file, absl::Time now,
                        std::vector<BrokenPromise>& found) const {
  const auto text = ReadFile(spec_file, size_t{1} << 20);
  if (!text.ok()) return;
  const auto spec = json::Decode<agent_api::GuardSpec>(*text);
  if (!spec.ok()) return;
  const bool frozen = std::any_of(spec->containers.begin(), spec->containers.end(),
                                  [this](const agent_api::GuardContainer& one) {
                                    return Says(options_.host.At(one.cgroup), "frozen 1");
                                  });
  if (!frozen) return;
  const auto records = journal::ReplayJournal<SourceState>(spec->journal);
  if (!records.ok() || records->empty()) return;
  const journal::SourceRecord& last = records->back();
  // Before FROZEN somebody else has frozen it; from CEDED on it may stand still.
  if (last.state != SourceState::kFrozen && last.state != SourceState::kAborted) return;
  if (last.state == SourceState::kFrozen && !GuardLives(spec->migration_uid)) {
    found.push_back({"I6", spec->migration_uid,
                     "the pod stands still, was not handed over, and has no guard that would thaw it"});
  } else if (last.state == SourceState::kAborted || now > last.time + spec->freeze_limit + kGrace) {
    found.push_back({"I2", spec->migration_uid,
                     absl::StrCat("the pod stands still in state ", json::Name(last.state), " since ",
                                  absl::FormatTime(last.time, absl::UTCTimeZone()), ", which may last ",
                                  absl::FormatDuration(spec->freeze_limit))});
  }
}

// Guards and copies that belong to no operation.
void Sweep::LookForStrangers(std::vector<BrokenPromise>& found) const {
  const std::string guards = absl::StrCat(options_.host.At(options_.host.cgroup), "/godwit-guard");
  for (const std::string& uid : Names(guards)) {
    if (GuardLives(uid) && !options_.knows(uid))
      found.push_back({"I5", uid, "a guard is left of an operation that this agent does not know"});
  }
  const auto permits = permits::PermitStore(absl::StrCat(options_.state_folder, "/permits")).List();
  if (!permits.ok()) return;
  for (const permits::StoredPermit& one : *permits) {
    if (one.permit.state != agent_api::PermitState::kAborted || one.permit.copy_cgroup.empty()) continue;
    const std::string cgroup = absl::StrCat(options_.host.At(options_.host.cgroup), one.permit.copy_cgroup);
    if (!options_.knows(one.permit.migration_uid) && Says(cgroup, "populated 1")) {
      found.push_back(
          {"I5", one.permit.migration_uid,
           absl::StrCat("processes of a copy that may never run are left in ", one.permit.copy_cgroup)});
    }
  }
}

std::vector<BrokenPromise> Sweep::Look(absl::Time now) {
  std::vector<BrokenPromise> found;
  for (const std::string& uid : Names(absl::StrCat(options_.state_folder, "/migrations")))
    LookAtGuard(absl::StrCat(options_.state_folder, "/migrations/", uid, "/source/guard.json"), now, found);
  for (const std::string& uid : Names(absl::StrCat(options_.run_folder, "/guards")))
    LookAtGuard(absl::StrCat(options_.run_folder, "/guards/", uid, "/guard.json"), now, found);
  LookForStrangers(found);

  std::map<std::pair<std::string, std::string>, absl::Time> suspected;
  std::vector<BrokenPromise> sure;
  for (BrokenPromise& one : found) {
    const std::pair<std::string, std::string> key(one.invariant, one.uid);
    const auto before = suspected_.find(key);
    const absl::Time since = before == suspected_.end() ? now : before->second;
    suspected[key] = since;
    if (now - since >= kConfirm && told_.insert(key).second) sure.push_back(std::move(one));
  }
  suspected_ = std::move(suspected);
  return sure;
}

}  // namespace godwit::serve
