// SPDX-License-Identifier: Apache-2.0
// How one gets to the API server: certificates, kubeconfig, rotated tokens, an API server that goes away.
#include <stdlib.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/config.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "tests/apiserver/environment.h"
#include "tests/apiserver/relay.h"

namespace godwit::k8s {
namespace {

using apiserver::Environment;
using ::testing::HasSubstr;

class ConnectionTest : public ::testing::Test {
 protected:
  static absl::Status Ask(Config config) {
    return Environment::ApiFor(std::move(config)).GetPath("/readyz").status();
  }
  Environment& environment_ = Environment::Shared();
};

TEST_F(ConnectionTest, AServerWithAnUnknownAuthorityIsRefused) {
  Config config = environment_.config();
  config.ca = apiserver::Authority("another-authority").certificate();
  const absl::Status status = Ask(config);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("certificate authority"));
  config.ca.clear();
  EXPECT_EQ(Ask(config).code(), absl::StatusCode::kFailedPrecondition)
      << "the system does not know it either";
}

TEST_F(ConnectionTest, TheServersNameIsVerified) {
  Config config = environment_.config();
  config.tls_server_name = "kubernetes.default.svc";
  EXPECT_TRUE(Ask(config).ok()) << Ask(config);
  config.tls_server_name = "another.name";
  EXPECT_EQ(Ask(config).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ConnectionTest, AKeyThatIsNotTheCertificatesIsRefused) {
  Config config = environment_.config();
  config.client_key = environment_.authority().Client("x", {}).key;
  EXPECT_EQ(Ask(config).code(), absl::StatusCode::kFailedPrecondition) << Ask(config);
}

TEST_F(ConnectionTest, AKubeconfigLeadsThere) {
  absl::StatusOr<Config> config = KubeconfigFile(environment_.kubeconfig());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(Ask(*config).ok());
}

TEST_F(ConnectionTest, ATokenRotatedInItsFileIsTakenWhenTheOldOneIsRefused) {
  const Api admin = environment_.api();
  const std::string ns = environment_.NewNamespace();
  ASSERT_TRUE(Client<ServiceAccount>(admin).Create({.metadata = {.name = "robot", .name_space = ns}}).ok());
  const Api::Answer answer =
      admin.Create(ServiceAccount::kResource, {ns, "robot"},
                   R"({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}})",
                   {.subresource = "token"});
  ASSERT_TRUE(answer.ok()) << answer.status();
  const std::string path = absl::StrCat(::testing::TempDir(), "/", ns, "-token");
  ASSERT_TRUE(WriteFileDurably(path, "expired").ok());
  Config config = environment_.config();
  config.client_certificate = config.client_key = "";
  config.token = std::make_shared<FileToken>(path);
  const Client<ConfigMap> maps(Environment::ApiFor(config));
  EXPECT_TRUE(IsUnauthorized(maps.Get(ns, "a").status()));
  ASSERT_TRUE(WriteFileDurably(path, Unstructured(*answer).String("/status/token")).ok());
  const absl::Status known = maps.Get(ns, "a").status();
  EXPECT_TRUE(IsForbidden(known)) << "known now, and without rights: " << known;
  EXPECT_THAT(std::string(known.message()), HasSubstr(absl::StrCat("system:serviceaccount:", ns, ":robot")));
  EXPECT_TRUE(RemoveTree(path).ok());
}

TEST_F(ConnectionTest, AConnectionThatBrokeIsReplaced) {
  apiserver::Relay relay(environment_.port());
  Config config = environment_.config();
  config.server = absl::StrCat("https://127.0.0.1:", relay.port());
  const Api api = Environment::ApiFor(config);
  EXPECT_TRUE(api.GetPath("/readyz").ok());
  EXPECT_EQ(relay.open(), 1);
  relay.Cut();
  EXPECT_EQ(api.GetPath("/readyz").status().code(), absl::StatusCode::kUnavailable);
  relay.Mend();
  EXPECT_TRUE(api.GetPath("/readyz").ok());
  EXPECT_TRUE(api.GetPath("/readyz").ok());
  EXPECT_EQ(relay.open(), 1) << "kept alive between requests";
}

}  // namespace
}  // namespace godwit::k8s
