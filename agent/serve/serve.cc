// SPDX-License-Identifier: Apache-2.0
#include "agent/serve/serve.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "agent/api/server.h"
#include "agent/checkpoint/checkpoints.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/install/cri_status.h"
#include "agent/memory/page_server.h"
#include "agent/memory/pager_watch.h"
#include "agent/memory/pagers.h"
#include "agent/memory/short_smaps.h"
#include "agent/migration/guard_port.h"
#include "agent/migration/pod_on_node.h"
#include "agent/migration/rehearsal.h"
#include "agent/operations/operations.h"
#include "agent/permits/cgroup_end.h"
#include "agent/permits/permit_server.h"
#include "agent/permits/permit_table.h"
#include "agent/permits/pod_check.h"
#include "agent/preflight/inspect.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "agent/runtime/memory_folder.h"
#include "agent/serve/node_facts.h"
#include "agent/serve/sweep.h"
#include "agent/tls/bootstrap.h"
#include "agent/tls/identity.h"
#include "agent/transfer/fetch.h"
#include "agent/transfer/sample_sink.h"
#include "agent/transfer/stream.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/nice.h"
#include "base/status.h"
#include "metrics/metrics.h"

namespace godwit::serve {
namespace {

constexpr absl::Duration kHelloLimit = absl::Seconds(10);
constexpr absl::Duration kFetchLimit = absl::Minutes(10);
constexpr absl::Duration kKillLimit = absl::Seconds(15);
constexpr absl::Duration kCriLimit = absl::Seconds(2);
constexpr absl::Duration kGuardEnters = absl::Seconds(10);  // the cgroup that it has made
constexpr absl::Duration kHousekeeping = absl::Seconds(30);
constexpr int64_t kSmallMemory = int64_t{16} << 20;   // that CRIU has to dump itself
constexpr int64_t kImageMemory = int64_t{256} << 20;  // the most of one migration
constexpr double kPagesShare = 0.8;

// Signals that end the agent, as a descriptor. Made before any thread, so that all inherit the mask.
absl::StatusOr<UniqueFd> EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return ErrnoStatus("cannot block signals");
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus("cannot wait for signals");
  signal(SIGPIPE, SIG_IGN);
  return fd;
}

absl::string_view Outcome(bool good) { return good ? "succeeded" : "failed"; }

// Why a stream ended early, as its metric says it.
absl::string_view StreamReason(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss: return "Checksum";
    case absl::StatusCode::kInvalidArgument: return "Protocol";
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded: return "Connection";
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled: return "Peer";
    default: return "Storage";
  }
}

class Agent {
 public:
  explicit Agent(const ServeOptions& options) : options_(options), metrics_(registry_) {
    host_.root = options.on_host ? "" : "/proc/1/root";
    launch_.binary = absl::StrCat(options.install_folder, "/bin/godwit-guard");
    launch_.host_root = host_.root;
    launch_.host_namespaces = options.on_host ? "" : "/proc/1/ns";
  }

  absl::Status Run(int end_signals) {
    metrics::AddProcessMetrics(registry_);
    metrics_.build_info.With(GODWIT_VERSION).Set(1);
    GODWIT_ASSIGN_OR_RETURN(auto health,
                            agent_api::HealthServer::Start("0.0.0.0", options_.metrics_port, registry_,
                                                           [this] { return Ready(); }));
    GODWIT_RETURN_IF_ERROR(StartParts(end_signals));
    if (ended_) return absl::OkStatus();
    ready_ = true;
    LOG(INFO) << Log("agent serves")
                     .With("node", options_.node)
                     .With("criu", facts_->Info().criu_version)
                     .With("runc", facts_->Info().runc_version);
    while (!Ends(end_signals, kHousekeeping)) KeepHouse();
    ready_ = false;
    LOG(INFO) << Log("agent ends").With("node", options_.node);
    return absl::OkStatus();
  }

 private:
  absl::Status Ready() const {
    return ready_ ? absl::OkStatus()
                  : absl::UnavailableError("the agent has no certificate yet, or is starting");
  }

