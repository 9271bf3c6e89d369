// SPDX-License-Identifier: Apache-2.0
// An agent gets its certificate, from token to handshake, with a real API server's TokenReview.
#include <curl/curl.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "agent/tls/bootstrap.h"
#include "agent/tls/identity.h"
#include "base/file.h"
#include "controller/certificates/authority_store.h"
#include "controller/certificates/bootstrap.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/pod.h"
#include "tests/apiserver/environment.h"

namespace godwit::controller {
namespace {

using apiserver::Environment;
using ::testing::HasSubstr;

constexpr absl::Duration kDay = absl::Hours(24);

class CertificatesTest : public ::testing::Test {
 protected:
  CertificatesTest()
      : api_(Environment::Shared().api()), ns_(Environment::Shared().NewNamespace("certificates")) {
    for (const char* account : {"godwit-agent", "other"}) {
      EXPECT_TRUE(k8s::Client<k8s::ServiceAccount>(api_)
                      .Create({.metadata = {.name = account, .name_space = ns_}})
                      .ok());
    }
  }

  // A token that is bound to a pod on a node, as kubelet would mount it.
  std::string Token(const std::string& account, const std::string& audience, const std::string& node) {
    const std::string pod = absl::StrCat(account, "-", ++pods_);
    const std::string manifest = absl::StrCat(
        R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":")", pod,
        R"("},"spec":{"serviceAccountName":")", account, R"(","containers":[{"name":"a","image":"i"}])",
        node.empty() ? "" : absl::StrCat(R"(,"nodeName":")", node, "\""), "}}");
    auto made = api_.Create(k8s::Pod::kResource, {ns_, ""}, manifest, {});
    EXPECT_TRUE(made.ok()) << made.status();
    const std::string uid = k8s::Unstructured(*made).String("/metadata/uid");
    auto token = api_.Create(
        k8s::ServiceAccount::kResource, {ns_, account},
        absl::StrCat(
            R"({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[")",
            audience, R"("],"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":")", pod, R"(","uid":")",
            uid, R"("}}})"),
        {.subresource = "token"});
    EXPECT_TRUE(token.ok()) << token.status();
    return token.ok() ? k8s::Unstructured(*token).String("/status/token") : "";
  }

  const k8s::Api api_;
  const std::string ns_;
  int pods_ = 0;
};

TEST_F(CertificatesTest, AllReplicasAgreeOnOneAuthority) {
  const auto first = EnsureAuthority(api_, ns_, absl::Now());
  const auto second = EnsureAuthority(api_, ns_, absl::Now());
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ((*first)->certificate(), (*second)->certificate());
  ASSERT_TRUE(PublishBundle(api_, ns_, **first).ok());
  ASSERT_TRUE(PublishBundle(api_, ns_, **second).ok());
  const auto bundle = k8s::Client<k8s::ConfigMap>(api_).Get(ns_, kAuthorityBundle);
  ASSERT_TRUE(bundle.ok());
  EXPECT_EQ(bundle->data.at("ca.crt"), (*first)->certificate());
}

TEST_F(CertificatesTest, ATokenNamesTheNodeOfItsPodAndNothingElseWillDo) {
  const BootstrapOptions options{.name_space = ns_};
  const auto node = NodeOfToken(api_, options, Token("godwit-agent", "godwit-controller", "edge-7"));
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(*node, "edge-7");
  const auto refused = [&](const std::string& token, const char* says) {
    const auto answer = NodeOfToken(api_, options, token);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kPermissionDenied) << answer.status();
    EXPECT_THAT(std::string(answer.status().message()), HasSubstr(says));
  };
  refused(Token("other", "godwit-controller", "edge-7"), "belongs to system:serviceaccount");
  refused(Token("godwit-agent", "somebody-else", "edge-7"), "not valid");
  refused(Token("godwit-agent", "godwit-controller", ""), "does not name the node");
  refused("nonsense", "not valid");
}

size_t Collect(char* data, size_t size, size_t count, void* into) {
  static_cast<std::string*>(into)->append(data, size * count);
  return size * count;
}

