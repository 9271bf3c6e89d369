// SPDX-License-Identifier: Apache-2.0
// Pending, Preflight and Preparing: what each finding leads to.
#include <functional>

#include "controller/migration/draft.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using crds::MigrationPhase;
using ::testing::HasSubstr;

const MigrationSettings kSettings;

struct Case {
  const char* name;
  MigrationPhase phase;
  std::function<void(MigrationObserved&)> spoil;
  const char* reason;
  const char* says;
};

// Each ends the Migration; the source was not touched.
class RefusedTest : public ::testing::TestWithParam<Case> {};

TEST_P(RefusedTest, FailsWithTheReason) {
  MigrationObserved seen = GoodObserved(GetParam().phase);
  GetParam().spoil(seen);
  MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_TRUE(Failing(decision));
  EXPECT_EQ(ReasonOf(decision), GetParam().reason);
  EXPECT_THAT(MessageOf(decision), HasSubstr(GetParam().says));
  if (GetParam().phase == MigrationPhase::kPreparing) {
    EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing) << "first what was made is removed";
  } else {
    EXPECT_EQ(decision.status.phase, MigrationPhase::kFailed);
    ASSERT_EQ(decision.tells.size(), 1u);
    EXPECT_EQ(decision.tells[0].warning, !Wished(GetParam().reason));
    EXPECT_EQ(decision.tells[0].reason, GetParam().reason);
    EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kCleanedUp));
  }
}

void Silent(NodeView& node, absl::Status status) { node.agent = std::move(status); }

