// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_table.h"

#include <deque>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "agent/permits/cgroup_end.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::permits {
namespace {

using agent_api::PermitState;
using agent_api::RuntimeAction;
using agent_api::RuntimeOp;
using agent_api::RuntimeReply;
using agent_api::RuntimeRequest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kMigration[] = "11111111-2222-3333-4444-555555555555";
constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

// A runtime that keeps what it was told. As the real one it closes its connection when it was refused or is
// done.
class FakeRuntime final : public RuntimePeer, public std::enable_shared_from_this<FakeRuntime> {
 public:
  void Reply(const RuntimeReply& reply) override {
    absl::MutexLock lock(&mutex_);
    replies_.push_back(reply);
  }
  RuntimeReply Next() {
    absl::MutexLock lock(&mutex_);
    const auto told = [this] {
      mutex_.AssertHeld();
      return !replies_.empty();
    };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&told), absl::Seconds(10))) {
      ADD_FAILURE() << "no reply";
      return {};
    }
    RuntimeReply reply = replies_.front();
    replies_.pop_front();
    return reply;
  }
  bool Quiet() {
    absl::MutexLock lock(&mutex_);
    return replies_.empty();
  }

 private:
  absl::Mutex mutex_;
  std::deque<RuntimeReply> replies_ ABSL_GUARDED_BY(mutex_);
};

class PermitTableTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/permits-XXXXXX");
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    Restart();
  }
  // As if the agent were started anew: the table is gone, the folder stays.
  void Restart() {
    table_ = std::make_unique<PermitTable>(
        PermitStore(folder_),
        [this](const std::string& cgroup) {
          absl::MutexLock lock(&mutex_);
          destroyed_.push_back(cgroup);
          return destroy_result_;
        },
        [this](const std::string&) {
          absl::MutexLock lock(&mutex_);
          return check_result_;
        },
        [this](const std::string& sandbox_uid, const Claim& claim, int64_t pid) {
          absl::MutexLock lock(&mutex_);
          EXPECT_EQ(sandbox_uid, kPod);
          EXPECT_EQ(claim.bundle, "/run/bundle");
          EXPECT_EQ(pid, 4711);
          return of_pod_result_;
        });
  }
  PermitSpec Spec(std::vector<std::string> containers = {"app"}) {
    return {.migration_uid = kMigration,
            .sandbox_uid = kPod,
            .containers = std::move(containers),
            .create_limit = absl::Seconds(90)};
  }
  std::shared_ptr<FakeRuntime> Create(const std::string& container = "app", const std::string& id = "c1") {
    auto runtime = std::make_shared<FakeRuntime>();
    table_->OnRequest(runtime, {.op = RuntimeOp::kCreate,
                                .sandbox_uid = kPod,
                                .container = container,
                                .container_id = id,
                                .bundle = "/run/bundle",
                                .cgroup = "/kubepods/" + id});
    return runtime;
  }
  // Takes a waiting container to "restored" (not yet confirmed).
  void Restore(const std::shared_ptr<FakeRuntime>& runtime, const std::string& container = "app") {
    std::thread answers([&] {
      EXPECT_EQ(runtime->Next().action, RuntimeAction::kRestore);
      table_->OnRequest(runtime, {.op = RuntimeOp::kRestored, .pid = 4711});
    });
    auto restored = table_->Restore(kMigration, container, "/images", "/work", absl::Seconds(10));
    answers.join();
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->pid, 4711);
  }
  void Confirm(const std::shared_ptr<FakeRuntime>& runtime, const std::string& container = "app") {
    std::thread answers([&] {
      EXPECT_EQ(runtime->Next().action, RuntimeAction::kDone);
      table_->OnClosed(runtime);
    });
    EXPECT_TRUE(table_->Confirm(kMigration, container, absl::Seconds(10)).ok());
    answers.join();
  }
  absl::Status AbortWhile(const std::vector<std::shared_ptr<FakeRuntime>>& runtimes) {
    std::thread closes([&] {
      for (const auto& runtime : runtimes) {
        EXPECT_EQ(runtime->Next().action, RuntimeAction::kRefuse);
        table_->OnClosed(runtime);
      }
    });
    absl::Status status = table_->Abort(kMigration, "the source went away", absl::Seconds(10));
    closes.join();
    return status;
  }
  PermitState OnDisk(const std::string& container = "app") {
    auto permit = PermitStore(folder_).Read(kPod, container);
    EXPECT_TRUE(permit.ok()) << permit.status();
    return permit.ok() ? permit->state : PermitState::kWaiting;
  }
  std::vector<std::string> Destroyed() {
    absl::MutexLock lock(&mutex_);
    return destroyed_;
  }

  std::string folder_;
  absl::Mutex mutex_;
  std::vector<std::string> destroyed_;
  absl::Status destroy_result_;
  absl::Status check_result_;
  absl::Status of_pod_result_;
  std::unique_ptr<PermitTable> table_;
};

