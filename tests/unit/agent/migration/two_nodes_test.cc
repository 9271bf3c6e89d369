// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/agent/migration/two_nodes.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "agent/permits/source_hold.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::migration {
namespace {

using agent_api::RuntimeAction;
using agent_api::SourceState;
using agent_api::SourceStatus;
using agent_api::TargetState;
using agent_api::TargetStatus;
using testing::ElementsAre;
using testing::HasSubstr;

class TwoNodesTest : public testing::Test {
 protected:
  TwoNodesTest() : folder_(tls::TestFolder()) {
    for (const char* name : {"/source", "/target", "/upper", "/cache"})
      EXPECT_TRUE(MakeFolders(folder_ + name).ok());
    n1_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    n2_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"}));
    behaviour_.world = &world_;
    MakePermits();
    server_ = *transfer::StreamServer::Start(
        *n2_, "127.0.0.1", 0, [this](std::shared_ptr<transfer::Stream> stream) { ServeStream(stream); });
  }
  ~TwoNodesTest() override {
    source_.reset();
    server_.reset();
    DropTarget();
    EndRuntimes();
  }

  // --- the target node
  void MakePermits() {
    permits_ = std::make_unique<permits::PermitTable>(
        permits::PermitStore(folder_ + "/permits"),
        [this](const std::string& cgroup) {
          world_.CopyDies(cgroup);
          return absl::OkStatus();
        },
        [this](const std::string& cgroup) { return world_.Stands(cgroup); });
  }
  TargetNode Target2() {
    return {.node = "n2",
            .permits = permits_.get(),
            .check_images =
                [this](const std::string& images) {
                  return FileExists(images + "/inventory.img") ? check_images_
                                                               : absl::DataLossError("no inventory");
                },
            .is_started =
                [this](const std::string&) {
                  absl::MutexLock lock(&mutex_);
                  return started_looks_ > 0 && --started_looks_ == 0
                             ? absl::FailedPreconditionError("kubelet was restarted")
                             : absl::OkStatus();
                },
            .add_pages = [this](const std::string&, pid_t task, const memory::Ranges& pages,
                                const criu::Content&) -> absl::StatusOr<memory::Ranges> {
              absl::MutexLock lock(&mutex_);
              added_[task] = pages;
              return memory::Difference(pages, left_out_);
            },
            .sides = sides_,
            .memory_for_pages = [] { return uint64_t{1} << 30; },
            .apply_files =
                [this](const permits::Claim& claim, const std::string&, const FilesToApply& files) {
                  absl::MutexLock lock(&mutex_);
                  applied_.push_back(claim.container + (files.rootfs.paths.empty() ? "" : " rootfs"));
                  for (const auto& [volume, tars] : files.volumes)
                    applied_.push_back(claim.container + " " + volume);
                  return absl::OkStatus();
                },
            .thaw =
                [this](const std::string& cgroup) {
                  if (!thaw_fails_) return world_.CopyRuns(cgroup);
                  ++failed_thaws_;
                  return absl::UnavailableError("not now");
                },
            .stands = [this](const std::string& cgroup) { return world_.Stands(cgroup); },
            .kill =
                [this](const std::string& cgroup) {
                  world_.CopyDies(cgroup);
                  return absl::OkStatus();
                },
            .pager_lives = [this](const std::string&) { return pager_lives_.load(); },
            .pull_limit = pull_limit_,
            .destroy_left_copies =
                [this](const std::string&) {
                  world_.CopyDies("/kubepods/app");
                  return absl::OkStatus();
                }};
  }
  void StartTarget(std::vector<std::string> containers = {"app"}) {
    TargetRequest request{.uid = kUid,
                          .pod = {"shop", "cache-0-abcde", kTargetPodUid},
                          .containers = std::move(containers),
                          .source_node = "n1",
                          .create_limit = create_limit_};
    absl::StatusOr<std::unique_ptr<Target>> target =
        Target::Start(request, folder_ + "/target", Target2(), nullptr);
    ASSERT_TRUE(target.ok()) << target.status();
    SetTarget(*std::move(target));
  }
  // Counts those that are gone wholly: the last reference may go in a stream's thread.
  void SetTarget(std::unique_ptr<Target> one) {
    std::shared_ptr<Target> target;
    if (one != nullptr) {
      ++targets_;
      target = std::shared_ptr<Target>(one.release(), [this](Target* gone) {
        delete gone;
        --targets_;
      });
    }
    absl::MutexLock lock(&mutex_);
    target_.swap(target);  // the former goes after the lock
  }
  std::shared_ptr<Target> target() {
    absl::MutexLock lock(&mutex_);
    return target_;
  }
  // As when the agent ends: its streams first, then the target, its journal closed.
  void DropTarget() {
    CutStream();
    for (const std::shared_ptr<FakeRuntime>& runtime : runtimes_) permits_->OnClosed(runtime);
    SetTarget(nullptr);
    for (const absl::Time end = absl::Now() + absl::Seconds(20); targets_ != 0 && absl::Now() < end;)
      absl::SleepFor(absl::Milliseconds(1));
    EXPECT_EQ(targets_, 0);
  }
  void RecoverTarget() {
    // The former closes its journal a moment after the last reference to it has gone.
    absl::StatusOr<std::unique_ptr<Target>> target = absl::UnavailableError("not tried");
    for (const absl::Time end = absl::Now() + absl::Seconds(20);
         absl::IsUnavailable(target.status()) && absl::Now() < end;) {
      target = Target::Recover(folder_ + "/target", Target2());
    }
    ASSERT_TRUE(target.ok()) << target.status();
    SetTarget(*std::move(target));
  }
  void ServeStream(const std::shared_ptr<transfer::Stream>& stream) {
    absl::StatusOr<transfer::Frame> frame = stream->Receive(absl::Now() + absl::Seconds(10));
    if (!frame.ok()) return;
    const auto hello = transfer::DecodeMessage<transfer::Hello>(*frame);
    ASSERT_TRUE(hello.ok()) << hello.status();
    {
      absl::MutexLock lock(&mutex_);
      if (hello->side == 0) {
        ++streams_;
        stream_ = stream;
      } else {
        side_streams_.push_back(stream);
      }
    }
    if (std::shared_ptr<Target> target = this->target(); target != nullptr) {
      target->Serve(stream, *hello);
    } else {
      (void)stream->SendMessage(transfer::FrameType::kRefused,
                                transfer::Reason{"NotFound", "no such migration here"},
                                absl::Now() + absl::Seconds(5));
    }
  }
  void CutStream() {
    absl::MutexLock lock(&mutex_);
    if (stream_ != nullptr) stream_->Shutdown();
  }
  // Moves a pod of which "app" is pre-copied; the pages that are there when it stands restored.
  std::vector<uint8_t> PagesAfterSwitch();
  FakeRuntime& Create(const std::string& container) {
    runtimes_.push_back(std::make_shared<FakeRuntime>(*permits_, world_, container));
    runtimes_.back()->Create();
    return *runtimes_.back();
  }

  // One whose restore does not end.
  void CreateStuck(const std::string& container) {
    runtimes_.push_back(std::make_shared<FakeRuntime>(*permits_, world_, container));
    runtimes_.back()->stuck = true;
    runtimes_.back()->Create();
  }

  // In the source's thread: until the target has begun the first file.
  void AwaitFirstFile() {
    const std::string file = folder_ + "/target/volumes/cache-0.tar";
    for (const absl::Time end = absl::Now() + absl::Seconds(20); !FileExists(file) && absl::Now() < end;)
      absl::SleepFor(absl::Milliseconds(1));
    EXPECT_TRUE(FileExists(file));
  }

  // Their threads first: the last reference to one must not go in its own thread.
  void EndRuntimes() {
    for (const std::shared_ptr<FakeRuntime>& runtime : runtimes_) runtime->Join();
    runtimes_.clear();
  }