INSTANTIATE_TEST_SUITE_P(
    Table, RefusedTest,
    ::testing::Values(
        Case{"NoPod", MigrationPhase::kPending, [](auto& s) { s.source.reset(); }, "PodNotFound",
             "no pod cache-0 in namespace shop"},
        Case{"PodPending", MigrationPhase::kPending,
             [](auto& s) { s.source = PodWith({{"/status/phase", "\"Pending\""}}); }, "PodNotRunning",
             "phase is Pending"},
        Case{"Rival", MigrationPhase::kPending, [](auto& s) { s.rival = "first"; }, "AnotherMigration",
             "Migration first is moving this pod"},
        Case{"HostPath", MigrationPhase::kPending,
             [](auto& s) {
               s.source = PodWith({{"/spec/volumes", R"([{"name":"v","hostPath":{"path":"/x"}}])"}});
             },
             "UnsupportedVolume", "hostPath"},
        Case{"Probe", MigrationPhase::kPending,
             [](auto& s) {
               s.source = PodWith({{"/spec/containers/0/livenessProbe", R"({"failureThreshold":1})"}});
             },
             "LivenessProbeTooTight", "failureThreshold 1"},
        Case{"Owner", MigrationPhase::kPending,
             [](auto& s) {
               s.source = PodWith(
                   {{"/metadata/ownerReferences",
                     R"([{"apiVersion":"v1","kind":"Job","name":"j","uid":"u","controller":true}])"}});
             },
             "UnsupportedOwner", "owned by Job j"},
        Case{"NoNode", MigrationPhase::kPending, [](auto& s) { s.target_node.exists = false; },
             "NodeNotFound", "node node-b does not exist"},
        Case{"NodeNotReady", MigrationPhase::kPending, [](auto& s) { s.target_node.ready = false; },
             "NodeNotReady", "node-b is not ready"},
        Case{"NodeCordoned", MigrationPhase::kPending, [](auto& s) { s.target_node.schedulable = false; },
             "NodeUnschedulable", "cordoned"},
        Case{"SourceNode", MigrationPhase::kPending,
             [](auto& s) {
               s.migration.spec.target.node_name = "node-a";
               s.target_node = GoodNode("node-a");
             },
             "TargetIsSource", "runs on node node-a already"},
        Case{"NoAgentThere", MigrationPhase::kPending, [](auto& s) { s.target_node.agent_runs = false; },
             "NoAgent", "no Godwit agent runs on node node-b"},
        Case{"NoAgentHere", MigrationPhase::kPending, [](auto& s) { s.source_node.agent_runs = false; },
             "NoAgent", "the pod's own node"},
        Case{"NoLabels", MigrationPhase::kPending,
             [](auto& s) {
               s.migration.spec.target = {.node_selector = {{"disk", "ssd"}}};
               s.selector = "disk=ssd";
             },
             "NoSuitableNode", "no node has the labels disk=ssd"},
        Case{"DeletedAtOnce", MigrationPhase::kPending,
             [](auto& s) { s.migration.metadata.deletion_timestamp = kNow; }, "Deleted", "deleted before"},
        Case{"PodGoneEarly", MigrationPhase::kPreflight, [](auto& s) { s.source.reset(); }, "PodGone",
             "deleted while"},
        Case{"PodReplaced", MigrationPhase::kPreflight,
             [](auto& s) { s.source->view.metadata.uid = "other"; }, "PodReplaced", "another of that name"},
        Case{"Architecture", MigrationPhase::kPreflight,
             [](auto& s) { s.target_node.agent->architecture = "arm64"; }, "ArchitectureMismatch",
             "processes are amd64, and node node-b is arm64"},
        Case{"NoHandler", MigrationPhase::kPreflight,
             [](auto& s) { s.target_node.agent->runtime_ready = false; }, "RuntimeNotReady",
             "handler godwit"},
        Case{"Finding", MigrationPhase::kPreflight,
             [](auto& s) {
               s.preflight->findings = {{.id = "IoUring",
                                         .severity = agent_api::Severity::kBlocking,
                                         .container = "app",
                                         .message = "process 12 uses io_uring",
                                         .remedy = "Turn it off."}};
             },
             "IoUring", "container app: process 12 uses io_uring. Turn it off."},
        Case{"NoMemory", MigrationPhase::kPreflight,
             [](auto& s) { s.target_node.agent->memory_available = int64_t{100} << 20; }, "NoMemoryOnTarget",
             "node node-b has 100 MiB of memory available, and 576 MiB are needed"},
        Case{"NoDisk", MigrationPhase::kPreflight,
             [](auto& s) { s.target_node.agent->storage_available = int64_t{100} << 20; }, "NoSpaceOnTarget",
             "node node-b has 100 MiB of disk space"},
        Case{"NoDiskHere", MigrationPhase::kPreflight,
             [](auto& s) { s.source_node.agent->storage_available = 0; }, "NoSpaceOnSource", "node node-a"},
        Case{"PreflightRefused", MigrationPhase::kPreflight,
             [](auto& s) { s.preflight = absl::NotFoundError("no container aaaa"); }, "PreflightFailed",
             "no container aaaa"},
        Case{"HostPort", MigrationPhase::kPreflight,
             [](auto& s) {
               s.host_port_taken = crds::Finding{
                   .id = "HostPortTaken", .severity = crds::Severity::kBlocking, .message = "8080 in use"};
             },
             "HostPortTaken", "8080 in use"},
        Case{"TargetNameTaken", MigrationPhase::kPreparing,
             [](auto& s) { s.target->metadata.labels.clear(); }, "TargetPodNameTaken",
             "not this Migration's"},
        Case{"TargetDeleted", MigrationPhase::kPreparing,
             [](auto& s) { s.target->metadata.deletion_timestamp = kNow; }, "TargetPodDeleted",
             "deleted before"},
        Case{"TargetGone", MigrationPhase::kPreparing, [](auto& s) { s.target.reset(); }, "TargetPodDeleted",
             "deleted before"},
        Case{"NoImage", MigrationPhase::kPreparing,
             [](auto& s) {
               s.target->status.container_statuses = {
                   {.name = "app",
                    .state = {.waiting = k8s::ContainerStateWaiting{"ErrImagePull", "not found"}}}};
             },
             "ErrImagePull", "not found"},
        Case{"TargetAborted", MigrationPhase::kPreparing,
             [](auto& s) {
               s.target_side = agent_api::TargetStatus{.state = agent_api::TargetState::kAborted,
                                                       .reason = "CreateLimit",
                                                       .message = "create waited 100s"};
             },
             "CreateLimit", "create waited 100s"},
        Case{"SourceDying", MigrationPhase::kPreparing,
             [](auto& s) { s.source->view.metadata.deletion_timestamp = kNow; }, "PodTerminating",
             "being deleted"},
        Case{"LateRival", MigrationPhase::kPreparing, [](auto& s) { s.rival = "first"; }, "AnotherMigration",
             "first"},
        Case{"DeletedHalfway", MigrationPhase::kPreparing,
             [](auto& s) { s.migration.metadata.deletion_timestamp = kNow; }, "Deleted", "deleted before"}),
    [](const auto& info) { return info.param.name; });

