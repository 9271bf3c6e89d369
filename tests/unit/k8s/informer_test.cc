// SPDX-License-Identifier: Apache-2.0
#include "k8s/informer.h"

#include <atomic>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/core.h"
#include "k8s/error.h"
#include "k8s/pod.h"
#include "k8s/testing/fake_api_server.h"

namespace godwit::k8s {
namespace {

using ::testing::ElementsAre;
using testing::FakeApiServer;
using testing::ForcedAnswer;
using ::testing::HasSubstr;
using testing::SeenRequest;

Pod MakePod(const std::string& name, const std::string& node = "n1") {
  return {.metadata = {.name = name, .name_space = "shop"}, .spec = {.node_name = node}};
}

class InformerTest : public ::testing::Test {
 protected:
  InformerOptions Options() {
    return {.name_space = "shop",
            .backoff = absl::Milliseconds(5),
            .max_backoff = absl::Milliseconds(50),
            .on_list = [this](absl::string_view, absl::string_view reason) {
              Note(lists_, std::string(reason));
            }};
  }
  void Start(Informer<Pod>& informer) {
    informer.AddIndex("node", [](const Pod& pod) { return std::vector<std::string>{pod.spec.node_name}; });
    informer.OnChange([this](const Change<Pod>& change) {
      Note(changes_, absl::StrCat(WatchEventName(change.type), " ", change.object->metadata.name, " ",
                                  change.before == nullptr ? "-" : change.before->spec.node_name, ">",
                                  change.object->spec.node_name));
    });
    informer.Start();
    const absl::Status synced = informer.WaitForSync(absl::Seconds(20));
    ASSERT_TRUE(synced.ok()) << synced;
    ASSERT_TRUE(FakeApiServer::WaitUntil([this] { return server_.open_watches() == 1; }));
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
    return FakeApiServer::WaitUntil([this, count] { return Noted(changes_).size() >= count; });
  }
  // Until the informer watches again after a break.
  bool WatchesAgain(size_t requests) {
    return FakeApiServer::WaitUntil(
        [this, requests] { return server_.requests().size() > requests && server_.open_watches() == 1; });
  }

