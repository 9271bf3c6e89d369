// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/pod_check.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::permits {
namespace {

using ::testing::HasSubstr;

constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

class PodCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/pod-check-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    ASSERT_TRUE(MakeFolders(root_ + "/proc/42").ok());
    ASSERT_TRUE(MakeFolders(root_ + "/bundle").ok());
    Cgroup("/kubepods/a");
    Bundle(absl::StrCat(R"({"annotations": {"io.kubernetes.cri.sandbox-uid": ")", kPod,
                        R"(", "io.kubernetes.cri.container-name": "app", "other": "x"}})"));
  }
  void Cgroup(const std::string& path) { std::ofstream(root_ + "/proc/42/cgroup") << "0::" << path << "\n"; }
  void Bundle(const std::string& config) { std::ofstream(root_ + "/bundle/config.json") << config; }
  absl::Status Check() {
    return CheckIsOfPod(
        root_, root_ + "/proc", kPod,
        {.container = "app", .container_id = "c", .bundle = "/bundle", .cgroup = "/kubepods/a"}, 42);
  }
  std::string root_;
};

TEST_F(PodCheckTest, TheRightPodIsFine) {
  EXPECT_TRUE(Check().ok()) << Check();
  Cgroup("/kubepods/a/init.scope");
  EXPECT_TRUE(Check().ok()) << "below it";
}

TEST_F(PodCheckTest, AProcessElsewhereIsFound) {
  Cgroup("/kubepods/ab");
  EXPECT_EQ(Check().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(Check().message()), HasSubstr("in cgroup /kubepods/ab, not in /kubepods/a"));
}

TEST_F(PodCheckTest, ABundleOfAnotherPodOrContainerIsFound) {
  Bundle(R"({"annotations": {"io.kubernetes.cri.sandbox-uid": "evil"}})");
  EXPECT_THAT(std::string(Check().message()), HasSubstr("sandbox-uid evil"));
  Bundle(R"({"annotations": {"io.kubernetes.cri.container-name": "other"}})");
  EXPECT_EQ(Check().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(PodCheckTest, WhatIsNotToldIsNoAnswer) {
  Bundle("{}");
  EXPECT_TRUE(Check().ok());
  Bundle("{");
  EXPECT_TRUE(Check().ok());
  ASSERT_TRUE(RemoveTree(root_ + "/bundle").ok());
  ASSERT_TRUE(RemoveTree(root_ + "/proc/42").ok());
  EXPECT_TRUE(Check().ok());
}

}  // namespace
}  // namespace godwit::permits