  bool Ends(int end_signals, absl::Duration limit) {
    pollfd poller{.fd = end_signals, .events = POLLIN, .revents = 0};
    ended_ = ended_ || poll(&poller, 1, static_cast<int>(absl::ToInt64Milliseconds(limit))) > 0;
    return ended_;
  }

  absl::Status StartParts(int end_signals) {
    const std::string identity_folder = absl::StrCat(options_.state_folder, "/identity");
    GODWIT_RETURN_IF_ERROR(MakeFolders(identity_folder, 0700));
    GODWIT_RETURN_IF_ERROR(MakeFolders(absl::StrCat(options_.run_folder, "/guards"), 0700));
    GODWIT_ASSIGN_OR_RETURN(NodeFacts facts,
                            NodeFacts::Make({.node = options_.node,
                                             .host = host_,
                                             .host_namespaces = launch_.host_namespaces,
                                             .install_folder = options_.install_folder,
                                             .state_folder = options_.state_folder,
                                             .cri_socket = options_.cri_socket,
                                             .memory_tracking = options_.memory_tracking,
                                             .disk_reserve_percent = options_.disk_reserve_percent}));
    facts_ = std::make_unique<NodeFacts>(std::move(facts));
    host_.cgroup = facts_->runtime().cgroup_root;
    GODWIT_RETURN_IF_ERROR(GetIdentity(absl::StrCat(identity_folder, "/agent.pem"), end_signals));
    if (ended_) return absl::OkStatus();
    const std::string cgroup_root = host_.At(host_.cgroup);
    permits_ = std::make_unique<permits::PermitTable>(
        permits::PermitStore(absl::StrCat(options_.state_folder, "/permits")),
        [cgroup_root](const std::string& cgroup) {
          return permits::KillCgroup(cgroup_root, cgroup, kKillLimit);
        },
        [cgroup_root](const std::string& cgroup) { return permits::CheckStandsFrozen(cgroup_root, cgroup); },
        [this](const std::string& sandbox_uid, const permits::Claim& claim, int64_t pid) {
          absl::Status status = permits::CheckIsOfPod(host_.root, host_.proc, sandbox_uid, claim, pid);
          if (!status.ok()) metrics_.invariant_violations.With("I7").Increment();
          return status;
        });
    GODWIT_RETURN_IF_ERROR(OpenWork());
    sweep_ = std::make_unique<Sweep>(Sweep::Options{.host = host_,
                                                    .state_folder = options_.state_folder,
                                                    .run_folder = options_.run_folder,
                                                    .knows = [this](const std::string& uid) {
                                                      return operations_->Knows(uid) ||
                                                             checkpoints_->Get(uid).ok();
                                                    }});
    pager_watch_ = std::make_unique<memory::PagerWatch>(memory::PagerWatch::Options{
        .folder = host_.At(agent_api::kPagersFolder),
        .pagers_cgroup = absl::StrCat(cgroup_root, "/", agent_api::kPagersFamily),
        .cgroup_here = [this](const std::string& cgroup) { return host_.At(cgroup); },
        .lost = [this](const agent_api::PagerStatus& pager) { LostMemory(pager); }});
    FeedGauges();
    GODWIT_ASSIGN_OR_RETURN(
        permit_server_,
        permits::PermitServer::Start(absl::StrCat(options_.run_folder, "/agent.sock"), permits_.get()));
    GODWIT_ASSIGN_OR_RETURN(
        page_server_,
        memory::PageServer::Start(absl::StrCat(options_.run_folder, "/pages.sock"),
                                  [this](const auto&... name) { return operations_->FindPages(name...); }));
    GODWIT_ASSIGN_OR_RETURN(streams_,
                            transfer::StreamServer::Start(
                                *identity_, "", static_cast<uint16_t>(options_.stream_port),
                                [this](std::shared_ptr<transfer::Stream> stream) { ServeStream(stream); }));
    agent_api::Backend backend{
        .operations = operations_.get(), .checkpoints = checkpoints_.get(), .metrics = &metrics_};
    backend.node = [this] {
      agent_api::NodeInfo info = facts_->Info();
      info.images_bytes = operations_->ImagesBytes();
      return info;
    };
    backend.preflight = [this](const agent_api::PreflightRequest& request) { return Preflight(request); };
    backend.rehearse = [this](const agent_api::RehearsalRequest& request) { return Rehearse(request); };
    GODWIT_ASSIGN_OR_RETURN(
        api_, agent_api::ApiServer::Start(*identity_, "0.0.0.0", options_.api_port, std::move(backend)));
    return absl::OkStatus();
  }

