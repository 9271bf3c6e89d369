// SPDX-License-Identifier: Apache-2.0
#include "agent/api/server.h"

#include <httplib.h>

#include <memory>
#include <vector>

#include "absl/synchronization/notification.h"
#include "agent/permits/permit_table.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"
#include "tests/unit/base/flood.h"

namespace godwit::agent_api {
namespace {

using testing::HasSubstr;

constexpr char kUid[] = "0b9f5d1e-1111-4222-8333-444455556666";

// A server with real Operations and Checkpoints of an empty node.
class ServerTest : public testing::Test {
 protected:
  ServerTest() {
    identity_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    permits_ = std::make_unique<permits::PermitTable>(
        permits::PermitStore(folder_ + "/permits"), [](const std::string&) { return absl::OkStatus(); },
        [](const std::string&) { return absl::OkStatus(); });
    operations::Options options{.folder = folder_ + "/state", .node = "n1"};
    options.target.permits = permits_.get();
    options.memory_available = [this] { return memory_; };
    // A source stays at its beginning until the test ends, and then aborts.
    options.source.find_pod = [this](const SourceSpec&) -> absl::StatusOr<migration::PodOnNode> {
      ended_.WaitForNotification();
      return absl::NotFoundError("the test has ended");
    };
    operations_ = *operations::Operations::Open(std::move(options));
    checkpoints_ = *checkpoint::Checkpoints::Open(folder_ + "/checkpoints", {}, nullptr, nullptr);
    Backend backend{.operations = operations_.get(), .checkpoints = checkpoints_.get(), .metrics = &metrics_};
    backend.node = [] {
      return NodeInfo{.node = "n1", .version = "1", .architecture = "amd64", .kernel = "6"};
    };
    backend.preflight = [](const PreflightRequest&) -> absl::StatusOr<PreflightReport> {
      return absl::NotFoundError("no such container");
    };
    backend.rehearse = [](const RehearsalRequest& request) -> absl::StatusOr<RehearsalReport> {
      if (request.target_node != "n2") return absl::FailedPreconditionError("no such node");
      return RehearsalReport{.converges = true, .freeze = absl::Milliseconds(88)};
    };
    server_ = *ApiServer::Start(*identity_, "127.0.0.1", 0, std::move(backend));
  }

  ~ServerTest() override { ended_.Notify(); }

  // A client with a certificate for `name`, or with none.
  std::unique_ptr<httplib::SSLClient> Client(const std::string& name, const tls::TestAuthority& authority) {
    const tls::IdentityFiles files = tls::MakeIdentityFiles(folder_, authority, {name.empty() ? "x" : name});
    auto client = name.empty() ? std::make_unique<httplib::SSLClient>("127.0.0.1", server_->port())
                               : std::make_unique<httplib::SSLClient>("127.0.0.1", server_->port(),
                                                                      files.certificate_and_key,
                                                                      files.certificate_and_key);
    client->enable_server_certificate_verification(false);
    client->set_read_timeout(20);
    return client;
  }
  std::unique_ptr<httplib::SSLClient> Controller() { return Client(tls::kControllerName, authority_); }

  static std::string ReasonOf(const httplib::Result& result) {
    if (!result) return "no answer";
    const auto error = json::Decode<ErrorBody>(result->body);
    return error.ok() ? error->error.reason : result->body;
  }
  static std::string Target(const std::string& uid, int64_t bytes = 0) {
    return json::Encode(TargetSpec{.migration = {"shop", "move", uid},
                                   .pod = {"shop", "cache", "7c9f5d1e-1111-4222-8333-444455556666"},
                                   .containers = {"app"},
                                   .source_node = "n2",
                                   .expected_bytes = bytes,
                                   .create_limit = absl::Seconds(60)});
  }
  static std::string Source(CopyMode mode) {
    return json::Encode(SourceSpec{.migration = {"shop", "move", kUid},
                                   .pod = {"shop", "cache", "7c9f5d1e-1111-4222-8333-444455556666"},
                                   .target_pod = {"shop", "cache-x", "8c9f5d1e-1111-4222-8333-444455556666"},
                                   .containers = {{"app", "containerd://aaaa"}},
                                   .target_node = "n2",
                                   .target_address = "127.0.0.1:1",
                                   .freeze_limit = absl::Seconds(20),
                                   .mode = mode,
                                   .limits = Limits(absl::Milliseconds(100))});
  }
  static PreCopyLimits Limits(absl::Duration budget) {
    return {.freeze_budget = budget, .pre_copy_timeout = absl::Minutes(5), .bandwidth_limit = 1 << 20};
  }
  static std::string TargetPath(const std::string& uid) { return "/v1/migrations/" + uid + "/target"; }

