// SPDX-License-Identifier: Apache-2.0
#include "runtime/godwit_runtime/course.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::godwit_runtime {
namespace {

using agent_api::PermitState;
using permits::StoredPermit;
using ::testing::HasSubstr;

constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

Bundle Container(const std::string& name, bool annotated) {
  return {.is_container = true, .sandbox_uid = kPod, .container = name, .migration = annotated ? "m" : ""};
}
StoredPermit Permit(const std::string& container, PermitState state) {
  return {.sandbox_uid = kPod,
          .container = container,
          .permit = {
              .state = state, .migration_uid = "m", .message = "because", .create_limit = absl::Seconds(90)}};
}

struct Case {
  std::string what;
  Bundle bundle;
  std::vector<StoredPermit> permits;
  Way way;
};

TEST(ChooseCourseTest, FollowsTheTable) {
  const std::vector<Case> cases = {
      {"an ordinary pod", Container("app", false), {}, Way::kOrdinary},
      {"an annotation and nothing behind it: the agent refuses", Container("app", true), {}, Way::kAsk},
      {"waiting", Container("app", true), {Permit("app", PermitState::kWaiting)}, Way::kAsk},
      {"waiting, the annotation did not get through",
       Container("app", false),
       {Permit("app", PermitState::kWaiting)},
       Way::kAsk},
      {"aborted", Container("app", true), {Permit("app", PermitState::kAborted)}, Way::kFail},
      {"spent", Container("app", true), {Permit("app", PermitState::kSpent)}, Way::kOrdinary},
      {"its sibling waits, it holds nothing",
       Container("other", false),
       {Permit("app", PermitState::kWaiting)},
       Way::kAsk},
      {"an ephemeral container in a pod that has arrived",
       Container("debugger", true),
       {Permit("app", PermitState::kSpent)},
       Way::kOrdinary},
      {"spent siblings do not help one that waits",
       Container("app", true),
       {Permit("app", PermitState::kWaiting), Permit("side", PermitState::kSpent)},
       Way::kAsk},
      {"the sandbox itself",
       {.is_container = false, .sandbox_uid = kPod, .migration = "m"},
       {Permit("app", PermitState::kAborted)},
       Way::kOrdinary},
  };
  for (const Case& c : cases) EXPECT_EQ(ChooseCourse(c.bundle, c.permits, "").way, c.way) << c.what;
}

TEST(ChooseCourseTest, AnAbortSaysWhy) {
  const Course course = ChooseCourse(Container("app", true),
                                     std::vector<StoredPermit>{Permit("app", PermitState::kAborted)}, "");
  EXPECT_THAT(course.message, HasSubstr("because"));
}

TEST(ChooseCourseTest, APermitThatCannotBeReadForbids) {
  EXPECT_EQ(ChooseCourse(Container("app", false), absl::DataLossError("torn"), "").way, Way::kFail);
}

TEST(ChooseCourseTest, WhoHasNoUidHoldsNoPermit) {
  Bundle bundle = Container("app", false);
  bundle.sandbox_uid = "";
  EXPECT_EQ(
      ChooseCourse(bundle, absl::InvalidArgumentError("no UID"), absl::InvalidArgumentError("no UID")).way,
      Way::kOrdinary);
  bundle.migration = "m";
  EXPECT_EQ(
      ChooseCourse(bundle, absl::InvalidArgumentError("no UID"), absl::InvalidArgumentError("no UID")).way,
      Way::kFail);
}

TEST(ChooseCourseTest, APodThatIsHandedOverIsNotStartedAfreshWhateverItsPermitsSay) {
  const std::vector<StoredPermit> spent = {Permit("app", PermitState::kSpent)};
  const Course course = ChooseCourse(Container("app", true), spent, "it was handed over to node-b");
  EXPECT_EQ(course.way, Way::kFail);
  EXPECT_THAT(course.message, HasSubstr("node-b"));
  EXPECT_EQ(ChooseCourse(Container("app", false), std::vector<StoredPermit>{}, "held").way, Way::kFail);
  EXPECT_EQ(ChooseCourse(Container("app", true), spent, absl::DataLossError("torn")).way, Way::kFail);
  const Bundle sandbox = {.is_container = false, .sandbox_uid = kPod};
  EXPECT_EQ(ChooseCourse(sandbox, spent, "held").way, Way::kOrdinary);
}

TEST(ChooseCourseTest, TheLimitStaysBelowKubelets) {
  StoredPermit permit = Permit("app", PermitState::kWaiting);
  permit.permit.create_limit = absl::Hours(1);
  EXPECT_LT(ChooseCourse(Container("app", true), std::vector<StoredPermit>{permit}, "").create_limit,
            absl::Minutes(2));
  permit.permit.create_limit = -absl::Hours(1);
  EXPECT_GT(ChooseCourse(Container("app", true), std::vector<StoredPermit>{permit}, "").create_limit,
            absl::ZeroDuration());
}

}  // namespace
}  // namespace godwit::godwit_runtime