  // Waits as long as it takes for the first certificate; the controller may come later than the agents.
  absl::Status GetIdentity(const std::string& certificate_and_key, int end_signals) {
    renewal_ = std::make_unique<tls::CertificateRenewal>(
        tls::BootstrapOptions{.node = options_.node,
                              .controller = options_.controller,
                              .token_file = options_.token_file,
                              .authority_file = options_.authority_file,
                              .certificate_and_key_file = certificate_and_key},
        [this](const absl::Status& status) {
          metrics_.certificate_renewals.With(Outcome(status.ok())).Increment();
        });
    while (!Ends(end_signals, absl::ZeroDuration())) {
      absl::Status there = renewal_->AwaitCertificate(absl::Seconds(1));
      if (there.ok()) break;
      LOG_EVERY_N_SEC(WARNING, 15) << Log("no certificate from the controller yet")
                                          .With("controller", options_.controller)
                                          .With(there);
    }
    if (ended_) return absl::OkStatus();
    GODWIT_ASSIGN_OR_RETURN(identity_, tls::Identity::Load({.certificate_and_key = certificate_and_key,
                                                            .authority = options_.authority_file}));
    return absl::OkStatus();
  }

  absl::Status OpenWork() {
    LiftFences();
    if (auto smaps = memory::ShortSmaps::Load(); smaps.ok()) {
      smaps_.emplace(*std::move(smaps));
    } else {
      LOG(WARNING) << Log("freezes are longer, by some 10 ms for each GiB of memory").With(smaps.status());
    }
    malloc_trim(0);  // the kernel's BTF took 20 MiB
    checkpoint::Node node{
        .host = host_,
        .runtime = facts_->runtime().runtime,
        .criu_folder = absl::StrCat(options_.install_folder, "/criu"),
        .guards_folder = absl::StrCat(options_.run_folder, "/guards"),
        .criu_version = facts_->Info().criu_version,
        .memory = TrackedMemory({}),  // shared memory is in CRIU's images, as they are kept
        .memory_for_pages = [this] { return MemoryForPages(); },
        .disk_reserve = facts_->DiskReserve(),
        .write_smaps = SmapsWriter(),
        .check_addresses = [this](const auto& container,
                                  const auto& addresses) { return CheckAddresses(container, addresses); }};
    GODWIT_ASSIGN_OR_RETURN(checkpoints_, checkpoint::Checkpoints::Open(
                                              absl::StrCat(options_.state_folder, "/checkpoints"), node,
                                              migration::RealGuards(launch_).start,
                                              [this](const auto& status) { CheckpointFinished(status); }));
    GODWIT_ASSIGN_OR_RETURN(operations_,
                            operations::Operations::Open(
                                {.folder = options_.state_folder,
                                 .node = options_.node,
                                 .source = SourceNode(),
                                 .target = TargetNode(),
                                 .fetch = [this](const auto&... arguments) { return Fetch(arguments...); },
                                 .find_archive =
                                     [this](const std::string& uid, const std::string& file_name) {
                                       return checkpoints_->FindArchive(uid, file_name);
                                     },
                                 .memory_available = [this] { return MemoryAvailable(host_.proc); }}));
    return absl::OkStatus();
  }

  // As many at a time as half of the free memory can bear.
  std::optional<runtime::MemoryFolder> ImageMemory() const {
    const int64_t all = (runtime::MemoryFolder::alive() + 1) * kImageMemory;
    if (all > MemoryAvailable(host_.proc) / 2) return std::nullopt;
    absl::StatusOr<runtime::MemoryFolder> folder = runtime::MemoryFolder::Make(kImageMemory);
    if (folder.ok()) return *std::move(folder);
    LOG_FIRST_N(WARNING, 1)
        << Log("freezes take some 20 ms longer: images are on the disk").With(folder.status());
    return std::nullopt;
  }