  const std::string folder_ = tls::TestFolder();
  absl::Notification ended_;
  const tls::TestAuthority authority_;
  int64_t memory_ = int64_t{1} << 40;
  std::unique_ptr<tls::Identity> identity_;
  metrics::Registry registry_;
  metrics::AgentMetrics metrics_{registry_};
  std::unique_ptr<permits::PermitTable> permits_;
  std::unique_ptr<operations::Operations> operations_;
  std::unique_ptr<checkpoint::Checkpoints> checkpoints_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(ServerTest, OnlyTheControllerIsAnswered) {
  const auto answer = Controller()->Get("/v1/node");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(json::Decode<NodeInfo>(answer->body)->node, "n1");

  const auto agent = Client("n2.agent.godwit", authority_)->Get("/v1/node");
  ASSERT_TRUE(agent);
  EXPECT_EQ(agent->status, 403);
  EXPECT_EQ(ReasonOf(agent), "PermissionDenied");
  EXPECT_EQ(Client("n2.agent.godwit", authority_)->Delete(TargetPath(kUid))->status, 403);

  const tls::TestAuthority stranger("stranger");
  EXPECT_FALSE(Client(tls::kControllerName, stranger)->Get("/v1/node")) << "another authority's controller";
  EXPECT_FALSE(Client("", authority_)->Get("/v1/node")) << "no certificate";
}

TEST_F(ServerTest, APermitIsPutOnceReadAbortedAndForgotten) {
  auto controller = Controller();
  EXPECT_EQ(controller->Get(TargetPath(kUid))->status, 404);
  const auto put = controller->Put(TargetPath(kUid), Target(kUid), "application/json");
  ASSERT_TRUE(put);
  EXPECT_EQ(put->status, 200) << put->body;
  EXPECT_EQ(json::Decode<TargetStatus>(put->body)->state, TargetState::kOpen);
  EXPECT_EQ(controller->Put(TargetPath(kUid), Target(kUid), "application/json")->status, 200)
      << "the same again";
  std::string other = Target(kUid);
  other.replace(other.find("\"n2\""), 4, "\"n3\"");
  const auto conflict = controller->Put(TargetPath(kUid), other, "application/json");
  EXPECT_EQ(conflict->status, 409);
  EXPECT_EQ(ReasonOf(conflict), "AlreadyExists");

  EXPECT_EQ(controller->Delete(TargetPath(kUid))->status, 409) << "still open";
  EXPECT_EQ(
      controller
          ->Post(TargetPath(kUid) + "/abort", R"({"reason":"Cancelled","message":"m"})", "application/json")
          ->status,
      200);
  TargetStatus status;
  for (const absl::Time end = absl::Now() + absl::Seconds(20);
       status.state != TargetState::kAborted && absl::Now() < end;) {
    status = *json::Decode<TargetStatus>(controller->Get(TargetPath(kUid))->body);
  }
  EXPECT_EQ(status.reason, "Cancelled");
  EXPECT_EQ(controller->Delete(TargetPath(kUid))->status, 200);
  EXPECT_EQ(controller->Get(TargetPath(kUid))->status, 404);
  EXPECT_EQ(controller->Delete(TargetPath(kUid))->status, 200) << "gone is what was asked for";
  EXPECT_FALSE(FileExists(folder_ + "/state/migrations/" + kUid));
  EXPECT_FALSE(FileExists(folder_ + "/permits/7c9f5d1e-1111-4222-8333-444455556666"));
}

TEST_F(ServerTest, NoRoomIsSaidWithNumbers) {
  memory_ = 1 << 20;
  const auto put = Controller()->Put(TargetPath(kUid), Target(kUid, 8 << 20), "application/json");
  EXPECT_EQ(put->status, 507);
  EXPECT_EQ(ReasonOf(put), "ResourceExhausted");
  EXPECT_THAT(put->body, HasSubstr("MiB"));
}

TEST_F(ServerTest, WhatIsNotUnderstoodIsRefused) {
  auto controller = Controller();
  EXPECT_EQ(controller->Put(TargetPath(kUid), "{", "application/json")->status, 400);
  EXPECT_EQ(controller->Put(TargetPath(kUid), R"({"migration":1})", "application/json")->status, 400);
  EXPECT_EQ(
      controller->Put(TargetPath(kUid), Target("1b9f5d1e-1111-4222-8333-444455556666"), "application/json")
          ->status,
      400)
      << "another UID";
  for (const char* uid : {"x", "..", "%2e%2e%2f%2e%2e", "0B9F5D1E-1111-4222-8333-444455556666",
                          "0b9f5d1e-1111-4222-8333-4444555566667"}) {
    const auto answer = controller->Get(TargetPath(uid));
    ASSERT_TRUE(answer) << uid;
    EXPECT_THAT(answer->status, testing::AnyOf(400, 404)) << uid;
  }
  EXPECT_EQ(controller->Get("/v2/node")->status, 404);
  EXPECT_EQ(ReasonOf(controller->Get("/v2/node")), "NotFound");
  EXPECT_EQ(ReasonOf(controller->Post("/v1/preflight",
                                      R"({"pod":{"namespace":"a","name":"b","uid":"c"},"containers":[]})",
                                      "application/json")),
            "NotFound");
  const auto huge = controller->Put(TargetPath(kUid), std::string(32 << 20, ' '), "application/json");
  EXPECT_TRUE(!huge || huge->status == 413) << huge->status;
}

TEST_F(ServerTest, ARehearsalIsAnsweredWithItsReport) {
  auto controller = Controller();
  const auto post = [&](const char* node) {
    return controller->Post("/v1/rehearsal",
                            absl::StrCat(R"({"pod":{"namespace":"a","name":"b","uid":"c"},"containers":[],)",
                                         R"("targetAddress":"10.0.0.2:9552","targetNode":")", node, "\"}"),
                            "application/json");
  };
  const auto report = json::Decode<RehearsalReport>(post("n2")->body);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->converges);
  EXPECT_EQ(report->freeze, absl::Milliseconds(88));
  EXPECT_EQ(post("n3")->status, 409);
  EXPECT_EQ(controller->Post("/v1/rehearsal", "{}", "application/json")->status, 400);
}

TEST_F(ServerTest, AbortAndFinishOfWhatIsNotHereAreNotFound) {
  auto controller = Controller();
  const std::string source = "/v1/migrations/" + std::string(kUid) + "/source";
  EXPECT_EQ(controller->Post(source + "/finish", "", "application/json")->status, 404);
  EXPECT_EQ(controller->Post(source + "/abort", R"({"reason":"Cancelled"})", "application/json")->status,
            404);
  EXPECT_EQ(controller->Get("/v1/checkpoints/" + std::string(kUid))->status, 404);
  EXPECT_EQ(controller->Delete("/v1/checkpoints/" + std::string(kUid))->status, 200);
  EXPECT_EQ(controller->Get("/v1/restores/" + std::string(kUid))->status, 404);
}

TEST_F(ServerTest, ASourceThatCopiesTakesLimitsAndTheOrderToSwitch) {
  auto controller = Controller();
  const std::string source = "/v1/migrations/" + std::string(kUid) + "/source";
  const auto post = [&](const char* what, const std::string& body) {
    return controller->Post(source + what, body, "application/json");
  };
  const auto status = [&] { return *json::Decode<SourceStatus>(controller->Get(source)->body); };
  EXPECT_EQ(post("/switch", "")->status, 404);
  EXPECT_EQ(post("/limits", json::Encode(Limits(absl::Seconds(1))))->status, 404);
  const auto put = controller->Put(source, Source(CopyMode::kPreCopy), "application/json");
  ASSERT_EQ(put->status, 200) << put->body;
  EXPECT_FALSE(status().switching);
  EXPECT_EQ(status().limits, Limits(absl::Milliseconds(100)));

  EXPECT_EQ(post("/limits", json::Encode(Limits(absl::Seconds(1))))->status, 200);
  EXPECT_EQ(status().limits, Limits(absl::Seconds(1)));
  for (const char* nonsense :
       {"{", "{}", R"({"freezeBudget":"-1s","preCopyTimeout":"1m"})",
        R"({"freezeBudget":"1s","preCopyTimeout":"1m","bandwidthLimit":-1})",
        R"({"freezeBudget":"1s","preCopyTimeout":"1m","whenNotConverging":"Magic"})"}) {
    EXPECT_EQ(post("/limits", nonsense)->status, 400) << nonsense;
  }
  EXPECT_EQ(status().limits, Limits(absl::Seconds(1)));

  EXPECT_EQ(post("/switch", "")->status, 200);
  EXPECT_TRUE(status().switching);
  EXPECT_EQ(post("/switch", "")->status, 200) << "the same again";
}

TEST_F(ServerTest, ASourceThatCopiesNothingBeforeTheFreezeTakesNeither) {
  auto controller = Controller();
  const std::string source = "/v1/migrations/" + std::string(kUid) + "/source";
  ASSERT_EQ(controller->Put(source, Source(CopyMode::kStopAndCopy), "application/json")->status, 200);
  const auto refused = controller->Post(source + "/switch", "", "application/json");
  EXPECT_EQ(refused->status, 409);
  EXPECT_EQ(ReasonOf(refused), "FailedPrecondition");
  EXPECT_THAT(refused->body, HasSubstr("of mode StopAndCopy"));
  EXPECT_EQ(controller->Post(source + "/limits", json::Encode(Limits(absl::Seconds(1))), "application/json")
                ->status,
            409);
  EXPECT_FALSE(json::Decode<SourceStatus>(controller->Get(source)->body)->switching);
}

TEST_F(ServerTest, APreCopyWithoutLimitsIsRefused) {
  const std::string source = "/v1/migrations/" + std::string(kUid) + "/source";
  SourceSpec spec = *json::Decode<SourceSpec>(Source(CopyMode::kPreCopy));
  spec.limits = {};
  const auto refused = Controller()->Put(source, json::Encode(spec), "application/json");
  EXPECT_EQ(refused->status, 400);
  EXPECT_THAT(refused->body, HasSubstr("freezeBudget"));
}

TEST_F(ServerTest, HundredsWhoSayNothingKeepTheControllerNotOut) {
  const std::vector<UniqueFd> silent = Flood(server_->port(), 150);
  const std::vector<UniqueFd> half = Flood(server_->port(), 150, kHalfHello);
  const absl::Time begin = absl::Now();
  for (int i = 0; i < 5; ++i) {
    const auto answer = Controller()->Get("/v1/node");
    ASSERT_TRUE(answer) << httplib::to_string(answer.error());
    EXPECT_EQ(answer->status, 200);
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(4));
}

TEST_F(ServerTest, ACompromisedAgentsConnectionsKeepTheControllerNotOut) {
  std::vector<std::unique_ptr<httplib::SSLClient>> agents;
  for (int i = 0; i < 100; ++i) {  // each has its certificate, and keeps its connection
    agents.push_back(Client("n2.agent.godwit", authority_));
    agents.back()->set_keep_alive(true);
    (void)agents.back()->Get("/v1/node");
  }
  const auto answer = Controller()->Get("/v1/node");
  ASSERT_TRUE(answer) << httplib::to_string(answer.error());
  EXPECT_EQ(answer->status, 200);
}

// A frozen pod may stand behind it: it is not as if there were none, and nobody begins anew in its folder.
TEST_F(ServerTest, WhatCannotBeTakenUpIsToldAndLeftAlone) {
  const std::string state = folder_ + "/left", source = absl::StrCat(state, "/migrations/", kUid, "/source");
  ASSERT_TRUE(MakeFolders(source).ok());
  ASSERT_TRUE(WriteFileDurably(source + "/spec.json", "{").ok());
  operations::Options options{.folder = state, .node = "n1"};
  options.target.permits = permits_.get();
  const auto operations = *operations::Operations::Open(std::move(options));
  const absl::Status told = operations->GetSource(kUid).status();
  EXPECT_EQ(told.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(told.message()), HasSubstr("could not be taken up"));
  SourceSpec spec;
  spec.migration.uid = kUid;
  spec.target_node = "n2";
  spec.containers = {{"app", "containerd://1"}};
  EXPECT_FALSE(operations->PutSource(spec).ok());
  EXPECT_TRUE(FileExists(source + "/spec.json"));
  operations->TakeUpAgain();
  EXPECT_EQ(operations->GetSource(kUid).status().code(), absl::StatusCode::kInternal);
  ASSERT_TRUE(RemoveTree(source).ok());
  operations->TakeUpAgain();
  EXPECT_EQ(operations->GetSource(kUid).status().code(), absl::StatusCode::kNotFound);
}

TEST(NodeInfoTest, AnAgentThatTellsOfNoReserveHasNone) {
  const auto old = json::Decode<NodeInfo>(
      R"({"node":"n1","version":"1","architecture":"amd64","kernel":"6","storageAvailable":5})");
  ASSERT_TRUE(old.ok());
  EXPECT_EQ(old->storage_available, 5);
  EXPECT_EQ(old->storage_reserve, 0);
  NodeInfo info = *old;
  info.storage_reserve = 3;
  EXPECT_THAT(json::Encode(info), HasSubstr(R"("storageAvailable":5,"storageReserve":3)"));
}

TEST_F(ServerTest, RequestsAreCounted) {
  Controller()->Get("/v1/node");
  EXPECT_THAT(registry_.Exposition(),
              HasSubstr("godwit_agent_api_requests_total{code=\"200\",method=\"GET\",route=\"node\"} 1"));
}

TEST(HealthServerTest, TellsHealthReadinessAndMetrics) {
  metrics::Registry registry;
  metrics::AgentMetrics metrics(registry);
  metrics.build_info.With("1").Set(1);
  absl::Status ready = absl::UnavailableError("no certificate yet");
  auto server = *HealthServer::Start("127.0.0.1", 0, registry, [&ready] { return ready; });
  httplib::Client client("127.0.0.1", server->port());
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/readyz")->status, 503);
  EXPECT_THAT(client.Get("/readyz")->body, HasSubstr("no certificate yet"));
  ready = absl::OkStatus();
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  EXPECT_THAT(client.Get("/metrics")->body, HasSubstr("godwit_agent_build_info"));
  EXPECT_EQ(client.Get("/v1/node")->status, 404) << "the API is not here";
}

}  // namespace
}  // namespace godwit::agent_api