TEST_F(PermitTableTest, AStateThatCameToAnotherPodNeverRuns) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  {
    absl::MutexLock lock(&mutex_);
    of_pod_result_ = absl::PermissionDeniedError("its bundle says otherwise");
  }
  const auto runtime = Create();
  std::thread answers([&] {
    EXPECT_EQ(runtime->Next().action, RuntimeAction::kRestore);
    table_->OnRequest(runtime, {.op = RuntimeOp::kRestored, .pid = 4711});
    EXPECT_EQ(runtime->Next().action, RuntimeAction::kRefuse);
    table_->OnClosed(runtime);
  });
  const auto restored = table_->Restore(kMigration, "app", "/images", "/work", absl::Seconds(10));
  answers.join();
  EXPECT_EQ(restored.status().code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(restored.status().message()),
              HasSubstr("restored for another pod: its bundle says"));
  EXPECT_THAT(Destroyed(), ElementsAre("/kubepods/c1"));
  EXPECT_FALSE(table_->CheckStanding(kMigration).ok());
}

TEST_F(PermitTableTest, TheOrderToRestoreNamesGateLazyPagesAndSharedMemory) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  const auto runtime = Create();
  agent_api::RuntimeReply order;
  std::thread answers([&] {
    order = runtime->Next();
    table_->OnRequest(runtime, {.op = RuntimeOp::kRestored, .pid = 4711});
  });
  const auto restored =
      table_->Restore(kMigration, "app", "/images", "/work", absl::Seconds(10),
                      {.gate = "/work/gate", .lazy_pages = true, .shared_memory = "/work/shared"});
  answers.join();
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(order.images, "/images");
  EXPECT_EQ(order.gate, "/work/gate");
  EXPECT_TRUE(order.lazy_pages);
  EXPECT_EQ(order.shared_memory, "/work/shared");
}

TEST_F(PermitTableTest, ACreateWaitsIsRestoredAndAfterSpentEveryCreateIsAFreshStart) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  EXPECT_EQ(OnDisk(), PermitState::kWaiting);
  auto runtime = Create();
  EXPECT_TRUE(runtime->Quiet());
  auto claim = table_->WaitForClaim(kMigration, "app", absl::Seconds(1));
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_EQ(claim->container_id, "c1");
  EXPECT_EQ(claim->cgroup, "/kubepods/c1");
  EXPECT_THAT(table_->Waiting(kMigration), ElementsAre("app"));
  Restore(runtime);
  EXPECT_FALSE(table_->CheckStanding(kMigration).ok()) << "`create` has not returned yet";
  Confirm(runtime);
  EXPECT_THAT(table_->Standing(kMigration), ElementsAre("app"));
  EXPECT_TRUE(table_->CheckStanding(kMigration).ok());
  EXPECT_TRUE(table_->Waiting(kMigration).empty());
  table_->Spend(Spec());
  EXPECT_EQ(OnDisk(), PermitState::kWaiting) << "that takes time, and the pod stands still";
  EXPECT_EQ(Create("app", "c2")->Next().action, RuntimeAction::kRun);
  ASSERT_TRUE(table_->WriteSpent(Spec()).ok());
  EXPECT_EQ(OnDisk(), PermitState::kSpent);
  EXPECT_EQ(Create("app", "c3")->Next().action, RuntimeAction::kRun);
  EXPECT_THAT(Destroyed(), IsEmpty());
}

TEST_F(PermitTableTest, WithoutAPermitACreateThatAsksIsRefusedAndToldWhy) {
  auto runtime = Create();
  const RuntimeReply reply = runtime->Next();
  EXPECT_EQ(reply.action, RuntimeAction::kRefuse);
  EXPECT_THAT(reply.message, HasSubstr("no state to be restored from"));
}