  // Only for what is sure to be small: where the pod has little beside the memory which goes in rounds.
  std::optional<runtime::MemoryFolder> SmallImages(int64_t criu_bytes) const {
    return criu_bytes <= kSmallMemory ? ImageMemory() : std::nullopt;
  }

  std::function<absl::Status(const std::string&, const std::string&)> SmapsWriter() {
    if (!smaps_.has_value()) return nullptr;
    return [this](const std::string& cgroup, const std::string& folder) {
      return smaps_->Write(host_.proc, cgroup, folder);
    };
  }

  migration::MemoryNode Memory(const memory::Tracker::Options& options) const {
    migration::MemoryNode memory = migration::RealMemory(host_.proc, options);
    if (absl::Status tracking = facts_->CheckTracking(); !tracking.ok())
      memory.track = [tracking](const std::string&) { return tracking; };
    return memory;
  }

  // Not while a rehearsal has its trackers on the same pod, perhaps: it would look as if the pod could not be
  // pre-copied.
  migration::MemoryNode TrackedMemory(const memory::Tracker::Options& options) {
    migration::MemoryNode memory = Memory(options);
    memory.track = [this, track = memory.track](const std::string& cgroup) {
      absl::MutexLock lock(&rehearsing_);
      return track(cgroup);
    };
    return memory;
  }

  // One at a time on a node, some seconds each.
  absl::StatusOr<agent_api::RehearsalReport> Rehearse(const agent_api::RehearsalRequest& request) {
    migration::RehearsalNode node{.node = options_.node, .memory = Memory({.shared_memory = true})};
    node.find_pod = [this](const agent_api::RehearsalRequest& asked) {
      return migration::FindPod(host_, asked.pod, asked.containers, {});
    };
    node.filling = [this](const std::vector<std::string>& ids) {
      return memory::StillFilled(host_.At(agent_api::kPagersFolder), ids);
    };
    node.connect = [this](const std::string& address, const std::string& peer, absl::Time deadline) {
      return transfer::Stream::Connect(*identity_, address, peer, deadline);
    };
    node.cgroup_here = [this](const std::string& cgroup) { return host_.At(cgroup); };
    absl::MutexLock lock(&rehearsing_);
    return migration::Rehearse(request, node);
  }

  migration::SourceNode SourceNode() {
    migration::SourceNode node{.node = options_.node,
                               .runtime = facts_->runtime().runtime,
                               .criu_folder = absl::StrCat(options_.install_folder, "/criu"),
                               .guards = migration::RealGuards(launch_)};
    node.find_pod = [this](const agent_api::SourceSpec& spec) {
      return migration::FindPod(host_, spec.pod, spec.containers, spec.empty_dirs);
    };
    node.pack = [this](auto&&... arguments) { return migration::PackHostFolder(host_, arguments...); };
    node.memory = TrackedMemory({.shared_memory = true});
    node.image_memory = [this](int64_t criu_bytes) { return SmallImages(criu_bytes); };
    node.write_smaps = SmapsWriter();
    node.filling = [this](const std::vector<std::string>& ids) {
      return memory::StillFilled(host_.At(agent_api::kPagersFolder), ids);
    };
    node.check_addresses = [this](const runtime::Container& container,
                                  const std::vector<std::string>& addresses) {
      return CheckAddresses(container, addresses);
    };
    node.holds = absl::StrCat(options_.state_folder, agent_api::kHoldsFolder);
    node.cgroup_here = [this](const std::string& cgroup) { return host_.At(cgroup); };
    node.round = [this](const auto& before, const auto& now) { Rounded(before, now); };
    node.mapped_files = [this](const migration::PodOnNode& pod) {
      return migration::FindMappedFiles(host_, pod);
    };
    node.connect = [this](const std::string& address, const std::string& peer, absl::Time deadline) {
      return transfer::Stream::Connect(*identity_, address, peer, deadline);
    };
    node.sent = [this](const migration::SentTotals& sent) { Sent(sent); };
    node.froze = [this](const agent_api::SourceStatus& status) { Froze(status); };
    node.finished = [this](const agent_api::SourceStatus& status) {
      Finished("migration-source", status.state == agent_api::SourceState::kDone, status.reason);
      PreCopied(status);
    };
    return node;
  }

