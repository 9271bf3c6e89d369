// SPDX-License-Identifier: Apache-2.0
// Two nodes in one process: a real Source and a real Target, joined by a real TLS stream over the loopback,
// with real permits and journals. What is behaved rather than real: processes (a World that complains when
// two copies run), the guard, and godwit-runtime.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "agent/journal/journal.h"
#include "agent/memory/shared_key.h"
#include "agent/migration/source.h"
#include "agent/migration/target.h"
#include "agent/permits/permit_table.h"
#include "base/file.h"
#include "base/json.h"
#include "base/socket.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::migration {

inline const char kUid[] = "0b9f5d1e-1111-4222-8333-444455556666";
inline const char kTargetPodUid[] = "7c9f5d1e-1111-4222-8333-444455556666";

// Which copies of the pod can run.
class World {
 public:
  void SourceRuns(bool runs) {
    absl::MutexLock lock(&mutex_);
    source_runs_ = runs;
    Check();
  }
  void SourceKilled() {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(target_ran_ || given_up_) << "the source was killed though the target never ran";
    source_runs_ = false;
    source_killed_ = true;
  }
  // A person has decided that the target's copy counts, whether or not it ever ran.
  void GiveUpSource() {
    absl::MutexLock lock(&mutex_);
    given_up_ = true;
  }
  void CopyStands(const std::string& cgroup) {
    absl::MutexLock lock(&mutex_);
    copies_[cgroup] = false;
  }
  absl::Status CopyRuns(const std::string& cgroup) {
    absl::MutexLock lock(&mutex_);
    if (!copies_.contains(cgroup)) return absl::NotFoundError("no such cgroup");
    copies_[cgroup] = true;
    target_ran_ = true;
    Check();
    return absl::OkStatus();
  }
  void CopyDies(const std::string& cgroup) {
    absl::MutexLock lock(&mutex_);
    copies_.erase(cgroup);
  }
  absl::Status Stands(const std::string& cgroup) {
    absl::MutexLock lock(&mutex_);
    return copies_.contains(cgroup) ? absl::OkStatus()
                                    : absl::NotFoundError(absl::StrCat("nothing in ", cgroup));
  }
  bool source_runs() {
    absl::MutexLock lock(&mutex_);
    return source_runs_;
  }
  bool source_killed() {
    absl::MutexLock lock(&mutex_);
    return source_killed_;
  }
  int copies(bool running) {
    absl::MutexLock lock(&mutex_);
    int count = 0;
    for (const auto& [cgroup, runs] : copies_) count += runs == running;
    return count;
  }

 private:
  void Check() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bool target = false;
    for (const auto& [cgroup, runs] : copies_) target = target || runs;
    EXPECT_FALSE(source_runs_ && target) << "two copies run";
  }
  absl::Mutex mutex_;
  bool source_runs_ ABSL_GUARDED_BY(mutex_) = true;
  bool source_killed_ ABSL_GUARDED_BY(mutex_) = false;
  bool target_ran_ ABSL_GUARDED_BY(mutex_) = false;
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, bool> copies_ ABSL_GUARDED_BY(mutex_);
};

// A container's memory: one task, whose pages a test writes, and a tracker that knows which; and an object of
// shared memory, of which the tracker does not know it.
class FakeMemory {
 public:
  static constexpr uint64_t kStart = 0x7f0000000000;
  explicit FakeMemory(size_t pages) : pages_(pages, 0) {}

