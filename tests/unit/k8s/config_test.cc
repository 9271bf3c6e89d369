// SPDX-License-Identifier: Apache-2.0
#include "k8s/config.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/clock.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/token.h"

namespace godwit::k8s {
namespace {

using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  ConfigTest() : folder_(absl::StrCat(::testing::TempDir(), "/config-XXXXXX")) {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
  }
  ~ConfigTest() override {
    EXPECT_TRUE(RemoveTree(folder_).ok());
    unsetenv("KUBERNETES_SERVICE_HOST");
    unsetenv("KUBERNETES_SERVICE_PORT");
  }
  void Write(const std::string& name, absl::string_view text) {
    ASSERT_TRUE(WriteFileDurably(absl::StrCat(folder_, "/", name), text).ok());
  }
  std::string folder_;
};

// Two contexts; %USER% is what the test puts as the first user's fields.
constexpr char kFile[] = R"(
apiVersion: v1
kind: Config
current-context: first
contexts:
- {name: first, context: {cluster: one, user: me, namespace: shop}}
- {name: second, context: {cluster: two, user: nobody}}
- {name: broken, context: {cluster: none, user: me}}
clusters:
- {name: one, cluster: {server: "https://10.0.0.1:6443/", certificate-authority-data: Q0E=, tls-server-name: kube}}
- {name: two, cluster: {server: "https://[::1]:6443", certificate-authority: ca.crt}}
users:
- {name: me, user: {%USER%}}
- {name: nobody, user: {}}
)";

std::string File(absl::string_view user) { return absl::StrReplaceAll(kFile, {{"%USER%", user}}); }

TEST_F(ConfigTest, CertificatesAndCurrentContextAreTaken) {
  absl::StatusOr<Config> config =
      Kubeconfig(File("client-certificate-data: Q0VSVA==, client-key-data: S0VZ"), folder_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server, "https://10.0.0.1:6443");
  EXPECT_EQ(config->ca, "CA");
  EXPECT_EQ(config->tls_server_name, "kube");
  EXPECT_EQ(config->client_certificate, "CERT");
  EXPECT_EQ(config->client_key, "KEY");
  EXPECT_EQ(config->name_space, "shop");
  EXPECT_EQ(config->token, nullptr);
}

TEST_F(ConfigTest, AnotherContextAndFilesBesideTheFile) {
  Write("ca.crt", "FILE-CA");
  Write("kubeconfig", File(""));
  absl::StatusOr<Config> config = KubeconfigFile(absl::StrCat(folder_, "/kubeconfig"), "second");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->ca, "FILE-CA");
  EXPECT_EQ(config->server, "https://[::1]:6443");
  EXPECT_EQ(config->name_space, "default");
}

TEST_F(ConfigTest, TokensInTextAndFile) {
  EXPECT_EQ(*(*Kubeconfig(File("token: abc"), folder_)).token->Token(), "abc");
  Write("token", "from-file\n");
  EXPECT_EQ(*(*Kubeconfig(File("token: abc, tokenFile: token"), folder_)).token->Token(), "from-file");
}

TEST_F(ConfigTest, WhatWeCannotDoIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {{"exec: {command: aws}", "\"exec\" is not supported"},
                                                       {"auth-provider: {name: gcp}", "\"auth-provider\""},
                                                       {"username: a, password: b", "\"username\""},
                                                       {"as: admin, token: x", "\"as\""}};
  for (const auto& [user, message] : cases) {
    const absl::Status status = Kubeconfig(File(user), folder_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << user;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("user \"me\" needs a client certificate, a token or a tokenFile"));
  }
}

TEST_F(ConfigTest, VerificationCannotBeTurnedOff) {
  const std::string insecure =
      absl::StrReplaceAll(File("token: x"), {{"tls-server-name: kube", "insecure-skip-tls-verify: true"}});
  EXPECT_THAT(std::string(Kubeconfig(insecure, folder_).status().message()), HasSubstr("always verified"));
  const std::string harmless = absl::StrReplaceAll(insecure, {{"verify: true", "verify: false"}});
  EXPECT_TRUE(Kubeconfig(harmless, folder_).ok());
}

