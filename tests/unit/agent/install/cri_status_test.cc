// SPDX-License-Identifier: Apache-2.0
#include "agent/install/cri_status.h"

#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agent/install/grpc_call.h"
#include "base/file.h"
#include "base/socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::install {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A length-delimited protobuf field shorter than 128 bytes.
std::string Field(int number, const std::string& bytes) {
  return absl::StrCat(std::string(1, static_cast<char>(number << 3 | 2)),
                      std::string(1, static_cast<char>(bytes.size())), bytes);
}

TEST(HandlersInStatusTest, ReadsTheListAndTheOlderConfig) {
  EXPECT_THAT(*HandlersInStatus(absl::StrCat(Field(3, Field(1, "")), Field(3, Field(1, "runc")),
                                             Field(3, Field(1, "godwit")))),
              ElementsAre("godwit", "runc"));
  const std::string config = R"({"containerd":{"runtimes":{"runc":{"a":1},"godwit":{}}}})";
  EXPECT_THAT(*HandlersInStatus(Field(2, Field(1, "config") + Field(2, config))),
              ElementsAre("godwit", "runc"));
  EXPECT_THAT(*HandlersInStatus(Field(2, Field(1, "config") + Field(2, "no json"))), ElementsAre());
  EXPECT_FALSE(HandlersInStatus("\x1a\x7f").ok());
}

TEST(IsStartedInTest, OnlyAContainerThatWasGivenUpIsNot) {
  const auto with_state = [](const std::string& state) { return Field(1, Field(1, "id") + state); };
  EXPECT_TRUE(IsStartedIn(with_state("")).ok()) << "created";
  EXPECT_TRUE(IsStartedIn(with_state("\x18\x01")).ok()) << "running";
  EXPECT_TRUE(absl::IsFailedPrecondition(IsStartedIn(with_state("\x18\x02")))) << "exited";
  EXPECT_TRUE(absl::IsFailedPrecondition(IsStartedIn(with_state("\x18\x03")))) << "unknown";
  EXPECT_TRUE(absl::IsInternal(IsStartedIn("\x0a\x7f")));
  EXPECT_TRUE(absl::IsInternal(IsStartedIn(Field(1, "\x18"))));
}

TEST(PodAddressesTest, AreTheSandboxesAndNoOthersAreTakenForThem) {
  const std::string network = Field(5, Field(1, "10.0.0.7") + Field(2, Field(1, "fd00::7")));
  const auto own = AddressesIn(Field(1, Field(1, "sandbox") + network) + Field(2, "info"));
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_THAT(*own, ElementsAre("10.0.0.7", "fd00::7"));
  EXPECT_TRUE(CheckAddresses({"10.0.0.7", "fd00:0:0::7"}, *own).ok());
  EXPECT_TRUE(CheckAddresses({}, *own).ok());
  for (const char* other : {"10.0.0.8", "", "x\n"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckAddresses({"10.0.0.7", other}, *own))) << other;
  }
  EXPECT_THAT(*AddressesIn(Field(1, Field(1, "in the host's network"))), ElementsAre());
  EXPECT_TRUE(absl::IsInternal(AddressesIn(Field(1, Field(5, "\x0a\x7f"))).status()));
}

// A server that says what it is told, whatever it hears.
class Answer {
 public:
  Answer(const std::string& path, const std::string& bytes) {
    auto listener = ListenUnix(path);
    EXPECT_TRUE(listener.ok()) << listener.status();
    thread_ = std::thread([listener = *std::move(listener), bytes] {
      auto connection = AcceptUnix(listener.get(), absl::Seconds(10));
      if (!connection.ok()) return;
      (void)WriteAll(connection->get(), bytes, "test");
      (void)LineChannel(*std::move(connection)).ReadLine(absl::Milliseconds(200));
    });
  }
  ~Answer() { thread_.join(); }

 private:
  std::thread thread_;
};

std::string Frame(int type, int flags, int stream, const std::string& payload) {
  std::string frame;
  for (int shift : {16, 8, 0}) frame.push_back(static_cast<char>(payload.size() >> shift));
  frame.push_back(static_cast<char>(type));
  frame.push_back(static_cast<char>(flags));
  frame += std::string("\0\0\0", 3);
  frame.push_back(static_cast<char>(stream));
  return frame + payload;
}

std::string Message(const std::string& bytes) {
  std::string message("\0\0\0\0", 4);
  message.push_back(static_cast<char>(bytes.size()));
  return message + bytes;
}

class GrpcCallTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Call(const std::string& answer) {
    std::string folder = absl::StrCat(::testing::TempDir(), "/grpc-XXXXXX");
    mkdtemp(folder.data());
    Answer server(folder + "/s", answer);
    return CallGrpc(folder + "/s", "/a.B/C", "request", absl::Seconds(2));
  }
};

TEST_F(GrpcCallTest, GivesTheMessageHoweverItIsCut) {
  const std::string settings = Frame(4, 0, 0, "");
  const std::string ping = Frame(6, 0, 0, "12345678");
  const std::string headers = Frame(1, 4, 1, "x");
  const std::string message = Message("hello");
  EXPECT_EQ(*Call(settings + headers + Frame(0, 0, 1, message) + Frame(1, 5, 1, "trailers")), "hello");
  EXPECT_EQ(*Call(settings + headers + Frame(0, 0, 1, message.substr(0, 3)) + ping +
                  Frame(0, 0, 1, message.substr(3)) + Frame(1, 5, 1, "")),
            "hello");
  EXPECT_EQ(*Call(headers + Frame(0, 9, 1, std::string(1, '\2') + message + "pp")), "hello") << "padded";
}

TEST_F(GrpcCallTest, AFailedCallIsAnError) {
  EXPECT_FALSE(Call(Frame(1, 5, 1, "trailers only")).ok());
  EXPECT_FALSE(Call(Frame(3, 0, 1, "rst!")).ok());
  EXPECT_FALSE(Call(Frame(7, 0, 0, "goaway")).ok());
  EXPECT_FALSE(Call("HTTP/1.1 400 Bad Request\r\n\r\n").ok());
  EXPECT_FALSE(Call("").ok());
  EXPECT_FALSE(Call(Frame(0, 1, 1, Message("hello") + "more")).ok());
  EXPECT_FALSE(Call(Frame(0, 1, 1, "")).ok());
  EXPECT_EQ(CallGrpc("/no/such/socket", "/a.B/C", "", absl::Seconds(1)).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace godwit::install
