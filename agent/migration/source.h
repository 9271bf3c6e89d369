// SPDX-License-Identifier: Apache-2.0
// The source side of one migration: copy memory in rounds while the pod runs, freeze by the guard, dump and
// send the rest, cede, hear that the target runs, and serve what it pulls then. Reads as its table
// (handover.h): one thread performs one stage after another; API calls only leave word for it.
//
//   <folder>/spec.json                what was asked for
//   <folder>/journal                  OPEN by the agent, the rest by the guard
//   <folder>/guard.json               what the guard was told; guard.sock, guard.log
//   <folder>/containers/<container>/{images,work}
//   <folder>/thawed                   exists when what was ceded is known to go on here
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/api/messages.h"
#include "agent/journal/journal.h"
#include "agent/migration/decisions.h"
#include "agent/migration/file_rounds.h"
#include "agent/migration/guard_port.h"
#include "agent/migration/handover.h"
#include "agent/migration/page_service.h"
#include "agent/migration/pod_on_node.h"
#include "agent/migration/pre_copy.h"
#include "agent/runtime/memory_folder.h"
#include "agent/transfer/file_sender.h"
#include "agent/transfer/image_sender.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/side_connections.h"
#include "agent/transfer/stream.h"

namespace godwit::migration {

// What a source sent, for metrics.
struct SentTotals {
  int64_t page_bytes = 0;
  int64_t image_bytes = 0;
  int64_t file_bytes = 0;
  int64_t wire_bytes = 0;
  absl::Duration took;  // from the first to the last frame
};

// What a source needs of its node; seams for tests. Everything outlives the sources.
struct SourceNode {
  std::string node;
  std::string runtime;      // runc, host path
  std::string criu_folder;  // host path
  std::function<absl::StatusOr<PodOnNode>(const agent_api::SourceSpec&)> find_pod;
  FileRounds::Pack pack;
  FileRounds::FindMapped mapped_files;
  MemoryNode memory;
  // What CRIU reads for its tasks' smaps (memory::ShortSmaps::Write). Empty: CRIU reads the kernel's.
  std::function<absl::Status(const std::string& cgroup, const std::string& folder)> write_smaps;
  // Where CRIU's images of a pod may be that have so many bytes of its memory. Empty, or nullopt: on the
  // disk.
  std::function<std::optional<runtime::MemoryFolder>(int64_t criu_bytes)> image_memory;
  // Whether the memory of these containers is still being filled after an earlier move.
  std::function<bool(const std::vector<std::string>& container_ids)> filling;
  // Whether the container's pod has these addresses: what is fenced must be its own. Empty: not asked.
  std::function<absl::Status(const runtime::Container&, const std::vector<std::string>& addresses)>
      check_addresses;
  int64_t sides = transfer::SideConnections::Useful();  // wanted beside a stream that brings memory
  std::string holds;  // folder (permits/source_hold.h); empty: kubelet is not kept from anything
  Guards guards;
  std::function<absl::StatusOr<std::unique_ptr<transfer::Stream>>(
      const std::string& address, const std::string& node, absl::Time deadline)>
      connect;
  // The host's path of a cgroup2 folder as seen from here.
  std::function<std::string(const std::string& cgroup)> cgroup_here;
  // Metrics: after each round.
  std::function<void(const agent_api::PreCopyProgress& before, const agent_api::PreCopyProgress& now)> round;
  std::function<void(const SentTotals&)> sent;                   // metrics
  std::function<void(const agent_api::SourceStatus&)> froze;     // metrics: at the end of the freeze
  std::function<void(const agent_api::SourceStatus&)> finished;  // metrics: when it is Done or Aborted
};

class Source {
 public:
  // `folder` exists and is empty; the same path here and on the host.
  static absl::StatusOr<std::unique_ptr<Source>> Start(agent_api::SourceSpec spec, std::string folder,
                                                       SourceNode node);
  // Takes up what an agent that ended has left in `folder`: ceded is finished with the target, everything
  // before has been thawed by the guard (or is now) and is Aborted.
  static absl::StatusOr<std::unique_ptr<Source>> Recover(std::string folder, SourceNode node);
  // Ends the thread where it is: what was not ceded is thawed by the guard.
  ~Source();

  agent_api::SourceStatus status() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool final() const ABSL_LOCKS_EXCLUDED(mutex_);
  const agent_api::SourceSpec& spec() const { return spec_; }