  // --- the source node
  agent_api::SourceSpec Spec(std::vector<std::string> containers) {
    agent_api::SourceSpec spec{.migration = {"shop", "move", kUid},
                               .pod = {"shop", "cache-0", "11111111-1111-4222-8333-444455556666"},
                               .target_pod = {"shop", "cache-0-abcde", kTargetPodUid},
                               .empty_dirs = {"cache"},
                               .target_node = "n2",
                               .target_address = absl::StrCat("127.0.0.1:", server_->port()),
                               .freeze_limit = freeze_limit_};
    for (const std::string& container : containers)
      spec.containers.push_back({container, "containerd://" + container});
    return spec;
  }
  SourceNode Source1() {
    SourceNode node{.node = "n1", .runtime = "/usr/sbin/runc", .criu_folder = "/opt/godwit/criu"};
    node.find_pod = [this](const agent_api::SourceSpec& spec) -> absl::StatusOr<PodOnNode> {
      PodOnNode pod;
      for (const agent_api::ContainerRef& ref : spec.containers) {
        pod.parts.push_back({.container = {.id = ref.id, .name = ref.name, .init_pid = 1},
                             .writable_layer = folder_ + "/upper"});
      }
      pod.volumes["cache"] = folder_ + "/cache";
      return pod;
    };
    node.pack = [this](const std::string& path, files::Layout layout, const files::Pass& pass, int round,
                       files::Snapshot& snapshot, const files::Sink& sink) {
      if (on_pack_) on_pack_();
      return (round == 0 ? files::PackBase : files::PackChanges)(path, layout, pass, snapshot, sink);
    };
    node.memory = memory_.Node();
    node.image_memory = image_memory_;
    node.sides = sides_;
    node.holds = folder_ + "/holds";
    node.filling = [this](const std::vector<std::string>&) { return filling_.load(); };
    node.cgroup_here = [](const std::string& cgroup) { return cgroup; };
    node.mapped_files = [](const PodOnNode&) { return files::MappedFiles{}; };
    node.guards.start = [this](const agent_api::GuardSpec& spec) -> absl::StatusOr<std::unique_ptr<Guard>> {
      EXPECT_TRUE(WriteFileDurably(folder_ + "/source/guard.json", json::Encode(spec)).ok());
      auto guard = std::make_unique<FakeGuard>(spec, behaviour_);
      guard_ = guard.get();
      return guard;
    };
    node.guards.find = [](const std::string&) -> absl::StatusOr<std::unique_ptr<Guard>> {
      return absl::NotFoundError("no guard");
    };
    node.connect = [this](const std::string& address, const std::string& peer,
                          absl::Time deadline) -> absl::StatusOr<std::unique_ptr<transfer::Stream>> {
      if (unreachable_) return absl::UnavailableError("no route");
      auto stream = transfer::Stream::Connect(*n1_, address, peer, deadline);
      if (stream.ok()) source_end_ = stream->get();
      return stream;
    };
    node.froze = [this](const SourceStatus& status) {
      absl::MutexLock lock(&mutex_);
      froze_.push_back(status);
    };
    return node;
  }
  void StartSource(std::vector<std::string> containers = {"app"}) { StartWith(Spec(std::move(containers))); }
  void StartPreCopy(agent_api::PreCopyLimits limits = {.freeze_budget = absl::Milliseconds(100),
                                                       .pre_copy_timeout = absl::Seconds(20)}) {
    agent_api::SourceSpec spec = Spec({"app"});
    spec.mode = agent_api::CopyMode::kPreCopy;
    spec.limits = limits;
    StartWith(spec);
  }
  void StartWith(const agent_api::SourceSpec& spec) {
    absl::StatusOr<std::unique_ptr<Source>> source = Source::Start(spec, folder_ + "/source", Source1());
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
  }

  // --- waiting, always with a deadline
  SourceStatus AwaitSource(const std::function<bool(const SourceStatus&)>& wanted) {
    SourceStatus status;
    for (const absl::Time end = absl::Now() + absl::Seconds(30); absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(2))) {
      status = source_->status();
      if (wanted(status)) return status;
    }
    ADD_FAILURE() << "the source stays " << json::Encode(status);
    return status;
  }
  SourceStatus AwaitSource(SourceState state) {
    return AwaitSource([state](const SourceStatus& status) { return status.state == state; });
  }
  TargetStatus AwaitTarget(TargetState state) {
    TargetStatus status;
    for (const absl::Time end = absl::Now() + absl::Seconds(30); absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(2))) {
      status = target()->status();
      if (status.state == state) return status;
    }
    ADD_FAILURE() << "the target stays " << json::Encode(status);
    return status;
  }
  // Whether kubelet is kept from starting the source's containers afresh.
  bool SourceIsHeld() {
    const auto held = permits::WhyHeld(folder_ + "/holds", Spec({}).pod.uid);
    EXPECT_TRUE(held.ok()) << held.status();
    return held.ok() && !held->empty();
  }
  void ExpectRunsOnlyOnSource() {
    EXPECT_TRUE(world_.source_runs());
    EXPECT_EQ(world_.copies(true) + world_.copies(false), 0);
  }
  agent_api::PermitState Permit() {
    const auto permit = permits::PermitStore(folder_ + "/permits").Read(kTargetPodUid, "app");
    EXPECT_TRUE(permit.ok()) << permit.status();
    return permit.ok() ? permit->state : agent_api::PermitState::kWaiting;
  }

  const std::string folder_;
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> n1_, n2_;
  World world_;
  GuardBehaviour behaviour_;
  FakeGuard* guard_ = nullptr;
  absl::Duration create_limit_ = absl::Seconds(20);
  absl::Duration freeze_limit_ = absl::Seconds(20);
  absl::Status check_images_;
  int started_looks_ ABSL_GUARDED_BY(mutex_) = 0;  // the last of so many says that nobody wants the copy
  std::atomic<bool> unreachable_ = false;
  std::atomic<bool> filling_ = false;
  std::atomic<bool> pager_lives_ = true;
  std::atomic<bool> thaw_fails_ = false;
  std::atomic<int> failed_thaws_ = 0;
  absl::Duration pull_limit_ = absl::Minutes(10);
  std::unique_ptr<permits::PermitTable> permits_;
  absl::Mutex mutex_;
  std::vector<std::string> applied_ ABSL_GUARDED_BY(mutex_);
  std::map<pid_t, memory::Ranges> added_ ABSL_GUARDED_BY(mutex_);
  memory::Ranges left_out_;
  FakeMemory memory_{3000};
  std::function<std::optional<runtime::MemoryFolder>(int64_t criu_bytes)> image_memory_;
  std::function<void()> on_pack_;           // when a tree's file has been begun; to be set before
  transfer::Stream* source_end_ = nullptr;  // the newest; of the source's thread
  std::vector<SourceStatus> froze_ ABSL_GUARDED_BY(mutex_);
  int streams_ ABSL_GUARDED_BY(mutex_) = 0;  // without side connections
  std::vector<std::shared_ptr<transfer::Stream>> side_streams_ ABSL_GUARDED_BY(mutex_);
  int64_t sides_ = 2;  // that either node wants beside a stream; set before they start
  std::shared_ptr<transfer::Stream> stream_ ABSL_GUARDED_BY(mutex_);
  std::atomic<int> targets_ = 0;
  std::shared_ptr<Target> target_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<FakeRuntime>> runtimes_;
  std::unique_ptr<transfer::StreamServer> server_;
  std::unique_ptr<Source> source_;
};

bool TargetRuns(const SourceStatus& status) { return status.target_running; }

// --- it works
// --------------------------------------------------------------------------------------------------------

TEST_F(TwoNodesTest, APodOfTwoContainersMovesAndTheSourceEndsOnlyWhenTold) {
  StartTarget({"app", "side"});
  EXPECT_EQ(AwaitTarget(TargetState::kOpen).waiting.size(), 0u);
  FakeRuntime& app = Create("app");
  while (target()->status().waiting != std::vector<std::string>{"app"}) absl::SleepFor(absl::Milliseconds(1));
  StartSource({"app", "side"});
  app.AwaitAction(RuntimeAction::kDone);
  EXPECT_EQ(world_.copies(true), 0) << "no container runs before all are restored";
  EXPECT_FALSE(world_.source_runs());
  Create("side").AwaitAction(RuntimeAction::kDone);
  const SourceStatus status = AwaitSource(TargetRuns);
  EXPECT_EQ(status.state, SourceState::kCeded);
  EXPECT_EQ(AwaitTarget(TargetState::kRunning).restored, (std::vector<std::string>{"app", "side"}));
  EXPECT_EQ(world_.copies(true), 2);
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(Permit(), agent_api::PermitState::kSpent);
  EXPECT_EQ(status.memory_bytes, 6'000'000);
  EXPECT_GT(status.file_bytes, 0);
  EXPECT_GT(status.wire_bytes, status.memory_bytes);
  EXPECT_GT(status.freeze, absl::ZeroDuration());
  std::vector<std::string> steps;
  for (const agent_api::FreezeStep& step : status.steps)
    steps.push_back(step.name + (step.container.empty() ? "" : " ") + step.container);
  EXPECT_THAT(steps, testing::IsSupersetOf({"freeze", "dump app", "dump side", "send app", "restore app",
                                            "restore side", "commit"}));
  {
    absl::MutexLock lock(&mutex_);
    EXPECT_THAT(applied_, ElementsAre("app rootfs", "app cache", "side rootfs"));
    EXPECT_EQ(froze_.size(), 1u);
  }
  EXPECT_FALSE(world_.source_killed());
  EXPECT_TRUE(SourceIsHeld());
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
  EXPECT_TRUE(world_.source_killed());
  EXPECT_TRUE(SourceIsHeld()) << "kubelet may not know yet that the pod is deleted";
  EXPECT_EQ(source_->status().state, SourceState::kDone);
  EXPECT_TRUE(source_->Finish(absl::Seconds(1)).ok()) << "twice is one";
}

