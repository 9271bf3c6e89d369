// SPDX-License-Identifier: Apache-2.0
#include "agent/install/grpc_call.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/socket.h"
#include "base/status.h"

namespace godwit::install {
namespace {

// RFC 9113, sections 6 and 4.1.
constexpr uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6, kGoAway = 7,
                  kWindowUpdate = 8;
constexpr uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8;
constexpr size_t kFrameHead = 9;
constexpr size_t kMaxFrame = 1u << 14;  // what the peer may send, the protocol's default

struct Frame {
  uint8_t type = 0;
  uint8_t flags = 0;
  uint32_t stream = 0;
  std::string payload;
};

void AppendBig(uint64_t value, int bytes, std::string& out) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

uint32_t ReadBig(absl::string_view bytes) {
  uint32_t value = 0;
  for (char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

std::string Encode(const Frame& frame) {
  std::string out;
  AppendBig(frame.payload.size(), 3, out);
  out.push_back(static_cast<char>(frame.type));
  out.push_back(static_cast<char>(frame.flags));
  AppendBig(frame.stream, 4, out);
  return out + frame.payload;
}

// A header as a literal without indexing, not Huffman-coded (RFC 7541, section 6.2.2); both texts shorter
// than 127 bytes.
std::string Header(absl::string_view name, absl::string_view value) {
  std::string out(1, '\0');
  for (absl::string_view text : {name, value}) {
    out.push_back(static_cast<char>(text.size()));
    absl::StrAppend(&out, text);
  }
  return out;
}

std::string Opening(const std::string& method, absl::string_view request) {
  std::string window;
  AppendBig(kMaxGrpcReply, 4, window);
  std::string settings;  // SETTINGS_INITIAL_WINDOW_SIZE
  AppendBig(4, 2, settings);
  absl::StrAppend(&settings, window);
  std::string body(1, '\0');  // not compressed
  AppendBig(request.size(), 4, body);
  absl::StrAppend(&body, request);
  return absl::StrCat(
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Encode({.type = kSettings, .payload = settings}),
      Encode({.type = kWindowUpdate, .payload = window}),
      Encode({.type = kHeaders,
              .flags = kEndHeaders,
              .stream = 1,
              .payload = absl::StrCat(Header(":method", "POST"), Header(":scheme", "http"),
                                      Header(":path", method), Header(":authority", "localhost"),
                                      Header("content-type", "application/grpc"), Header("te", "trailers"))}),
      Encode({.type = kData, .flags = kEndStream, .stream = 1, .payload = body}));
}

// Without the SIGPIPE of write(2). What is sent is small: it fits the socket's buffer.
absl::Status SendAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return ErrnoStatus("cannot write");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadExactly(int fd, size_t size, absl::Time deadline) {
  std::string bytes(size, '\0');
  for (size_t have = 0; have < size;) {
    pollfd source = {fd, POLLIN, 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - SteadyNow());
    if (left <= 0) return absl::DeadlineExceededError("no answer in time");
    if (poll(&source, 1, static_cast<int>(left)) <= 0) continue;
    const ssize_t got = recv(fd, bytes.data() + have, size - have, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got < 0) return ErrnoStatus("cannot read");
    if (got == 0) return absl::UnavailableError("the connection was closed");
    have += static_cast<size_t>(got);
  }
  return bytes;
}

absl::StatusOr<Frame> ReadFrame(int fd, absl::Time deadline) {
  GODWIT_ASSIGN_OR_RETURN(const std::string head, ReadExactly(fd, kFrameHead, deadline));
  const uint32_t length = ReadBig(head.substr(0, 3));
  if (length > kMaxFrame) return absl::InternalError("what answers does not speak HTTP/2");
  Frame frame = {.type = static_cast<uint8_t>(head[3]),
                 .flags = static_cast<uint8_t>(head[4]),
                 .stream = ReadBig(head.substr(5)) & 0x7fffffff};
  GODWIT_ASSIGN_OR_RETURN(frame.payload, ReadExactly(fd, length, deadline));
  return frame;
}

// The payload of a DATA frame without its padding.
absl::string_view DataOf(const Frame& frame) {
  absl::string_view data = frame.payload;
  if ((frame.flags & kPadded) == 0) return data;
  const size_t padding = data.empty() ? 0 : static_cast<unsigned char>(data[0]) + size_t{1};
  return padding > data.size() ? "" : data.substr(1, data.size() - padding);
}

absl::StatusOr<std::string> ReadAnswer(int fd, absl::Time deadline) {
  std::string body;
  while (true) {
    GODWIT_ASSIGN_OR_RETURN(const Frame frame, ReadFrame(fd, deadline));
    if (frame.type == kGoAway || frame.type == kReset) return absl::InternalError("the call was refused");
    if ((frame.type == kSettings || frame.type == kPing) && (frame.flags & kAck) == 0) {
      const Frame ack = {
          .type = frame.type, .flags = kAck, .payload = frame.type == kPing ? frame.payload : ""};
      (void)SendAll(fd, Encode(ack));  // a peer that has closed already may have answered before
    }
    if (frame.stream != 1) continue;
    if (frame.type == kData) absl::StrAppend(&body, DataOf(frame));
    if (body.size() > kMaxGrpcReply) return absl::ResourceExhaustedError("the answer is too long");
    const bool may_end = frame.type == kData || frame.type == kHeaders;
    if (may_end && (frame.flags & kEndStream) != 0) return body;
  }
}

}  // namespace

absl::StatusOr<std::string> CallGrpc(const std::string& socket, const std::string& method,
                                     absl::string_view request, absl::Duration limit) {
  const absl::Time deadline = SteadyNow() + limit;
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd connection, ConnectUnix(socket, limit));
  GODWIT_RETURN_IF_ERROR(SendAll(connection.get(), Opening(method, request)));
  absl::StatusOr<std::string> body = ReadAnswer(connection.get(), deadline);
  if (!body.ok()) return Annotate(body.status(), absl::StrCat("call of ", method, " at ", socket));
  // One message: u8 compressed, u32 length, bytes. A call that failed has trailers and no message.
  if (body->size() < 5 || (*body)[0] != 0 || ReadBig(body->substr(1, 4)) != body->size() - 5) {
    return absl::InternalError(
        absl::StrCat("call of ", method, " at ", socket, " was not answered with a message"));
  }
  return body->substr(5);
}

}  // namespace godwit::install