  // The pod's status may be written by whoever may write it.
  absl::Status CheckAddresses(const runtime::Container& container,
                              const std::vector<std::string>& addresses) {
    if (addresses.empty()) return absl::OkStatus();
    GODWIT_ASSIGN_OR_RETURN(
        const std::vector<std::string> own,
        install::PodAddresses(host_.At(options_.cri_socket), container.sandbox_id, kCriLimit));
    return install::CheckAddresses(addresses, own);
  }

  // A container of its own cgroup namespace finds itself at its root; the agent's, privileged, is in the
  // host's.
  static std::string OwnCgroupProcs() {
    const absl::StatusOr<std::string> own = runtime::CgroupOfProcess("/proc", getpid());
    if (!own.ok()) {
      LOG(WARNING) << Log("restores take some 15 ms longer: the own cgroup is not known").With(own.status());
      return "";
    }
    return absl::StrCat("/sys/fs/cgroup", *own == "/" ? "" : *own, "/cgroup.procs");
  }

  migration::TargetNode TargetNode() {
    const std::string cgroup_root = host_.At(host_.cgroup);
    migration::TargetNode node{.node = options_.node, .permits = permits_.get()};
    node.cgroup_procs = OwnCgroupProcs();
    node.check_images = [](const std::string& images) { return criu::CheckImages(images); };
    node.is_started = [this](const std::string& container_id) {
      const absl::Status started =
          install::ContainerIsStarted(host_.At(options_.cri_socket), container_id, kCriLimit);
      // Slow is not gone.
      return absl::IsDeadlineExceeded(started) ? absl::OkStatus() : started;
    };
    node.add_pages = criu::AddLazyPages;
    node.image_memory = [this] { return ImageMemory(); };
    node.memory_for_pages = [this] { return MemoryForPages(); };
    node.apply_files = [this](const permits::Claim& claim, const std::string& pod_uid,
                              const migration::FilesToApply& files) {
      return migration::ApplyFiles(host_, claim, pod_uid, files);
    };
    node.thaw = [cgroup_root](const std::string& cgroup) {
      return runtime::AdoptFrozen({absl::StrCat(cgroup_root, cgroup)}).Thaw();
    };
    node.stands = [cgroup_root](const std::string& cgroup) {
      return permits::CheckStandsFrozen(cgroup_root, cgroup);
    };
    node.kill = [cgroup_root](const std::string& cgroup) {
      return permits::KillCgroup(cgroup_root, cgroup, kKillLimit);
    };
    node.pager_lives = [this](const std::string& container_id) {
      return memory::StillFilled(host_.At(agent_api::kPagersFolder), {container_id});
    };
    node.pulled = [this](const agent_api::PullStatus& pull) { Pulled(pull); };
    node.destroy_left_copies = [this, cgroup_root](const std::string& sandbox_uid) -> absl::Status {
      GODWIT_ASSIGN_OR_RETURN(
          auto stored,
          permits::PermitStore(absl::StrCat(options_.state_folder, "/permits")).ListSandbox(sandbox_uid));
      for (const permits::StoredPermit& one : stored) {
        if (!one.permit.copy_cgroup.empty())
          GODWIT_RETURN_IF_ERROR(permits::KillCgroup(cgroup_root, one.permit.copy_cgroup, kKillLimit));
      }
      return absl::OkStatus();
    };
    node.received = [this](const transfer::ReceivedTotals& totals, int64_t stream_bytes) {
      metrics_.received.With("memory").Increment(static_cast<double>(totals.page_bytes));
      metrics_.received.With("images").Increment(static_cast<double>(totals.image_bytes));
      metrics_.received.With("files").Increment(static_cast<double>(totals.file_bytes));
      metrics_.stream_bytes.With("received").Increment(static_cast<double>(stream_bytes));
    };
    node.stream_failed = [this](const absl::Status& status) {
      metrics_.stream_errors.With(StreamReason(status)).Increment();
    };
    node.finished = [this](bool restore, const agent_api::TargetStatus& status, absl::Duration create_wait) {
      Finished(restore ? "restore" : "migration-target", status.state == agent_api::TargetState::kRunning,
               status.reason);
      metrics_.create_wait.Observe(create_wait);
    };
    return node;
  }