TEST_F(TwoNodesTest, ARestartedContainerOfAMovedPodStartsAfresh) {
  StartTarget();
  Create("app");
  StartSource();
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(Create("app").AwaitAction(RuntimeAction::kRun), RuntimeAction::kRun);
}

// Any DNS label may be a container's name: also what the folder of a side has of its own.
TEST_F(TwoNodesTest, ContainersThatAreCalledAsASidesOwnFilesMove) {
  const std::vector<std::string> names = {"journal", "thawed", "pulled", "volumes", "containers"};
  StartTarget(names);
  StartSource(names);
  for (const std::string& name : names) Create(name).AwaitAction(RuntimeAction::kDone);
  AwaitSource(TargetRuns);
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(world_.copies(true), 5);
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
  // And what was written is read again.
  DropTarget();
  EndRuntimes();
  MakePermits();
  RecoverTarget();
  EXPECT_EQ(AwaitTarget(TargetState::kRunning).pull.lost, "");
  source_.reset();
  source_ = *Source::Recover(folder_ + "/source", Source1());
  EXPECT_EQ(source_->status().state, SourceState::kDone);
}

// --- memory that is copied while the pod runs

// What a pager would fill the restored task from: the first byte of each page.
std::vector<uint8_t> PagesOf(const Target& target) {
  absl::StatusOr<memory::PageServer::Found> found = target.Pages("app");
  if (!found.ok() || found->stores.size() != 1 || found->stores.front().first != 1) return {};
  std::vector<uint8_t> content(3000);
  for (size_t page = 0; page < content.size(); ++page) {
    const off_t offset = static_cast<off_t>(FakeMemory::kStart + page * memory::PageBytes());
    if (pread(found->stores.front().second.get(), &content[page], 1, offset) < 0) return {};
  }
  return content;
}

std::vector<uint8_t> TwoNodesTest::PagesAfterSwitch() {
  FakeRuntime& app = Create("app");
  std::vector<uint8_t> restored;
  app.before_restored = [&] { restored = PagesOf(*target()); };
  EXPECT_TRUE(source_->Switch().ok());
  AwaitSource(TargetRuns);
  return restored;
}

bool Converged(const SourceStatus& status) { return status.pre_copy.converged; }

TEST_F(TwoNodesTest, APreCopiedPodMovesWithTheMemoryItHadWhenItWasFrozen) {
  for (size_t page = 0; page < 2000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
  std::atomic<uint8_t> next = 1;
  memory_.before_round = [&](int round) {
    for (size_t i = 0; i < 40; ++i) memory_.Write((round * 131 + i * 7) % 3000, next++);
  };
  behaviour_.armed = [&] { memory_.Write(2999, 77); };
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  EXPECT_TRUE(world_.source_runs()) << "nothing is frozen before the target waits";
  EXPECT_EQ(behaviour_.started, 0);
  FakeRuntime& app = Create("app");
  std::vector<uint8_t> restored;
  app.before_restored = [&] { restored = PagesOf(*target()); };
  ASSERT_TRUE(source_->Switch().ok());
  const SourceStatus status = AwaitSource(TargetRuns);
  EXPECT_EQ(restored, memory_.Content());
  EXPECT_TRUE(app.lazy_pages);
  EXPECT_GE(status.pre_copy.rounds, 3);
  EXPECT_GT(status.pre_copy.sent_bytes, 0);
  EXPECT_EQ(status.pre_copy.memory_bytes, static_cast<int64_t>(3000 * memory::PageBytes()));
  EXPECT_THAT(*ReadFile(folder_ + "/source/containers/app/hidden"), HasSubstr("4242 7f0000000000-"));
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(added_, testing::Contains(testing::Key(1)));
}

TEST_F(TwoNodesTest, PagesThatTheImagesHaveNoPlaceForDoNotReachThePager) {
  for (size_t page = 0; page < 3000; ++page) memory_.Write(page, 7);
  constexpr uint64_t kFirst = FakeMemory::kStart;
  left_out_ = {{kFirst + 5 * memory::PageBytes(), kFirst + 9 * memory::PageBytes()}};
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  const std::vector<uint8_t> restored = PagesAfterSwitch();
  std::vector<uint8_t> expected(3000, 7);
  std::fill_n(expected.begin() + 5, 4, 0);
  EXPECT_EQ(restored, expected);
}

// What a restored task would find where it maps the object: CRIU is told of a file that has it.
std::string SharedMemoryOf(const FakeRuntime& app) {
  std::vector<std::string> words =
      absl::StrSplit(ReadFile(app.shared_memory).value_or(""), absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (words.size() != 3 || words[0] != absl::StrCat(FakeMemory::kSharedId)) return "not told of";
  const UniqueFd file(open(words[2].c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (fstat(file.get(), &status) != 0 || absl::StrCat(status.st_ino) != words[1]) return "another";
  std::string content(static_cast<size_t>(status.st_size), '?');
  if (pread(file.get(), content.data(), content.size(), 0) != status.st_size) return "not read";
  return content;
}

TEST_F(TwoNodesTest, APreCopiedPodMovesWithTheSharedMemoryItHadWhenItWasFrozen) {
  memory_.Write(5, 9);
  for (size_t page = 0; page < 500; ++page) memory_.WriteShared(page, static_cast<char>(page % 50 + 1));
  memory_.before_round = [&](int round) {
    for (size_t i = 0; i < 10; ++i)
      memory_.WriteShared((round * 31 + i * 7) % 500, static_cast<char>(60 + round));
    if (round == 3) CutStream();
  };
  behaviour_.armed = [&] { memory_.WriteShared(499, 'z'); };
  StartTarget();
  StartPreCopy();
  AwaitSource([](const SourceStatus& status) { return status.pre_copy.rounds >= 5; });
  FakeRuntime& app = Create("app");
  std::string restored;
  app.before_restored = [&] { restored = SharedMemoryOf(app); };
  ASSERT_TRUE(source_->Switch().ok());
  const SourceStatus status = AwaitSource(TargetRuns);
  EXPECT_TRUE(restored == memory_.SharedContent()) << restored.substr(0, 20);
  EXPECT_LT(status.pre_copy.dirty_bytes, static_cast<int64_t>(100 * memory::PageBytes()))
      << "what was compared and found the same is not dirty";
  EXPECT_THAT(*ReadFile(folder_ + "/source/containers/app/hidden"),
              testing::StartsWith("0 10ce-10cf\n4242 7f0000000000-"));
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(added_, testing::ElementsAre(testing::Key(1))) << "lazy pages are tasks' alone";
}

TEST_F(TwoNodesTest, APreCopyWhoseConnectionIsCutGoesOnWhereItWas) {
  for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
  memory_.before_round = [&](int round) {
    memory_.Write(round, 200);
    if (round == 2 || round == 4) CutStream();
  };
  StartTarget();
  StartPreCopy();
  AwaitSource([](const SourceStatus& status) { return status.pre_copy.rounds >= 6; });
  const std::vector<uint8_t> restored = PagesAfterSwitch();
  EXPECT_EQ(restored, memory_.Content());
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(streams_, 3);
}

// Memory goes over all of them, and what the stream itself says comes after it.
TEST_F(TwoNodesTest, ASideConnectionThatIsCutCutsTheStream) {
  for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
  memory_.before_round = [&](int round) {
    if (round > 5) return;  // it is to converge
    for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(round + page));
    absl::MutexLock lock(&mutex_);
    if (round == 2 || round == 4) side_streams_.back()->Shutdown();
  };
  StartTarget();
  StartPreCopy();
  AwaitSource([](const SourceStatus& status) { return status.pre_copy.rounds >= 6; });
  const std::vector<uint8_t> restored = PagesAfterSwitch();
  EXPECT_EQ(restored, memory_.Content());
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(streams_, 3);
  ASSERT_EQ(side_streams_.size(), 6u);
  for (const auto& side : side_streams_) EXPECT_GT(side->bytes_received(), 1000);
}

// Whichever the source notices first, the target's word or the cut.
TEST_F(TwoNodesTest, ASourceThatComesBackToATargetThatHasGivenUpIsToldWhy) {
  for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
  memory_.before_round = [&](int round) {
    if (round != 2) return;
    CutStream();
    EXPECT_TRUE(target()->Abort("NoRoom", "no room for the memory of task 1").ok());
  };
  StartTarget();
  StartPreCopy();
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "NoRoom");
  EXPECT_THAT(status.message, HasSubstr("on the target node: no room for the memory of task 1"));
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ATargetWithoutSideConnectionsGetsAllOverTheStream) {
  for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
  sides_ = 0;
  StartTarget();
  sides_ = 2;
  StartPreCopy();
  AwaitSource(Converged);
  const std::vector<uint8_t> restored = PagesAfterSwitch();
  EXPECT_EQ(restored, memory_.Content());
  absl::MutexLock lock(&mutex_);
  EXPECT_TRUE(side_streams_.empty());
}

// A writable layer of many GiB is on its way for minutes before the first page.
TEST_F(TwoNodesTest, APreCopyThatIsCutAmongItsFirstFilesGoesOn) {
  sides_ = 0;  // the stream itself is cut
  for (size_t page = 0; page < 50; ++page) memory_.Write(page, static_cast<uint8_t>(page + 1));
  int packed = 0;
  on_pack_ = [&] {
    ++packed;
    if (packed == 1) {  // of the volume: the target sees it first
      AwaitFirstFile();
      CutStream();
    } else if (packed == 3) {  // the volume's again, after the writable layer's: the sending itself fails
      AwaitFirstFile();
      source_end_->Shutdown();
    }
  };
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  const std::vector<uint8_t> restored = PagesAfterSwitch();
  EXPECT_EQ(restored, memory_.Content());
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(streams_, 3);
  EXPECT_THAT(applied_, testing::IsSupersetOf({"app rootfs", "app cache"}));
}

// It waits for a source that may come back, and hears soon that this one does not.
TEST_F(TwoNodesTest, ATargetDoesNotWaitForASourceThatHasGivenUpAmongItsFiles) {
  memory_.pinned = "process 1 (db) has 2 files open with O_DIRECT";
  sides_ = 0;
  on_pack_ = [&] {
    AwaitFirstFile();
    source_end_->Shutdown();
  };
  StartTarget();
  StartPreCopy();
  AwaitSource(SourceState::kAborted);
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, APodThatWritesTooFastIsLeftWhereItIs) {
  StartTarget();
  StartPreCopy({.freeze_budget = absl::Milliseconds(1), .pre_copy_timeout = absl::Seconds(20)});
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "NotConverging");
  EXPECT_THAT(status.message, HasSubstr("more than spec.freezeBudget"));
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "NotConverging");
  EXPECT_EQ(behaviour_.started, 0);
  ExpectRunsOnlyOnSource();
}

