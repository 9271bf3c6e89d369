// SPDX-License-Identifier: Apache-2.0
#include "agent/tls/identity.h"

#include <sys/socket.h>

#include <thread>

#include "base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::tls {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct Ends {
  bool connected = false;  // both ends think so
  absl::Status server_sees_client;
  absl::Status client_sees_server;
  std::string client_node;
};

// A handshake over a socket pair; each end then asks whether the other is who it should be.
Ends Handshake(Identity& server, Identity& client, const std::string& expected_server,
               const std::string& expected_client) {
  int sockets[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  UniqueFd server_socket(sockets[0]);
  UniqueFd client_socket(sockets[1]);
  Ends ends;
  bool accepted = false;
  std::thread serving([&] {
    ContextPointer context = *server.ServerContext();
    SslPointer ssl(SSL_new(context.get()));
    SSL_set_fd(ssl.get(), server_socket.get());
    accepted = SSL_accept(ssl.get()) == 1;
    ends.server_sees_client = CheckPeerName(ssl.get(), expected_client);
    ends.client_node = PeerNode(ssl.get()).value_or("");
    if (accepted) SSL_write(ssl.get(), "x", 1);
    shutdown(server_socket.get(), SHUT_WR);
  });
  ContextPointer context = *client.ClientContext();
  SslPointer ssl(SSL_new(context.get()));
  SSL_set_fd(ssl.get(), client_socket.get());
  const bool shaken = SSL_connect(ssl.get()) == 1;
  ends.client_sees_server = CheckPeerName(ssl.get(), expected_server);
  char byte = 0;
  // With TLS 1.3 a client learns only by reading that the server refused its certificate.
  const bool read = shaken && SSL_read(ssl.get(), &byte, 1) == 1;
  shutdown(client_socket.get(), SHUT_RDWR);
  serving.join();
  ends.connected = accepted && read;
  return ends;
}

class IdentityTest : public testing::Test {
 protected:
  std::unique_ptr<Identity> Make(const std::vector<std::string>& names, const TestAuthority& authority) {
    absl::StatusOr<std::unique_ptr<Identity>> identity =
        Identity::Load(MakeIdentityFiles(folder_, authority, names));
    EXPECT_TRUE(identity.ok()) << identity.status();
    return *std::move(identity);
  }
  const std::string folder_ = TestFolder();
  const TestAuthority authority_;
};

TEST_F(IdentityTest, BothEndsProveTheirNames) {
  auto server = Make({"n2.agent.godwit"}, authority_);
  auto client = Make({"n1.example.agent.godwit"}, authority_);
  const Ends ends = Handshake(*server, *client, "n2.agent.godwit", "n1.example.agent.godwit");
  EXPECT_TRUE(ends.connected);
  EXPECT_TRUE(ends.server_sees_client.ok()) << ends.server_sees_client;
  EXPECT_TRUE(ends.client_sees_server.ok()) << ends.client_sees_server;
  EXPECT_EQ(ends.client_node, "n1.example");
}

TEST_F(IdentityTest, AnotherNameIsRefusedAndNamed) {
  auto server = Make({"n2.agent.godwit"}, authority_);
  auto client = Make({"n1.agent.godwit"}, authority_);
  const Ends ends = Handshake(*server, *client, "n3.agent.godwit", kControllerName);
  EXPECT_EQ(ends.client_sees_server.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(ends.client_sees_server.message(),
              HasSubstr("is for n2.agent.godwit, not for n3.agent.godwit"));
  EXPECT_EQ(ends.server_sees_client.code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(IdentityTest, AWildcardIsNobodysName) {
  auto server = Make({"*.agent.godwit"}, authority_);
  auto client = Make({"n1.agent.godwit"}, authority_);
  EXPECT_FALSE(Handshake(*server, *client, "n2.agent.godwit", "n1.agent.godwit").client_sees_server.ok());
}

TEST_F(IdentityTest, ACertificateOfAnotherAuthorityIsRefusedByBothEnds) {
  const TestAuthority other("another authority");
  auto ours = Make({"n1.agent.godwit"}, authority_);
  auto theirs = Make({"n2.agent.godwit"}, other);
  EXPECT_FALSE(Handshake(*theirs, *ours, "n2.agent.godwit", "n1.agent.godwit").connected);
  EXPECT_FALSE(Handshake(*ours, *theirs, "n1.agent.godwit", "n2.agent.godwit").connected);
}

TEST_F(IdentityTest, AnEndedCertificateIsRefused) {
  IdentityFiles files = MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"});
  PutFile(files.certificate_and_key, authority_.Issue({"n1.agent.godwit"}, absl::Now() - absl::Hours(2),
                                                      absl::Now() - absl::Minutes(1)));
  auto ended = *Identity::Load(files);
  auto server = Make({"n2.agent.godwit"}, authority_);
  EXPECT_FALSE(Handshake(*server, *ended, "n2.agent.godwit", "n1.agent.godwit").connected);
}

TEST_F(IdentityTest, OldTlsVersionsAreRefused) {
  auto server = Make({"n2.agent.godwit"}, authority_);
  ContextPointer context = *server->ServerContext();
  EXPECT_EQ(SSL_CTX_get_min_proto_version(context.get()), TLS1_3_VERSION);
}

TEST_F(IdentityTest, ChangedFilesAreUsedByTheNextHandshakeAndABrokenChangeIsNot) {
  const IdentityFiles files = MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"});
  auto server = *Identity::Load(files);
  auto client = Make({"n1.agent.godwit"}, authority_);
  PutFile(files.certificate_and_key, authority_.Issue({"n9.agent.godwit"}));
  ASSERT_TRUE(server->ReloadIfChanged().ok());
  EXPECT_TRUE(Handshake(*server, *client, "n9.agent.godwit", "n1.agent.godwit").client_sees_server.ok());

  PutFile(files.certificate_and_key, "nonsense");
  const absl::Status status = server->ReloadIfChanged();
  EXPECT_THAT(status.message(), HasSubstr("keeping the old certificate"));
  EXPECT_THAT(status.message(), HasSubstr(files.certificate_and_key));
  EXPECT_TRUE(Handshake(*server, *client, "n9.agent.godwit", "n1.agent.godwit").client_sees_server.ok());
}

TEST_F(IdentityTest, LoadSaysWhatIsWrong) {
  const IdentityFiles good = MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"});
  EXPECT_EQ(Identity::Load({absl::StrCat(folder_, "/none"), good.authority}).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(Identity::Load({good.certificate_and_key, absl::StrCat(folder_, "/none")}).status().code(),
            absl::StatusCode::kNotFound);
  const std::string mixed = absl::StrCat(folder_, "/mixed.pem");
  const std::string one = authority_.Issue({"n1.agent.godwit"});
  const std::string two = authority_.Issue({"n1.agent.godwit"});
  PutFile(mixed,
          absl::StrCat(one.substr(0, one.find("-----BEGIN CERT")), two.substr(two.find("-----BEGIN CERT"))));
  EXPECT_THAT(Identity::Load({mixed, good.authority}).status().message(),
              HasSubstr("does not belong to the key"));
}

TEST(CertificateTest, ARequestCarriesTheName) {
  const TestAuthority authority;
  absl::StatusOr<KeyAndRequest> made = MakeKeyAndRequest("n1.agent.godwit");
  ASSERT_TRUE(made.ok()) << made.status();
  BIO* bio = BIO_new_mem_buf(made->request_pem.data(), static_cast<int>(made->request_pem.size()));
  X509_REQ* request = PEM_read_bio_X509_REQ(bio, nullptr, nullptr, nullptr);
  ASSERT_NE(request, nullptr);
  EXPECT_EQ(X509_REQ_verify(request, X509_REQ_get0_pubkey(request)), 1);
  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(request);
  EXPECT_EQ(sk_X509_EXTENSION_num(extensions), 1);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  X509_REQ_free(request);
  BIO_free(bio);

  const std::string pem = authority.Sign(made->request_pem, {"n1.agent.godwit"});
  absl::StatusOr<CertificateFacts> facts = ReadCertificate(pem);
  ASSERT_TRUE(facts.ok()) << facts.status();
  EXPECT_THAT(facts->dns_names, ElementsAre("n1.agent.godwit"));
  EXPECT_GT(facts->not_after, absl::Now());
  EXPECT_TRUE(CheckIssuer(pem, authority.Pem()).ok());
  EXPECT_FALSE(CheckIssuer(pem, TestAuthority("other").Pem()).ok());
}

TEST(CertificateTest, OnlyDnsNamesAreAskedFor) {
  EXPECT_FALSE(MakeKeyAndRequest("n1,DNS:controller.godwit").ok());
  EXPECT_FALSE(MakeKeyAndRequest("").ok());
}

TEST(CertificateTest, NodeNamesAreReadFromAgentNamesOnly) {
  EXPECT_EQ(*NodeOfAgentName(AgentName("worker-1.example.org")), "worker-1.example.org");
  EXPECT_FALSE(NodeOfAgentName(kControllerName).ok());
  EXPECT_FALSE(NodeOfAgentName(".agent.godwit").ok());
}

}  // namespace
}  // namespace godwit::tls
