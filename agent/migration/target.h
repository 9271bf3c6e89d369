// SPDX-License-Identifier: Apache-2.0
// The target side of one migration, or a restore from a checkpoint: permits, the state that comes in, the
// restores, the commit. Reads as its table (handover.h): one thread performs one stage after another; streams
// and API calls only leave word for it.
//
//   <folder>/spec.json      what was asked for
//   <folder>/journal        OPEN, PREPARED, RUNNING or ABORTED
//   <folder>/copies.json    the restored containers
//   <folder>/containers/<container>/{images,work,rootfs-*.tar}, volumes/*.tar
//   <folder>/thawed         exists when the copies run
//   <folder>/pulled         when a post-copy's pulling is over: why memory is lost, or nothing
//   <folder>/containers/<container>/lost  why a container's memory is lost, when it is
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "agent/criu/pagemap.h"
#include "agent/journal/journal.h"
#include "agent/memory/page_server.h"
#include "agent/memory/page_store.h"
#include "agent/migration/decisions.h"
#include "agent/migration/handover.h"
#include "agent/migration/pod_on_node.h"
#include "agent/migration/pull.h"
#include "agent/permits/permit_table.h"
#include "agent/runtime/memory_folder.h"
#include "agent/runtime/quick_moves.h"
#include "agent/transfer/container_path.h"
#include "agent/transfer/file_receiver.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/page_receiver.h"
#include "agent/transfer/side_connections.h"
#include "agent/transfer/stream.h"
#include "base/json.h"

namespace godwit::migration {

// One container's state, ready to be restored.
struct ContainerState {
  std::string images;  // folder
  FilesToApply files;
};

// What a target needs of its node; seams for tests. Everything outlives the targets.
struct TargetNode {
  std::string node;
  permits::PermitTable* permits = nullptr;
  std::function<absl::Status(const std::string& images)> check_images;
  // Where images may be that the source says are small. Empty, or nullopt: on the disk.
  std::function<std::optional<runtime::MemoryFolder>()> image_memory;
  // OK while the container runtime means to start this container, as far as it can be asked.
  std::function<absl::Status(const std::string& container_id)> is_started;
  // criu::AddLazyPages.
  std::function<absl::StatusOr<memory::Ranges>(const std::string& images, pid_t task, const memory::Ranges&,
                                               const criu::Content&)>
      add_pages;
  int64_t sides = transfer::SideConnections::Useful();  // that a stream may have beside it
  std::function<uint64_t()>
      memory_for_pages;  // bytes that the memory of one pod may take here before it runs
  std::function<absl::Status(const permits::Claim&, const std::string& pod_uid, const FilesToApply&)>
      apply_files;
  std::function<absl::Status(const std::string& cgroup)> thaw;  // paths below the cgroup2 mount, as in Claim
  std::function<absl::Status(const std::string& cgroup)> stands;  // OK: it is there and frozen
  std::function<absl::Status(const std::string& cgroup)> kill;    // a copy whose memory is lost
  // Whether a pager fills this container still, as far as the disk tells.
  std::function<bool(const std::string& container_id)> pager_lives;
  // How long a running copy waits for a source, or a pager, that is not connected, before its missing memory
  // counts as lost.
  absl::Duration pull_limit = absl::Minutes(10);
  std::string cgroup_procs;  // of the agent's own cgroup, for runtime::QuickMoves; empty: do without
  // Destroys what the permits of a pod on the disk say may be left of its copies: after a restart in the
  // middle of an abort.
  std::function<absl::Status(const std::string& sandbox_uid)> destroy_left_copies;
  std::function<void(const transfer::ReceivedTotals&, int64_t stream_bytes)> received;  // metrics
  std::function<void(const absl::Status&)> stream_failed;                               // metrics
  std::function<void(bool restore, const agent_api::TargetStatus&, absl::Duration create_wait)> finished;
  std::function<void(const agent_api::PullStatus&)> pulled;  // metrics: at the end of a post-copy's pulling
};

// Brings the state of all containers, by name, for a restore; empty for a migration, whose state comes over a
// stream.
using BringState = std::function<absl::StatusOr<std::map<std::string, ContainerState>>()>;

// What both PUT .../target and PUT .../restores ask for.
struct TargetRequest {
  std::string uid;  // of the Migration or Restore
  agent_api::PodName pod;
  std::vector<std::string> containers;
  std::string source_node;  // empty: a restore
  absl::Duration create_limit;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("uid", self.uid);
    field.Required("pod", self.pod);
    field.Required("containers", self.containers);
    field("sourceNode", self.source_node);
    field.Required("createLimit", self.create_limit);
  }
};

class Target {
 public:
  // `folder` exists and is empty. Writes the permits; when this returns OK, `create` of the containers waits.
  static absl::StatusOr<std::unique_ptr<Target>> Start(TargetRequest request, std::string folder,
                                                       TargetNode node, BringState bring);
  // Takes up what an agent that ended has left in `folder`: prepared waits for the verdict, running is
  // completed, everything before is aborted.
  static absl::StatusOr<std::unique_ptr<Target>> Recover(std::string folder, TargetNode node);
  // Ends the thread where it is; nothing is decided by that.
  ~Target();

