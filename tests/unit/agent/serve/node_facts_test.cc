// SPDX-License-Identifier: Apache-2.0
// A node in a folder, whose runc and CRIU tell their versions and nothing else.
#include "agent/serve/node_facts.h"

#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit::serve {
namespace {

class NodeFactsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/facts-XXXXXX");
    ASSERT_NE(mkdtemp(root_.data()), nullptr);
    for (const char* folder : {"/etc", "/criu"}) ASSERT_TRUE(MakeFolders(root_ + folder).ok());
    for (const char* program : {"/runc", "/criu/criu"})
      ASSERT_TRUE(WriteFileDurably(root_ + program, "#!/bin/sh\necho version 1.2.3\n", 0700).ok());
    const std::string config = absl::StrCat(R"({"runtime":")", root_, R"(/runc"})");
    ASSERT_TRUE(WriteFileDurably(root_ + "/etc/runtime.json", config).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(root_).ok()); }

  absl::StatusOr<NodeFacts> Make(int disk_reserve_percent) const {
    return NodeFacts::Make({.node = "n1",
                            .install_folder = root_,
                            .state_folder = root_,
                            .cri_socket = root_ + "/no.sock",
                            .memory_tracking = false,
                            .disk_reserve_percent = disk_reserve_percent});
  }

  std::string root_;
};

TEST_F(NodeFactsTest, WhatIsFreeOfTheDiskIsToldWithTheReserveAndTheReserveBeside) {
  const auto without = Make(0), with = Make(90);
  ASSERT_TRUE(without.ok() && with.ok()) << without.status() << with.status();
  const agent_api::NodeInfo all = without->Info(), kept = with->Info();
  EXPECT_GT(all.storage_available, 0);
  EXPECT_EQ(all.storage_reserve, 0);
  EXPECT_NEAR(static_cast<double>(kept.storage_available), static_cast<double>(all.storage_available),
              double{1 << 30})
      << "others write there meanwhile";
  EXPECT_EQ(kept.storage_reserve, with->DiskReserve());
  EXPECT_GT(kept.storage_reserve, 0);
}

}  // namespace
}  // namespace godwit::serve