TEST(DecideTest, TheFinalizerComesFirstAndAnObjectThatGoesGetsNone) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.migration.metadata.finalizers.clear();
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kAddFinalizer);
  seen.migration.metadata.deletion_timestamp = kNow;
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kNothing);
}

TEST(DecideTest, PendingSettlesWhoAndWhereOnceAndForAll) {
  const MigrationDecision decision = Decide(GoodObserved(MigrationPhase::kPending), kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreflight);
  EXPECT_EQ(decision.status.source_node, "node-a");
  EXPECT_EQ(decision.status.target_node, "node-b");
  EXPECT_EQ(decision.status.source_pod_uid, PodWith().view.metadata.uid);
  EXPECT_EQ(decision.status.target_pod_name, MovedPodName(PodWith().view.metadata, kMigrationUid));
  EXPECT_EQ(decision.status.start_time, kNow);
  ASSERT_EQ(decision.tells.size(), 1u);
  EXPECT_EQ(decision.tells[0].reason, "Preflight");
}

TEST(DecideTest, ANodeSelectorIsResolvedToTheNodeWithTheMostMemory) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.migration.spec.target = {.node_selector = {{"disk", "ssd"}}};
  seen.candidates = {GoodNode("node-a"), GoodNode("node-b"), GoodNode("node-c")};
  seen.candidates[2].agent->memory_available = int64_t{8} << 30;
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.target_node, "node-c");
}

TEST(DecideTest, PodsOfAReplicaSetMoveOneAfterTheOther) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.sibling_move = "move-web-2";
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPending);
  EXPECT_EQ(ReasonOf(decision), "WaitingForSibling");
  EXPECT_THAT(MessageOf(decision),
              HasSubstr("Migration move-web-2 moves another pod of the same ReplicaSet"));
  EXPECT_LT(decision.again, absl::Seconds(10));
  seen.sibling_move.clear();
  EXPECT_EQ(Decide(After(seen, decision), kSettings, kNow).status.phase, MigrationPhase::kPreflight);
}

// An agent takes only so many streams of another: a namespace must leave some to the others.
TEST(DecideTest, ANamespaceMovesSoManyPodsFromANodeAtATime) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.moves_in_work = 8;
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPending);
  EXPECT_EQ(ReasonOf(decision), "WaitingForMoves");
  EXPECT_LT(decision.again, absl::Seconds(10));
  seen.moves_in_work = 7;
  EXPECT_EQ(Decide(After(seen, decision), kSettings, kNow).status.phase, MigrationPhase::kPreflight);
}

TEST(DecideTest, PendingWaitsForAnUnreadySiblingAndSaysSo) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.siblings = {PodView({{"/metadata/name", "\"web-2\""}, {"/status/conditions", "[]"}})};
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPending);
  EXPECT_EQ(ReasonOf(decision), "WaitingForSibling");
  EXPECT_THAT(MessageOf(decision), HasSubstr("web-2"));
  EXPECT_LT(decision.again, absl::Seconds(10));
  const MigrationDecision late = Decide(After(seen, decision), kSettings, kNow + absl::Minutes(11));
  EXPECT_EQ(ReasonOf(late), "Timeout");
}

TEST(DecideTest, PendingWaitsForACheckpointOfThePod) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPending);
  seen.checkpoint = "nightly";
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kNow)), "CheckpointRunning");
}

TEST(DecideTest, PreflightThatPassesRecordsWhatWillMove) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  seen.preflight->findings = {
      {.id = "Tcp", .severity = agent_api::Severity::kWarning, .message = "3 connections will be closed"}};
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing);
  EXPECT_EQ(decision.status.preflight.memory_bytes, int64_t{512} << 20);
  ASSERT_EQ(decision.status.findings.size(), 1u);
  EXPECT_TRUE(k8s::IsConditionTrue(decision.status.conditions, crds::kPreflightPassed));
}

TEST(DecideTest, OneWhosePodIsNotLookedAtYetComesBack) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  seen.preflight = absl::NotFoundError("not asked");
  seen.preflight_waits = true;
  const MigrationDecision waits = Decide(seen, kSettings, kNow);
  EXPECT_EQ(waits.status.phase, MigrationPhase::kPreflight);
  EXPECT_EQ(ReasonOf(waits), "WaitingForPreflights");
  EXPECT_LT(waits.again, absl::Seconds(1));
}

