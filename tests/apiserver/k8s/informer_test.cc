// SPDX-License-Identifier: Apache-2.0
#include "k8s/informer.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "tests/apiserver/conditions.h"
#include "tests/apiserver/environment.h"
#include "tests/apiserver/relay.h"

namespace godwit::k8s {
namespace {

using apiserver::Environment;
using apiserver::Relay;
using apiserver::WaitUntil;
using ::testing::ElementsAre;

// Service accounts are watched straight from etcd here, so that what etcd forgets the API server does not
// know either; with its cache it would still know it for a while.
class RealInformerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    absl::StatusOr<std::unique_ptr<Environment>> started =
        Environment::Start({.api_server_flags = {"--watch-cache-sizes=serviceaccounts#0"}});
    ASSERT_TRUE(started.ok()) << started.status();
    environment_ = started->release();
  }
  static void TearDownTestSuite() {
    delete environment_;
    environment_ = nullptr;
  }
  void SetUp() override { ASSERT_NE(environment_, nullptr); }

  // Through the relay; what the test changes goes straight to the server.
  template <class T>
  std::unique_ptr<Informer<T>> Start() {
    Config config = environment_->config();
    config.server = absl::StrCat("https://127.0.0.1:", relay_.port());
    auto informer = std::make_unique<Informer<T>>(
        Client<T>(Environment::ApiFor(config)),
        InformerOptions{.name_space = ns_,
                        .backoff = absl::Milliseconds(20),
                        .max_backoff = absl::Milliseconds(200),
                        .on_list = [this](absl::string_view, absl::string_view reason) {
                          Note(lists_, std::string(reason));
                        }});
    informer->OnChange([this](const Change<T>& change) {
      Note(changes_, absl::StrCat(WatchEventName(change.type), " ", change.object->metadata.name));
    });
    informer->Start();
    const absl::Status synced = informer->WaitForSync(absl::Minutes(1));
    EXPECT_TRUE(synced.ok()) << synced;
    return informer;
  }
  void Note(std::vector<std::string>& notes, std::string note) {
    absl::MutexLock lock(&mutex_);
    notes.push_back(std::move(note));
  }
  std::vector<std::string> Noted(const std::vector<std::string>& notes) {
    absl::MutexLock lock(&mutex_);
    return notes;
  }
  bool Changed(size_t count) {
    return WaitUntil([this, count] { return Noted(changes_).size() >= count; });
  }
  void CutUntilNoticed() {
    relay_.Cut();
    ASSERT_TRUE(WaitUntil([this] { return relay_.refused() > 0; }));
  }
  template <class T>
  void Make(const std::string& name) {
    const absl::Status made =
        Client<T>(api_).Create(T{.metadata = {.name = name, .name_space = ns_}}).status();
    ASSERT_TRUE(made.ok()) << made;
  }

  static Environment* environment_;
  const std::string ns_ = environment_->NewNamespace();
  const Api api_ = environment_->api();
  Relay relay_{environment_->port()};
  absl::Mutex mutex_;
  std::vector<std::string> changes_, lists_;
};
Environment* RealInformerTest::environment_ = nullptr;

TEST_F(RealInformerTest, FollowsWhatHappens) {
  Make<ConfigMap>("a");
  auto informer = Start<ConfigMap>();
  EXPECT_EQ(informer->size(), 1u);
  Make<ConfigMap>("b");
  Unstructured patch;
  patch.Set("/data/key", "2");
  ASSERT_TRUE(Client<ConfigMap>(api_).MergePatch(ns_, "a", patch).ok());
  ASSERT_TRUE(Client<ConfigMap>(api_).Delete(ns_, "b").ok());
  ASSERT_TRUE(Changed(4));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a", "ADDED b", "MODIFIED a", "DELETED b"));
  EXPECT_EQ(informer->Get(ns_, "a")->data.at("key"), "2");
  EXPECT_EQ(informer->Get(ns_, "b"), nullptr);
}

TEST_F(RealInformerTest, ACutIsResumedWithoutAList) {
  Make<ConfigMap>("a");
  auto informer = Start<ConfigMap>();
  CutUntilNoticed();
  Make<ConfigMap>("b");
  ASSERT_TRUE(Client<ConfigMap>(api_).Delete(ns_, "a").ok());
  relay_.Mend();
  ASSERT_TRUE(Changed(3));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a", "ADDED b", "DELETED a"));
  EXPECT_EQ(Noted(lists_).front(), "start");
  for (const std::string& reason : Noted(lists_)) EXPECT_NE(reason, "expired");
}