  FakeApiServer server_;
  absl::Mutex mutex_;
  std::vector<std::string> changes_;
  std::vector<std::string> lists_;
};

TEST_F(InformerTest, ListsThenFollows) {
  server_.Put(MakePod("a"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  EXPECT_FALSE(informer.HasSynced());
  Start(informer);
  EXPECT_TRUE(informer.HasSynced());
  server_.Put(MakePod("b"));
  server_.Put(MakePod("a", "n2"));
  server_.Remove(Pod::kResource, {"shop", "b"});
  ASSERT_TRUE(Changed(4));
  EXPECT_THAT(Noted(changes_),
              ElementsAre("ADDED a ->n1", "ADDED b ->n1", "MODIFIED a n1>n2", "DELETED b n1>n1"));
  EXPECT_EQ(informer.size(), 1u);
  EXPECT_EQ(informer.Get("shop", "a")->spec.node_name, "n2");
  EXPECT_EQ(informer.Get("shop", "b"), nullptr);
}

TEST_F(InformerTest, IndexesFollowTheObjects) {
  server_.Put(MakePod("a", "n1"));
  server_.Put(MakePod("b", "n1"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  EXPECT_EQ(informer.ByIndex("node", "n1").size(), 2u);
  server_.Put(MakePod("a", "n2"));
  server_.Remove(Pod::kResource, {"shop", "b"});
  ASSERT_TRUE(Changed(4));
  EXPECT_TRUE(informer.ByIndex("node", "n1").empty());
  ASSERT_EQ(informer.ByIndex("node", "n2").size(), 1u);
  EXPECT_TRUE(informer.ByIndex("no such index", "n2").empty());
}

TEST_F(InformerTest, OnlyWhatIsSelected) {
  Pod edge = MakePod("a");
  edge.metadata.labels["zone"] = "edge";
  server_.Put(edge);
  server_.Put(MakePod("b"));
  InformerOptions options = Options();
  options.label_selector = "zone=edge";
  Informer<Pod> informer(Client<Pod>(server_.api()), options);
  Start(informer);
  EXPECT_EQ(informer.size(), 1u);
  edge.metadata.labels.clear();
  server_.Put(edge);
  ASSERT_TRUE(Changed(2));
  EXPECT_EQ(informer.size(), 0u) << "it left the selection";
}

struct BreakCase {
  FakeApiServer::Break how;
  const char* name;
  int lists;  // in all
};
class BrokenStreamTest : public InformerTest, public ::testing::WithParamInterface<BreakCase> {};

TEST_P(BrokenStreamTest, NoChangeIsLostAndNoneToldTwice) {
  server_.Put(MakePod("a"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  const size_t before = server_.requests().size();
  server_.HoldWatches(true);
  server_.BreakWatches(GetParam().how);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return server_.requests().size() > before; }))
      << "it asks again";
  server_.Put(MakePod("b"));
  server_.Remove(Pod::kResource, {"shop", "a"});
  server_.HoldWatches(false);
  ASSERT_TRUE(Changed(3));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a ->n1", "ADDED b ->n1", "DELETED a n1>n1"));
  EXPECT_EQ(Noted(lists_).size(), static_cast<size_t>(GetParam().lists));
}

INSTANTIATE_TEST_SUITE_P(All, BrokenStreamTest,
                         ::testing::Values(BreakCase{FakeApiServer::Break::kEnd, "Ended", 1},
                                           BreakCase{FakeApiServer::Break::kCut, "CutInTheMiddle", 1},
                                           BreakCase{FakeApiServer::Break::kGarbage, "Garbage", 2}),
                         [](const auto& info) { return info.param.name; });

TEST_F(InformerTest, AnExpiredVersionIsListedAgainAndTheDifferenceTold) {
  server_.Put(MakePod("a"));
  server_.Put(MakePod("b"));
  server_.Put(MakePod("c"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  const size_t before = server_.requests().size();
  server_.HoldWatches(true);
  server_.BreakWatches(FakeApiServer::Break::kCut);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return server_.requests().size() > before; }));
  server_.Remove(Pod::kResource, {"shop", "a"});
  server_.Put(MakePod("b", "n2"));
  server_.Put(MakePod("d"));
  server_.Compact();
  server_.HoldWatches(false);
  ASSERT_TRUE(Changed(6));
  EXPECT_THAT(Noted(lists_), ElementsAre("start", "expired"));
  std::vector<std::string> told = Noted(changes_);
  EXPECT_THAT(std::vector<std::string>(told.begin() + 3, told.end()),
              ElementsAre("MODIFIED b n1>n2", "ADDED d ->n1", "DELETED a n1>n1"))
      << "c is unchanged: not told";
}

TEST_F(InformerTest, AnExpiredErrorWithinTheStreamListsAgainToo) {
  server_.Put(MakePod("a"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  const size_t before = server_.requests().size();
  server_.Compact();
  ASSERT_TRUE(WatchesAgain(before + 1));
  EXPECT_THAT(Noted(lists_), ElementsAre("start", "expired"));
  server_.Put(MakePod("b"));
  ASSERT_TRUE(Changed(2));
}

TEST_F(InformerTest, ABookmarkMovesTheVersionThatAWatchResumesFrom) {
  server_.Put(MakePod("a"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  EXPECT_THAT(server_.requests().back().query, HasSubstr("allowWatchBookmarks=true"));
  for (int i = 0; i < 5; ++i)
    server_.Put(ConfigMap{.metadata = {.name = absl::StrCat("m", i), .name_space = "shop"}});
  const std::string newest = server_.List(ConfigMap::kResource).back().Meta().resource_version;
  server_.SendBookmarks();
  // The mark has arrived when a watch that is resumed later asks for that version.
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] {
    const size_t before = server_.requests().size();
    server_.BreakWatches(FakeApiServer::Break::kEnd);
    return WatchesAgain(before) &&
           absl::StrContains(server_.requests().back().query, absl::StrCat("resourceVersion=", newest));
  }));
  EXPECT_THAT(Noted(lists_), ElementsAre("start"));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a ->n1")) << "a bookmark is no change";
}

TEST_F(InformerTest, ManyCutsInARowAreNotTrustedForEver) {
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  std::atomic<bool> failing = false;
  server_.Intercept([&failing](const SeenRequest& request) -> std::optional<ForcedAnswer> {
    if (!failing || !absl::StrContains(request.query, "watch=true")) return std::nullopt;
    return ForcedAnswer{.code = 500, .reason = "InternalError", .message = "broken"};
  });
  Start(informer);
  failing = true;
  server_.BreakWatches(FakeApiServer::Break::kCut);
  ASSERT_TRUE(FakeApiServer::WaitUntil([this] { return Noted(lists_).size() >= 2; }));
  EXPECT_EQ(Noted(lists_)[1], "broken");
  failing = false;
  server_.Put(MakePod("a"));
  EXPECT_TRUE(Changed(1));
}

TEST_F(InformerTest, APodOfTheSameNameIsAnotherPod) {
  server_.Put(MakePod("a", "n1"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  const size_t before = server_.requests().size();
  server_.HoldWatches(true);
  server_.BreakWatches(FakeApiServer::Break::kCut);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return server_.requests().size() > before; }));
  server_.Remove(Pod::kResource, {"shop", "a"});
  server_.Put(MakePod("a", "n2"));
  server_.Compact();
  server_.HoldWatches(false);
  ASSERT_TRUE(Changed(3));
  EXPECT_THAT(Noted(changes_), ElementsAre("ADDED a ->n1", "DELETED a n1>n1", "ADDED a ->n2"));
}

TEST_F(InformerTest, AnObjectThatDoesNotFitIsLeftOutAndTheOthersStay) {
  server_.Put(Pod::kResource, *Unstructured::Parse(
                                  R"({"metadata":{"name":"bad","namespace":"shop"},"spec":{"nodeName":7}})"));
  server_.Put(MakePod("good"));
  std::atomic<int> errors = 0;
  InformerOptions options = Options();
  options.on_error = [&errors](absl::string_view, const absl::Status&) { ++errors; };
  Informer<Pod> informer(Client<Pod>(server_.api()), options);
  Start(informer);
  EXPECT_EQ(informer.size(), 1u);
  EXPECT_EQ(errors, 1);
}

TEST_F(InformerTest, PagesAreReadToTheEnd) {
  for (int i = 0; i < 11; ++i) server_.Put(MakePod(absl::StrCat("p", i)));
  InformerOptions options = Options();
  options.page_size = 4;
  Informer<Pod> informer(Client<Pod>(server_.api()), options);
  Start(informer);
  EXPECT_EQ(informer.size(), 11u);
}

TEST_F(InformerTest, LargeObjectsComeInSmallPages) {
  Pod pod = MakePod("p");
  pod.metadata.annotations["large"] = std::string(250'000, 'x');
  for (int i = 0; i < 120; ++i) {
    pod.metadata.name = absl::StrCat("p", i);
    server_.Put(pod);
  }
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  EXPECT_EQ(informer.size(), 120u);
  std::vector<std::string> limits;
  for (const SeenRequest& request : server_.requests()) {
    if (absl::StrContains(request.query, "watch=true")) continue;
    const size_t at = request.query.find("limit=") + 6;
    limits.push_back(request.query.substr(at, request.query.find('&', at) - at));
  }
  ASSERT_GE(limits.size(), 3u);
  EXPECT_EQ(limits[0], "50");
  for (size_t i = 1; i < limits.size(); ++i)
    EXPECT_THAT(limits[i], ::testing::AnyOf("28", "29", "30", "31", "32", "33"));
}

TEST_F(InformerTest, AListThatFailsHalfwayTakesNothingAway) {
  for (int i = 0; i < 6; ++i) server_.Put(MakePod(absl::StrCat("p", i)));
  InformerOptions options = Options();
  options.page_size = 2;
  Informer<Pod> informer(Client<Pod>(server_.api()), options);
  Start(informer);
  std::atomic<int> failed = 0;
  server_.Intercept([&failed](const SeenRequest& request) -> std::optional<ForcedAnswer> {
    if (!absl::StrContains(request.query, "continue=") || ++failed > 3) return std::nullopt;
    return ForcedAnswer{.code = 500, .reason = "InternalError", .message = "broken"};
  });
  server_.BreakWatches(FakeApiServer::Break::kGarbage);
  ASSERT_TRUE(FakeApiServer::WaitUntil([&] { return failed > 3 && server_.open_watches() == 1; }));
  EXPECT_EQ(informer.size(), 6u);
  EXPECT_EQ(Noted(changes_).size(), 6u) << "nothing was removed and added again";
}

TEST_F(InformerTest, WhatIsCutIsNotKept) {
  Pod pod = MakePod("a");
  pod.metadata.annotations = {{"keep", "1"}, {"large", "2"}};
  server_.Put(pod);
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  informer.SetCut([](Pod& kept) { kept.metadata.annotations.erase("large"); });
  Start(informer);
  EXPECT_EQ(informer.Get("shop", "a")->metadata.annotations.size(), 1u);
  pod.spec.node_name = "n2";
  server_.Put(pod);
  ASSERT_TRUE(Changed(2));
  EXPECT_EQ(informer.Get("shop", "a")->metadata.annotations.size(), 1u) << "what a watch tells, too";
}

TEST_F(InformerTest, WaitingForAServerThatRefusesEndsWithItsReason) {
  server_.Intercept([](const SeenRequest&) {
    return std::optional(ForcedAnswer{.code = 403, .reason = "Forbidden", .message = "pods is forbidden"});
  });
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  informer.Start();
  ASSERT_TRUE(FakeApiServer::WaitUntil([this] { return server_.requests().size() > 2; }));
  const absl::Status status = informer.WaitForSync(absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("pods is forbidden"));
  informer.Stop();
}

TEST_F(InformerTest, StopEndsEverythingAndKeepsWhatWasRead) {
  server_.Put(MakePod("a"));
  Informer<Pod> informer(Client<Pod>(server_.api()), Options());
  Start(informer);
  informer.Stop();
  EXPECT_EQ(informer.size(), 1u);
  EXPECT_TRUE(FakeApiServer::WaitUntil([this] { return server_.open_watches() == 0; }));
  informer.Stop();
}

}  // namespace
}  // namespace godwit::k8s
