// SPDX-License-Identifier: Apache-2.0
// What the API server says to nonsense: every rule of the schemas, by its sentence.
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/error.h"
#include "tests/apiserver/controller/crds.h"
#include "tests/apiserver/environment.h"

namespace godwit::apiserver {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ValidationTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { InstallCrds(Environment::Shared().api()); }
  ValidationTest() : api_(Environment::Shared().api()), ns_(Environment::Shared().NewNamespace("valid")) {}

  template <class T>
  absl::Status Create(const std::string& spec) {
    k8s::Unstructured object = FromYaml(
        absl::StrCat("{apiVersion: godwit.io/v1alpha1, kind: ", T::kResource.kind, ", spec: ", spec, "}"));
    object.Set("/metadata/namespace", ns_);
    object.Set("/metadata/generateName", "x-");
    auto made = k8s::Client<k8s::Unstructured>(api_, T::kResource).Create(object);
    if (made.ok()) last_ = *std::move(made);
    return made.status();
  }
  template <class T>
  absl::Status Change(const std::string& patch) {
    return k8s::Client<k8s::Unstructured>(api_, T::kResource)
        .MergePatch(ns_, last_.String("/metadata/name"), FromYaml(patch))
        .status();
  }

  const k8s::Api api_;
  const std::string ns_;
  k8s::Unstructured last_;
};

#define EXPECT_REFUSED(status, sentence)                              \
  do {                                                                \
    const absl::Status refused = (status);                            \
    EXPECT_TRUE(k8s::IsInvalid(refused)) << refused;                  \
    EXPECT_THAT(std::string(refused.message()), HasSubstr(sentence)); \
  } while (false)

using crds::Checkpoint;
using crds::Migration;
using crds::Restore;

TEST_F(ValidationTest, AGoodMigrationGetsItsDefaults) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: cache-0}, target: {nodeName: edge-7}}").ok());
  EXPECT_EQ(last_.String("/spec/strategy"), "Auto");
  EXPECT_EQ(last_.String("/spec/timeout"), "10m");
  EXPECT_EQ(last_.String("/spec/freezeBudget"), "100ms");
  EXPECT_EQ(last_.String("/spec/preCopyTimeout"), "5m");
  EXPECT_EQ(last_.String("/spec/whenNotConverging"), "Freeze");
  EXPECT_EQ(last_.String("/spec/bandwidthLimit"), "");
  EXPECT_TRUE(
      Create<Migration>("{podRef: {name: cache-0.x}, target: {nodeSelector: {disk: ssd}}, timeout: 1h30m}")
          .ok());
}

TEST_F(ValidationTest, ADryRunIsOneForEverAndAnswersWhatItWasAsked) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}, dryRun: true}").ok());
  EXPECT_REFUSED(Change<Migration>("{spec: {dryRun: false}}"),
                 "dryRun cannot be changed: to move the pod create another Migration without it");
  EXPECT_REFUSED(
      Change<Migration>("{spec: {freezeBudget: 1s}}"),
      "spec of a dry run cannot be changed: it answers once, for what it was asked; create another");
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}}").ok());
  EXPECT_REFUSED(Change<Migration>("{spec: {dryRun: true}}"), "dryRun cannot be changed");
  EXPECT_TRUE(Change<Migration>("{spec: {freezeBudget: 1s}}").ok());
}

TEST_F(ValidationTest, AMigrationNeedsExactlyOneTarget) {
  const char* sentence =
      "target needs either nodeName (this very node) or nodeSelector (any node with these labels), and not "
      "both";
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {}}"), sentence);
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeName: n, nodeSelector: {a: b}}}"),
                 sentence);
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}}"), "spec.target: Required value");
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeName: ''}}"), "spec.target.nodeName");
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeSelector: {}}}"),
                 "should have at least 1 properties");
}

