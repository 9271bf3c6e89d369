// SPDX-License-Identifier: Apache-2.0
#include "controller/nodes/node_view.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::controller {
namespace {

using ::testing::HasSubstr;

NodeView Suitable(const std::string& name, int64_t memory) {
  NodeView view{.name = name,
                .exists = true,
                .ready = true,
                .schedulable = true,
                .architecture = "amd64",
                .agent_runs = true,
                .address = "10.0.0.9"};
  view.agent = agent_api::NodeInfo{
      .node = name, .architecture = "amd64", .runtime_ready = true, .memory_available = memory};
  return view;
}

TEST(ChooseNodeTest, TakesTheMostMemoryAndThenTheFirstName) {
  EXPECT_EQ(ChooseNode({Suitable("a", 1), Suitable("b", 3), Suitable("c", 2)}, "s", "amd64", "x=y").node,
            "b");
  EXPECT_EQ(ChooseNode({Suitable("c", 3), Suitable("b", 3), Suitable("a", 1)}, "s", "amd64", "x=y").node,
            "b");
}

TEST(ChooseNodeTest, NamesWhatEachUnsuitableNodeLacks) {
  std::vector<NodeView> nodes = {Suitable("source", 9), Suitable("cordoned", 9), Suitable("down", 9),
                                 Suitable("silent", 9), Suitable("arm", 9),      Suitable("bare", 9),
                                 Suitable("new", 9)};
  nodes[1].schedulable = false;
  nodes[2].ready = false;
  nodes[3].agent = absl::UnavailableError("connection refused");
  nodes[4].agent->architecture = "arm64";
  nodes[5].agent_runs = false;
  nodes[6].agent->runtime_ready = false;
  const Choice choice = ChooseNode(nodes, "source", "amd64", "x=y");
  ASSERT_TRUE(choice.failure);
  EXPECT_EQ(choice.failure->reason, "NoSuitableNode");
  for (const char* part : {"labels x=y", "source runs the pod already", "cordoned is cordoned",
                           "down is not ready", "silent does not answer: connection refused", "arm is arm64",
                           "no Godwit agent runs on node bare", "node new does not know the handler"}) {
    EXPECT_THAT(choice.failure->message, HasSubstr(part));
  }
}

TEST(ChooseNodeTest, NoNodeWithTheLabels) {
  EXPECT_THAT(ChooseNode({}, "s", "amd64", "disk=fast").failure->message,
              HasSubstr("no node has the labels disk=fast"));
}

TEST(AgentFailureTest, TellsSilenceFromMistrust) {
  EXPECT_EQ(AgentFailure("n", absl::UnavailableError("x")).reason, "AgentUnreachable");
  EXPECT_EQ(AgentFailure("n", absl::DeadlineExceededError("x")).reason, "AgentUnreachable");
  EXPECT_EQ(AgentFailure("n", absl::UnauthenticatedError("x")).reason, "CertificateWrong");
  NodeView impostor = Suitable("n", 1);
  impostor.agent->node = "other";
  EXPECT_EQ(WhyAgentUnsuitable(impostor, "amd64")->reason, "CertificateWrong");
}

}  // namespace
}  // namespace godwit::controller