// A memfd of 4 GiB: seconds of standing still, though nothing is written.
TEST_F(TwoNodesTest, APodWithMemoryThatOnlyCriuCopiesIsNotFrozenForLongerThanItsBudget) {
  memory_.contents.files = int64_t{4} << 30;
  StartTarget();
  StartPreCopy();
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "NotConverging");
  EXPECT_THAT(status.message, HasSubstr("4092 MiB (locked memory, memfds,"));
  EXPECT_GT(status.pre_copy.predicted_freeze, absl::Seconds(6));
  EXPECT_EQ(behaviour_.started, 0);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, TheNodeHearsHowLargeCriusImagesWillBe) {
  std::atomic<int64_t> heard = -1;
  image_memory_ = [&](int64_t criu_bytes) {
    heard = criu_bytes;
    return std::nullopt;
  };
  memory_.contents.processes[4242].bytes = static_cast<int64_t>(3000 * memory::PageBytes()) + (3 << 20);
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  Create("app");
  ASSERT_TRUE(source_->Switch().ok());
  AwaitSource(TargetRuns);
  EXPECT_EQ(heard, 3 << 20) << "what the rounds carry is not in them";
}

// A fork for a snapshot, say: what it has is not at the target.
const std::map<pid_t, runtime::Contents::Private> kFork = {{4300, {"redis-server", int64_t{1} << 40}}};

TEST_F(TwoNodesTest, AProcessThatCameAfterTheLastRoundGoesOverBeforeTheFreeze) {
  std::atomic<int> rounds = 0, came_after = 0;
  memory_.before_round = [&](int round) { rounds = round; };
  memory_.unseen = [&] {
    if (came_after == 0) came_after = rounds.load();
    return rounds > came_after ? std::map<pid_t, runtime::Contents::Private>() : kFork;
  };
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  Create("app");
  ASSERT_TRUE(source_->Switch().ok());
  AwaitSource(TargetRuns);
  EXPECT_GT(rounds, came_after);
}

TEST_F(TwoNodesTest, AProcessThatCameInTheLastMomentEndsTheFreezeBeforeTheDump) {
  std::atomic<bool> dumped = false;
  behaviour_.dump = [&](const agent_api::GuardContainer&) {
    dumped = true;
    return absl::InternalError("it was not to be dumped");
  };
  memory_.unseen = [&] {
    return world_.source_runs() ? std::map<pid_t, runtime::Contents::Private>() : kFork;
  };
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  Create("app");
  ASSERT_TRUE(source_->Switch().ok());
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "NotConverging");
  EXPECT_THAT(status.message, HasSubstr("process 4300 (redis-server) of container app"));
  EXPECT_FALSE(dumped);
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "NotConverging");
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ALargerBudgetIsHeardWhileItCopies) {
  StartTarget();
  StartPreCopy({.freeze_budget = absl::Milliseconds(1),
                .pre_copy_timeout = absl::Seconds(20),
                .when_not_converging = agent_api::WhenNotConverging::kFreeze});
  EXPECT_FALSE(
      AwaitSource([](const SourceStatus& status) { return status.pre_copy.gave_up; }).pre_copy.converged);
  ASSERT_TRUE(
      source_->SetLimits({.freeze_budget = absl::Seconds(1), .pre_copy_timeout = absl::Seconds(20)}).ok());
  EXPECT_FALSE(AwaitSource(Converged).pre_copy.gave_up);
}

TEST_F(TwoNodesTest, MemoryThatCannotBeTrackedIsDumpedByCriu) {
  memory_.pinned = "process 1 (db) has 2 files open with O_DIRECT";
  StartTarget();
  StartPreCopy();
  EXPECT_EQ(AwaitSource(Converged).pre_copy.fallback,
            "container app: process 1 (db) has 2 files open with O_DIRECT");
  EXPECT_TRUE(world_.source_runs());
  FakeRuntime& app = Create("app");
  ASSERT_TRUE(source_->Switch().ok());
  AwaitSource(TargetRuns);
  EXPECT_FALSE(app.lazy_pages);
}

TEST_F(TwoNodesTest, APodWhoseMemoryIsNotFilledYetWaits) {
  filling_ = true;
  StartTarget();
  StartPreCopy();
  const SourceStatus status = AwaitSource(
      [](const SourceStatus& seen) { return absl::StrContains(seen.message, "memory is filled"); });
  EXPECT_EQ(status.pre_copy.rounds, 0);
  filling_ = false;
  AwaitSource(Converged);
}

TEST_F(TwoNodesTest, APreCopyIsAbortedWithoutAFreeze) {
  StartTarget();
  StartPreCopy();
  AwaitSource(Converged);
  ASSERT_TRUE(source_->Abort("Deleted", "somebody changed their mind").ok());
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "Deleted");
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "Deleted");
  EXPECT_EQ(behaviour_.started, 0);
  EXPECT_FALSE(source_->Switch().ok());
  ExpectRunsOnlyOnSource();
}

// --- before the decision: the source goes on
// ---------------------------------------------------------------------------

TEST_F(TwoNodesTest, ATargetThatDoesNotKnowTheMigrationLeavesTheSourceUntouched) {
  StartSource();
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "NotFound");
  EXPECT_THAT(status.message, HasSubstr("the agent of node n2 refused: no such migration here"));
  EXPECT_EQ(behaviour_.started, 0) << "no guard was needed";
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AnUnreachableTargetLeavesTheSourceUntouched) {
  unreachable_ = true;
  StartTarget();
  StartSource();
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "Unavailable");
  EXPECT_EQ(behaviour_.started, 0);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ARefusedFreezeAbortsBothSides) {
  behaviour_.refuse_freeze = "ExecInFlight";
  StartTarget();
  FakeRuntime& app = Create("app");
  StartSource();
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "ExecInFlight");
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "ExecInFlight");
  app.AwaitAction(RuntimeAction::kRefuse);
  EXPECT_THAT(app.message(), HasSubstr("refused by the test"));
  EXPECT_EQ(Permit(), agent_api::PermitState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AFailedDumpThawsTheSourceAndTellsWhyOnBothSides) {
  behaviour_.dump = [](const agent_api::GuardContainer&) {
    return absl::InternalError("criu: unsupported socket");
  };
  StartTarget();
  Create("app");
  StartSource();
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "DumpFailed");
  EXPECT_THAT(status.message, HasSubstr("criu: unsupported socket"));
  EXPECT_THAT(AwaitTarget(TargetState::kAborted).message, HasSubstr("criu: unsupported socket"));
  absl::MutexLock lock(&mutex_);
  ASSERT_EQ(froze_.size(), 1u);
  EXPECT_FALSE(froze_[0].target_running);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AFailedRestoreThawsTheSource) {
  StartTarget();
  runtimes_.push_back(std::make_shared<FakeRuntime>(*permits_, world_, "app"));
  runtimes_.back()->fails = true;
  runtimes_.back()->Create();
  StartSource();
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_THAT(status.message, HasSubstr("on the target node"));
  EXPECT_THAT(status.message, HasSubstr("criu said no"));
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ImagesThatAreNoImagesAreNotRestored) {
  check_images_ = absl::FailedPreconditionError("descriptors.json holds four strings");
  StartTarget();
  FakeRuntime& app = Create("app");
  StartSource();
  EXPECT_THAT(AwaitSource(SourceState::kAborted).message, HasSubstr("four strings"));
  app.AwaitAction(RuntimeAction::kRefuse);
  ExpectRunsOnlyOnSource();
}

