// SPDX-License-Identifier: Apache-2.0
// The client of the agents' API against a TLS server in this process.
#include "controller/agents/http_agent.h"

#include <httplib.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/certificates/authority.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::controller {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kDay = absl::Hours(24);
constexpr char kUid[] = "0f0e0d0c-0000-4000-8000-00000000abcd";

template <class T, class Read>
T* Pem(const std::string& text, Read read) {
  BIO* bio = BIO_new_mem_buf(text.data(), static_cast<int>(text.size()));
  T* object = read(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  return object;
}

// A server with the certificate of `name`, which wants one of our authority from its clients.
class FakeServer {
 public:
  FakeServer(const Authority& authority, const std::string& name) {
    const Identity identity = *authority.Issue({name}, kDay, absl::Now());
    X509* certificate = Pem<X509>(identity.certificate, PEM_read_bio_X509);
    EVP_PKEY* key = Pem<EVP_PKEY>(identity.key, PEM_read_bio_PrivateKey);
    X509_STORE* store = X509_STORE_new();
    X509* ca = Pem<X509>(authority.certificate(), PEM_read_bio_X509);
    X509_STORE_add_cert(store, ca);
    http_ = std::make_unique<httplib::SSLServer>(certificate, key, store);
    X509_free(certificate);
    X509_free(ca);
    EVP_PKEY_free(key);
  }
  ~FakeServer() {
    http_->stop();
    if (thread_.joinable()) thread_.join();
  }
  int Listen() {
    const int port = http_->bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { http_->listen_after_bind(); });
    http_->wait_until_ready();
    return port;
  }
  httplib::SSLServer& http() { return *http_; }

 private:
  std::unique_ptr<httplib::SSLServer> http_;
  std::thread thread_;
};

class HttpAgentTest : public ::testing::Test {
 protected:
  HttpAgentTest()
      : authority_(*Authority::Load(*MakeAuthority(absl::Now(), kDay))),
        identity_(*authority_->Issue({"controller.godwit"}, kDay, absl::Now())),
        server_(*authority_, "edge-7.agent.godwit") {}

  std::shared_ptr<Agent> Connect(const std::string& node = "edge-7") {
    agents_.emplace(&identity_, HttpAgentOptions{.port = server_.Listen(),
                                                 .timeout = absl::Seconds(5),
                                                 .observer = [this](const AgentRequestRecord& record) {
                                                   seen_.push_back(absl::StrCat(
                                                       record.method, " ", record.route, " ", record.code));
                                                 }});
    return agents_->At(node, "127.0.0.1");
  }

  const std::unique_ptr<Authority> authority_;
  IdentityHolder identity_;
  FakeServer server_;
  std::optional<HttpAgents> agents_;
  std::vector<std::string> seen_;
};

TEST_F(HttpAgentTest, RequestsGoWhereTheContractSays) {
  std::vector<std::string> requests;
  const auto answer = [&](const char* body) {
    return [&requests, body](const httplib::Request& request, httplib::Response& response) {
      requests.push_back(absl::StrCat(request.method, " ", request.path));
      response.set_content(body, "application/json");
    };
  };
  httplib::Server& http = server_.http();
  http.Get("/v1/node", answer(R"({"node":"edge-7","version":"1","architecture":"amd64","kernel":"6"})"));
  http.Post("/v1/preflight", answer(R"({"memoryBytes":5})"));
  http.Put(".*", answer(R"({"state":"Open"})"));
  http.Get("/v1/migrations/.*", answer(R"({"state":"Running"})"));
  http.Post("/v1/rehearsal", answer(R"({"rounds":7})"));
  http.Post("/v1/.*", answer("{}"));
  http.Delete(".*", answer(""));
  const auto agent = Connect();
  const auto node = agent->Node();
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(node->node, "edge-7");
  EXPECT_EQ(agent->Preflight({})->memory_bytes, 5);
  EXPECT_EQ(agent->Rehearse({})->rounds, 7);
  EXPECT_EQ(agent->PutTarget(kUid, {})->state, agent_api::TargetState::kOpen);
  EXPECT_EQ(agent->GetTarget(kUid)->state, agent_api::TargetState::kRunning);
  EXPECT_TRUE(agent->SetSourceLimits(kUid, {.freeze_budget = absl::Seconds(1)}).ok());
  EXPECT_TRUE(agent->SwitchSource(kUid).ok());
  EXPECT_TRUE(agent->AbortSource(kUid, {.reason = "x"}).ok());
  EXPECT_TRUE(agent->FinishSource(kUid, {.abandon = true}).ok());
  EXPECT_TRUE(agent->ForgetTarget(kUid).ok());
  EXPECT_TRUE(agent->ForgetRestore(kUid).ok());
  EXPECT_THAT(requests, ElementsAre("GET /v1/node", "POST /v1/preflight", "POST /v1/rehearsal",
                                    absl::StrCat("PUT /v1/migrations/", kUid, "/target"),
                                    absl::StrCat("GET /v1/migrations/", kUid, "/target"),
                                    absl::StrCat("POST /v1/migrations/", kUid, "/source/limits"),
                                    absl::StrCat("POST /v1/migrations/", kUid, "/source/switch"),
                                    absl::StrCat("POST /v1/migrations/", kUid, "/source/abort"),
                                    absl::StrCat("POST /v1/migrations/", kUid, "/source/finish"),
                                    absl::StrCat("DELETE /v1/migrations/", kUid, "/target"),
                                    absl::StrCat("DELETE /v1/restores/", kUid)));
  EXPECT_THAT(seen_,
              ::testing::IsSupersetOf({"GET node 200", "PUT target 200", "POST abort 200", "POST finish 200",
                                       "POST limits 200", "POST switch 200", "DELETE restore 200"}));
}

