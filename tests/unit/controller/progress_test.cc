// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/progress.h"

#include "controller/pods/names.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/controller/pods.h"

namespace godwit::controller {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

std::string Waiting(const char* reason, const char* message) {
  return absl::StrCat(R"([{"name":"app","state":{"waiting":{"reason":")", reason, R"(","message":")", message,
                      R"("}}}])");
}

TEST(WhyNotStartingTest, QuotesWhatKubeletAndTheSchedulerSaid) {
  const auto pull =
      WhyNotStarting(PodView({{"/status/phase", "\"Pending\""},
                              {"/status/containerStatuses", Waiting("ErrImagePull", "not found: app:2")}}));
  ASSERT_TRUE(pull);
  EXPECT_EQ(pull->reason, "ErrImagePull");
  EXPECT_THAT(pull->message, HasSubstr("container app cannot start: ErrImagePull: not found: app:2"));
  const auto unschedulable = WhyNotStarting(PodView(
      {{"/status/phase", "\"Pending\""},
       {"/status/containerStatuses", "[]"},
       {"/status/conditions",
        R"([{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/2 nodes: Insufficient cpu."}])"}}));
  ASSERT_TRUE(unschedulable);
  EXPECT_EQ(unschedulable->reason, "Unschedulable");
  EXPECT_THAT(unschedulable->message, HasSubstr("Insufficient cpu"));
  const auto ended = WhyNotStarting(PodView({{"/status/phase", "\"Failed\""},
                                             {"/status/reason", "\"Evicted\""},
                                             {"/status/message", "\"The node was low on memory\""}}));
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->reason, "Evicted");
  EXPECT_THAT(ended->message, HasSubstr("low on memory"));
}

TEST(WhyNotStartingTest, EachStuckReasonIsRecognisedAndOrdinaryOnesAreNot) {
  for (const char* reason :
       {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerError",
        "CreateContainerConfigError", "RunContainerError", "CrashLoopBackOff"}) {
    const auto why = WhyNotStarting(PodView({{"/status/containerStatuses", Waiting(reason, "m")}}));
    ASSERT_TRUE(why) << reason;
    EXPECT_EQ(why->reason, reason);
  }
  for (const char* reason : {"ContainerCreating", "PodInitializing"}) {
    EXPECT_FALSE(WhyNotStarting(PodView({{"/status/containerStatuses", Waiting(reason, "")}}))) << reason;
  }
  EXPECT_FALSE(WhyNotStarting(PodView(
      {{"/status/conditions",
        R"([{"type":"PodScheduled","status":"False","reason":"SchedulingGated","message":"gated"}])"}})));
}

TEST(KubeletSawDeletionTest, IsSaidByTheObservedGenerationOrByTimeWhereThereIsNone) {
  const absl::Time asked = absl::FromUnixSeconds(1'700'000'000);
  k8s::Pod pod = PodView();
  EXPECT_FALSE(KubeletSawDeletion(pod, absl::Seconds(5), asked));
  pod.metadata.deletion_timestamp = asked + absl::Seconds(30);
  pod.metadata.deletion_grace_period_seconds = 30;
  pod.metadata.generation = 2;
  pod.status.observed_generation = 1;
  EXPECT_FALSE(KubeletSawDeletion(pod, absl::Seconds(5), asked + absl::Seconds(40)));
  EXPECT_FALSE(KubeletSawDeletion(pod, absl::Seconds(5), asked + absl::Hours(1)))
      << "it may be cut from the API server, and would start the killed containers again";
  pod.status.observed_generation = 2;
  EXPECT_TRUE(KubeletSawDeletion(pod, absl::Seconds(5), asked));
  pod.status.observed_generation = 0;  // a kubelet that does not say
  EXPECT_FALSE(KubeletSawDeletion(pod, absl::Seconds(5), asked + absl::Seconds(4)));
  EXPECT_TRUE(KubeletSawDeletion(pod, absl::Seconds(5), asked + absl::Seconds(6)));
}

TEST(NamesTest, APodThatIsOlderIsNotTakenForTheirs) {
  const k8s::ObjectMeta owner{.uid = "u", .creation_timestamp = absl::FromUnixSeconds(100)};
  k8s::ObjectMeta pod{.creation_timestamp = absl::FromUnixSeconds(100), .labels = {{kMigrationKey, "u"}}};
  EXPECT_TRUE(MadeBy(owner, pod));
  pod.creation_timestamp = absl::FromUnixSeconds(96);
  EXPECT_TRUE(MadeBy(owner, pod)) << "stamped by another API server, whose clock is late";
  pod.creation_timestamp = absl::FromUnixSeconds(94);
  EXPECT_FALSE(MadeBy(owner, pod));
  pod = {.labels = {{kMigrationKey, "another"}}};
  EXPECT_FALSE(MadeBy(owner, pod));
  EXPECT_FALSE(MadeBy({}, {})) << "neither of them has a UID";
}

TEST(NamesTest, ANameGrowsByOneSuffixHoweverOftenThePodMoves) {
  k8s::ObjectMeta pod{.name = "cache-0"};
  std::string name;
  for (const char* uid : {"11111111-1111", "22222222-2222", "33333333-3333"}) {
    name = MovedPodName(pod, uid);
    EXPECT_THAT(name, MatchesRegex("cache-0-[b-z2-9]{5}"));
    EXPECT_EQ(name, MovedPodName(pod, uid)) << "the same Migration always means the same pod";
    EXPECT_NE(name, pod.name);
    pod = {.name = name, .labels = {{kSuffixLabel, Suffix(uid)}}};
  }
}

TEST(NamesTest, LongNamesAreCutSoThatTheyStayNames) {
  const std::string name = MovedPodName({.name = std::string(246, 'a') + "-.bbbbbb"}, "u");
  EXPECT_LE(name.size(), 253u);
  EXPECT_THAT(name, MatchesRegex("a{246}-[b-z2-9]{5}"));
}

}  // namespace
}  // namespace godwit::controller