TEST(DecideTest, WhoseTurnDoesNotComeInTimeSaysThatOthersCameFirst) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  seen.preflight = absl::NotFoundError("not asked");
  const absl::Time late = kStart + absl::Minutes(11);
  EXPECT_THAT(MessageOf(Decide(seen, kSettings, late)), HasSubstr("before the nodes had answered"));
  seen.preflight_waits = true;
  const MigrationDecision waits = Decide(seen, kSettings, kNow);
  const MigrationDecision waiting = Decide(seen, kSettings, late);
  EXPECT_EQ(ReasonOf(waiting), "Timeout");
  EXPECT_THAT(MessageOf(waiting), HasSubstr("passed while other pods' preflights came first"));
  seen = After(GoodObserved(MigrationPhase::kPreflight), waits);
  EXPECT_THAT(MessageOf(Decide(seen, kSettings, late)), HasSubstr("while other pods' preflights came first"))
      << "the turn came too late";
}

TEST(DecideTest, AnAgentThatAnswersAgainIsToldSoWhileOthersGoFirst) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  Silent(seen.target_node, absl::UnavailableError("cannot connect"));
  const MigrationDecision silent = Decide(seen, kSettings, kNow);
  MigrationObserved back = After(GoodObserved(MigrationPhase::kPreflight), silent);
  back.preflight_waits = true;
  const MigrationDecision waits = Decide(back, kSettings, kNow + absl::Seconds(5));
  EXPECT_TRUE(k8s::IsConditionTrue(waits.status.conditions, crds::kAgentsReachable));
  seen = After(seen, waits);
  EXPECT_FALSE(Failing(Decide(seen, kSettings, kNow + absl::Minutes(1)))) << "it is given time anew";
}

TEST(DecideTest, TheReserveOfTheDiskIsForArchivesAndKeepsNoPodFromMoving) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  for (NodeView* node : {&seen.source_node, &seen.target_node}) {
    node->agent->storage_available = int64_t{1} << 30;
    node->agent->storage_reserve = int64_t{15} << 30;
  }
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, MigrationPhase::kPreparing);
  seen.source_node.agent->storage_available = int64_t{100} << 20;
  EXPECT_THAT(MessageOf(Decide(seen, kSettings, kNow)),
              HasSubstr("node node-a has 100 MiB of disk space available, and 576 MiB are needed"));
}

TEST(DecideTest, DifferentCriuVersionsAreAWarning) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  seen.target_node.agent->criu_version = "4.3";
  const MigrationDecision decision = Decide(seen, kSettings, kNow);
  EXPECT_EQ(decision.status.phase, MigrationPhase::kPreparing);
  ASSERT_EQ(decision.status.findings.size(), 1u);
  EXPECT_EQ(decision.status.findings[0].id, "CriuVersionDiffers");
}

TEST(DecideTest, ASilentAgentIsGivenTimeAndThenGivenUp) {
  for (const MigrationPhase phase : {MigrationPhase::kPreflight, MigrationPhase::kPreparing}) {
    MigrationObserved seen = GoodObserved(phase);
    Silent(seen.target_node, absl::UnavailableError("cannot connect"));
    seen.target_side = absl::UnavailableError("cannot connect");
    const MigrationDecision first = Decide(seen, kSettings, kNow);
    EXPECT_FALSE(Failing(first));
    EXPECT_EQ(ReasonOf(first), "AgentUnreachable");
    EXPECT_EQ(Decide(After(seen, first), kSettings, kNow + absl::Seconds(29)).status, first.status)
        << "nothing to write while it lasts";
    const MigrationDecision last = Decide(After(seen, first), kSettings, kNow + absl::Seconds(31));
    EXPECT_TRUE(Failing(last));
    EXPECT_THAT(MessageOf(last), HasSubstr("agent of node node-b does not answer: cannot connect"));
    MigrationObserved back = After(GoodObserved(phase), first);
    EXPECT_FALSE(Failing(Decide(back, kSettings, kNow + absl::Minutes(1))));
  }
}