  // Fills a page with a value.
  void Write(size_t page, uint8_t value) {
    absl::MutexLock lock(&mutex_);
    pages_[page] = value;
    dirty_.insert(page);
  }
  std::vector<uint8_t> Content() {
    absl::MutexLock lock(&mutex_);
    return pages_;
  }
  void WriteShared(size_t page, char value) {
    absl::MutexLock lock(&mutex_);
    shared_.resize(std::max(shared_.size(), (page + 1) * memory::PageBytes()));
    shared_.replace(page * memory::PageBytes(), memory::PageBytes(), memory::PageBytes(), value);
  }
  std::string SharedContent() {
    absl::MutexLock lock(&mutex_);
    return shared_;
  }
  MemoryNode Node() {
    return {
        .track = [this](const std::string&) -> absl::StatusOr<std::unique_ptr<TrackedMemory>> {
          if (!pinned.empty()) return absl::FailedPreconditionError(pinned);
          return std::make_unique<Tracked>(*this);
        },
        .read = [this](pid_t, uint64_t address, char* to, size_t size) { return Read(address, to, size); },
        .tasks = [](const std::string&) -> absl::StatusOr<std::map<pid_t, pid_t>> {
          return std::map<pid_t, pid_t>{{1, 4242}};
        },
        .open = [this](pid_t) -> absl::StatusOr<MemoryNode::ReadOne> {
          return [this](uint64_t address, char* to, size_t size) { return Read(address, to, size); };
        },
        .contents = [this](const std::string&, absl::Duration) { return contents; },
        .private_memory =
            [this](const std::string&, const std::set<pid_t>& but) {
              if (but.empty()) return contents.processes;
              return unseen ? unseen() : std::map<pid_t, runtime::Contents::Private>();
            }};
  }
  absl::StatusOr<size_t> Read(uint64_t address, char* to, size_t size) {
    if (before_read) before_read();
    if (gone) return absl::NotFoundError("task 4242 is gone");
    absl::MutexLock lock(&mutex_);
    for (size_t at = 0; at < size; ++at)
      to[at] = static_cast<char>(pages_[(address + at - kStart) / memory::PageBytes()]);
    return size;
  }

  static constexpr uint32_t kSharedId = 4302;
  std::function<void(int round)> before_round;  // the pod goes on meanwhile; counted from 1
  std::function<void()> before_last;            // what it wrote last before it stood still
  std::function<void()> before_read;
  std::atomic<bool> gone = false;  // its tasks were killed
  std::string pinned;
  runtime::Contents contents;  // as the kernel tells them; set before a source starts
  // Processes that have come since the last round.
  std::function<std::map<pid_t, runtime::Contents::Private>()> unseen;

 private:
  class Tracked final : public TrackedMemory {
   public:
    explicit Tracked(FakeMemory& memory) : memory_(memory) {}
    absl::StatusOr<memory::Look> Round() override {
      ++round_;
      if (memory_.before_round) memory_.before_round(round_);
      return memory_.Look(round_ == 1);
    }
    absl::StatusOr<memory::Look> Owned() override { return memory_.OwnedLook(); }
    absl::StatusOr<memory::Look> Last() override {
      if (memory_.before_last) memory_.before_last();
      return memory_.Look(round_ == 0);
    }
    const char* SharedMemory(pid_t key) const override {
      EXPECT_EQ(key, memory::SharedKey(kSharedId));
      return memory_.looked_at_.data();
    }
    std::vector<memory::Pinned> FindPinned() const override { return {}; }

   private:
    FakeMemory& memory_;
    int round_ = 0;
  };
  memory::Look OwnedLook() {
    absl::MutexLock lock(&mutex_);
    return {.tasks = {{.pid = 4242,
                       .container_pid = 1,
                       .owned = {{kStart, kStart + pages_.size() * memory::PageBytes()}}}},
            .shared = Shared()};
  }
  // As it is at this look.
  std::vector<memory::TaskPages> Shared() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    looked_at_ = shared_;
    if (shared_.empty()) return {};
    const pid_t key = memory::SharedKey(kSharedId);
    const memory::Ranges all = {{0, shared_.size()}};
    return {{.pid = key, .container_pid = key, .owned = all, .dirty = all, .populated = all}};
  }
  memory::Look Look(bool first) {
    absl::MutexLock lock(&mutex_);
    const uint64_t page = memory::PageBytes();
    const memory::Ranges all = {{kStart, kStart + pages_.size() * page}};
    memory::TaskPages task{.pid = 4242, .container_pid = 1, .owned = all, .populated = all};
    for (const size_t one : dirty_)
      memory::Append(task.dirty, {kStart + one * page, kStart + (one + 1) * page});
    if (first) task.dirty = all;
    dirty_.clear();
    return {.tasks = {task}, .shared = Shared()};
  }
  absl::Mutex mutex_;
  std::vector<uint8_t> pages_ ABSL_GUARDED_BY(mutex_);
  std::set<size_t> dirty_ ABSL_GUARDED_BY(mutex_);
  std::string shared_ ABSL_GUARDED_BY(mutex_);
  std::string looked_at_;  // of the thread that looks
};