  // Of a source that copies in rounds (not CopyMode::kStopAndCopy). Each leaves word and may be repeated;
  // FailedPrecondition for a source of another mode, and for one that has gone on or aborted without it.
  // The target's first container waits: freeze when the prediction fits.
  absl::Status Switch() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status SetLimits(const agent_api::PreCopyLimits& limits) ABSL_LOCKS_EXCLUDED(mutex_);
  // Leaves word to thaw and abort. FailedPrecondition once the decision is made. OK when aborted already.
  absl::Status Abort(const std::string& reason, const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);
  // Leaves word that the target's copy does not run and never will, as the caller vouches: what was ceded
  // goes on here, unless the target answers once more. FailedPrecondition unless that is what is waited for.
  // OK when it goes on already.
  absl::Status Reclaim(const std::string& reason, const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);
  // Kills the frozen source and waits for its end. FailedPrecondition unless ceded with the target running
  // (or `unconfirmed`: nobody has said that it does), and while it still serves pages, unless these are
  // abandoned: their pod is gone.
  absl::Status Finish(absl::Duration limit, const agent_api::FinishRequest& request = {})
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Source(agent_api::SourceSpec spec, std::string folder, SourceNode node)
      : spec_(std::move(spec)),
        folder_(std::move(folder)),
        node_(std::move(node)),
        bucket_(spec_.limits.bandwidth_limit),
        limits_(spec_.limits) {}
  absl::Status CheckCopies(absl::string_view what) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run();
  // nullopt: the agent ends.
  std::optional<SourceEvent> Perform(SourceStage stage);

  // The stages, in source.cc.
  SourceEvent Freeze();
  SourceEvent AwaitPrepared();
  SourceEvent Cede();
  SourceEvent AskGuard();
  SourceEvent Commit();
  void NoteRunning(const transfer::Timings& timings, absl::Time begin);
  SourceEvent AskTarget();
  SourceEvent TakeBack();
  std::optional<SourceEvent> AwaitFinish();
  SourceEvent Kill();
  SourceEvent Thaw();
  SourceHears Hears() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  SourceEvent Fail(const absl::Status& status, absl::string_view otherwise) ABSL_LOCKS_EXCLUDED(mutex_);
  SourceEvent FailBecause(const std::string& reason, const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);

  // Copying while the pod runs, in source_copy.cc.
  SourceEvent Copy();
  absl::Status CopyInRounds();
  absl::StatusOr<RoundFigures> SendRound(int64_t number, bool nice);
  absl::Status Reconnect();
  // OK when `failed` was a cut of the connection, which is back: what failed is to be done again. Else why it
  // failed, of which somebody's wish for an end counts more.
  absl::Status AfterCut(const absl::Status& failed, bool resumable) ABSL_LOCKS_EXCLUDED(mutex_);
  // OK when what processes have that no round has seen may go over in the freeze, or is left.
  absl::Status JudgeUnseen() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status NotConverging(const Convergence& convergence, int64_t rounds);
  void AwaitSwitch(absl::Duration limit) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status ComeToGates();
  absl::Status AwaitFilled();
  void MakeSenders();
  absl::Status SendFileRound();
  absl::Status StillWanted() ABSL_LOCKS_EXCLUDED(mutex_);
  // What the dump of a container writes and reads lies below it.
  std::string PlaceOf(const std::string& container) const;
  absl::Status StartGuard();
  absl::Status Arm();
  std::optional<absl::Duration> Switching() const ABSL_LOCKS_EXCLUDED(mutex_);
  void TellProgress(const Convergence& convergence, const RoundFigures& round, int64_t number,
                    Convergence::Verdict verdict);

  // Serving what the target pulls, in source_serve.cc.
  SourceEvent ServePages();
  absl::Status ServeWanted(std::optional<PageService>& service) ABSL_LOCKS_EXCLUDED(mutex_);
  std::vector<PreCopy::Container> Containers() const;
  absl::Status SendSome(PageService& service, bool* all) ABSL_LOCKS_EXCLUDED(mutex_);
  void TellPagesLost(transfer::Stream& stream, const absl::Status& why);
  std::optional<SourceEvent> LookAround(bool idle) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status HearMissing(const transfer::Frame& frame) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Connecting and sending, in source_send.cc.
  SourceEvent Connect();
  absl::Status OpenStream(const transfer::Hello& hello, absl::Duration limit, transfer::HelloOk* answer);
  // Beside `stream`, on which `hello` was answered with the offer.
  void OpenSides(transfer::Stream& stream, transfer::Hello hello, const transfer::HelloOk& offer);
  SourceEvent Send();
  absl::Status LostWhy(const absl::Status& cancelled) const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status SendContainer(size_t index);
  absl::Status SendFiles(size_t index, transfer::FileSender& sender);
  absl::Status DumpContainer(const std::string& container);
  absl::Status Refused(const agent_api::GuardReply& reply) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status HideOwned(size_t index);
  absl::Status WriteSmaps(size_t index);
  absl::Status SendPages(size_t index);
  transfer::Hello HelloFor(bool ask, bool resume) const;
  absl::StatusOr<std::unique_ptr<transfer::Stream>> Reach(const transfer::Hello& hello, absl::Duration limit,
                                                          transfer::HelloOk* answer);