TEST_F(ValidationTest, NamesMustBeNames) {
  for (const char* name : {"Cache", "a_b", "-a", "a-", "''"}) {
    EXPECT_REFUSED(Create<Migration>(absl::StrCat("{podRef: {name: ", name, "}, target: {nodeName: n}}")),
                   "podRef.name must be an object's name: lower case letters, digits, '-' and '.'");
  }
  EXPECT_REFUSED(Create<Migration>("{podRef: {}, target: {nodeName: n}}"),
                 "spec.podRef.name: Required value");
  EXPECT_REFUSED(Create<Checkpoint>("{podRef: {name: A}}"), "podRef.name must be an object's name");
  EXPECT_REFUSED(Create<Restore>("{checkpointRef: {name: A}}"),
                 "checkpointRef.name must be an object's name");
  EXPECT_REFUSED(Create<Restore>("{checkpointRef: {name: a}, podName: A}"), "podName must be a pod's name");
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeName: ../../v1/checkpoints}}"),
                 "nodeName must be a node's name");
  EXPECT_REFUSED(Create<Restore>("{checkpointRef: {name: a}, target: {nodeName: N1}}"),
                 "nodeName must be a node's name");
}

TEST_F(ValidationTest, OnlyKnownStrategiesAreTaken) {
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}, strategy: Magic}"),
                 "Unsupported value: \"Magic\": supported values: \"Auto\", \"PreCopy\", \"StopAndCopy\"");
  EXPECT_REFUSED(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}, whenNotConverging: Wait}"),
                 "Unsupported value: \"Wait\": supported values: \"Freeze\", \"Fail\"");
  for (const char* strategy : {"Auto", "PreCopy", "StopAndCopy"}) {
    EXPECT_TRUE(Create<Migration>(
                    absl::StrCat("{podRef: {name: p}, target: {nodeName: n}, strategy: ", strategy, "}"))
                    .ok());
  }
}

TEST_F(ValidationTest, LimitsOfAPreCopyAreInTheirBounds) {
  const auto with = [&](const char* field, const char* value) {
    return Create<Migration>(
        absl::StrCat("{podRef: {name: p}, target: {nodeName: n}, ", field, ": \"", value, "\"}"));
  };
  for (const char* budget : {"0s", "0.5ms", "2h", "100", "soon", "-1s", "''"})
    EXPECT_REFUSED(with("freezeBudget", budget), "freezeBudget must be a duration from 1ms to 1h");
  for (const char* timeout : {"0s", "999ms", "25h", "5"})
    EXPECT_REFUSED(with("preCopyTimeout", timeout), "preCopyTimeout must be a duration from 1s to 24h");
  for (const char* limit : {"0", "1023Ki", "2Ti", "-5Mi", "100MB", "fast", ""})
    EXPECT_REFUSED(with("bandwidthLimit", limit),
                   "bandwidthLimit must be bytes per second as a quantity from 1Mi to 1Ti, such as 100Mi");
  for (const char* limit : {"1Mi", "1Ti", "1.5G", "100M", "125e6", "1048576"})
    EXPECT_TRUE(with("bandwidthLimit", limit).ok()) << limit;
  EXPECT_TRUE(with("freezeBudget", "1.5s").ok());
  EXPECT_TRUE(with("preCopyTimeout", "1h30m").ok());
}

TEST_F(ValidationTest, LimitsOfAPreCopyMayBeChangedEitherWayAndTakenAway) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}, bandwidthLimit: 100Mi}").ok());
  for (const char* patch :
       {"{spec: {freezeBudget: 10ms}}", "{spec: {freezeBudget: 2s}}", "{spec: {preCopyTimeout: 1m}}",
        "{spec: {preCopyTimeout: 1h}}", "{spec: {whenNotConverging: Fail}}", "{spec: {bandwidthLimit: 10Mi}}",
        "{spec: {bandwidthLimit: null}}"}) {
    EXPECT_TRUE(Change<Migration>(patch).ok()) << patch;
  }
  EXPECT_REFUSED(Change<Migration>("{spec: {strategy: PreCopy}}"),
                 "strategy cannot be changed: delete this Migration and create another");
}

TEST_F(ValidationTest, TimeoutsAreDurationsInTheirBounds) {
  for (const char* timeout :
       {"5s", "25h", "soon", "10", "-10m", "''", "99999999999h", "99999h99999h99999h99999h"}) {
    EXPECT_REFUSED(Create<Migration>(absl::StrCat(
                       "{podRef: {name: p}, target: {nodeName: n}, timeout: ", "\"", timeout, "\"}")),
                   "timeout must be a duration from 10s to 24h, such as 90s, 10m or 1h30m");
  }
}

