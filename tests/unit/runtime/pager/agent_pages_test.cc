// SPDX-License-Identifier: Apache-2.0
// Both ends of the agent's pages socket.
#include "runtime/pager/agent_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "agent/memory/page_server.h"
#include "base/json.h"
#include "base/socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::pager {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kLong = absl::Seconds(20);

UniqueFd FileWith(absl::string_view text) {
  UniqueFd file(memfd_create("pages", MFD_CLOEXEC));
  EXPECT_TRUE(WriteAll(file.get(), text, "a memfd").ok());
  return file;
}

class AgentPagesTest : public ::testing::Test {
 protected:
  AgentPagesTest() {
    char pattern[] = "/tmp/godwit-pages-XXXXXX";
    EXPECT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    spec_.sandbox_uid = "uid";
    spec_.container = "main";
    spec_.pages_socket = folder_ + "/run/pages.sock";
  }
  ~AgentPagesTest() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  // What comes of this answer of the agent, with as many descriptors.
  std::string Hear(const std::string& answer, const std::vector<int>& descriptors) {
    EXPECT_TRUE(MakeFolders(folder_ + "/run").ok());
    auto listener = ListenUnix(spec_.pages_socket);
    EXPECT_TRUE(listener.ok());
    std::thread agent([&] {
      LineChannel channel(*AcceptUnix(listener->get(), kLong));
      EXPECT_TRUE(channel.ReadLine(kLong).ok());
      EXPECT_TRUE(channel.WriteLine(answer, descriptors, kLong).ok());
    });
    const auto stores = AskForPages(spec_);
    agent.join();
    return stores.ok() ? "ok" : std::string(stores.status().message());
  }

  std::string folder_;
  agent_api::PagerSpec spec_;
};

TEST_F(AgentPagesTest, EveryTasksFileArrivesAlsoInManyBatches) {
  auto server =
      memory::PageServer::Start(spec_.pages_socket, [](const std::string& uid, const std::string& container) {
        EXPECT_EQ(uid, "uid");
        EXPECT_EQ(container, "main");
        memory::PageServer::Stores stores;
        for (int pid = 1; pid <= 300; ++pid) stores.emplace_back(pid, FileWith(absl::StrCat("task ", pid)));
        return stores;
      });
  ASSERT_TRUE(server.ok()) << server.status();
  const auto stores = AskForPages(spec_);
  ASSERT_TRUE(stores.ok()) << stores.status();
  ASSERT_EQ(stores->stores.size(), 300u);
  EXPECT_FALSE(stores->pull.has_value());
  for (const TaskStore& task : stores->stores) {
    char text[32];
    const ssize_t size = pread(task.store.get(), text, sizeof text, 0);
    ASSERT_EQ(std::string(text, static_cast<size_t>(size)), absl::StrCat("task ", task.pid));
    EXPECT_FALSE(task.map.ok());
  }
}

TEST_F(AgentPagesTest, WherePagesAreMissingTheMapsComeTooAndTheConnectionStays) {
  std::vector<LineChannel> pulls;
  auto server = memory::PageServer::Start(spec_.pages_socket, [&](const std::string&, const std::string&) {
    memory::PageServer::Found found;
    for (int pid = 1; pid <= 300; ++pid) {
      found.stores.emplace_back(pid, FileWith("store"));
      found.maps.push_back(FileWith(absl::StrCat("map ", pid)));
    }
    found.pull = [&](LineChannel channel) {
      EXPECT_TRUE(channel.WriteLine("{}", kLong).ok());
      pulls.push_back(std::move(channel));
    };
    return found;
  });
  ASSERT_TRUE(server.ok()) << server.status();
  auto pages = AskForPages(spec_);
  ASSERT_TRUE(pages.ok()) << pages.status();
  ASSERT_EQ(pages->stores.size(), 300u);
  for (const TaskStore& task : pages->stores) {
    char text[32];
    const ssize_t size = pread(task.map.get(), text, sizeof text, 0);
    ASSERT_EQ(std::string(text, static_cast<size_t>(size)), absl::StrCat("map ", task.pid));
  }
  ASSERT_TRUE(pages->pull.has_value());
  EXPECT_EQ(pages->pull->ReadLine(kLong).value_or("closed"), "{}");
}