TEST_F(ConfigTest, NonsenseIsAnErrorThatSaysWhere) {
  EXPECT_THAT(std::string(Kubeconfig(File("token: x"), folder_, "third").status().message()),
              HasSubstr("no context named \"third\" in contexts"));
  EXPECT_THAT(std::string(Kubeconfig(File("token: x"), folder_, "broken").status().message()),
              HasSubstr("no cluster named \"none\""));
  EXPECT_THAT(std::string(Kubeconfig(File("client-certificate-data: '***', client-key-data: S0VZ"), folder_)
                              .status()
                              .message()),
              HasSubstr("client-certificate-data: not base64"));
  EXPECT_THAT(std::string(Kubeconfig(File("client-key-data: S0VZ"), folder_).status().message()),
              HasSubstr("together"));
  for (const char* text :
       {"", "[1, 2", "just text", "- a\n- b", "contexts: 7\ncurrent-context: a", "{{{{", "\t"}) {
    EXPECT_FALSE(Kubeconfig(text, folder_).ok()) << text;
  }
  EXPECT_THAT(std::string(KubeconfigFile("/nowhere/config").status().message()),
              HasSubstr("kubeconfig /nowhere/config"));
}

TEST(ValidateTest, HttpIsForThisMachineOnly) {
  for (const char* good : {"https://x", "https://10.0.0.1:6443/k8s", "http://127.0.0.1:8001",
                           "http://[::1]:1", "http://localhost:1"}) {
    EXPECT_TRUE(Validate({.server = good}).ok()) << good;
  }
  for (const char* bad : {"", "x", "http://10.0.0.1", "http://127.0.0.1.evil.org", "https://",
                          "https://user@host", "ftp://x"}) {
    EXPECT_FALSE(Validate({.server = bad}).ok()) << bad;
  }
}

TEST_F(ConfigTest, AServiceAccountIsFoundInAPod) {
  Write("token", "secret");
  Write("ca.crt", "CA");
  Write("namespace", "godwit-system\n");
  setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
  setenv("KUBERNETES_SERVICE_PORT", "443", 1);
  absl::StatusOr<Config> config = InClusterConfig(folder_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server, "https://[fd00::1]:443");
  EXPECT_EQ(config->name_space, "godwit-system");
  EXPECT_EQ(*config->token->Token(), "secret");
}

TEST_F(ConfigTest, OutsideAPodThereIsNone) {
  EXPECT_TRUE(absl::IsNotFound(InClusterConfig(folder_).status()));
}

class FileTokenTest : public ConfigTest {
 protected:
  FileTokenTest() { Write("token", "one"); }
  FakeClock clock_;
  FileToken token_{absl::StrCat(folder_, "/token"), clock_};
};

TEST_F(FileTokenTest, IsReadAgainAfterAMinute) {
  EXPECT_EQ(*token_.Token(), "one");
  Write("token", "two");
  clock_.Advance(absl::Seconds(59));
  EXPECT_EQ(*token_.Token(), "one");
  clock_.Advance(absl::Seconds(2));
  EXPECT_EQ(*token_.Token(), "two");
}

TEST_F(FileTokenTest, IsReadAgainWhenRefused) {
  EXPECT_EQ(*token_.Token(), "one");
  Write("token", "two");
  token_.Refused("zero");
  EXPECT_EQ(*token_.Token(), "one") << "a refusal of an older token says nothing of this one";
  token_.Refused("one");
  EXPECT_EQ(*token_.Token(), "two");
}

TEST_F(FileTokenTest, TheLastGoodOneServesWhileTheFileIsAway) {
  EXPECT_EQ(*token_.Token(), "one");
  ASSERT_TRUE(RemoveTree(absl::StrCat(folder_, "/token")).ok());
  clock_.Advance(absl::Minutes(2));
  EXPECT_EQ(*token_.Token(), "one");
}

TEST_F(FileTokenTest, AFileThatIsNoTokenIsRefused) {
  for (const char* text : {"", "\n", "a\nX-Header: b"}) {
    Write("bad", text);
    EXPECT_FALSE(FileToken(absl::StrCat(folder_, "/bad"), clock_).Token().ok()) << text;
  }
}

}  // namespace
}  // namespace godwit::k8s