// POST as an agent does: the name in the URL is verified, the address is another.
std::pair<long, std::string> Post(int port, const std::string& authority, const std::string& token,
                                  const std::string& body) {
  CURL* curl = curl_easy_init();
  curl_slist* to = curl_slist_append(nullptr, absl::StrCat("::127.0.0.1:", port).c_str());
  curl_slist* headers =
      token.empty() ? nullptr
                    : curl_slist_append(nullptr, absl::StrCat("Authorization: Bearer ", token).c_str());
  const curl_blob ca{
      .data = const_cast<char*>(authority.data()), .len = authority.size(), .flags = CURL_BLOB_COPY};
  std::string answer;
  curl_easy_setopt(curl, CURLOPT_URL, "https://controller.godwit/v1/certificates");
  curl_easy_setopt(curl, CURLOPT_CONNECT_TO, to);
  curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_CAINFO_BLOB, &ca);
  curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body.c_str());
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, 20L);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, Collect);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
  long code = 0;
  if (const CURLcode done = curl_easy_perform(curl); done != CURLE_OK) answer = curl_easy_strerror(done);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
  curl_slist_free_all(to);
  curl_slist_free_all(headers);
  curl_easy_cleanup(curl);
  return {code, answer};
}

constexpr char kRequest[] =
    "-----BEGIN CERTIFICATE REQUEST-----\n"
    "MIHJMHECAQAwDzENMAsGA1UEAwwEbm9kZTBZMBMGByqGSM49AgEGCCqGSM49AwEH\n"
    "-----END CERTIFICATE REQUEST-----\n";

TEST_F(CertificatesTest, TheServerRefusesWhatIsNoProofAndNoRequest) {
  const auto authority = EnsureAuthority(api_, ns_, absl::Now());
  ASSERT_TRUE(authority.ok()) << authority.status();
  auto identity = (*authority)->Issue({"controller.godwit"}, kDay, absl::Now());
  ASSERT_TRUE(identity.ok());
  IdentityHolder holder(*identity);
  std::vector<std::string> outcomes;
  BootstrapServer server(
      api_, authority->get(), &holder,
      {.name_space = ns_, .listen = "127.0.0.1", .port = 0, .observer = [&](absl::string_view outcome) {
         outcomes.emplace_back(outcome);
       }});
  ASSERT_TRUE(server.Start().ok());
  const std::string ca = (*authority)->certificate();
  const std::string body = json::Encode(CertificateRequest{kRequest});
  EXPECT_EQ(Post(server.port(), ca, "", body).first, 403);
  EXPECT_EQ(Post(server.port(), ca, "nonsense", body).first, 403);
  const std::string token = Token("godwit-agent", "godwit-controller", "edge-7");
  EXPECT_EQ(Post(server.port(), ca, token, "{}").first, 400);
  const auto [code, answer] = Post(server.port(), ca, token, body);
  EXPECT_EQ(code, 400) << answer;
  EXPECT_THAT(answer, HasSubstr("not a certificate request"));
  EXPECT_EQ(outcomes, (std::vector<std::string>{"refused", "refused", "refused", "refused"}));
  // What a real agent sends.
  const std::string folder = ::testing::TempDir() + "/" + ns_;
  ASSERT_TRUE(MakeFolders(folder).ok());
  ASSERT_TRUE(WriteFileDurably(folder + "/token", token).ok() &&
              WriteFileDurably(folder + "/ca.crt", ca).ok());
  const tls::BootstrapOptions agent{.node = "edge-7",
                                    .controller = absl::StrCat("127.0.0.1:", server.port()),
                                    .token_file = folder + "/token",
                                    .authority_file = folder + "/ca.crt",
                                    .certificate_and_key_file = folder + "/tls.pem"};
  const absl::Status obtained = tls::ObtainCertificate(agent);
  ASSERT_TRUE(obtained.ok()) << obtained;
  const auto facts = tls::ReadCertificate(*ReadFile(folder + "/tls.pem"));
  ASSERT_TRUE(facts.ok());
  EXPECT_THAT(facts->dns_names, ::testing::ElementsAre("edge-7.agent.godwit"));
  EXPECT_LE(facts->not_after, absl::Now() + kDay);
  // Somebody else's node is not to be had: the token decides, not the request.
  tls::BootstrapOptions impostor = agent;
  impostor.node = "edge-8";
  EXPECT_THAT(std::string(tls::ObtainCertificate(impostor).message()),
              HasSubstr("not for edge-8.agent.godwit"));
  ASSERT_TRUE(RemoveTree(folder).ok());
  // Another authority's certificate does not convince an agent.
  const auto other = MakeAuthority(absl::Now(), kDay);
  EXPECT_EQ(Post(server.port(), other->certificate, token, body).first, 0);
}

}  // namespace
}  // namespace godwit::controller