TEST_F(PermitTableTest, AContainerThatTheMigrationDoesNotNameIsRefused) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  EXPECT_EQ(Create("other")->Next().action, RuntimeAction::kRefuse);
}

TEST_F(PermitTableTest, ANewerCreateEndsAnOlderOneThatWaits) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto older = Create("app", "c1");
  auto newer = Create("app", "c2");
  EXPECT_EQ(older->Next().action, RuntimeAction::kRefuse);
  table_->OnClosed(older);
  auto claim = table_->WaitForClaim(kMigration, "app", absl::Seconds(1));
  ASSERT_TRUE(claim.ok());
  EXPECT_EQ(claim->container_id, "c2");
  EXPECT_TRUE(newer->Quiet());
}

TEST_F(PermitTableTest, AWaitingCreateThatDiesLeavesThePermitToTheNextOne) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  table_->OnClosed(Create());
  EXPECT_THAT(table_->Waiting(kMigration), IsEmpty());
  EXPECT_EQ(table_->WaitForClaim(kMigration, "app", absl::Milliseconds(10)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  Create("app", "c2");
  EXPECT_TRUE(table_->WaitForClaim(kMigration, "app", absl::Seconds(1)).ok());
}

TEST_F(PermitTableTest, ARuntimeThatDiesWhileItRestoresFailsTheMigrationAndItsCopyIsDestroyed) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  std::thread dies([&] {
    EXPECT_EQ(runtime->Next().action, RuntimeAction::kRestore);
    table_->OnClosed(runtime);
  });
  const absl::Status status = table_->Restore(kMigration, "app", "/i", "/w", absl::Seconds(10)).status();
  dies.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted) << status;
  EXPECT_THAT(Destroyed(), ElementsAre("/kubepods/c1"));
  EXPECT_EQ(Create("app", "c2")->Next().action, RuntimeAction::kRefuse)
      << "before the abort is on the disk, too";
}

TEST_F(PermitTableTest, ARestoreThatFailsSaysWhy) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  std::thread fails([&] {
    runtime->Next();
    table_->OnRequest(runtime, {.op = RuntimeOp::kFailed, .message = "criu: no space"});
  });
  const absl::Status status = table_->Restore(kMigration, "app", "/i", "/w", absl::Seconds(10)).status();
  fails.join();
  EXPECT_THAT(std::string(status.message()), HasSubstr("criu: no space"));
}

TEST_F(PermitTableTest, ACreateForAContainerThatStandsRestoredFailsTheMigration) {
  ASSERT_TRUE(table_->Add(Spec({"app", "side"})).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  EXPECT_EQ(Create("app", "c2")->Next().action, RuntimeAction::kRefuse);
  EXPECT_EQ(table_->CheckStanding(kMigration).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(table_->WaitForClaim(kMigration, "side", absl::Seconds(10)).status().code(),
            absl::StatusCode::kAborted);
}

TEST_F(PermitTableTest, ACopyThatWasKilledBeforeTheCommitFailsTheMigration) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  EXPECT_TRUE(table_->CheckStanding(kMigration).ok());
  check_result_ = absl::FailedPreconditionError("no process is left");
  EXPECT_EQ(table_->CheckStanding(kMigration).code(), absl::StatusCode::kAborted);
  check_result_ = absl::OkStatus();
  EXPECT_EQ(table_->CheckStanding(kMigration).code(), absl::StatusCode::kAborted) << "failed is failed";
  EXPECT_EQ(OnDisk(), PermitState::kWaiting);
}

TEST_F(PermitTableTest, AbortRefusesThoseThatWaitDestroysThoseThatStandAndEveryLaterCreateFails) {
  ASSERT_TRUE(table_->Add(Spec({"app", "side"})).ok());
  auto app = Create("app", "c1");
  Restore(app);
  Confirm(app);
  auto side = Create("side", "c2");
  ASSERT_TRUE(AbortWhile({side}).ok());
  EXPECT_THAT(Destroyed(), ElementsAre("/kubepods/c1", "/kubepods/c2"));
  EXPECT_EQ(OnDisk("app"), PermitState::kAborted);
  EXPECT_EQ(OnDisk("side"), PermitState::kAborted);
  for (int i = 0; i < 3; ++i) {
    const RuntimeReply reply = Create("app", absl::StrCat("r", i))->Next();
    EXPECT_EQ(reply.action, RuntimeAction::kRefuse);
    EXPECT_EQ(reply.message, "the source went away");
  }
  EXPECT_EQ(table_->Confirm(kMigration, "app", absl::Seconds(1)).code(), absl::StatusCode::kAborted);
}

TEST_F(PermitTableTest, AbortWakesWhoWaitsForAClaim) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  std::thread waits([&] {
    EXPECT_EQ(table_->WaitForClaim(kMigration, "app", absl::Seconds(30)).status().code(),
              absl::StatusCode::kAborted);
  });
  EXPECT_TRUE(AbortWhile({}).ok());
  waits.join();
}

