// SPDX-License-Identifier: Apache-2.0
#include "tests/apiserver/relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "absl/log/check.h"

namespace godwit::apiserver {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{.sin_family = AF_INET};
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// So that closing the socket resets the connection.
void ResetOnClose(int fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

}  // namespace

Relay::Relay(int target_port)
    : target_port_(target_port),
      listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  CHECK_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
  CHECK_EQ(listen(listener_.get(), 64), 0);
  CHECK_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

Relay::~Relay() {
  stop_ = true;
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void Relay::Cut() {
  cut_ = true;
  absl::MutexLock lock(&mutex_);
  for (const Pair& pair : pairs_) {
    shutdown(pair.client.get(), SHUT_RDWR);  // Run sees the end and drops the pair
  }
}

void Relay::Mend() { cut_ = false; }

int Relay::open() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(pairs_.size());
}

void Relay::Accept() {
  UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client.ok()) return;
  ResetOnClose(client.get());
  if (cut_) {
    ++refused_;
    return;
  }
  UniqueFd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = Loopback(target_port_);
  if (connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return;
  absl::MutexLock lock(&mutex_);
  pairs_.push_back({std::move(client), std::move(server)});
}

bool Relay::Pump(int from, int to) {
  char buffer[64 << 10];
  const ssize_t got = recv(from, buffer, sizeof buffer, MSG_DONTWAIT);
  if (got <= 0) return false;
  for (ssize_t sent = 0; sent < got;) {
    const ssize_t now = send(to, buffer + sent, static_cast<size_t>(got - sent), MSG_NOSIGNAL);
    if (now <= 0) return false;
    sent += now;
  }
  return true;
}

void Relay::Run() {
  while (!stop_) {
    std::vector<pollfd> polled = {{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    std::vector<std::pair<int, int>> ends;
    {
      absl::MutexLock lock(&mutex_);
      for (const Pair& pair : pairs_) {
        ends.emplace_back(pair.client.get(), pair.server.get());
        polled.push_back({pair.client.get(), POLLIN, 0});
        polled.push_back({pair.server.get(), POLLIN, 0});
      }
    }
    if (poll(polled.data(), polled.size(), -1) <= 0) continue;
    std::vector<int> ended;
    for (size_t i = 0; i < ends.size(); ++i) {
      const auto [client, server] = ends[i];
      const bool alive = (polled[2 + 2 * i].revents == 0 || Pump(client, server)) &&
                         (polled[3 + 2 * i].revents == 0 || Pump(server, client));
      if (!alive) ended.push_back(client);
    }
    {
      absl::MutexLock lock(&mutex_);
      for (const int client : ended) {
        std::erase_if(pairs_, [client](const Pair& pair) { return pair.client.get() == client; });
      }
    }
    if (polled[1].revents != 0) Accept();
  }
}

}  // namespace godwit::apiserver