  absl::Status Fetch(const agent_api::RestoreSpec& spec, const agent_api::Archive& archive,
                     const std::string& path, absl::Time deadline) {
    return transfer::FetchArchive(*identity_,
                                  {.own_node = options_.node,
                                   .node = spec.archive_node,
                                   .address = spec.archive_address,
                                   .checkpoint_uid = spec.checkpoint_uid,
                                   .archive = archive.path.substr(archive.path.rfind('/') + 1),
                                   .digest = archive.digest,
                                   .max_bytes = archive.size},
                                  path, deadline);
  }

  // Whoever connects says first what for.
  void ServeStream(const std::shared_ptr<transfer::Stream>& stream) {
    auto frame = stream->Receive(SteadyNow() + kHelloLimit);
    absl::Status status = frame.status();
    if (status.ok() && frame->type != transfer::FrameType::kHello)
      status = absl::InvalidArgumentError("the first frame is no HELLO");
    absl::StatusOr<transfer::Hello> hello =
        status.ok() ? transfer::DecodeMessage<transfer::Hello>(*frame) : status;
    if (hello.ok() && hello->role == transfer::Role::kMigration)
      return operations_->ServeMigration(stream, *hello);
    if (hello.ok() && hello->role == transfer::Role::kRehearsal) {
      status = transfer::TakeSample(*stream, *hello);
    } else if (hello.ok()) {
      status = transfer::ServeArchive(
          *stream, *hello, [this](const auto&... named) { return checkpoints_->FindArchiveFor(named...); },
          SteadyNow() + kFetchLimit);
    } else {
      status = hello.status();
      metrics_.stream_errors.With("Protocol").Increment();
    }
    if (!status.ok())
      LOG(WARNING) << Log("stream ended early").With("peer", stream->peer_node()).With(status);
  }

  absl::StatusOr<agent_api::PreflightReport> Preflight(const agent_api::PreflightRequest& request) {
    const ScopedNice gives_way;
    auto report = preflight::Inspect(host_, request, {.node = facts_->Info(), .hwcap = getauxval(AT_HWCAP)});
    if (!report.ok()) return report;
    for (const agent_api::Finding& finding : report->findings)
      metrics_.preflight_findings.With(finding.id, json::Name(finding.severity)).Increment();
    return report;
  }

  // --- metrics