TEST_F(HttpAgentTest, ErrorsAreToldApart) {
  int code = 0;
  server_.http().Put(".*", [&](const httplib::Request&, httplib::Response& response) {
    response.status = code;
    response.set_content(R"({"error":{"reason":"X","message":"the disk is full"}})", "application/json");
  });
  const auto agent = Connect();
  const std::vector<std::pair<int, absl::StatusCode>> codes = {
      {400, absl::StatusCode::kInvalidArgument},   {403, absl::StatusCode::kUnauthenticated},
      {404, absl::StatusCode::kNotFound},          {409, absl::StatusCode::kFailedPrecondition},
      {507, absl::StatusCode::kResourceExhausted}, {503, absl::StatusCode::kUnavailable},
      {500, absl::StatusCode::kInternal}};
  for (const auto& [http_code, expected] : codes) {
    code = http_code;
    const auto status = agent->PutTarget(kUid, {}).status();
    EXPECT_EQ(status.code(), expected) << http_code;
    EXPECT_EQ(status.message(), "the disk is full");
  }
}

TEST_F(HttpAgentTest, ForgettingWhatIsNotThereIsFineAndNonsenseIsAnError) {
  server_.http().Get("/v1/node", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("<html>", "text/html");
  });
  const auto agent = Connect();
  EXPECT_TRUE(agent->ForgetSource(kUid).ok()) << "the server says 404";
  EXPECT_THAT(std::string(agent->Node().status().message()),
              HasSubstr("the agent's answer to /v1/node cannot be read"));
}

TEST_F(HttpAgentTest, AnotherNodesCertificateIsNotTrusted) {
  const auto status = Connect("edge-8")->Node().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
}

TEST_F(HttpAgentTest, AnotherAuthoritysServerIsNotTrusted) {
  const auto other = *Authority::Load(*MakeAuthority(absl::Now(), kDay));
  Identity mistrusting = *identity_.Get();
  mistrusting.authorities = other->certificate();
  identity_.Set(mistrusting);
  const auto status = Connect()->Node().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
}

TEST_F(HttpAgentTest, AServerThatDoesNotTrustUsIsToldFromOneThatIsDown) {
  const auto agent = Connect();
  const auto other = *Authority::Load(*MakeAuthority(absl::Now(), kDay));
  Identity untrusted = *other->Issue({"controller.godwit"}, kDay, absl::Now());
  untrusted.authorities = authority_->certificate();
  identity_.Set(untrusted);
  // In TLS 1.3 the server refuses our certificate after the handshake: when it has closed before our request
  // is written, its alert is lost with the connection. The controller asks again, and so do we.
  absl::Status refused;
  for (int attempt = 0; attempt < 100 && refused.code() != absl::StatusCode::kUnauthenticated; ++attempt) {
    refused = agent->Node().status();
    EXPECT_FALSE(refused.ok());
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated) << refused;
  HttpAgents nobody(&identity_, {.port = 1});
  const auto down = nobody.At("edge-7", "127.0.0.1")->Node().status();
  EXPECT_EQ(down.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(down.message()), HasSubstr("https://127.0.0.1:1: cannot connect"));
}

TEST(HostPortTest, BracketsAreForIpv6) {
  EXPECT_EQ(HostPort("10.0.0.1", 9552), "10.0.0.1:9552");
  EXPECT_EQ(HostPort("fd00::1", 9552), "[fd00::1]:9552");
}

}  // namespace
}  // namespace godwit::controller