TEST_F(AgentPagesTest, AnAgentThatForgotIsGivenTheStoresBack) {
  std::optional<LineChannel> pull;
  auto server = memory::PageServer::Start(spec_.pages_socket, [&](const std::string&, const std::string&) {
    memory::PageServer::Found found;
    found.give = true;
    found.pull = [&](LineChannel channel) { pull.emplace(std::move(channel)); };
    return found;
  });
  ASSERT_TRUE(server.ok()) << server.status();
  auto pages = AskForPages(spec_, /*resume=*/true);
  ASSERT_TRUE(pages.ok()) << pages.status();
  EXPECT_TRUE(pages->give);
  ASSERT_TRUE(pages->pull.has_value());
  const UniqueFd store = FileWith("store"), map = FileWith("map");
  ASSERT_TRUE(GivePages(*pages->pull, std::vector<GivenStore>(130, {7, store.get(), map.get()})).ok());
  server->reset();  // it has handed the connection over
  ASSERT_TRUE(pull.has_value());
  pull->AcceptDescriptors(kMaxDescriptors);
  size_t tasks = 0;
  for (bool more = true; more;) {
    const auto line = json::Decode<agent_api::PagesReply>(pull->ReadLine(kLong).value_or(""));
    ASSERT_TRUE(line.ok()) << line.status();
    ASSERT_EQ(pull->TakeDescriptors(2 * line->tasks.size()).status(), absl::OkStatus());
    tasks += line->tasks.size();
    more = line->more;
  }
  EXPECT_EQ(tasks, 130u);
}

TEST_F(AgentPagesTest, AContainerMayHaveNoTaskWithPages) {
  auto server = memory::PageServer::Start(spec_.pages_socket, [](const std::string&, const std::string&) {
    return memory::PageServer::Stores();
  });
  ASSERT_TRUE(server.ok());
  const auto stores = AskForPages(spec_);
  ASSERT_TRUE(stores.ok()) << stores.status();
  EXPECT_TRUE(stores->stores.empty());
}

TEST_F(AgentPagesTest, TheAgentsRefusalIsTold) {
  auto server = memory::PageServer::Start(
      spec_.pages_socket,
      [](const std::string&, const std::string&) -> absl::StatusOr<memory::PageServer::Stores> {
        return absl::NotFoundError("nothing is to be restored there");
      });
  ASSERT_TRUE(server.ok());
  const auto stores = AskForPages(spec_);
  EXPECT_THAT(
      std::string(stores.status().message()),
      HasSubstr("cannot get the pages of container main of sandbox uid: the agent refuses: nothing is"));
}

TEST_F(AgentPagesTest, TheServerOutlivesNonsense) {
  auto server = memory::PageServer::Start(spec_.pages_socket, [](const std::string&, const std::string&) {
    return memory::PageServer::Stores();
  });
  ASSERT_TRUE(server.ok());
  for (const std::string& nonsense : {std::string("{}"), std::string("x"), std::string(5000, 'x')}) {
    LineChannel channel(*ConnectUnix(spec_.pages_socket, kLong));
    ASSERT_TRUE(channel.WriteLine(nonsense, kLong).ok());
    EXPECT_THAT(channel.ReadLine(kLong).value_or("closed"), Not(HasSubstr("true")));
  }
  EXPECT_TRUE(AskForPages(spec_).ok());
}

TEST_F(AgentPagesTest, AnAnswerThatDoesNotAddUpIsRefused) {
  const UniqueFd file = FileWith("");
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[0]), out(ends[1]);
  EXPECT_THAT(Hear(R"({"ok":true,"tasks":[1,2]})", {file.get()}), HasSubstr("1 descriptors instead of 2"));
  EXPECT_THAT(Hear(R"({"ok":true,"tasks":[0]})", {file.get()}), HasSubstr("no page store for task 0"));
  EXPECT_THAT(Hear(R"({"ok":true,"tasks":[3]})", {in.get()}), HasSubstr("no page store for task 3"));
  EXPECT_EQ(Hear(R"({"ok":true,"tasks":[3]})", {file.get()}), "ok");
  EXPECT_THAT(Hear("{}", {}), HasSubstr("ok: required, but absent"));
}

}  // namespace
}  // namespace godwit::pager