// kubelet was restarted while `create` waited: what is restored nevertheless nobody would look after.
class StartGivenUpTest : public TwoNodesTest, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(BeforeTheFreezeAndWhenItStandsRestored, StartGivenUpTest, ::testing::Values(1, 2));

TEST_P(StartGivenUpTest, TheCopyDoesNotTakeOver) {
  {
    absl::MutexLock lock(&mutex_);
    started_looks_ = GetParam();
  }
  StartTarget();
  Create("app");
  StartSource();
  EXPECT_THAT(AwaitSource(SourceState::kAborted).message, HasSubstr("kubelet was restarted"));
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ATargetThatNeverRestoresIsGivenUpAtTheCreateLimit) {
  create_limit_ = absl::Milliseconds(300);
  behaviour_.dump = [](const agent_api::GuardContainer&) {
    absl::SleepFor(absl::Seconds(1));
    return absl::OkStatus();
  };
  StartTarget();
  Create("app");
  StartSource();
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "DeadlineExceeded");
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "DeadlineExceeded");
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AFreezeIsNotLongerThanItsLimit) {
  freeze_limit_ = absl::Milliseconds(400);
  StartTarget();
  CreateStuck("app");
  StartSource();
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "FreezeLimit");
  EXPECT_EQ(AwaitTarget(TargetState::kAborted).reason, "FreezeLimit");
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ACutConnectionBeforePreparedAbortsBothSides) {
  StartTarget();
  runtimes_.push_back(std::make_shared<FakeRuntime>(*permits_, world_, "app"));
  runtimes_.back()->before_restored = [this] { CutStream(); };
  unreachable_ = false;
  runtimes_.back()->Create();
  StartSource();
  AwaitSource(SourceState::kAborted);
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AnAbortWhileDumpingEndsTheDump) {
  absl::Notification dumping;
  behaviour_.dump = [&](const agent_api::GuardContainer& container) {
    if (!dumping.HasBeenNotified()) dumping.Notify();
    EXPECT_TRUE(WriteFileDurably(container.images + "/pages-1.img", "some").ok());
    for (int i = 0; i < 2000 && !world_.source_runs(); ++i) absl::SleepFor(absl::Milliseconds(5));
    return absl::CancelledError("thawed");
  };
  StartTarget();
  Create("app");
  StartSource();
  dumping.WaitForNotification();
  EXPECT_TRUE(source_->Abort("Cancelled", "a person cancelled it").ok());
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "Cancelled");
  EXPECT_EQ(status.message, "a person cancelled it");
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AnAbortedTargetRefusesEveryCreateAndThawsTheSource) {
  StartTarget();
  CreateStuck("app");
  StartSource();
  AwaitSource(SourceState::kFrozen);
  EXPECT_TRUE(target()->Abort("TargetPodGone", "the target pod was deleted").ok());
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "TargetPodGone");
  EXPECT_EQ(Create("app").AwaitAction(RuntimeAction::kRefuse), RuntimeAction::kRefuse);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, AnotherNodesStreamIsRefused) {
  StartTarget();
  auto n3 = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n3.agent.godwit"}));
  auto stream = *transfer::Stream::Connect(*n3, absl::StrCat("127.0.0.1:", server_->port()), "n2",
                                           absl::Now() + absl::Seconds(10));
  const transfer::Hello hello{.uid = kUid, .from_node = "n1", .to_node = "n2"};
  ASSERT_TRUE(stream->SendMessage(transfer::FrameType::kHello, hello, absl::Now() + absl::Seconds(10)).ok());
  const auto frame = stream->Receive(absl::Now() + absl::Seconds(10));
  ASSERT_TRUE(frame.ok()) << frame.status();
  EXPECT_EQ(frame->type, transfer::FrameType::kRefused);
  EXPECT_EQ(target()->status().state, TargetState::kOpen);
}

// --- after the decision: only the target's word counts
// -------------------------------------------------------------------