// What all guards of a test share: how they behave.
struct GuardBehaviour {
  World* world = nullptr;
  std::function<absl::Status(const agent_api::GuardContainer&)>
      dump;  // writes images; null: a few small ones
  std::function<void()> armed;
  std::function<void()> before_cede;
  std::function<void()> after_cede;
  bool answer_cede = true;  // false: CEDED is written, and nobody told
  std::string refuse_freeze;
  std::atomic<int> started = 0;
};

// A guard that writes its journal and changes the world, as the real one does; without a connection.
class FakeGuard final : public Guard {
 public:
  FakeGuard(agent_api::GuardSpec spec, GuardBehaviour& behaviour)
      : spec_(std::move(spec)), behaviour_(behaviour) {
    ++behaviour_.started;
  }
  // The agent hangs up, or goes: not ceded, so thaw.
  ~FakeGuard() override { HangUp("the agent is gone"); }

  absl::StatusOr<agent_api::GuardReply> Arm() override {
    for (const agent_api::GuardContainer& one : spec_.containers) {
      const absl::Status status = WriteFileDurably(absl::StrCat(one.images, "/descriptors.json"),
                                                   R"(["/dev/null","pipe:[1]","pipe:[2]"])");
      if (!status.ok()) return status;
    }
    if (behaviour_.armed) behaviour_.armed();
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> Freeze() override {
    if (!behaviour_.refuse_freeze.empty())
      return agent_api::GuardReply{.ok = false,
                                   .state = agent_api::SourceState::kAborted,
                                   .reason = behaviour_.refuse_freeze,
                                   .message = "refused by the test"};
    Write({.state = agent_api::SourceState::kFrozen});
    behaviour_.world->SourceRuns(false);
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> Dump(const std::string& container, absl::Duration) override {
    for (const agent_api::GuardContainer& one : spec_.containers) {
      if (one.name != container) continue;
      const absl::Status status = behaviour_.dump ? behaviour_.dump(one) : DumpSomething(one);
      if (ended_) return absl::UnavailableError("the guard has ended");
      if (status.ok()) return Reply(true);
      return agent_api::GuardReply{
          .ok = false, .state = State(), .reason = "DumpFailed", .message = std::string(status.message())};
    }
    return absl::NotFoundError(container);
  }
  absl::StatusOr<agent_api::GuardReply> Cede() override {
    if (behaviour_.before_cede) behaviour_.before_cede();
    if (State() != agent_api::SourceState::kFrozen)
      return agent_api::GuardReply{
          .ok = false, .state = State(), .reason = "FreezeLimit", .message = "thawed"};
    Write({.state = agent_api::SourceState::kCeded});
    if (behaviour_.after_cede) behaviour_.after_cede();
    if (!behaviour_.answer_cede) {
      ended_ = true;
      return absl::UnavailableError("the guard has ended");
    }
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> Thaw(const std::string& why) override {
    if (State() == agent_api::SourceState::kCeded)
      return agent_api::GuardReply{.ok = false, .state = State(), .reason = "Ceded", .message = "ceded"};
    HangUp(why);
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> TargetAborted(const std::string& why) override {
    // Aborted: a guard that died after it had written that may not have thawed.
    EXPECT_TRUE(State() == agent_api::SourceState::kCeded || State() == agent_api::SourceState::kAborted);
    Write({.state = agent_api::SourceState::kAborted, .reason = "TargetAborted", .message = why});
    behaviour_.world->SourceRuns(true);
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> Kill() override {
    EXPECT_EQ(State(), agent_api::SourceState::kCeded);
    behaviour_.world->SourceKilled();
    Write({.state = agent_api::SourceState::kDone});
    return Reply(true);
  }
  absl::StatusOr<agent_api::GuardReply> Status() override {
    if (ended_) return absl::UnavailableError("the guard has ended");
    return Reply(true);
  }
  bool Ended() override { return ended_; }
  void Shutdown() override { HangUp("the agent hung up"); }
  // As when the freeze limit passes.
  void PassFreezeLimit() { HangUp("the freeze limit passed"); }

 private:
  agent_api::SourceState State() const {
    const auto records = journal::ReplayJournal<agent_api::SourceState>(spec_.journal);
    return records.ok() && !records->empty() ? records->back().state : agent_api::SourceState::kNone;
  }
  void Write(journal::SourceRecord record) {
    absl::StatusOr<journal::SourceJournal> journal = journal::SourceJournal::Open(spec_.journal);
    ASSERT_TRUE(journal.ok()) << journal.status();
    const absl::Status status = journal->Append(std::move(record));
    EXPECT_TRUE(status.ok()) << status;
  }
  agent_api::GuardReply Reply(bool ok) const {
    return {.ok = ok, .state = State(), .frozen_at = absl::Now(), .frozen_for = absl::Milliseconds(3)};
  }
  void HangUp(const std::string& why) {
    if (ended_.exchange(true) || State() != agent_api::SourceState::kFrozen) return;
    behaviour_.world->SourceRuns(true);
    Write({.state = agent_api::SourceState::kAborted, .reason = "AgentGone", .message = why});
  }
  static absl::Status DumpSomething(const agent_api::GuardContainer& container) {
    for (const auto& [name, size] : std::map<std::string, size_t>{
             {"pages-1.img", 3'000'000}, {"core-1.img", 700}, {"inventory.img", 50}}) {
      if (absl::Status status =
              WriteFileDurably(absl::StrCat(container.images, "/", name), std::string(size, 'x'));
          !status.ok())
        return status;
    }
    return absl::OkStatus();
  }

  const agent_api::GuardSpec spec_;
  GuardBehaviour& behaviour_;
  std::atomic<bool> ended_ = false;
};

// godwit-runtime for one `create`: asks, restores when told, closes when done.
class FakeRuntime : public permits::RuntimePeer, public std::enable_shared_from_this<FakeRuntime> {
 public:
  FakeRuntime(permits::PermitTable& table, World& world, std::string container)
      : table_(table),
        world_(world),
        container_(std::move(container)),
        cgroup_(absl::StrCat("/kubepods/", container_)) {}
  ~FakeRuntime() override { Join(); }

  void Create() { table_.OnRequest(shared_from_this(), Request(agent_api::RuntimeOp::kCreate)); }
  // From the table, perhaps under its lock: answered from another thread.
  void Reply(const agent_api::RuntimeReply& reply) override {
    absl::MutexLock lock(&mutex_);
    last_ = reply;
    threads_.emplace_back([this, reply] { Act(reply); });
  }
  agent_api::RuntimeAction AwaitAction(agent_api::RuntimeAction wanted) {
    absl::MutexLock lock(&mutex_);
    auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return last_.has_value() && last_->action == wanted;
    };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(20))) << container_;
    return last_.has_value() ? last_->action : agent_api::RuntimeAction::kRun;
  }
  std::string message() {
    absl::MutexLock lock(&mutex_);
    return last_.has_value() ? last_->message : "";
  }
  void Join() {
    std::vector<std::thread> threads;
    {
      absl::MutexLock lock(&mutex_);
      killed_ = true;
      threads.swap(threads_);
    }
    for (std::thread& thread : threads) thread.join();
  }

  bool fails = false;                     // the restore does
  bool stuck = false;                     // it never comes to an end
  std::atomic<bool> lazy_pages = false;   // as it was told
  std::string shared_memory;              // as it was told, before before_restored
  std::function<void()> before_restored;  // on the way
  const std::string& cgroup() const { return cgroup_; }

 private:
  // As CRIU does (runtime/preload/hold.cc), but that a refusal ends it: the real one is killed then.
  bool PassGate(const std::string& gate) {
    UniqueFd fd(open(gate.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    char word = 0;
    for (;;) {
      if (read(fd.get(), &word, 1) == 1) return true;
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(this, &FakeRuntime::Over), absl::Milliseconds(2)))
        return false;
    }
  }
  void AwaitEnd() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &FakeRuntime::Over));
  }
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return killed_ || (last_.has_value() && last_->action == agent_api::RuntimeAction::kRefuse);
  }
  agent_api::RuntimeRequest Request(agent_api::RuntimeOp op) const {
    return {.op = op,
            .sandbox_uid = kTargetPodUid,
            .container = container_,
            .container_id = container_ + "-id",
            .bundle = "/bundles/" + container_,
            .cgroup = cgroup_};
  }
  void Act(const agent_api::RuntimeReply& reply) {
    switch (reply.action) {
      case agent_api::RuntimeAction::kRestore: {
        agent_api::RuntimeRequest request =
            Request(fails ? agent_api::RuntimeOp::kFailed : agent_api::RuntimeOp::kRestored);
        request.message = fails ? "criu said no" : "";
        request.pid = 4711;
        lazy_pages = reply.lazy_pages;
        shared_memory = reply.shared_memory;
        if (!reply.gate.empty() && !PassGate(reply.gate)) return;  // the agent lets it end
        if (stuck) return AwaitEnd();
        if (before_restored) before_restored();
        if (!fails) world_.CopyStands(cgroup_);
        table_.OnRequest(shared_from_this(), request);
        return;
      }
      case agent_api::RuntimeAction::kRefuse: world_.CopyDies(cgroup_); [[fallthrough]];
      case agent_api::RuntimeAction::kDone:
      case agent_api::RuntimeAction::kRun: table_.OnClosed(shared_from_this()); return;
    }
  }
  permits::PermitTable& table_;
  World& world_;
  const std::string container_;
  const std::string cgroup_;
  absl::Mutex mutex_;
  std::optional<agent_api::RuntimeReply> last_ ABSL_GUARDED_BY(mutex_);
  bool killed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