TEST_F(ValidationTest, ATimeoutCanOnlyBeMadeLonger) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}}").ok());
  EXPECT_TRUE(Change<Migration>("{spec: {timeout: 20m}}").ok());
  EXPECT_REFUSED(Change<Migration>("{spec: {timeout: 15m}}"),
                 "timeout of a Migration can only be made longer; to stop it, set cancel");
}

TEST_F(ValidationTest, ACancelAndAPersonsWordAreNotTakenBack) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}}").ok());
  EXPECT_TRUE(Change<Migration>("{spec: {cancel: false}}").ok());
  EXPECT_TRUE(Change<Migration>("{spec: {cancel: true}}").ok());
  for (const char* back : {"{spec: {cancel: false}}", "{spec: {cancel: null}}"})
    EXPECT_REFUSED(Change<Migration>(back), "cancel cannot be taken back: create another Migration");
  EXPECT_FALSE(Change<Migration>("{spec: {resolveUncertain: Guess}}").ok());
  EXPECT_TRUE(Change<Migration>("{spec: {resolveUncertain: KeepSource}}").ok());
  for (const char* other : {"{spec: {resolveUncertain: AbandonSource}}", "{spec: {resolveUncertain: null}}"})
    EXPECT_REFUSED(Change<Migration>(other),
                   "resolveUncertain is said once: it may have been acted on already");
}

TEST_F(ValidationTest, TheRestOfAMigrationCannotBeChanged) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}}").ok());
  EXPECT_REFUSED(Change<Migration>("{spec: {podRef: {name: q}}}"),
                 "podRef cannot be changed: delete this Migration and create another");
  EXPECT_REFUSED(Change<Migration>("{spec: {target: {nodeName: m}}}"),
                 "target cannot be changed: delete this Migration and create another");
}

TEST_F(ValidationTest, CheckpointsAndRestoresCannotBeChanged) {
  ASSERT_TRUE(Create<Checkpoint>("{podRef: {name: p}}").ok());
  EXPECT_REFUSED(Change<Checkpoint>("{spec: {podRef: {name: q}}}"),
                 "the spec of a Checkpoint cannot be changed: create another Checkpoint");
  ASSERT_TRUE(Create<Restore>("{checkpointRef: {name: c}, target: {nodeName: n}}").ok());
  EXPECT_REFUSED(Change<Restore>("{spec: {podName: q}}"),
                 "the spec of a Restore cannot be changed: create another Restore");
  EXPECT_REFUSED(Create<Restore>("{checkpointRef: {name: c}, target: {nodeName: n, nodeSelector: {a: b}}}"),
                 "target takes nodeName or nodeSelector, not both");
}

TEST_F(ValidationTest, AFullStatusFitsItsSchemaAndStaysOutOfTheSpecsWay) {
  ASSERT_TRUE(Create<Migration>("{podRef: {name: p}, target: {nodeName: n}}").ok());
  auto before = *last_.As<Migration>();
  Migration after = before;
  after.status = {
      .observed_generation = 1,
      .phase = crds::MigrationPhase::kFinishing,
      .conditions = {{.type = "Complete",
                      .status = "Unknown",
                      .observed_generation = 1,
                      .last_transition_time = absl::FromUnixSeconds(1),
                      .reason = "R",
                      .message = ""}},
      .strategy = crds::Strategy::kPreCopy,
      .source_node = "a",
      .pre_copy = {1, 2, 3, 4, 5, 6, 7, 8, absl::Milliseconds(43), absl::FromUnixMillis(1'700'000'000'456)},
      .freeze = {absl::Milliseconds(412),
                 absl::FromUnixMillis(1'700'000'000'123),
                 {{"dump", "c", absl::ZeroDuration(), absl::Milliseconds(3)}}},
      .findings = {{.id = "X", .severity = crds::Severity::kWarning, .message = "m"}}};
  auto written = k8s::Client<Migration>(api_).PatchStatus(before, after);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->status, after.status);
  EXPECT_EQ(written->metadata.generation, 1);
}

TEST_F(ValidationTest, ShortNamesAndColumnsAreThere) {
  const auto found = api_.GetPath("/apis/godwit.io/v1alpha1");
  ASSERT_TRUE(found.ok());
  for (const char* name : {"\"mig\"", "\"ckpt\"", "\"rst\""}) EXPECT_THAT(*found, HasSubstr(name));
}

}  // namespace
}  // namespace godwit::apiserver