TEST_F(PermitTableTest, AbortIsNotOkWhileARuntimeOrACopyLives) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  Restore(runtime);
  EXPECT_EQ(table_->Abort(kMigration, "no", absl::Milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Destroyed(), IsEmpty()) << "criu may still be making processes there";
  destroy_result_ = absl::DeadlineExceededError("still there");
  table_->OnClosed(runtime);
  EXPECT_FALSE(table_->Abort(kMigration, "no", absl::Seconds(10)).ok());
  destroy_result_ = absl::OkStatus();
  EXPECT_TRUE(table_->Abort(kMigration, "no", absl::Seconds(10)).ok()) << "may be repeated";
}

TEST_F(PermitTableTest, TooLateToAbortWhenSpent) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  table_->Spend(Spec());
  ASSERT_TRUE(table_->WriteSpent(Spec()).ok());
  EXPECT_EQ(table_->Abort(kMigration, "no", absl::Seconds(1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OnDisk(), PermitState::kSpent);
}

TEST_F(PermitTableTest, StandingMeansEveryContainer) {
  ASSERT_TRUE(table_->Add(Spec({"app", "side"})).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  EXPECT_EQ(table_->CheckStanding(kMigration).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PermitTableTest, AfterARestartOfTheAgentAnAbortStillFindsTheCopies) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  Restart();
  ASSERT_TRUE(table_->Add(Spec()).ok());
  EXPECT_FALSE(table_->CheckStanding(kMigration).ok());
  EXPECT_TRUE(table_->Abort(kMigration, "the agent was restarted", absl::Seconds(1)).ok());
  EXPECT_THAT(Destroyed(), ElementsAre("/kubepods/c1"));
}

TEST_F(PermitTableTest, AfterARestartOfTheAgentACopyThatStandsIsNotReplacedByALaterCreate) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  Restart();
  ASSERT_TRUE(table_->Add(Spec(), {{"app", "/kubepods/c1"}}).ok());
  EXPECT_TRUE(table_->CheckStanding(kMigration).ok());
  EXPECT_EQ(Create("app", "c2")->Next().action, RuntimeAction::kRefuse);
  EXPECT_EQ(table_->CheckStanding(kMigration).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(table_->Abort(kMigration, "started anew", absl::Seconds(1)).ok());
  EXPECT_THAT(Destroyed(), ElementsAre("/kubepods/c1"));
}

TEST_F(PermitTableTest, AnAbortedPermitIsNotGivenAgain) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  ASSERT_TRUE(AbortWhile({}).ok());
  Restart();
  EXPECT_EQ(table_->Add(Spec()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Create()->Next().action, RuntimeAction::kRefuse);
}

TEST_F(PermitTableTest, APodServesOneMigration) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  PermitSpec second = Spec();
  second.migration_uid = "99999999-2222-3333-4444-555555555555";
  EXPECT_EQ(table_->Add(second).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(table_->Add(Spec()).ok()) << "the same twice is one";
}

TEST_F(PermitTableTest, ForgetRemovesAbortedPermitsAndKeepsSpentOnesUntilThePodIsGone) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  EXPECT_FALSE(table_->Forget(kMigration).ok());
  auto runtime = Create();
  Restore(runtime);
  Confirm(runtime);
  table_->Spend(Spec());
  ASSERT_TRUE(table_->WriteSpent(Spec()).ok());
  ASSERT_TRUE(table_->Forget(kMigration).ok());
  EXPECT_EQ(Create("app", "c9")->Next().action, RuntimeAction::kRun);
  ASSERT_TRUE(table_->RemoveSpent([](const std::string& uid) { return uid == kPod; }).ok());
  EXPECT_EQ(OnDisk(), PermitState::kSpent);
  ASSERT_TRUE(table_->RemoveSpent([](const std::string&) { return false; }).ok());
  EXPECT_EQ(PermitStore(folder_).Read(kPod, "app").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(*PermitStore(folder_).List(), IsEmpty());
}

TEST_F(PermitTableTest, RefusesNamesThatAreNone) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  const std::vector<RuntimeRequest> bad = {
      {.sandbox_uid = "../../etc", .container = "app", .bundle = "/b", .cgroup = "/c"},
      {.sandbox_uid = kPod, .container = "../x", .bundle = "/b", .cgroup = "/c"},
      {.sandbox_uid = kPod, .container = "app", .bundle = "b", .cgroup = "/c"},
      {.sandbox_uid = kPod, .container = "app", .bundle = "/b", .cgroup = "/"},
      {.sandbox_uid = kPod, .container = "app", .bundle = "/b", .cgroup = "/a/../../b"},
      {.sandbox_uid = kPod, .container = "app", .bundle = "/b", .cgroup = "/a//b"},
      {.sandbox_uid = kPod, .container = "app", .bundle = "/b", .cgroup = std::string("/a\0b", 4)}};
  for (const RuntimeRequest& request : bad) {
    auto runtime = std::make_shared<FakeRuntime>();
    table_->OnRequest(runtime, request);
    EXPECT_EQ(runtime->Next().action, RuntimeAction::kRefuse) << request.cgroup;
  }
  EXPECT_THAT(table_->Waiting(kMigration), IsEmpty());
}

TEST_F(PermitTableTest, ARestoredThatNobodyAskedForFailsTheMigration) {
  ASSERT_TRUE(table_->Add(Spec()).ok());
  auto runtime = Create();
  table_->OnRequest(runtime, {.op = RuntimeOp::kRestored, .pid = 4711});
  EXPECT_EQ(runtime->Next().action, RuntimeAction::kRefuse);
  EXPECT_FALSE(table_->WaitForClaim(kMigration, "app", absl::Seconds(1)).ok());
}

TEST(KillCgroupTest, AFolderThatIsNotThereIsEmpty) {
  EXPECT_TRUE(KillCgroup(::testing::TempDir(), "/no/such/cgroup", absl::Seconds(1)).ok());
}

TEST(CheckStandsFrozenTest, NeedsProcessesAndAllOfThemFrozen) {
  std::string root = absl::StrCat(::testing::TempDir(), "/cgroup-XXXXXX");
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  EXPECT_FALSE(CheckStandsFrozen(root, "").ok());
  std::ofstream(root + "/cgroup.freeze") << "1\n";
  std::ofstream(root + "/cgroup.events") << "populated 0\nfrozen 1\n";
  EXPECT_FALSE(CheckStandsFrozen(root, "").ok());
  std::ofstream(root + "/cgroup.events") << "populated 1\nfrozen 0\n";
  std::ofstream(root + "/cgroup.freeze") << "0\n";
  EXPECT_FALSE(CheckStandsFrozen(root, "").ok());
  std::ofstream(root + "/cgroup.freeze") << "1\n";
  std::ofstream(root + "/cgroup.events") << "populated 1\nfrozen 1\n";
  EXPECT_TRUE(CheckStandsFrozen(root, "").ok());
}

TEST(KillCgroupTest, WritesKillAndSaysWhenProcessesStay) {
  std::string root = absl::StrCat(::testing::TempDir(), "/cgroup-XXXXXX");
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  std::ofstream(root + "/cgroup.kill") << "";
  std::ofstream(root + "/cgroup.events") << "populated 1\nfrozen 1\n";
  EXPECT_EQ(KillCgroup(root, "", absl::Milliseconds(20)).code(), absl::StatusCode::kDeadlineExceeded);
  std::ofstream(root + "/cgroup.events") << "populated 0\nfrozen 0\n";
  EXPECT_TRUE(KillCgroup(root, "", absl::Milliseconds(20)).ok());
  std::string kill;
  std::getline(std::ifstream(root + "/cgroup.kill"), kill);
  EXPECT_EQ(kill, "1");
}

}  // namespace
}  // namespace godwit::permits
