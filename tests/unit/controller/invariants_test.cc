// SPDX-License-Identifier: Apache-2.0
#include "controller/migration/invariants.h"

#include "absl/strings/str_join.h"
#include "controller/runtime/telemetry.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/observed.h"

namespace godwit::controller {
namespace {

using agent_api::SourceState;
using agent_api::SourceStatus;
using agent_api::TargetState;
using agent_api::TargetStatus;
using ::testing::HasSubstr;

std::string Broken(SourceState source, TargetState target) {
  MigrationObserved seen = GoodObserved(crds::MigrationPhase::kSwitching);
  seen.source_side = SourceStatus{.state = source};
  seen.target_side = TargetStatus{.state = target};
  return absl::StrJoin(BrokenInvariants(seen), ",", [](std::string* out, const BrokenInvariant& broken) {
    out->append(broken.invariant);
  });
}

TEST(InvariantsTest, EachPairOfStatesIsJudged) {
  const std::vector<SourceState> sources = {SourceState::kNone,  SourceState::kOpen, SourceState::kFrozen,
                                            SourceState::kCeded, SourceState::kDone, SourceState::kAborted};
  const std::vector<TargetState> targets = {TargetState::kNone, TargetState::kOpen, TargetState::kPrepared,
                                            TargetState::kRunning, TargetState::kAborted};
  int broken = 0;
  for (const SourceState source : sources) {
    for (const TargetState target : targets) broken += Broken(source, target).empty() ? 0 : 1;
  }
  EXPECT_EQ(broken, 4);
  EXPECT_EQ(Broken(SourceState::kAborted, TargetState::kRunning), "I1") << "both run";
  for (const TargetState target : {TargetState::kOpen, TargetState::kPrepared, TargetState::kAborted})
    EXPECT_EQ(Broken(SourceState::kDone, target), "I3") << "killed without a successor";
}

TEST(InvariantsTest, AnAgentThatDoesNotAnswerAccusesNobody) {
  MigrationObserved seen = GoodObserved(crds::MigrationPhase::kSwitching);
  seen.source_side = SourceStatus{.state = SourceState::kAborted};
  seen.target_side = absl::UnavailableError("no route to host");
  EXPECT_TRUE(BrokenInvariants(seen).empty());
}

TEST(InvariantsTest, IsCountedOnceForAMigration) {
  metrics::Registry registry;
  metrics::ControllerMetrics metrics(registry);
  Telemetry telemetry(&metrics);
  EXPECT_TRUE(telemetry.Broken("m-1", "I1"));
  EXPECT_FALSE(telemetry.Broken("m-1", "I1"));
  EXPECT_TRUE(telemetry.Broken("m-2", "I1"));
  EXPECT_THAT(registry.Exposition(), HasSubstr("godwit_invariant_violations_total{invariant=\"I1\"} 2\n"));
  EXPECT_THAT(registry.Exposition(), HasSubstr("godwit_invariant_violations_total{invariant=\"I3\"} 0\n"));
}

}  // namespace
}  // namespace godwit::controller
