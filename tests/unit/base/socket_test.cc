// SPDX-License-Identifier: Apache-2.0
#include "base/socket.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(20);
constexpr absl::Duration kNow = absl::ZeroDuration();

class SocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/godwit-socket-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    folder_ = pattern;
    path_ = folder_ + "/s";
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(folder_).ok()); }

  std::string folder_;
  std::string path_;
};

struct Pair {
  explicit Pair(size_t max_line = 1000) : a(UniqueFd(-1)), b(UniqueFd(-1)) {
    int ends[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    a = LineChannel(UniqueFd(ends[0]), max_line);
    b = LineChannel(UniqueFd(ends[1]), max_line);
  }
  LineChannel a, b;
};

TEST_F(SocketTest, APathThatIsTooLongForAnAddressIsReachedThroughItsFolder) {
  const std::string folder = folder_ + "/" + std::string(120, 'd');
  ASSERT_TRUE(MakeFolders(folder).ok());
  auto listener = ListenUnix(folder + "/socket");
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(FileExists(folder + "/socket"));
  auto connection = ConnectUnix(folder + "/socket", kLong);
  EXPECT_TRUE(connection.ok()) << connection.status();
  EXPECT_TRUE(AcceptUnix(listener->get(), kLong).ok());
}

TEST_F(SocketTest, DescriptorsArriveWithTheirLines) {
  Pair pair;
  pair.b.AcceptDescriptors(kMaxDescriptors);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[0]), out(ends[1]);
  ASSERT_TRUE(pair.a.WriteLine("none", kLong).ok());
  ASSERT_TRUE(pair.a.WriteLine("one", {out.get()}, kLong).ok());
  ASSERT_TRUE(pair.a.WriteLine("many", std::vector<int>(kMaxDescriptors, in.get()), kLong).ok());
  EXPECT_EQ(*pair.b.ReadLine(kLong), "none");
  EXPECT_EQ(*pair.b.ReadLine(kLong), "one");
  auto one = pair.b.TakeDescriptors(1);
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_TRUE(WriteAll((*one)[0].get(), "x", "a pipe").ok());
  EXPECT_EQ(fcntl((*one)[0].get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(*pair.b.ReadLine(kLong), "many");
  auto many = pair.b.TakeDescriptors(kMaxDescriptors);
  ASSERT_TRUE(many.ok()) << many.status();
  char byte = 0;
  EXPECT_EQ(read(many->back().get(), &byte, 1), 1);
  EXPECT_TRUE(absl::IsDataLoss(pair.b.TakeDescriptors(1).status()));
  EXPECT_FALSE(pair.a.WriteLine("more", std::vector<int>(kMaxDescriptors + 1, in.get()), kLong).ok());
}

TEST_F(SocketTest, DescriptorsThatWereNotAskedForAreDropped) {
  Pair pair;
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd in(ends[0]);
  UniqueFd out(ends[1]);
  ASSERT_TRUE(pair.a.WriteLine("one", {out.get()}, kLong).ok());
  out.Reset();
  EXPECT_EQ(*pair.b.ReadLine(kLong), "one");
  char byte = 0;
  EXPECT_EQ(read(in.get(), &byte, 1), 0) << "somebody holds the other end";
  EXPECT_FALSE(pair.b.TakeDescriptors(1).ok());
}

TEST_F(SocketTest, MoreDescriptorsThanAcceptedAreRefused) {
  Pair pair;
  pair.b.AcceptDescriptors(1);
  ASSERT_TRUE(pair.a.WriteLine("two", {0, 0}, kLong).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(pair.b.ReadLine(kLong).status()));
}

TEST_F(SocketTest, LinesTravelBothWaysAndThePeerIsKnown) {
  auto listener = ListenUnix(path_, 0600);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info;
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  LineChannel client(*ConnectUnix(path_, kLong));
  LineChannel server(*AcceptUnix(listener->get(), kLong));
  auto peer = PeerOf(server.fd());
  ASSERT_TRUE(peer.ok());
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(peer->uid, getuid());
  ASSERT_TRUE(client.WriteLine("hello", kLong).ok());
  ASSERT_TRUE(client.WriteLine("", kLong).ok());
  EXPECT_EQ(*server.ReadLine(kLong), "hello");
  EXPECT_EQ(*server.ReadLine(kLong), "");
  ASSERT_TRUE(server.WriteLine("back", kLong).ok());
  EXPECT_EQ(*client.ReadLine(kLong), "back");
}

TEST_F(SocketTest, AStaleSocketIsReplacedButALiveOneIsNot) {
  {
    auto dead = ListenUnix(path_);
    ASSERT_TRUE(dead.ok());
  }
  EXPECT_EQ(ConnectUnix(path_, kLong).status().code(), absl::StatusCode::kUnavailable);
  auto live = ListenUnix(path_);
  ASSERT_TRUE(live.ok()) << live.status();
  EXPECT_FALSE(ListenUnix(path_).ok());
  EXPECT_TRUE(ConnectUnix(path_, kLong).ok());
}

TEST_F(SocketTest, ErrorsAreToldApart) {
  EXPECT_EQ(ConnectUnix(folder_ + "/absent", kLong).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ConnectUnix(std::string(200, 'x'), kLong).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(WriteFileDurably(path_, "a file").ok());
  EXPECT_FALSE(ListenUnix(path_).ok());
  EXPECT_EQ(*ReadFile(path_), "a file");
}

TEST_F(SocketTest, AcceptEndsAtItsLimitAndWhenShutDown) {
  auto listener = ListenUnix(path_);
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ(AcceptUnix(listener->get(), kNow).status().code(), absl::StatusCode::kDeadlineExceeded);
  std::thread other([&] { shutdown(listener->get(), SHUT_RDWR); });
  EXPECT_EQ(AcceptUnix(listener->get(), kLong).status().code(), absl::StatusCode::kCancelled);
  other.join();
}

TEST(LineChannelTest, AHalfLineIsKeptOverADeadline) {
  Pair pair;
  ASSERT_EQ(send(pair.a.fd(), "hal", 3, 0), 3);
  EXPECT_EQ(pair.b.ReadLine(kNow).status().code(), absl::StatusCode::kDeadlineExceeded);
  ASSERT_EQ(send(pair.a.fd(), "f\nnext\n", 7, 0), 7);
  EXPECT_EQ(*pair.b.ReadLine(kLong), "half");
  EXPECT_EQ(*pair.b.ReadLine(kLong), "next");
}

TEST(LineChannelTest, ALineOverTheLimitIsRefusedWithOrWithoutItsEnd) {
  for (const bool ended : {false, true}) {
    Pair pair(/*max_line=*/10);
    ASSERT_TRUE(pair.a.WriteLine("0123456789", kLong).ok());
    EXPECT_EQ(*pair.b.ReadLine(kLong), "0123456789");
    const std::string text = absl::StrCat("01234567890", ended ? "\n" : "");
    ASSERT_EQ(send(pair.a.fd(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    EXPECT_EQ(pair.b.ReadLine(kLong).status().code(), absl::StatusCode::kResourceExhausted);
  }
}

TEST(LineChannelTest, TheEndIsToldFromACutLine) {
  {
    Pair pair;
    ASSERT_TRUE(pair.a.WriteLine("last", kLong).ok());
    EXPECT_FALSE(pair.b.PeerClosed());
    pair.a = LineChannel(UniqueFd());
    EXPECT_TRUE(pair.b.PeerClosed());
    EXPECT_EQ(*pair.b.ReadLine(kLong), "last");
    EXPECT_EQ(pair.b.ReadLine(kLong).status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(pair.b.WriteLine("x", kLong).code(), absl::StatusCode::kUnavailable);
  }
  Pair pair;
  ASSERT_EQ(send(pair.a.fd(), "cut", 3, 0), 3);
  pair.a.Shutdown();
  EXPECT_EQ(pair.b.ReadLine(kLong).status().code(), absl::StatusCode::kDataLoss);
}

TEST(LineChannelTest, ShutdownWakesAReader) {
  Pair pair;
  std::thread other([&] { pair.b.Shutdown(); });
  EXPECT_EQ(pair.b.ReadLine(kLong).status().code(), absl::StatusCode::kOutOfRange);
  other.join();
}

TEST(LineChannelTest, AWriterDoesNotWaitForEverForADeafPeer) {
  Pair pair(size_t{64} << 20);
  EXPECT_EQ(pair.a.WriteLine(std::string(size_t{16} << 20, 'x'), absl::Milliseconds(50)).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(pair.a.WriteLine("two\nlines", kLong).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace godwit