TEST_F(TwoNodesTest, ACutConnectionAfterTheDecisionIsMadeAgainUntilTheTargetAnswers) {
  StartTarget();
  Create("app");
  behaviour_.after_cede = [this] {
    unreachable_ = true;
    CutStream();
  };
  StartSource();
  const SourceStatus waiting = AwaitSource(
      [](const SourceStatus& status) { return absl::StrContains(status.message, "waits, frozen"); });
  EXPECT_EQ(waiting.state, SourceState::kCeded);
  EXPECT_EQ(target()->status().state, TargetState::kPrepared);
  EXPECT_FALSE(world_.source_runs());
  EXPECT_EQ(world_.copies(true), 0);
  EXPECT_EQ(source_->Abort("Cancelled", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(source_->Finish(absl::Seconds(1)).code(), absl::StatusCode::kFailedPrecondition);
  unreachable_ = false;
  AwaitSource(TargetRuns);
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(world_.copies(true), 1);
}

TEST_F(TwoNodesTest, ACopyThatDiedAfterTheDecisionGivesThePodBack) {
  StartTarget();
  FakeRuntime& app = Create("app");
  behaviour_.before_cede = [&] {
    world_.CopyDies(app.cgroup());
    unreachable_ = true;
    CutStream();
  };
  StartSource();
  AwaitTarget(TargetState::kAborted);
  EXPECT_EQ(source_->status().state, SourceState::kCeded);
  unreachable_ = false;
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "CopyDied");
  EXPECT_FALSE(status.target_running);
  ExpectRunsOnlyOnSource();
  EXPECT_EQ(Create("app").AwaitAction(RuntimeAction::kRefuse), RuntimeAction::kRefuse);
}

// --- when a node is gone for good, and somebody vouches for it

class GoneForGoodTest : public TwoNodesTest {
 protected:
  // The source has ceded, the target is prepared, and neither reaches the other.
  void PartAfterTheDecision() {
    StartTarget();
    app_ = &Create("app");
    behaviour_.after_cede = [this] {
      unreachable_ = true;
      CutStream();
    };
    StartSource();
    AwaitSource(
        [](const SourceStatus& status) { return absl::StrContains(status.message, "waits, frozen"); });
  }
  FakeRuntime* app_ = nullptr;
};

TEST_F(GoneForGoodTest, ASourceThatIsReclaimedGoesOn) {
  PartAfterTheDecision();
  EXPECT_TRUE(SourceIsHeld());
  DropTarget();
  world_.CopyDies(app_->cgroup());
  EXPECT_TRUE(source_->Reclaim("TargetLost", "node n2 is off").ok());
  const SourceStatus status = AwaitSource(SourceState::kAborted);
  EXPECT_EQ(status.reason, "TargetLost");
  EXPECT_EQ(status.message, "node n2 is off");
  EXPECT_TRUE(world_.source_runs());
  EXPECT_FALSE(SourceIsHeld());
  EXPECT_TRUE(source_->Reclaim("TargetLost", "again").ok()) << "twice is one";
}

// Its guard died between its record and the thaw. In a side of the release before, a container's folder may
// have the name of the note that it goes on.
TEST_F(GoneForGoodTest, AFolderOfAContainerIsNotTakenForTheNoteThatTheSourceGoesOn) {
  PartAfterTheDecision();
  DropTarget();
  world_.CopyDies(app_->cgroup());
  source_.reset();
  {
    auto journal = journal::SourceJournal::Open(folder_ + "/source/journal");
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE(journal->Append({.state = SourceState::kAborted, .reason = "TargetAborted"}).ok());
  }
  ASSERT_TRUE(MakeFolders(folder_ + "/source/thawed/work").ok());
  EXPECT_FALSE(world_.source_runs());
  source_ = *Source::Recover(folder_ + "/source", Source1());
  AwaitSource(SourceState::kAborted);
  EXPECT_TRUE(world_.source_runs());
}

TEST_F(GoneForGoodTest, ASourceWhoseTargetRunsIsNotReclaimed) {
  StartTarget();
  Create("app");
  StartSource();
  AwaitSource(TargetRuns);
  EXPECT_EQ(source_->Reclaim("TargetLost", "").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(world_.source_runs());
}

TEST_F(GoneForGoodTest, ASourceIsGivenUpThoughNobodyHasSaidThatTheTargetRuns) {
  PartAfterTheDecision();
  EXPECT_EQ(source_->Finish(absl::Seconds(1), {.abandon = true}).code(),
            absl::StatusCode::kFailedPrecondition);
  world_.GiveUpSource();
  EXPECT_TRUE(source_->Finish(absl::Seconds(20), {.unconfirmed = true}).ok());
  EXPECT_TRUE(world_.source_killed());
  EXPECT_EQ(source_->status().state, SourceState::kDone);
}

TEST_F(GoneForGoodTest, APreparedTargetTakesOverAndTheSourceHearsOfItShouldItComeBack) {
  PartAfterTheDecision();
  EXPECT_TRUE(target()->TakeOver().ok());
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(world_.copies(true), 1);
  EXPECT_TRUE(target()->TakeOver().ok()) << "twice is one";
  unreachable_ = false;
  AwaitSource(TargetRuns);
  EXPECT_FALSE(world_.source_runs());
}

TEST_F(GoneForGoodTest, ATargetThatIsNotPreparedDoesNotTakeOver) {
  StartTarget();
  EXPECT_EQ(target()->TakeOver().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(TwoNodesTest, AGuardThatDiesWhileCedingIsAskedThroughItsJournal) {
  behaviour_.answer_cede = false;
  StartTarget();
  Create("app");
  StartSource();
  AwaitSource(TargetRuns);
  EXPECT_EQ(world_.copies(true), 1);
  EXPECT_EQ(behaviour_.started, 2) << "another guard answers for it";
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
}

TEST_F(TwoNodesTest, AGuardThatThawedBeforeItWasAskedToCedeAborts) {
  StartTarget();
  Create("app");
  behaviour_.before_cede = [this] { guard_->PassFreezeLimit(); };
  StartSource();
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "FreezeLimit");
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

// --- an agent is restarted
// -----------------------------------------------------------------------------------------------

TEST_F(TwoNodesTest, ASourceAgentThatEndsBeforeTheDecisionLeavesARunningPod) {
  StartTarget();
  CreateStuck("app");
  StartSource();
  AwaitSource(SourceState::kFrozen);
  source_.reset();
  EXPECT_TRUE(world_.source_runs());
  source_ = *Source::Recover(folder_ + "/source", Source1());
  EXPECT_EQ(AwaitSource(SourceState::kAborted).state, SourceState::kAborted);
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ASourceAgentThatEndsAfterTheDecisionFinishesItLater) {
  StartTarget();
  Create("app");
  behaviour_.after_cede = [this] {
    unreachable_ = true;
    CutStream();
  };
  StartSource();
  AwaitSource([](const SourceStatus& status) { return absl::StrContains(status.message, "waits, frozen"); });
  source_.reset();
  EXPECT_FALSE(world_.source_runs()) << "ceded: the guard does not thaw";
  unreachable_ = false;
  source_ = *Source::Recover(folder_ + "/source", Source1());
  AwaitSource(TargetRuns);
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
  EXPECT_TRUE(world_.source_killed());
}

// The agent, or the node, died between the two writes with which a source begins.
TEST_F(TwoNodesTest, ASourceThatHadNotBegunIsAborted) {
  StartTarget();
  CreateStuck("app");
  StartSource();
  AwaitSource(SourceState::kFrozen);
  source_.reset();
  ASSERT_EQ(unlink((folder_ + "/source/journal").c_str()), 0);
  ASSERT_EQ(unlink((folder_ + "/source/guard.json").c_str()), 0);
  source_ = *Source::Recover(folder_ + "/source", Source1());
  EXPECT_EQ(AwaitSource(SourceState::kAborted).state, SourceState::kAborted);
  EXPECT_TRUE(world_.source_runs());
}

TEST_F(TwoNodesTest, ATargetAgentThatEndsBeforePreparedAborts) {
  StartTarget();
  CreateStuck("app");
  StartSource();
  AwaitSource(SourceState::kFrozen);
  CutStream();
  DropTarget();
  MakePermits();
  RecoverTarget();
  AwaitTarget(TargetState::kAborted);
  AwaitSource(SourceState::kAborted);
  EXPECT_EQ(Permit(), agent_api::PermitState::kAborted);
  ExpectRunsOnlyOnSource();
}

TEST_F(TwoNodesTest, ATargetAgentThatEndsPreparedWaitsForTheVerdictAndRuns) {
  StartTarget();
  Create("app");
  behaviour_.after_cede = [this] {
    unreachable_ = true;
    CutStream();
  };
  StartSource();
  AwaitTarget(TargetState::kPrepared);
  AwaitSource([](const SourceStatus& status) { return absl::StrContains(status.message, "waits, frozen"); });
  DropTarget();
  EndRuntimes();
  MakePermits();
  RecoverTarget();
  EXPECT_EQ(target()->status().state, TargetState::kPrepared);
  unreachable_ = false;
  AwaitSource(TargetRuns);
  EXPECT_EQ(world_.copies(true), 1);
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(Permit(), agent_api::PermitState::kSpent);
  // And once more: what runs goes on running.
  DropTarget();
  MakePermits();
  RecoverTarget();
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(world_.copies(true), 1);
}

// A target that ends between RUNNING and the thaw, and its containers' folders.
class UnthawedTargetTest : public TwoNodesTest {
 protected:
  void EndBeforeTheThaw(const std::vector<std::string>& containers) {
    thaw_fails_ = true;
    StartTarget(containers);
    StartSource(containers);
    for (const std::string& container : containers) Create(container).AwaitAction(RuntimeAction::kDone);
    for (const absl::Time end = absl::Now() + absl::Seconds(20); failed_thaws_ == 0 && absl::Now() < end;)
      absl::SleepFor(absl::Milliseconds(1));
    EXPECT_GT(failed_thaws_, 0);
    unreachable_ = true;
    DropTarget();
    EndRuntimes();
    MakePermits();
  }
  // As the agent of the release before has it.
  void MoveBesideTheSidesFiles(const std::vector<std::string>& containers) {
    const std::string folder = folder_ + "/target/";
    for (const std::string& container : containers)
      ASSERT_EQ(rename((folder + "containers/" + container).c_str(), (folder + container).c_str()), 0);
    ASSERT_EQ(rmdir((folder + "containers").c_str()), 0);
  }
  void ExpectRunsAfterRecovery(int copies) {
    EXPECT_EQ(world_.copies(true), 0);
    thaw_fails_ = false;
    RecoverTarget();
    AwaitTarget(TargetState::kRunning);
    EXPECT_EQ(world_.copies(true), copies);
    EXPECT_EQ(target()->status().pull.lost, "");
    EXPECT_TRUE(ReadFile(folder_ + "/target/thawed").ok());
    unreachable_ = false;
    AwaitSource(TargetRuns);
  }
};

TEST_F(UnthawedTargetTest, AFolderOfAContainerIsNotTakenForTheNoteOfTheThaw) {
  EndBeforeTheThaw({"thawed"});
  ExpectRunsAfterRecovery(1);
}

TEST_F(UnthawedTargetTest, ASideOfTheReleaseBeforeIsTakenUp) {
  EndBeforeTheThaw({"app", "thawed", "pulled"});
  MoveBesideTheSidesFiles({"app", "thawed", "pulled"});
  ExpectRunsAfterRecovery(3);
  EXPECT_TRUE(FileExists(folder_ + "/target/containers/thawed/work"));
  EXPECT_FALSE(FileExists(folder_ + "/target/app"));
}

// --- post-copy

class PostCopyTest : public TwoNodesTest {
 protected:
  static constexpr size_t kDirty = 2500;  // pages that are written after the last round, 100 and on

  // Moves the pod up to the commit; its pages stay on the source until Release.
  void Move(agent_api::CopyMode mode = agent_api::CopyMode::kPostCopy,
            agent_api::PreCopyLimits limits = {.freeze_budget = absl::Milliseconds(100),
                                               .pre_copy_timeout = absl::Seconds(20)}) {
    for (size_t page = 0; page < 3000; ++page) memory_.Write(page, static_cast<uint8_t>(page % 251 + 1));
    behaviour_.after_cede = [this] { held_ = true; };
    memory_.before_read = [this] {
      absl::MutexLock lock(&mutex_);
      auto released = [this] { return !held_; };
      mutex_.Await(absl::Condition(&released));
      if (on_read_) on_read_();
    };
    behaviour_.dump = [](const agent_api::GuardContainer& container) {
      return WriteFileDurably(absl::StrCat(container.images, "/inventory.img"), "x");
    };
    memory_.before_last = [this, more = memory_.before_last] {
      for (size_t page = 100; page < 100 + kDirty; ++page)
        memory_.Write(page, static_cast<uint8_t>(page % 13 == 0 ? 0 : page % 241 + 2));
      if (more) more();
    };
    StartTarget();
    agent_api::SourceSpec spec = Spec({"app"});
    spec.mode = mode;
    spec.limits = limits;
    StartWith(spec);
    AwaitSource(
        [](const SourceStatus& status) { return status.pre_copy.converged || status.pre_copy.gave_up; });
    FakeRuntime& app = Create("app");
    app.before_restored = [this, &app] {
      shared_memory_ = SharedMemoryOf(app);
      pager_ = std::make_unique<FakePager>(target()->Pages("app"));
      if (before_standing_) before_standing_();
    };
    ASSERT_TRUE(source_->Switch().ok());
    AwaitSource(TargetRuns);
    AwaitTarget(TargetState::kRunning);
    ASSERT_NE(pager_, nullptr);
  }
  void Release() {
    absl::MutexLock lock(&mutex_);
    held_ = false;
  }
  void ExpectAllArrives() {
    EXPECT_TRUE(pager_->Await([&] { return pager_->missing() == 0; })) << pager_->missing();
    EXPECT_EQ(pager_->Content(3000), memory_.Content());
    AwaitSource([](const SourceStatus& status) { return !status.serving; });
    EXPECT_FALSE(target()->status().pull.pulling);
    EXPECT_EQ(target()->status().pull.lost, "");
    EXPECT_EQ(target()->status().pull.missing_bytes, 0);
    EXPECT_TRUE(pager_->Await([&] { return target()->final(); })) << "a moment after the source has heard";
    EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
    EXPECT_TRUE(world_.source_killed());
    EXPECT_EQ(world_.copies(true), 1);
  }
  ~PostCopyTest() override {
    Release();
    source_.reset();  // it uses what is here
  }

  std::string shared_memory_;              // as the restore found it
  std::function<void()> before_standing_;  // in the target's restore; to be set before
  std::atomic<bool> held_ = false;
  std::function<void()> on_read_;  // once released, with mutex_ held; to be set before
  std::unique_ptr<FakePager> pager_;
};

bool Serves(const SourceStatus& status) { return status.serving; }

TEST_F(PostCopyTest, APodRunsBeforeItsLastPagesAreThereAndTheSourceLivesUntilTheyAre) {
  Move();
  const int64_t left = static_cast<int64_t>(kDirty * memory::PageBytes());
  EXPECT_EQ(world_.copies(true), 1);
  EXPECT_EQ(pager_->began_with(), kDirty);
  const SourceStatus serving = AwaitSource(Serves);
  EXPECT_EQ(serving.state, SourceState::kCeded);
  EXPECT_EQ(serving.pull_bytes, left);
  EXPECT_GT(serving.freeze, absl::ZeroDuration());
  EXPECT_GE(serving.pre_copy.rounds, 1);
  const absl::Status refused = source_->Finish(absl::Seconds(1));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("serving the pages that the target lacks"));
  EXPECT_FALSE(world_.source_killed());
  const TargetStatus running = AwaitTarget(TargetState::kRunning);
  EXPECT_TRUE(running.pull.pulling);
  EXPECT_EQ(running.pull.total_bytes, left);
  EXPECT_EQ(running.pull.missing_bytes, left);
  EXPECT_FALSE(target()->final());
  EXPECT_EQ(target()->Abort("Cancelled", "").code(), absl::StatusCode::kFailedPrecondition);
  {
    absl::MutexLock lock(&mutex_);
    EXPECT_EQ(memory::Bytes(added_[1]), 3000 * memory::PageBytes())
        << "CRIU leaves the missing ones to the pager";
    EXPECT_EQ(froze_.size(), 1u);
  }
  Release();
  ExpectAllArrives();
  EXPECT_EQ(source_->status().pulled_bytes, left);
  EXPECT_EQ(target()->status().pull.faults, 1);
}

TEST_F(PostCopyTest, APageThatTheRestoreWaitsForComesBeforeTheDecision) {
  bool came = false;
  before_standing_ = [&] {
    pager_->Want(1500);
    came = pager_->Await([&] { return pager_->Has(1500); });
  };
  Move();
  EXPECT_TRUE(came);
  Release();
  ExpectAllArrives();
}

TEST_F(PostCopyTest, SharedMemoryIsWholeWhenTheRestoreBegins) {
  for (size_t page = 0; page < 500; ++page) memory_.WriteShared(page, static_cast<char>(page % 50 + 1));
  memory_.before_last = [this] {
    for (size_t page = 100; page < 200; ++page) memory_.WriteShared(page, 'z');
  };
  Move();
  EXPECT_TRUE(shared_memory_ == memory_.SharedContent()) << shared_memory_.substr(0, 20);
  EXPECT_GE(source_->status().pre_copy.rounds, 2) << "one does not tell how fast it is written";
  EXPECT_EQ(pager_->began_with(), kDirty) << "of what is the task's own";
  Release();
  ExpectAllArrives();
}

TEST_F(PostCopyTest, APageThatIsWaitedForComesBeforeAllOthers) {
  Move();
  pager_->Want(2400);
  absl::SleepFor(absl::Milliseconds(200));  // it is on its way when the source begins to read
  Release();
  ExpectAllArrives();
  const std::vector<size_t> order = pager_->order();
  const auto place = std::find(order.begin(), order.end(), 2400) - order.begin();
  EXPECT_LE(place, 64) << "one batch was being read";
  const auto next = std::find(order.begin(), order.end(), 2401) - order.begin();
  EXPECT_LE(next, place + 1) << "and its neighbours are next";
}

TEST_F(PostCopyTest, APageThatIsWaitedForDoesNotWaitForTheBandwidthLimit) {
  // When nothing is sent any more before the freeze. Any batch is beyond it for half a minute and more.
  behaviour_.armed = [this] {
    const absl::Status set = source_->SetLimits({.freeze_budget = absl::Milliseconds(100),
                                                 .pre_copy_timeout = absl::Seconds(20),
                                                 .bandwidth_limit = 5});
    EXPECT_TRUE(set.ok()) << set;
  };
  Move();
  Release();
  EXPECT_TRUE(pager_->Await([&] { return pager_->missing() < kDirty; })) << "one batch goes at once";
  for (const size_t page : {size_t{2400}, size_t{1700}, size_t{900}}) {
    pager_->Want(page);
    EXPECT_TRUE(pager_->Await([&] { return pager_->Has(page); })) << page;
  }
  EXPECT_GT(pager_->missing(), kDirty - 200) << "all others keep the limit";
}

TEST_F(PostCopyTest, ACutConnectionIsMadeAgainAndTheRestIsPulled) {
  Move();
  int reads = 0;
  on_read_ = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    ++reads;
    if (reads == 3 || reads == 9) stream_->Shutdown();
  };
  Release();
  ExpectAllArrives();
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(streams_, 3);
  EXPECT_EQ(froze_.size(), 1u) << "a freeze counts once";
}

TEST_F(PostCopyTest, AnAgentOfTheSourceThatIsRestartedServesOn) {
  Move();
  AwaitSource(Serves);
  on_read_ = [] { absl::SleepFor(absl::Milliseconds(30)); };  // of some forty
  Release();
  source_.reset();
  EXPECT_FALSE(world_.source_runs());
  EXPECT_GT(pager_->missing(), 0u);
  source_ = *Source::Recover(folder_ + "/source", Source1());
  ExpectAllArrives();
}

TEST_F(PostCopyTest, AnAgentOfTheTargetThatIsRestartedTakesTheMemoryBackFromThePager) {
  Move();
  unreachable_ = true;
  DropTarget();
  EndRuntimes();
  MakePermits();
  RecoverTarget();
  Release();
  AwaitTarget(TargetState::kRunning);
  EXPECT_TRUE(target()->status().pull.pulling);
  unreachable_ = false;
  pager_->Resume(target()->Pages("app"));
  EXPECT_TRUE(pager_->gave());
  ExpectAllArrives();
  // And once more: what is over is not pulled again.
  DropTarget();
  MakePermits();
  RecoverTarget();
  AwaitTarget(TargetState::kRunning);
  EXPECT_FALSE(target()->status().pull.pulling);
}

TEST_F(PostCopyTest, APagerThatTakesOverIsToldWhatHasCome) {
  Move();
  pager_->HangUp();
  Release();
  EXPECT_TRUE(pager_->Await([&] { return target()->status().pull.missing_bytes == 0; }));
  EXPECT_TRUE(source_->status().serving) << "the pager has not said that it has all";
  EXPECT_EQ(pager_->missing(), kDirty);
  pager_->Resume(target()->Pages("app"));
  EXPECT_EQ(pager_->missing(), 0u);
  pager_->End();
  AwaitSource([](const SourceStatus& status) { return !status.serving; });
  EXPECT_EQ(pager_->Content(3000), memory_.Content());
}

TEST_F(PostCopyTest, PagesThatTheSourceCannotReadAnyMoreEndTheCopyWithAReason) {
  Move();
  memory_.gone = true;
  Release();
  EXPECT_TRUE(pager_->Await([&] { return !pager_->lost().empty(); }));
  EXPECT_THAT(pager_->lost(), HasSubstr("task 4242 is gone"));
  AwaitSource([](const SourceStatus& status) { return !status.serving; });
  const TargetStatus status = target()->status();
  EXPECT_EQ(status.state, TargetState::kRunning);
  EXPECT_THAT(status.pull.lost, HasSubstr("bytes of memory are lost: the source node cannot give them"));
  EXPECT_EQ(status.pull.missing_bytes, static_cast<int64_t>(kDirty * memory::PageBytes()));
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
}

TEST_F(PostCopyTest, ASourceThatNeverComesBackIsGivenUpAtTheLimit) {
  pull_limit_ = absl::Seconds(2);
  Move();
  unreachable_ = true;
  CutStream();
  EXPECT_TRUE(pager_->Await([&] { return !pager_->lost().empty(); }));
  EXPECT_THAT(pager_->lost(), HasSubstr("node n1, which has them, broke and did not come back within 2s"));
  EXPECT_TRUE(pager_->Await([&] { return target()->final(); }));
  EXPECT_EQ(source_->status().state, SourceState::kCeded) << "it does not know";
  EXPECT_TRUE(source_->status().serving) << "nor may anybody kill it";
  EXPECT_FALSE(world_.source_runs()) << "and never runs beside what the target has done";
  EXPECT_EQ(source_->Finish(absl::Seconds(1)).code(), absl::StatusCode::kFailedPrecondition);
  unreachable_ = false;
  Release();
  EXPECT_TRUE(pager_->Await([&] { return source_->Finish(absl::Seconds(20)).ok(); }));
  EXPECT_TRUE(world_.source_killed());
}

TEST_F(PostCopyTest, AContainerThatEndsNeedsItsPagesNoMore) {
  Move();
  pager_->End();
  EXPECT_TRUE(pager_->Await([&] { return target()->final(); }));
  Release();
  AwaitSource([](const SourceStatus& status) { return !status.serving; });
  EXPECT_EQ(target()->status().pull.lost, "");
  EXPECT_TRUE(source_->Finish(absl::Seconds(20)).ok());
}

TEST_F(PostCopyTest, AContainerThatItsPagerHadToKillHasLostItsMemory) {
  Move();
  pager_->Kill("no memory for a page");
  EXPECT_TRUE(pager_->Await([&] { return target()->final(); }));
  Release();
  AwaitSource([](const SourceStatus& status) { return !status.serving; });
  EXPECT_THAT(target()->status().pull.lost, HasSubstr("bytes of memory are lost: no memory for a page"));
}

TEST_F(PostCopyTest, AContainerThatWasKilledForWantOfAPagerHasLostItsMemory) {
  Move();
  target()->LoseMemory("other", "not this one");
  pager_->HangUp();
  target()->LoseMemory("app", "pager and keeper were killed");
  EXPECT_TRUE(pager_->Await([&] { return target()->final(); }));
  Release();
  AwaitSource([](const SourceStatus& status) { return !status.serving; });
  EXPECT_THAT(target()->status().pull.lost,
              HasSubstr("bytes of memory are lost: pager and keeper were killed"));
  DropTarget();
  MakePermits();
  RecoverTarget();
  EXPECT_THAT(target()->status().pull.lost, HasSubstr("pager and keeper were killed"))
      << "a restarted agent says so, too";
}

// Found by the simulator: the list of what is missing followed it there, and the source waited for ever.
TEST_F(PostCopyTest, ACommitThatComesLateOverAGivenUpConnectionChangesNothing) {
  Move();
  std::shared_ptr<transfer::Stream> first;
  {
    absl::MutexLock lock(&mutex_);
    first = stream_;
  }
  const auto deadline = [] { return absl::Now() + absl::Seconds(10); };
  const auto late =
      *transfer::Stream::Connect(*n1_, absl::StrCat("127.0.0.1:", server_->port()), "n2", deadline());
  const transfer::Hello hello{.uid = kUid, .from_node = "n1", .to_node = "n2", .ask = true};
  ASSERT_TRUE(late->SendMessage(transfer::FrameType::kHello, hello, deadline()).ok());
  ASSERT_EQ(late->Receive(deadline())->type, transfer::FrameType::kHelloOk);
  std::vector<transfer::FrameType> heard;
  on_read_ = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    first->Shutdown();
    if (streams_ < 3 || !heard.empty()) return;  // the source's new one has the list, as it reads
    EXPECT_TRUE(late->Send(transfer::FrameType::kCommit, {}, deadline()).ok());
    while (heard.empty() || heard.back() != transfer::FrameType::kRunning) {
      const auto frame = late->Receive(deadline());
      ASSERT_TRUE(frame.ok()) << frame.status();
      heard.push_back(frame->type);
    }
  };
  Release();
  ExpectAllArrives();
  EXPECT_FALSE(heard.empty());
}

TEST_F(PostCopyTest, AnAbandonedSourceEndsThoughItsTargetIsGoneForGood) {
  Move();
  unreachable_ = true;
  CutStream();
  Release();
  EXPECT_EQ(source_->Finish(absl::Seconds(1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(source_->Finish(absl::Seconds(20), {.abandon = true}).ok());
  EXPECT_TRUE(world_.source_killed());
}

TEST_F(PostCopyTest, APreCopyThatDoesNotConvergeLeavesTheRestToBePulled) {
  Move(agent_api::CopyMode::kPreCopy, {.freeze_budget = absl::Milliseconds(1),
                                       .pre_copy_timeout = absl::Seconds(20),
                                       .when_not_converging = agent_api::WhenNotConverging::kPostCopy});
  EXPECT_TRUE(source_->status().pre_copy.gave_up);
  EXPECT_EQ(pager_->began_with(), kDirty);
  Release();
  ExpectAllArrives();
}

// It fitted, and then a process came that would have gone over whole in the freeze.
TEST_F(PostCopyTest, APreCopyIntoWhoseFreezeALargeProcessComesLeavesTheRestToBePulled) {
  memory_.unseen = [this] {
    return world_.source_runs() ? std::map<pid_t, runtime::Contents::Private>() : kFork;
  };
  Move(agent_api::CopyMode::kPreCopy, {.freeze_budget = absl::Seconds(1),
                                       .pre_copy_timeout = absl::Seconds(20),
                                       .when_not_converging = agent_api::WhenNotConverging::kPostCopy});
  EXPECT_FALSE(source_->status().pre_copy.gave_up);
  EXPECT_EQ(pager_->began_with(), kDirty);
  Release();
  ExpectAllArrives();
}

TEST_F(PostCopyTest, BeforeTheDecisionItAbortsAsAnyOther) {
  memory_.before_last = [this] { memory_.Write(7, 7); };
  StartTarget();
  agent_api::SourceSpec spec = Spec({"app"});
  spec.mode = agent_api::CopyMode::kPostCopy;
  spec.limits = {.freeze_budget = absl::Milliseconds(100), .pre_copy_timeout = absl::Seconds(20)};
  StartWith(spec);
  AwaitSource(Converged);
  CreateStuck("app");
  ASSERT_TRUE(source_->Switch().ok());
  AwaitSource(SourceState::kFrozen);
  ASSERT_TRUE(source_->Abort("Cancelled", "a person cancelled it").ok());
  EXPECT_EQ(AwaitSource(SourceState::kAborted).reason, "Cancelled");
  AwaitTarget(TargetState::kAborted);
  ExpectRunsOnlyOnSource();
}

// --- restores from checkpoints
// -------------------------------------------------------------------------------------------

TEST_F(TwoNodesTest, ARestoreNeedsNobodysVerdict) {
  world_.SourceRuns(false);  // there is none
  TargetRequest request{.uid = kUid,
                        .pod = {"shop", "cache-0-abcde", kTargetPodUid},
                        .containers = {"app"},
                        .create_limit = create_limit_};
  const std::string images = folder_ + "/images";
  ASSERT_TRUE(MakeFolders(images).ok());
  ASSERT_TRUE(WriteFileDurably(images + "/inventory.img", "x").ok());
  SetTarget(*Target::Start(request, folder_ + "/target", Target2(),
                           [&]() -> absl::StatusOr<std::map<std::string, ContainerState>> {
                             return std::map<std::string, ContainerState>{{"app", {.images = images}}};
                           }));
  Create("app").AwaitAction(RuntimeAction::kDone);
  AwaitTarget(TargetState::kRunning);
  EXPECT_EQ(world_.copies(true), 1);
}

TEST_F(TwoNodesTest, AnArchiveThatIsNotWhatWasRecordedFailsTheRestoreAndEveryCreate) {
  TargetRequest request{.uid = kUid,
                        .pod = {"shop", "cache-0-abcde", kTargetPodUid},
                        .containers = {"app"},
                        .create_limit = create_limit_};
  SetTarget(*Target::Start(request, folder_ + "/target", Target2(),
                           []() -> absl::StatusOr<std::map<std::string, ContainerState>> {
                             return absl::DataLossError("the archive's digest is wrong");
                           }));
  const TargetStatus status = AwaitTarget(TargetState::kAborted);
  EXPECT_EQ(status.reason, "DataLoss");
  FakeRuntime& app = Create("app");
  app.AwaitAction(RuntimeAction::kRefuse);
  EXPECT_THAT(app.message(), HasSubstr("digest is wrong"));
}

}  // namespace
}  // namespace godwit::migration
