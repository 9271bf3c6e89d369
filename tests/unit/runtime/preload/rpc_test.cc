// SPDX-License-Identifier: Apache-2.0
#include "runtime/preload/rpc.h"

#include <string>

#include "gtest/gtest.h"

namespace godwit::preload {
namespace {

std::string Notification(const std::string& name) {
  // CriuResp{type: NOTIFY, success: true, notify: {script: name, pid: 300}}
  const std::string notify =
      std::string("\x0a") + static_cast<char>(name.size()) + name + std::string("\x10\xac\x02", 3);
  return std::string("\x08\x06\x10\x01\x2a") + static_cast<char>(notify.size()) + notify;
}
bool Is(const std::string& message, const char* name) {
  return IsNotification(message.data(), message.size(), name);
}

TEST(Rpc, ReadsTheTypeOfARequest) {
  EXPECT_EQ(MessageType("\x08\x01\x12\x00", 4), kRequestDump);
  EXPECT_EQ(MessageType("\x08\x02", 2), kRequestRestore);
  EXPECT_EQ(MessageType("\x12\x02\x08\x09\x08\x01", 6), kRequestDump)
      << "fields may come in any order, and others hold a field 1 too";
  EXPECT_EQ(MessageType("", 0), 0u);
  EXPECT_EQ(MessageType("\x12\x7f", 2), 0u);
}

TEST(Rpc, KnowsNotificationsByTheirWholeName) {
  EXPECT_TRUE(Is(Notification("pre-resume"), "pre-resume"));
  EXPECT_FALSE(Is(Notification("post-resume"), "pre-resume"));
  EXPECT_FALSE(Is(Notification("pre-resume-x"), "pre-resume"));
  EXPECT_FALSE(Is(Notification("pre"), "pre-resume"));
}

TEST(Rpc, OtherBytesAreNoNotification) {
  EXPECT_FALSE(Is("(00.001) a log line with pre-resume in it", "pre-resume"));
  const std::string whole = Notification("pre-resume");
  for (size_t size = 0; size < whole.size() - 3; ++size)
    EXPECT_FALSE(Is(whole.substr(0, size), "pre-resume")) << size;
  std::string dump = whole;
  dump[1] = 1;
  EXPECT_FALSE(Is(dump, "pre-resume"));
  EXPECT_FALSE(Is(std::string(64, '\xff'), "pre-resume"));
}

TEST(IsDumpSuccess, IsTheAnswerThatEndsADumpWell) {
  const struct {
    std::string message;
    bool want;
  } cases[] = {
      {std::string("\x08\x01\x10\x01\x1a\x02\x08\x00", 8), true},
      {std::string("\x08\x01\x10\x00", 4), false},
      {std::string("\x08\x01", 2), false},
      {std::string("\x08\x02\x10\x01", 4), false},
      {std::string("\x08\x06\x10\x01", 4), false},
      {"", false},
  };
  for (const auto& c : cases) EXPECT_EQ(IsDumpSuccess(c.message.data(), c.message.size()), c.want);
}

std::string Limited(std::string request, uint8_t most) {
  LimitLogLevel(request.data(), request.size(), most);
  return request;
}

TEST(LimitLogLevel, LowersWhatARequestAsksFor) {
  // CriuReq{type: DUMP, opts: {images_dir_fd: 3, log_level: 4, pid: 300}}
  const std::string before("\x08\x01\x12\x07\x08\x03\x48\x04\x10\xac\x02", 11);
  const std::string after("\x08\x01\x12\x07\x08\x03\x48\x02\x10\xac\x02", 11);
  EXPECT_EQ(Limited(before, 2), after);
  EXPECT_EQ(Limited(before, 4), before);
  EXPECT_EQ(Limited(after, 3), after);
}

TEST(LimitLogLevel, LeavesOtherBytesAlone) {
  for (const std::string& other :
       {std::string("\x08\x01\x48\x04", 4),              // a field 9 that is not of the options
        std::string("\x08\x01\x12\x03\x4a\x01\x04", 7),  // a string in its place
        std::string("\x08\x01\x12\x03\x48\x84\x80", 7),  // cut off
        std::string("\x08\x01\x12\x7f\x48\x04", 6),      // options longer than the message
        std::string("\x12\x04\x48\x84\x80\x00", 6), std::string()}) {
    EXPECT_EQ(Limited(other, 1), other);
  }
}

}  // namespace
}  // namespace godwit::preload