TEST_F(RealInformerTest, WhatEtcdHasCompactedIsListedAgain) {
  Make<ServiceAccount>("a");
  Make<ServiceAccount>("b");
  auto informer = Start<ServiceAccount>();
  // Long enough a cut would be listed again for that reason alone: only the first tries may fall into it.
  relay_.Cut();
  Make<ServiceAccount>("c");
  ASSERT_TRUE(Client<ServiceAccount>(api_).Delete(ns_, "a").ok());
  const absl::Status compacted = environment_->Compact();
  ASSERT_TRUE(compacted.ok()) << compacted;
  Make<ServiceAccount>("d");
  relay_.Mend();
  ASSERT_TRUE(Changed(5));
  std::vector<std::string> told = Noted(changes_);
  EXPECT_THAT(std::vector<std::string>(told.begin(), told.begin() + 2),
              ::testing::UnorderedElementsAre("ADDED a", "ADDED b"));
  EXPECT_THAT(std::vector<std::string>(told.begin() + 2, told.end()),
              ::testing::UnorderedElementsAre("ADDED c", "ADDED d", "DELETED a"))
      << "b is the same: not told again";
  EXPECT_THAT(Noted(lists_), ::testing::Contains("expired"));
  EXPECT_EQ(informer->size(), 3u);
}

TEST_F(RealInformerTest, AWatchFromACompactedVersionIsGone) {
  const std::string old = Client<ServiceAccount>(api_).ListAll(ns_)->metadata.resource_version;
  Make<ServiceAccount>("a");
  Make<ServiceAccount>("b");
  ASSERT_TRUE(environment_->Compact().ok());
  const absl::Status gone =
      api_.Watch(ServiceAccount::kResource, ns_, {.resource_version = old, .timeout = absl::Seconds(20)},
                 [](WatchEventType, const rapidjson::Value&) { return absl::OkStatus(); });
  EXPECT_TRUE(IsGone(gone)) << gone;
}

TEST_F(RealInformerTest, AContinueTokenExpiresAndTheListIsReadInOnePiece) {
  const Client<ServiceAccount> accounts(api_);
  for (int i = 0; i < 12; ++i) Make<ServiceAccount>(absl::StrCat("a", i));
  const ListOf<ServiceAccount> page = *accounts.List(ns_, {.limit = 5});
  EXPECT_EQ(page.items.size(), 5u);
  Make<ServiceAccount>("b");
  Make<ServiceAccount>("c");
  ASSERT_TRUE(environment_->Compact().ok());
  const ListOptions rest{.limit = 5, .continue_token = page.metadata.continue_token};
  const absl::Status expired = accounts.List(ns_, rest).status();
  EXPECT_TRUE(IsGone(expired)) << expired;
  EXPECT_EQ(accounts.ListAll(ns_, rest)->items.size(), 14u);
}

TEST_F(RealInformerTest, BookmarksCarryTheVersionOfOthersChanges) {
  const Client<ConfigMap> maps(api_);
  const std::string begin = maps.ListAll(ns_)->metadata.resource_version;
  const std::string elsewhere = environment_->NewNamespace();
  Make<ConfigMap>("a");
  std::string newer, marked;
  // The server sends a bookmark two seconds before the end of each watch, when it has seen something new.
  const absl::Status ended = api_.Watch(
      ConfigMap::kResource, ns_, {.resource_version = begin, .timeout = absl::Seconds(8)},
      [&](WatchEventType type, const rapidjson::Value& object) {
        if (type == WatchEventType::kAdded) {  // of "a": the watch is open
          newer =
              maps.Create({.metadata = {.name = "x", .name_space = elsewhere}})->metadata.resource_version;
        } else if (type == WatchEventType::kBookmark) {
          marked = Unstructured(object).Meta().resource_version;
        }
        return absl::OkStatus();
      });
  EXPECT_TRUE(ended.ok()) << ended;
  ASSERT_NE(marked, "") << "no bookmark came";
  EXPECT_GE(std::stoll(marked), std::stoll(newer));
}

TEST_F(RealInformerTest, ARestartedApiServerIsFollowedAgain) {
  Make<ConfigMap>("a");
  auto informer = Start<ConfigMap>();
  environment_->StopApiServer();
  const absl::Status started = environment_->StartApiServer();
  ASSERT_TRUE(started.ok()) << started;
  Make<ConfigMap>("b");
  ASSERT_TRUE(Changed(2));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a", "ADDED b"));
}

}  // namespace
}  // namespace godwit::k8s
