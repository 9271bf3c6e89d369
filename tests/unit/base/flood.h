// SPDX-License-Identifier: Apache-2.0
// Somebody who opens connections and says little.
#pragma once

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/file.h"
#include "gtest/gtest.h"

namespace godwit {

inline UniqueFd Connect(int port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0) << port;
  return fd;
}

// Connections to 127.0.0.1 that each say `words` and then nothing.
inline std::vector<UniqueFd> Flood(int port, int count, absl::string_view words = "") {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  std::vector<UniqueFd> connections;
  for (int i = 0; i < count; ++i) {
    connections.push_back(Connect(port));
    EXPECT_EQ(send(connections.back().get(), words.data(), words.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(words.size()));
  }
  return connections;
}

// The beginning of a TLS handshake: a record that announces 512 bytes, and not all of them.
inline constexpr absl::string_view kHalfHello("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);

}  // namespace godwit