  agent_api::TargetStatus status() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool final() const ABSL_LOCKS_EXCLUDED(mutex_);
  const TargetRequest& request() const { return request_; }

  // Makes it end without running. FailedPrecondition when it is too late: committed or running. OK when
  // aborted already.
  absl::Status Abort(const std::string& reason, const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);

  // The source does not run and never will, as the caller vouches: the prepared copy runs without its COMMIT.
  // FailedPrecondition unless prepared. OK when it runs already.
  absl::Status TakeOver() ABSL_LOCKS_EXCLUDED(mutex_);

  // The memory that a container of this target's pod is to be filled from; NotFound when there is none.
  absl::StatusOr<memory::PageServer::Found> Pages(const std::string& container) const;
  // A running container was killed, for nobody is left who fills its memory: what a post-copy still lacks of
  // it is lost.
  void LoseMemory(const std::string& container, const std::string& why) ABSL_LOCKS_EXCLUDED(mutex_);

  // Answers a source's HELLO and serves its stream to the end; one thread a stream.
  void Serve(const std::shared_ptr<transfer::Stream>& stream, const transfer::Hello& hello)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Copy {
    std::string container;
    std::string cgroup;
    std::string container_id;
    int64_t missing = 0;  // bytes of its memory that it begins to run without
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field.Required("container", self.container);
      field.Required("cgroup", self.cgroup);
      field("containerID", self.container_id);
      field("missing", self.missing);
    }
    bool operator==(const Copy&) const = default;
  };
  struct Copies {
    std::vector<Copy> copies;
    template <class Self, class V>
    static void Fields(Self& self, V& field) {
      field("copies", self.copies);
    }
  };

  Target(TargetRequest request, std::string folder, TargetNode node, BringState bring,
         journal::TargetJournal journal);
  void Run();
  std::optional<TargetEvent> Perform(TargetStage stage);

  TargetEvent RestoreAll();
  absl::Status RestoreOne(const std::string& container, bool first);
  absl::StatusOr<permits::Claim> AwaitClaim(const std::string& container, absl::Duration limit);
  absl::StatusOr<ContainerState> AwaitState(const std::string& container, absl::Time deadline);
  absl::StatusOr<ContainerState> AwaitArmed(const std::string& container, absl::Time deadline);
  absl::StatusOr<permits::Restored> RestoreAtGate(const permits::Claim& claim, absl::Time deadline);
  absl::Status MakeReady(const permits::Claim& claim, const FilesToApply& early, absl::Time deadline,
                         std::optional<runtime::QuickMoves>& quick_moves);
  absl::Status WriteCopies(const permits::Claim& claim) const;
  void ForgetApplied(FilesToApply& files) const;
  absl::Status AddPages(const std::string& container, const std::string& images) const;
  bool HasPages(const std::string& container) const;
  std::string FolderOf(const std::string& container) const {
    return absl::StrCat(folder_, "/", transfer::ContainerPath(container));
  }
  std::string SharedMemoryFile(const std::string& container) const;
  absl::Status Bring();
  TargetEvent Prepare();
  std::optional<TargetEvent> AwaitVerdict();
  std::optional<TargetEvent> Commit();
  absl::Status Do(CommitAct act);
  TargetEvent EndCopy();
  absl::Status Do(EndAct act);

  // Pulling what a post-copy left with the source, in target_pull.cc.
  std::unique_ptr<Pull> MakePull(const std::string& container, bool known);
  std::string PulledFile() const { return absl::StrCat(folder_, "/pulled"); }
  std::string LostFile(const std::string& container) const {
    return absl::StrCat(FolderOf(container), "/lost");
  }
  void TakeUpPulls();
  // What the copies will begin to run without, for status(); returns how many bytes that are.
  int64_t NoteLacking() ABSL_LOCKS_EXCLUDED(mutex_);
  void BeginPulling();
  std::optional<TargetEvent> AwaitPages();
  std::set<std::string> Pulled() const ABSL_LOCKS_EXCLUDED(mutex_);
  bool PullsOver() const;
  std::string WhyLost() const ABSL_LOCKS_EXCLUDED(mutex_);
  void LosePages(const std::string& why) ABSL_LOCKS_EXCLUDED(mutex_);
  bool KillLost();
  void EndPulling(std::string why) ABSL_LOCKS_EXCLUDED(mutex_);
  void List() ABSL_LOCKS_EXCLUDED(mutex_);
  void SendWanted(const transfer::TaskRanges& pages) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status TakeArriving(const transfer::Frame& frame, transfer::PageReceiver& receiver);
  agent_api::PullStatus PullNow() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::map<std::string, memory::PageStore*> Stores() const;

  absl::Status CheckCopies();
  absl::Status WriteState(agent_api::TargetState state);
  void TellRunning(const std::shared_ptr<transfer::Stream>& stream) ABSL_LOCKS_EXCLUDED(mutex_);
  void Tell(transfer::FrameType type);
  void TellAtGate(const std::string& container);

  absl::Status ServeState(const std::shared_ptr<transfer::Stream>& stream, int64_t wanted_sides);
  absl::Status ReceiveState(transfer::Stream& stream);
  void ServeSide(const std::shared_ptr<transfer::Stream>& side, const transfer::Hello& hello);
  absl::Status ReceivePages(transfer::Stream& side, int64_t number);
  absl::Status CheckWanted() const ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status AwaitSides(const transfer::SideFrames& sides) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status TakeStateFrame(transfer::Stream& stream, const transfer::Frame& frame);
  absl::Status AwaitResumption(const absl::Status& cut) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckCut() const ABSL_LOCKS_EXCLUDED(mutex_);
  void ServeVerdict(const std::shared_ptr<transfer::Stream>& stream);
  absl::Status HearVerdict(const std::shared_ptr<transfer::Stream>& stream);
  bool IsArmed() const ABSL_LOCKS_EXCLUDED(mutex_);
  void NoteFiles() ABSL_LOCKS_EXCLUDED(mutex_);
  FilesToApply FilesOf(const std::string& container) const;
  absl::StatusOr<transfer::ReceiveRules> Rules();

  void SetFailure(const std::string& reason, const std::string& message) ABSL_LOCKS_EXCLUDED(mutex_);
  void AddStep(const std::string& name, const std::string& container, absl::Time begin)
      ABSL_LOCKS_EXCLUDED(mutex_);
  bool Interrupted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_ || abort_.has_value(); }
  bool Pause(absl::Duration duration) ABSL_LOCKS_EXCLUDED(mutex_);  // true: stopping

  const TargetRequest request_;
  const std::string folder_;
  const TargetNode node_;
  const BringState bring_;
  // The thread's own.
  journal::TargetJournal journal_;
  std::vector<Copy> copies_;
  bool recovered_ = false;
  absl::Duration create_wait_;
  absl::Time commit_begin_;
  // Of the one thread that serves the stream which brings the state.
  std::optional<runtime::MemoryFolder> image_memory_;
  std::optional<transfer::FileReceiver> files_;
  std::optional<transfer::PageReceiver> pages_;
  bool in_rounds_ = false;  // files or memory have come while the source runs
  std::map<std::string, std::unique_ptr<memory::PageStore>> stores_;  // by container; thread-safe themselves
  transfer::SideConnections sides_;                                   // of that stream; thread-safe itself
  std::set<std::string>
      applied_volumes_;  // once a pod: a container that stands restored has their files open
  std::map<std::string, std::unique_ptr<Pull>> pulls_;  // by container, as stores_; thread-safe themselves

  mutable absl::Mutex mutex_;
  TargetStage stage_ ABSL_GUARDED_BY(mutex_) = TargetStage::kRestoring;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool commit_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<transfer::Reason> abort_ ABSL_GUARDED_BY(mutex_);  // somebody's wish, or the failure
  bool abort_told_ ABSL_GUARDED_BY(mutex_) = false;                // to the source, as far as it was there
  std::map<std::string, ContainerState> states_ ABSL_GUARDED_BY(mutex_);  // complete
  // Whose restore can begin and wait at its gate, and the files that came before the freeze.
  std::map<std::string, ContainerState> armed_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<transfer::Stream> stream_ ABSL_GUARDED_BY(mutex_);  // the source's newest
  Bringing bringing_ ABSL_GUARDED_BY(mutex_) = Bringing::kNotBegun;
  absl::Status cut_ ABSL_GUARDED_BY(mutex_);
  absl::Time resume_by_ ABSL_GUARDED_BY(mutex_);  // with kCut
  std::optional<absl::Time> first_frame_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> thawed_ ABSL_GUARDED_BY(mutex_);
  std::vector<agent_api::FreezeStep> steps_ ABSL_GUARDED_BY(mutex_);
  // Of a post-copy. The containers that run without some of their memory; empty: none.
  std::set<std::string> pulled_ ABSL_GUARDED_BY(mutex_);
  int64_t pull_bytes_ ABSL_GUARDED_BY(mutex_) = 0;                    // are missing when they begin to run
  std::shared_ptr<transfer::Stream> told_ ABSL_GUARDED_BY(mutex_);    // the last over which RUNNING was said
  std::shared_ptr<transfer::Stream> listed_ ABSL_GUARDED_BY(mutex_);  // and what is missing
  // Since when there is no stream; InfiniteFuture while there is one.
  absl::Time alone_since_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::string pages_lost_ ABSL_GUARDED_BY(mutex_);          // why
  agent_api::PullStatus pull_end_ ABSL_GUARDED_BY(mutex_);  // once it is over
  std::thread thread_;
};

}  // namespace godwit::migration