// A pager of the only container, whose only task is 1: it has the store, waits for what is missing of it, and
// says when that has come.
class FakePager {
 public:
  explicit FakePager(absl::StatusOr<memory::PageServer::Found> found) {
    EXPECT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->stores.size(), 1u);
    EXPECT_EQ(found->maps.size(), 1u);
    store_ = std::move(found->stores.at(0).second);
    map_ = std::move(found->maps.at(0));
    {
      absl::MutexLock lock(&mutex_);
      missing_ = *memory::PageSet::ReadMap(map_.get());
      began_with_ = missing_.pages();
    }
    Connect(*found);
  }
  ~FakePager() { HangUp(); }

  // As one that lost its agent does: what this one knows counts, or what is missing here.
  void Resume(absl::StatusOr<memory::PageServer::Found> found) {
    ASSERT_TRUE(found.ok()) << found.status();
    HangUp();
    gave_ = found->give;
    absl::MutexLock lock(&mutex_);
    if (!found->give) {
      const memory::PageSet still = *memory::PageSet::ReadMap(found->maps.at(0).get());
      for (const memory::Range& range : memory::Difference(missing_.Inside({0, memory::kAddressEnd}),
                                                           still.Inside({0, memory::kAddressEnd})))
        missing_.Erase(range);
    }
    Connect(*found);
    if (!found->give) return;
    UniqueFd map(memfd_create("map", MFD_CLOEXEC));
    EXPECT_EQ(ftruncate(map.get(), memory::PageSet::kMapBytes), 0);
    EXPECT_TRUE(missing_.WriteMap(map.get()).ok());
    const agent_api::PagesReply given{.ok = true, .tasks = {1}, .pulled = true};
    EXPECT_TRUE(channel_->WriteLine(json::Encode(given), {store_.get(), map.get()}, absl::Seconds(5)).ok());
  }
  void HangUp() {
    if (channel_ != nullptr) channel_->Shutdown();
    if (thread_.joinable()) thread_.join();
    channel_ = nullptr;
  }

  void Want(size_t page) { Say({.wanted = {{1, Address(page), memory::PageBytes()}}, .faults = 1}); }
  void End() { Say({.ended = true}); }
  void Kill(const std::string& why) { Say({.ended = true, .failed = why}); }
  bool Has(size_t page) {
    absl::MutexLock lock(&mutex_);
    return missing_.Missing({Address(page), Address(page) + memory::PageBytes()}) == 1;
  }
  size_t missing() {
    absl::MutexLock lock(&mutex_);
    return missing_.pages();
  }
  size_t began_with() {
    absl::MutexLock lock(&mutex_);
    return began_with_;
  }
  // The pages in the order in which they came.
  std::vector<size_t> order() {
    absl::MutexLock lock(&mutex_);
    return order_;
  }
  std::string lost() {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }
  bool gave() const { return gave_; }
  bool Await(const std::function<bool()>& condition) {
    for (const absl::Time end = absl::Now() + absl::Seconds(30); absl::Now() < end;
         absl::SleepFor(absl::Milliseconds(2))) {
      if (condition()) return true;
    }
    return false;
  }
  // The first byte of each page.
  std::vector<uint8_t> Content(size_t pages) {
    std::vector<uint8_t> content(pages);
    for (size_t page = 0; page < pages; ++page)
      EXPECT_EQ(pread(store_.get(), &content[page], 1, static_cast<off_t>(Address(page))), 1);
    return content;
  }

 private:
  static uint64_t Address(size_t page) { return FakeMemory::kStart + page * memory::PageBytes(); }
  void Connect(const memory::PageServer::Found& found) {
    int ends[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    channel_ = std::make_shared<LineChannel>(UniqueFd(ends[0]));
    found.pull(LineChannel(UniqueFd(ends[1])));
    thread_ = std::thread([this, channel = channel_] { Listen(*channel); });
  }
  void Say(const agent_api::PagerWord& word) {
    EXPECT_TRUE(channel_->WriteLine(json::Encode(word), absl::Seconds(5)).ok());
  }
  void Listen(LineChannel& channel) {
    for (;;) {
      const absl::StatusOr<std::string> line = channel.ReadLine(absl::InfiniteDuration());
      if (!line.ok()) return;
      const auto word = json::Decode<agent_api::AgentWord>(*line);
      ASSERT_TRUE(word.ok()) << word.status();
      absl::MutexLock lock(&mutex_);
      for (const agent_api::PageSpan& span : word->arrived) {
        if (missing_.Erase({span.start, span.start + span.bytes}) == 0) continue;
        for (uint64_t at = span.start; at < span.start + span.bytes; at += memory::PageBytes())
          order_.push_back((at - FakeMemory::kStart) / memory::PageBytes());
      }
      if (!word->lost.empty()) lost_ = word->lost;
      const agent_api::PagerWord last{.faults = 1, .complete = missing_.empty(), .ended = !lost_.empty()};
      if (last.complete || last.ended) (void)channel.WriteLine(json::Encode(last), absl::Seconds(5));
    }
  }

  UniqueFd store_, map_;
  std::atomic<bool> gave_ = false;
  std::shared_ptr<LineChannel> channel_;
  absl::Mutex mutex_;
  memory::PageSet missing_ ABSL_GUARDED_BY(mutex_);
  size_t began_with_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<size_t> order_ ABSL_GUARDED_BY(mutex_);
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace godwit::migration
