// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_server.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::permits {
namespace {

using agent_api::RuntimeAction;
using agent_api::RuntimeReply;
using ::testing::HasSubstr;

constexpr char kMigration[] = "11111111-2222-3333-4444-555555555555";
constexpr char kPod[] = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
constexpr absl::Duration kSoon = absl::Seconds(10);

class PermitServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/server-XXXXXX");
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    table_ = std::make_unique<PermitTable>(
        PermitStore(folder_ + "/permits"), [](const std::string&) { return absl::OkStatus(); },
        [](const std::string&) { return absl::OkStatus(); });
    auto server = PermitServer::Start(folder_ + "/run/agent.sock", table_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  LineChannel Connect() {
    auto socket = ConnectUnix(folder_ + "/run/agent.sock", kSoon);
    EXPECT_TRUE(socket.ok()) << socket.status();
    return LineChannel(socket.ok() ? *std::move(socket) : UniqueFd());
  }
  static RuntimeReply Reply(LineChannel& channel) {
    auto line = channel.ReadLine(kSoon);
    EXPECT_TRUE(line.ok()) << line.status();
    auto reply = json::Decode<RuntimeReply>(line.ok() ? *line : "{}");
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? *reply : RuntimeReply{};
  }
  static std::string CreateLine() {
    return json::Encode(agent_api::RuntimeRequest{.sandbox_uid = kPod,
                                                  .container = "app",
                                                  .container_id = "c1",
                                                  .bundle = "/run/b",
                                                  .cgroup = "/kubepods/c1"});
  }

  std::string folder_;
  std::unique_ptr<PermitTable> table_;
  std::unique_ptr<PermitServer> server_;
};

TEST_F(PermitServerTest, CarriesAWholeConversation) {
  ASSERT_TRUE(table_->Add({.migration_uid = kMigration, .sandbox_uid = kPod, .containers = {"app"}}).ok());
  std::thread runtime([this] {
    LineChannel channel = Connect();
    ASSERT_TRUE(channel.WriteLine(CreateLine(), kSoon).ok());
    const RuntimeReply restore = Reply(channel);
    EXPECT_EQ(restore.action, RuntimeAction::kRestore);
    EXPECT_EQ(restore.images, "/images");
    ASSERT_TRUE(channel.WriteLine(R"({"op":"Restored","pid":99})", kSoon).ok());
    EXPECT_EQ(Reply(channel).action, RuntimeAction::kDone);
  });
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  auto restored = table_->Restore(kMigration, "app", "/images", "/work", kSoon);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->pid, 99);
  EXPECT_TRUE(table_->Confirm(kMigration, "app", kSoon).ok());
  runtime.join();
}

TEST_F(PermitServerTest, AClosedConnectionEndsTheClaim) {
  ASSERT_TRUE(table_->Add({.migration_uid = kMigration, .sandbox_uid = kPod, .containers = {"app"}}).ok());
  {
    LineChannel channel = Connect();
    ASSERT_TRUE(channel.WriteLine(CreateLine(), kSoon).ok());
    ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  }
  const absl::Time deadline = absl::Now() + kSoon;
  while (!table_->Waiting(kMigration).empty() && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(table_->Waiting(kMigration).empty());
}

TEST_F(PermitServerTest, GarbageIsAnsweredAndTheConnectionClosed) {
  for (const std::string& garbage :
       {std::string("hello"), std::string("{}"), std::string(R"({"op":"Explode"})"),
        std::string("\x00\xff\n\x01", 4), std::string(1000, '[')}) {
    LineChannel channel = Connect();
    ASSERT_TRUE(channel.WriteLine(garbage.substr(0, garbage.find('\n')), kSoon).ok());
    const RuntimeReply reply = Reply(channel);
    EXPECT_EQ(reply.action, RuntimeAction::kRefuse);
    EXPECT_THAT(reply.message, HasSubstr("not a request"));
    EXPECT_EQ(channel.ReadLine(kSoon).status().code(), absl::StatusCode::kOutOfRange);
  }
}

TEST_F(PermitServerTest, AnEndlessLineIsCutOff) {
  LineChannel channel = Connect();
  (void)channel.WriteLine(std::string(10 * kMaxRequest, 'x'), kSoon);
  EXPECT_FALSE(channel.ReadLine(kSoon).ok());
}

TEST_F(PermitServerTest, StoppingClosesConnectionsThatWait) {
  ASSERT_TRUE(table_->Add({.migration_uid = kMigration, .sandbox_uid = kPod, .containers = {"app"}}).ok());
  LineChannel channel = Connect();
  ASSERT_TRUE(channel.WriteLine(CreateLine(), kSoon).ok());
  ASSERT_TRUE(table_->WaitForClaim(kMigration, "app", kSoon).ok());
  server_.reset();
  EXPECT_EQ(channel.ReadLine(kSoon).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(PermitServerTest, AProcessThatIsNotRootIsNotHeard) {
  if (getuid() != 0) GTEST_SKIP() << "needs root to become somebody else";
  chmod(folder_.c_str(), 0755);
  chmod((folder_ + "/run/agent.sock").c_str(), 0666);
  const pid_t child = fork();
  if (child == 0) {
    if (setresuid(65534, 65534, 65534) != 0) _exit(2);
    auto socket = ConnectUnix(folder_ + "/run/agent.sock", kSoon);
    if (!socket.ok()) _exit(3);
    LineChannel channel(*std::move(socket));
    (void)channel.WriteLine(CreateLine(), kSoon);
    _exit(channel.ReadLine(kSoon).ok() ? 4 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

}  // namespace
}  // namespace godwit::permits
