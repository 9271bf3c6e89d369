// SPDX-License-Identifier: Apache-2.0
#include <openssl/bio.h>
#include <openssl/pem.h>

#include "agent/tls/identity.h"
#include "controller/certificates/authority.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::controller {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kDay = absl::Hours(24);

class AuthorityTest : public ::testing::Test {
 protected:
  const absl::Time now_ = absl::Now();
  const AuthorityPem pem_ = *MakeAuthority(now_, kDay * 365);
  const std::unique_ptr<Authority> authority_ = *Authority::Load(pem_);
};

TEST_F(AuthorityTest, SignsWhatAnAgentAsksForUnderTheNameThatItIsGiven) {
  const auto asked = tls::MakeKeyAndRequest("anything.agent.godwit");
  ASSERT_TRUE(asked.ok());
  const auto made = authority_->Sign(asked->request_pem, {"edge-7.agent.godwit"}, kDay, now_);
  ASSERT_TRUE(made.ok()) << made.status();
  const auto facts = tls::ReadCertificate(made->certificate);
  ASSERT_TRUE(facts.ok());
  EXPECT_THAT(facts->dns_names, ElementsAre("edge-7.agent.godwit"));
  EXPECT_LE(absl::AbsDuration(facts->not_after - (now_ + kDay)), absl::Seconds(1));
  EXPECT_TRUE(tls::CheckIssuer(made->certificate, authority_->certificate()).ok());
  const auto other = MakeAuthority(now_, kDay);
  EXPECT_FALSE(tls::CheckIssuer(made->certificate, other->certificate).ok());
}

TEST_F(AuthorityTest, ItsOwnCertificateHasAllItsNames) {
  const auto identity =
      authority_->Issue({"controller.godwit", "godwit-controller.godwit-system.svc"}, kDay, now_);
  ASSERT_TRUE(identity.ok());
  EXPECT_THAT(tls::ReadCertificate(identity->certificate)->dns_names,
              ElementsAre("controller.godwit", "godwit-controller.godwit-system.svc"));
}

TEST_F(AuthorityTest, NoCertificateOutlivesTheAuthority) {
  const auto late = authority_->Issue({"controller.godwit"}, kDay * 400, now_);
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(late->not_after, authority_->not_after());
  EXPECT_FALSE(authority_->Issue({"controller.godwit"}, kDay, now_ + kDay * 366).ok());
}

TEST_F(AuthorityTest, LongNodeNamesAreNamesToo) {
  const std::string name = std::string(60, 'n') + "." + std::string(60, 'm') + ".agent.godwit";
  const auto asked = tls::MakeKeyAndRequest("x.agent.godwit");
  const auto made = authority_->Sign(asked->request_pem, {name}, kDay, now_);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(tls::ReadCertificate(made->certificate)->dns_names, ElementsAre(name));
}

// A request whose public key is not the one that signed it.
std::string WithForeignSignature() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  EVP_PKEY* other = EVP_EC_gen("P-256");
  X509_REQ* request = X509_REQ_new();
  X509_REQ_set_pubkey(request, key);
  X509_REQ_sign(request, other, EVP_sha256());
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509_REQ(bio, request);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio, &data);
  std::string pem(data, static_cast<size_t>(length));
  BIO_free(bio);
  X509_REQ_free(request);
  EVP_PKEY_free(key);
  EVP_PKEY_free(other);
  return pem;
}

TEST_F(AuthorityTest, WhatIsNoRequestOfAKeysOwnerIsRefused) {
  for (const std::string& request : {std::string(), std::string("nonsense"), pem_.certificate,
                                     std::string(20'000, 'x'), WithForeignSignature()}) {
    const auto made = authority_->Sign(request, {"a.agent.godwit"}, kDay, now_);
    EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument) << request.substr(0, 40);
  }
}

TEST_F(AuthorityTest, ASecretThatWasTamperedWithIsNotLoaded) {
  const AuthorityPem other = *MakeAuthority(now_, kDay);
  EXPECT_THAT(std::string(Authority::Load({pem_.certificate, other.key}).status().message()),
              HasSubstr("do not belong together"));
  EXPECT_FALSE(Authority::Load({"", ""}).ok());
  const auto leaf = authority_->Issue({"controller.godwit"}, kDay, now_);
  EXPECT_FALSE(Authority::Load({leaf->certificate, leaf->key}).ok()) << "a leaf is no authority";
}

}  // namespace
}  // namespace godwit::controller
