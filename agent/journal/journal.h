// SPDX-License-Identifier: Apache-2.0
// The decisions of one side of a migration, on the disk before they are acted on (the table of states:
// agent/journal/journal.cc). The source's is written by the agent until OPEN and from FROZEN on by
// godwit-guard alone; the target's by the agent.
//
//   GODWIT_ASSIGN_OR_RETURN(auto journal, SourceJournal::Open(path));
//   GODWIT_RETURN_IF_ERROR(journal.Append({.state = SourceState::kCeded}));   // durable now: act
//
// Who only wants to know (the agent looking at a guard's journal) uses ReplayJournal, which does not touch
// the file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/journal/log_file.h"
#include "base/json.h"
#include "base/status.h"

namespace godwit::journal {

// May `to` be written after `from`? The table of the hand-over; kNone stands for an empty journal.
bool MayFollow(agent_api::SourceState from, agent_api::SourceState to);
bool MayFollow(agent_api::TargetState from, agent_api::TargetState to);

template <class State>
struct Record {
  State state = State::kNone;
  absl::Time time;      // wall clock, for people; Append fills it in when it is unset
  std::string reason;   // CamelCase, with Aborted
  std::string message;  // for a person, with Aborted; Append shortens it and makes it valid UTF-8
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field.Required("time", self.time);
    field("reason", self.reason);
    field("message", self.message);
  }
};

// The records of a journal file in the order in which they were written. NotFound when there is no file;
// DataLoss when it was damaged or tells a story that cannot have happened.
template <class State>
absl::StatusOr<std::vector<Record<State>>> ReplayJournal(const std::string& path);

// The same, and on the disk when it returns OK: what another process has just written may not be, and is not
// acted on before.
template <class State>
absl::StatusOr<std::vector<Record<State>>> ReplayDurably(const std::string& path);

// Not thread-safe; one writer a file, which the file's lock enforces.
template <class State>
class Journal {
 public:
  // Opens or makes the file, whose folder must exist. Unavailable while another process writes it.
  static absl::StatusOr<Journal> Open(const std::string& path);

  // Durable when it returns OK. The state the journal is in already: OK, and nothing is written. One that
  // cannot follow: FailedPrecondition, nothing written. After any other error the journal takes no more: open
  // it anew.
  absl::Status Append(Record<State> record);

  State state() const { return records_.empty() ? State::kNone : records_.back().state; }
  const std::vector<Record<State>>& records() const { return records_; }

 private:
  Journal(LogFile file, std::vector<Record<State>> records)
      : file_(std::move(file)), records_(std::move(records)) {}

  LogFile file_;
  std::vector<Record<State>> records_;
};

using SourceRecord = Record<agent_api::SourceState>;
using TargetRecord = Record<agent_api::TargetState>;
using SourceJournal = Journal<agent_api::SourceState>;
using TargetJournal = Journal<agent_api::TargetState>;

// --- implementation
// ----------------------------------------------------------------------------------------------

namespace internal {

// A text that a record can hold and every reader can decode, whatever bytes an error message came with: a
// decision must never fail to be written for the sake of its message.
std::string RecordText(absl::string_view text);

template <class State>
absl::StatusOr<std::vector<Record<State>>> DecodeRecords(const std::string& path,
                                                         const std::vector<std::string>& payloads) {
  std::vector<Record<State>> records;
  State state = State::kNone;
  for (const std::string& payload : payloads) {
    absl::StatusOr<Record<State>> record = json::Decode<Record<State>>(payload);
    if (!record.ok()) {
      return absl::DataLossError(
          absl::StrCat("journal ", path, ": record ", records.size(), ": ", record.status().message()));
    }
    if (!MayFollow(state, record->state)) {
      return absl::DataLossError(absl::StrCat("journal ", path, ": record ", records.size(), ": ",
                                              json::Name(record->state), " cannot follow ",
                                              json::Name(state)));
    }
    state = record->state;
    records.push_back(*std::move(record));
  }
  return records;
}

}  // namespace internal

template <class State>
absl::StatusOr<std::vector<Record<State>>> ReplayJournal(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(Contents contents, ReadLog(path));
  return internal::DecodeRecords<State>(path, contents.records);
}

template <class State>
absl::StatusOr<std::vector<Record<State>>> ReplayDurably(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(std::vector<Record<State>> records, ReplayJournal<State>(path));
  GODWIT_RETURN_IF_ERROR(SyncLog(path));
  return records;
}

template <class State>
absl::StatusOr<Journal<State>> Journal<State>::Open(const std::string& path) {
  Contents contents;
  GODWIT_ASSIGN_OR_RETURN(LogFile file, LogFile::Open(path, &contents));
  GODWIT_ASSIGN_OR_RETURN(std::vector<Record<State>> records,
                          internal::DecodeRecords<State>(path, contents.records));
  return Journal(std::move(file), std::move(records));
}

template <class State>
absl::Status Journal<State>::Append(Record<State> record) {
  if (record.state == state()) return absl::OkStatus();
  if (!MayFollow(state(), record.state)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "journal ", file_.path(), ": ", json::Name(record.state), " cannot follow ", json::Name(state())));
  }
  if (record.time == absl::Time()) record.time = absl::Now();
  record.reason = internal::RecordText(record.reason);
  record.message = internal::RecordText(record.message);
  GODWIT_RETURN_IF_ERROR(file_.Append(json::Encode(record)));
  records_.push_back(std::move(record));
  return absl::OkStatus();
}

}  // namespace godwit::journal