TEST(DecideTest, AWrongCertificateHasAReasonOfItsOwn) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreflight);
  Silent(seen.source_node, absl::UnauthenticatedError("self-signed certificate"));
  const MigrationDecision first = Decide(seen, kSettings, kNow);
  const MigrationDecision last = Decide(After(seen, first), kSettings, kNow + absl::Minutes(1));
  EXPECT_EQ(ReasonOf(last), "CertificateWrong");
  EXPECT_THAT(MessageOf(last), HasSubstr("self-signed certificate"));
}

TEST(DecideTest, PreparingGoesStepByStep) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  seen.target_side = agent_api::TargetStatus{};
  seen.migration.status.target_pod_uid = "";
  std::optional<k8s::Pod> target = std::exchange(seen.target, std::nullopt);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kCreateTargetPod);
  seen.target = target;
  seen.target->spec.scheduling_gates = {{kPermitGate}};
  const MigrationDecision named = Decide(seen, kSettings, kNow);
  EXPECT_EQ(named.status.target_pod_uid, "target-uid");
  seen = After(seen, named);
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kPermit) << "before the gate is opened";
  seen.target_side = agent_api::TargetStatus{.state = agent_api::TargetState::kOpen};
  EXPECT_EQ(Decide(seen, kSettings, kNow).step, MigrationStep::kOpenGate);
  seen.target->spec.scheduling_gates.clear();
  EXPECT_EQ(ReasonOf(Decide(seen, kSettings, kNow)), "WaitingForTarget");
  seen.target_side->waiting = {"app"};
  EXPECT_EQ(Decide(seen, kSettings, kNow).status.phase, MigrationPhase::kSwitching);
}

TEST(DecideTest, ATimeoutQuotesWhatWasLastSaidAboutTheTarget) {
  MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  seen.target_side->waiting.clear();
  seen.target_warning = "FailedCreatePodSandBox: no network";
  const MigrationDecision decision = Decide(seen, kSettings, kStart + absl::Minutes(11));
  EXPECT_EQ(ReasonOf(decision), "Timeout");
  EXPECT_THAT(MessageOf(decision), HasSubstr("FailedCreatePodSandBox: no network"));
}

TEST(OnRefusedTest, AnOrderToACopyingSourceIsGivenAgainAndNeverEndsTheMigration) {
  const MigrationObserved seen = GoodObserved(MigrationPhase::kSwitching, crds::Strategy::kAuto);
  for (const MigrationStep step : {MigrationStep::kSwitchSource, MigrationStep::kSetLimits}) {
    const MigrationDecision lost =
        OnRefused(seen, kSettings, step, absl::DeadlineExceededError("timeout"), kNow);
    EXPECT_EQ(ReasonOf(lost), "AgentUnreachable");
    EXPECT_LE(lost.again, absl::Seconds(1));
    const MigrationDecision refused =
        OnRefused(seen, kSettings, step, absl::FailedPreconditionError("it is frozen"), kNow);
    EXPECT_EQ(refused.status, seen.migration.status) << "the next look tells how far the source is";
    EXPECT_EQ(refused.step, MigrationStep::kNothing);
  }
}

TEST(OnRefusedTest, ADefiniteNoEndsTheMigrationAndAnythingElseIsTriedAgain) {
  const MigrationObserved seen = GoodObserved(MigrationPhase::kPreparing);
  EXPECT_EQ(ReasonOf(OnRefused(seen, kSettings, MigrationStep::kPermit,
                               absl::ResourceExhaustedError("disk full"), kNow)),
            "NoSpaceOnTarget");
  EXPECT_EQ(
      ReasonOf(OnRefused(seen, kSettings, MigrationStep::kPermit, absl::FailedPreconditionError("x"), kNow)),
      "TargetRefused");
  EXPECT_EQ(ReasonOf(OnRefused(seen, kSettings, MigrationStep::kPermit, absl::UnavailableError("x"), kNow)),
            "AgentUnreachable");
  EXPECT_EQ(ReasonOf(OnRefused(seen, kSettings, MigrationStep::kCreateTargetPod,
                               absl::PermissionDeniedError("quota"), kNow)),
            "TargetPodRefused");
  EXPECT_EQ(
      OnRefused(seen, kSettings, MigrationStep::kCreateTargetPod, absl::UnavailableError("x"), kNow).status,
      seen.migration.status);
  EXPECT_EQ(OnRefused(seen, kSettings, MigrationStep::kHandOver, absl::AbortedError("conflict"), kNow).status,
            seen.migration.status);
}

}  // namespace
}  // namespace godwit::controller