  void Finished(const char* operation, bool good, const std::string& reason) {
    const bool wished = !good && (reason == "Cancelled" || reason == "Deleted");  // the controller's words
    metrics_.finished.With(operation, wished ? "cancelled" : Outcome(good)).Increment();
    if (!good && !wished) metrics_.failures.With(operation, reason.empty() ? "Unknown" : reason).Increment();
  }
  void CheckpointFinished(const agent_api::CheckpointStatus& status) {
    const bool good = status.state == agent_api::CheckpointState::kReady;
    Finished("checkpoint", good, status.reason);
    if (status.frozen_at != absl::Time())
      metrics_.freezes.Observe(status.freeze, "checkpoint", good ? "committed" : "aborted");
    for (const agent_api::FreezeStep& step : status.steps)
      metrics_.freeze_steps.Observe(step.duration, step.name);
  }
  void Rounded(const agent_api::PreCopyProgress& before, const agent_api::PreCopyProgress& now) {
    metrics_.pre_copy_rounds.With().Increment();
    metrics_.pre_copy_dirty.With().Increment(static_cast<double>(now.dirty_bytes));
    metrics_.pre_copy_saved.With("zero").Increment(static_cast<double>(now.zero_bytes - before.zero_bytes));
    metrics_.pre_copy_saved.With("unchanged")
        .Increment(static_cast<double>(now.unchanged_bytes - before.unchanged_bytes));
  }
  void PreCopied(const agent_api::SourceStatus& status) {
    const agent_api::PreCopyProgress& progress = status.pre_copy;
    if (progress.rounds == 0 && progress.fallback.empty()) return;
    const bool moved = status.state == agent_api::SourceState::kDone;
    const char* outcome = !progress.fallback.empty()                             ? "fell_back"
                          : progress.gave_up || status.reason == "NotConverging" ? "gave_up"
                          : moved                                                ? "converged"
                                                                                 : "aborted";
    metrics_.pre_copies.With(outcome).Increment();
  }
  void Pulled(const agent_api::PullStatus& pull) {
    metrics_.post_copies.With(pull.lost.empty() ? "arrived" : "lost").Increment();
    metrics_.pulled_bytes.With().Increment(static_cast<double>(pull.total_bytes - pull.missing_bytes));
    metrics_.pulled_faults.With().Increment(static_cast<double>(pull.faults));
  }
  // A part of what is free, so that the node's own pods keep some; memory that does not fit ends the
  // migration.
  uint64_t MemoryForPages() const { return static_cast<uint64_t>(MemoryAvailable(host_.proc) * kPagesShare); }
  void LostMemory(const agent_api::PagerStatus& pager) {
    metrics_.lost_memory.With().Increment();
    operations_->LoseMemory(pager.migration_uid, pager.container, pager.message);
  }
  void FeedPagers() {
    double backlog = 0;
    absl::Duration slowest;
    for (const agent_api::PagerStatus& pager : memory::PagersAtWork(host_.At(agent_api::kPagersFolder))) {
      backlog += static_cast<double>(pager.remaining_bytes);
      slowest = std::max(slowest, pager.fault_p99);
    }
    metrics_.pager_backlog.With().Set(backlog);
    metrics_.pager_fault_p99.With().Set(absl::ToDoubleSeconds(slowest));
  }
  void Froze(const agent_api::SourceStatus& status) {
    metrics_.freezes.Observe(status.freeze, "migration", status.target_running ? "committed" : "aborted");
    for (const agent_api::FreezeStep& step : status.steps)
      metrics_.freeze_steps.Observe(step.duration, step.name);
  }
  void Sent(const migration::SentTotals& sent) {
    metrics_.sent.With("memory").Increment(static_cast<double>(sent.page_bytes));
    metrics_.sent.With("images").Increment(static_cast<double>(sent.image_bytes));
    metrics_.sent.With("files").Increment(static_cast<double>(sent.file_bytes));
    metrics_.sent_pages.With().Increment(static_cast<double>(sent.page_bytes) /
                                         static_cast<double>(sysconf(_SC_PAGESIZE)));
    metrics_.stream_bytes.With("sent").Increment(static_cast<double>(sent.wire_bytes));
    if (sent.took > absl::ZeroDuration()) {
      metrics_.transfer_rate.With().Observe(
          static_cast<double>(sent.page_bytes + sent.image_bytes + sent.file_bytes) /
          absl::ToDoubleSeconds(sent.took));
    }
  }
  void FeedGauges() {
    const agent_api::NodeInfo info = facts_->Info();
    metrics_.node_info.With(info.architecture, info.kernel, info.criu_version, info.runc_version).Set(1);
    registry_.BeforeExposition([this] {
      const agent_api::NodeInfo now = facts_->Info();
      metrics_.runtime_ready.With().Set(now.runtime_ready ? 1 : 0);
      metrics_.storage_available.With().Set(
          static_cast<double>(std::max<int64_t>(0, now.storage_available - now.storage_reserve)));
      metrics_.memory_available.With().Set(static_cast<double>(now.memory_available));
      metrics_.images_bytes.With().Set(static_cast<double>(operations_->ImagesBytes()));
      metrics_.certificate_expiry.With().Set(
          static_cast<double>(absl::ToUnixSeconds(identity_->not_after())));
      const auto working = operations_->Count();
      metrics_.operations.With("migration-source").Set(working.sources);
      metrics_.operations.With("migration-target").Set(working.targets);
      metrics_.operations.With("restore").Set(working.restores);
      metrics_.frozen_pods.With().Set(working.frozen);
      metrics_.pre_copy_dirty_rate.With().Set(static_cast<double>(working.dirty_rate));
      metrics_.pre_copy_predicted_freeze.With().Set(absl::ToDoubleSeconds(working.predicted_freeze));
      metrics_.missing_bytes.With().Set(static_cast<double>(working.missing_bytes));
      metrics_.pull_fault_p99.With().Set(absl::ToDoubleSeconds(working.slow_fault));
      FeedPagers();
      const auto checkpoints = checkpoints_->Count();
      metrics_.operations.With("checkpoint").Set(checkpoints.running);
      metrics_.archives.With().Set(static_cast<double>(checkpoints.archives));
      metrics_.archives_bytes.With().Set(static_cast<double>(checkpoints.bytes));
    });
  }

