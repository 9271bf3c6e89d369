// SPDX-License-Identifier: Apache-2.0
#include "agent/tls/bootstrap.h"

#include <httplib.h>

#include <memory>
#include <thread>

#include "agent/tls/identity.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::tls {
namespace {

using testing::HasSubstr;

// A controller that signs whatever comes with the right token, for the name it is told to put in.
class FakeController {
 public:
  FakeController(const TestAuthority& authority, const std::string& folder, const std::string& own_name)
      : authority_(authority), pem_(absl::StrCat(folder, "/controller-", own_name, ".pem")) {
    PutFile(pem_, authority.Issue({own_name}));
    server_ = std::make_unique<httplib::SSLServer>(pem_.c_str(), pem_.c_str());
    server_->Post("/v1/certificates", [this](const httplib::Request& request, httplib::Response& response) {
      ++requests;
      if (request.get_header_value("Authorization") != "Bearer right") {
        response.status = 403;
        response.set_content(R"({"error":{"reason":"PermissionDenied","message":"the token is not valid"}})",
                             "application/json");
        return;
      }
      const auto asked = json::Decode<CertificateRequest>(request.body);
      CertificateAnswer answer{authority_.Sign(asked->request, {names}), absl::Now() + absl::Hours(1)};
      response.set_content(json::Encode(answer), "application/json");
    });
    port_ = server_->bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    server_->wait_until_ready();
  }
  ~FakeController() {
    server_->stop();
    thread_.join();
  }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }

  std::string names = "n1.agent.godwit";
  std::atomic<int> requests = 0;

 private:
  const TestAuthority& authority_;
  const std::string pem_;
  std::unique_ptr<httplib::SSLServer> server_;
  int port_ = 0;
  std::thread thread_;
};

class BootstrapTest : public testing::Test {
 protected:
  BootstrapTest() {
    PutFile(absl::StrCat(folder_, "/token"), "right\n");
    PutFile(absl::StrCat(folder_, "/ca.crt"), authority_.Pem());
  }
  BootstrapOptions Options(const std::string& controller) {
    return {.node = "n1",
            .controller = controller,
            .token_file = absl::StrCat(folder_, "/token"),
            .authority_file = absl::StrCat(folder_, "/ca.crt"),
            .certificate_and_key_file = absl::StrCat(folder_, "/agent.pem"),
            .request_limit = absl::Seconds(10)};
  }
  const std::string folder_ = TestFolder();
  const TestAuthority authority_;
};

TEST_F(BootstrapTest, TheControllersAnswerBecomesAnIdentity) {
  FakeController controller(authority_, folder_, kControllerName);
  const BootstrapOptions options = Options(controller.address());
  const absl::Status status = ObtainCertificate(options);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Identity::Load({options.certificate_and_key_file, options.authority_file}).ok());
}

TEST_F(BootstrapTest, AControllerUnderAnotherNameIsNotTold) {
  FakeController controller(authority_, folder_, "impostor.godwit");
  const absl::Status status = ObtainCertificate(Options(controller.address()));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(controller.requests, 0);
}

TEST_F(BootstrapTest, AControllerOfAnotherAuthorityIsNotTold) {
  const TestAuthority other("other");
  FakeController controller(other, folder_, kControllerName);
  EXPECT_FALSE(ObtainCertificate(Options(controller.address())).ok());
  EXPECT_EQ(controller.requests, 0);
}

TEST_F(BootstrapTest, ARefusalIsQuoted) {
  FakeController controller(authority_, folder_, kControllerName);
  PutFile(absl::StrCat(folder_, "/token"), "wrong");
  const absl::Status status = ObtainCertificate(Options(controller.address()));
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("HTTP status 403: PermissionDenied: the token is not valid"));
}

TEST_F(BootstrapTest, ACertificateForAnotherNodeIsNotKept) {
  FakeController controller(authority_, folder_, kControllerName);
  controller.names = "n2.agent.godwit";
  const BootstrapOptions options = Options(controller.address());
  EXPECT_THAT(ObtainCertificate(options).message(), HasSubstr("not for n1.agent.godwit"));
  EXPECT_FALSE(FileExists(options.certificate_and_key_file));
}

TEST_F(BootstrapTest, NobodyThereIsSaidWithTheAddress) {
  const absl::Status status = ObtainCertificate(Options("127.0.0.1:1"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("127.0.0.1:1"));
}

TEST_F(BootstrapTest, RenewalGetsWhatIsMissingAndLeavesWhatIsGood) {
  FakeController controller(authority_, folder_, kControllerName);
  {
    CertificateRenewal renewal(Options(controller.address()), [](const absl::Status&) {});
    ASSERT_TRUE(renewal.AwaitCertificate(absl::Seconds(20)).ok());
  }
  EXPECT_EQ(controller.requests, 1);
  {
    CertificateRenewal renewal(Options(controller.address()), [](const absl::Status&) {});
    ASSERT_TRUE(renewal.AwaitCertificate(absl::Seconds(20)).ok());
  }
  EXPECT_EQ(controller.requests, 1);
}

TEST_F(BootstrapTest, RenewalReplacesACertificateOfAnAuthorityThatIsGone) {
  FakeController controller(authority_, folder_, kControllerName);
  const BootstrapOptions options = Options(controller.address());
  PutFile(options.certificate_and_key_file, TestAuthority("former").Issue({"n1.agent.godwit"}));
  CertificateRenewal renewal(options, [](const absl::Status&) {});
  ASSERT_TRUE(renewal.AwaitCertificate(absl::Seconds(20)).ok());
  EXPECT_EQ(controller.requests, 1);
  EXPECT_TRUE(CheckIssuer(*ReadFile(options.certificate_and_key_file), authority_.Pem()).ok());
}

TEST_F(BootstrapTest, AwaitingTellsTheLastError) {
  CertificateRenewal renewal(Options("127.0.0.1:1"), [](const absl::Status&) {});
  const absl::Status status = renewal.AwaitCertificate(absl::Milliseconds(300));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(RenewalTimeTest, IsHalfOfTheLife) {
  const absl::Time start = absl::FromUnixSeconds(1'000'000);
  EXPECT_EQ(RenewalTime(start, start + absl::Hours(24)), start + absl::Hours(12));
}

}  // namespace
}  // namespace godwit::tls