  void Listen(std::shared_ptr<transfer::Stream> stream);
  void StopListening();
  void TellAbortHere();  // over the stream that is open
  void TellAbort();      // over a new one
  absl::Status EnsureGuard();
  absl::StatusOr<std::vector<journal::SourceRecord>> Records() const;
  agent_api::SourceState JournalState(std::string* reason, std::string* message) const;
  void EndFreeze(absl::Duration ago) ABSL_LOCKS_EXCLUDED(mutex_);
  void AddStep(const std::string& name, const std::string& container, absl::Time begin)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void AddTargetSteps(const transfer::Timings& timings) ABSL_LOCKS_EXCLUDED(mutex_);
  bool Pause(absl::Duration duration) ABSL_LOCKS_EXCLUDED(mutex_);  // true: the agent ends
  absl::Time FreezeDeadline() const ABSL_LOCKS_EXCLUDED(mutex_);

  // What came over the stream since it was opened.
  struct Heard {
    int64_t round = 0;     // the last that has arrived
    bool at_gate = false;  // a restore waits for the first container's state
    bool prepared = false;
    std::optional<transfer::Timings> running;
    std::optional<transfer::Reason> aborted;
    std::deque<transfer::TaskRanges> missing;  // listed; taken off by the thread
    bool listed = false;                       // all of it
    std::deque<transfer::TaskRanges> wanted;   // taken off by the thread
    std::optional<transfer::MissingEnd> over;  // none is missing any more
    absl::Status lost;                         // not OK: the stream ended
  };

  const agent_api::SourceSpec spec_;
  const std::string folder_;
  const SourceNode node_;
  // The thread's own.
  PodOnNode pod_;
  std::unique_ptr<PreCopy> pre_copy_;                           // nullptr: CRIU's dump has the memory
  std::optional<runtime::MemoryFolder> image_memory_;           // PlaceOf
  bool leave_pages_ = false;                                    // the last pages, for the target to pull
  std::optional<Convergence> convergence_;                      // when the freeze was decided on
  std::vector<std::unique_ptr<transfer::FileSender>> senders_;  // as pod_.parts
  std::optional<FileRounds> files_;
  std::optional<agent_api::GuardSpec> guard_spec_;
  std::thread listener_;
  bool target_told_ = false;  // of an abort
  int64_t image_bytes_ = 0;   // sent, beside the pages
  absl::Time first_frame_ = absl::InfiniteFuture();

  transfer::TokenBucket bucket_;

  mutable absl::Mutex mutex_;
  SourceStage stage_ ABSL_GUARDED_BY(mutex_) = SourceStage::kConnecting;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  // Written by the thread under the mutex, so that the thread may read them without it and others with it.
  std::shared_ptr<Guard> guard_;
  std::shared_ptr<transfer::Stream> stream_;
  Heard heard_ ABSL_GUARDED_BY(mutex_);
  std::optional<transfer::Reason> abort_ ABSL_GUARDED_BY(mutex_);  // somebody's wish
  bool switch_ ABSL_GUARDED_BY(mutex_) = false;                    // told to: the target waits
  std::optional<absl::Time> switched_at_ ABSL_GUARDED_BY(mutex_);
  agent_api::PreCopyLimits limits_ ABSL_GUARDED_BY(mutex_);
  std::optional<transfer::Reason> reclaim_ ABSL_GUARDED_BY(mutex_);  // somebody vouches for the target's end
  bool finish_ ABSL_GUARDED_BY(mutex_) = false;
  bool abandon_ ABSL_GUARDED_BY(mutex_) = false;
  bool serves_ ABSL_GUARDED_BY(mutex_) = false;  // the target lacks pages, as it said last
  absl::Status finish_result_ ABSL_GUARDED_BY(mutex_);
  std::string hint_ ABSL_GUARDED_BY(mutex_);  // what it is waiting for, when that takes long
  std::optional<absl::Time> freeze_begin_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Duration> freeze_end_ ABSL_GUARDED_BY(mutex_);
  agent_api::SourceStatus status_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::migration