  void KeepHouse() {
    for (const BrokenPromise& broken : sweep_->Look(absl::Now())) {
      metrics_.invariant_violations.With(broken.invariant).Increment();
      LOG(ERROR) << Log("a promise of the hand-over is broken")
                        .With("migration", broken.uid)
                        .With("invariant", broken.invariant)
                        .With("what", broken.message);
    }
    operations_->TakeUpAgain();
    RemovePermits();
    RemoveKilledGuards();
  }

  // A guard that was killed leaves its cgroup behind, and the fence that it had made ready.
  void RemoveKilledGuards() {
    const std::string guards = absl::StrCat(host_.At(host_.cgroup), "/godwit-guard");
    const auto names = ListFolder(guards);
    if (!names.ok()) return;
    bool removed = false;
    for (const std::string& name : *names) {
      const std::string cgroup = absl::StrCat(guards, "/", name);
      struct stat info{};
      if (stat(cgroup.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) continue;
      if (absl::Now() - absl::FromTimeT(info.st_ctime) < kGuardEnters) continue;
      removed = rmdir(cgroup.c_str()) == 0 || removed;  // the kernel refuses while somebody is in it
    }
    if (removed) LiftFences();
  }

  // Those that nobody answers for.
  void LiftFences() {
    const absl::Status lifted =
        guard::LiftFencesLeft(launch_, absl::StrCat(options_.install_folder, "/criu"));
    if (!lifted.ok()) LOG(WARNING) << Log("fences of killed guards may be left").With(lifted);
  }

  // Spent permits go when their pods have gone.
  void RemovePermits() {
    const std::string pods = host_.At(absl::StrCat(options_.kubelet_folder, "/pods"));
    if (!FileExists(pods)) return;  // kubelet keeps them elsewhere: better keep too many
    absl::Status removed = permits_->RemoveSpent(
        [&pods](const std::string& uid) { return FileExists(absl::StrCat(pods, "/", uid)); });
    if (!removed.ok()) LOG(WARNING) << Log("cannot remove spent permits").With(removed);
    // Aborted ones refuse every `create` until the pod is gone.
    const permits::PermitStore store(absl::StrCat(options_.state_folder, "/permits"));
    const auto stored = store.List();
    if (!stored.ok()) return;
    for (const permits::StoredPermit& one : *stored) {
      const bool aborted = one.permit.state == agent_api::PermitState::kAborted;
      if (aborted && !FileExists(absl::StrCat(pods, "/", one.sandbox_uid)))
        store.Remove(one.sandbox_uid, one.container).IgnoreError();
    }
  }

  const ServeOptions options_;
  runtime::HostView host_;
  guard::GuardLaunch launch_;
  metrics::Registry registry_;
  metrics::AgentMetrics metrics_;
  std::atomic<bool> ready_ = false;
  bool ended_ = false;
  absl::Mutex rehearsing_;
  // In the order in which they are made; ended in the opposite order.
  std::unique_ptr<NodeFacts> facts_;
  std::unique_ptr<tls::CertificateRenewal> renewal_;
  std::unique_ptr<tls::Identity> identity_;
  std::unique_ptr<permits::PermitTable> permits_;
  std::optional<memory::ShortSmaps> smaps_;  // none: this kernel cannot tell
  std::unique_ptr<checkpoint::Checkpoints> checkpoints_;
  std::unique_ptr<operations::Operations> operations_;
  std::unique_ptr<Sweep> sweep_;
  std::unique_ptr<memory::PagerWatch> pager_watch_;
  std::unique_ptr<permits::PermitServer> permit_server_;
  std::unique_ptr<memory::PageServer> page_server_;
  std::unique_ptr<transfer::StreamServer> streams_;
  std::unique_ptr<agent_api::ApiServer> api_;
};

}  // namespace

absl::Status Serve(const ServeOptions& options) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd end_signals, EndSignals());
  Agent agent(options);
  return agent.Run(end_signals.get());
}

}  // namespace godwit::serve
