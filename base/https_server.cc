// SPDX-License-Identifier: Apache-2.0
#include "base/https_server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "base/tcp_listener.h"
#include "openssl/err.h"

namespace godwit {

// A session as httplib reads and writes it, one thread at a time; Shutdown may come from any.
class HttpsServer::Connection final : public httplib::Stream {
 public:
  Connection(TlsGuest guest, std::string caller, absl::Duration writing)
      : socket_(std::move(guest.socket)),
        ssl_(std::move(guest.ssl)),
        from_(std::move(guest.from)),
        caller_(std::move(caller)),
        writing_(writing) {}
  ~Connection() override {
    SSL_shutdown(ssl_.get());  // says goodbye where the socket takes it at once
    ERR_clear_error();
  }

  const std::string& caller() const { return caller_; }
  const std::string& from() const { return from_; }
  const SSL* ssl() const { return ssl_.get(); }

  void SetDeadline(absl::Time deadline) { deadline_ = deadline; }
  void Shutdown() {
    shut_down_ = true;
    shutdown(socket_.get(), SHUT_RDWR);
  }
  bool shut_down() const { return shut_down_; }
  // Something of a next request is there.
  bool Await() { return SSL_pending(ssl_.get()) > 0 || Ready(POLLIN); }

  bool is_readable() const override { return true; }
  bool is_writable() const override { return true; }
  ssize_t read(char* data, size_t size) override {
    size_t done = 0;
    return Step([&] { return SSL_read_ex(ssl_.get(), data, size, &done); }) ? static_cast<ssize_t>(done) : -1;
  }
  ssize_t write(const char* data, size_t size) override {
    deadline_ = std::max(deadline_, SteadyNow() + writing_);  // the answer may have taken its time
    size_t done = 0;
    return Step([&] { return SSL_write_ex(ssl_.get(), data, size, &done); }) ? static_cast<ssize_t>(done)
                                                                             : -1;
  }
  void get_remote_ip_and_port(std::string& ip, int& port) const override {
    ip = from_;
    port = 0;
  }
  void get_local_ip_and_port(std::string& ip, int& port) const override {
    ip.clear();
    port = 0;
  }
  // Not the descriptor's number: httplib refuses those that select(2) could not take.
  socket_t socket() const override { return INVALID_SOCKET; }

 private:
  bool Ready(short events) const {
    for (;;) {
      const absl::Duration left = std::max(absl::ZeroDuration(), deadline_ - SteadyNow());
      pollfd polled{socket_.get(), events, 0};
      const int ready = poll(
          &polled, 1, static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)))));
      if (ready >= 0 || errno != EINTR) return ready > 0 && !shut_down_;
    }
  }
  template <class Call>
  bool Step(Call call) {
    for (;;) {
      ERR_clear_error();
      const int result = call();
      if (result == 1) return true;
      const int error = SSL_get_error(ssl_.get(), result);
      if (error == SSL_ERROR_WANT_READ ? Ready(POLLIN) : error == SSL_ERROR_WANT_WRITE && Ready(POLLOUT))
        continue;
      ERR_clear_error();
      return false;
    }
  }

  const UniqueFd socket_;
  const SslPointer ssl_;
  const std::string from_;
  const std::string caller_;
  const absl::Duration writing_;
  absl::Time deadline_ = absl::InfinitePast();
  std::atomic<bool> shut_down_ = false;
};

absl::Status HttpsServer::Open(const std::string& address, int port, ContextPointer context) {
  port_ = static_cast<uint16_t>(port);
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenTcp(address, port_));
  reception_ = ReceiveTls(absl::StrCat(port_), std::move(listener), std::move(context),
                          [this](TlsGuest guest) { Enter(std::move(guest)); });
  return absl::OkStatus();
}

void HttpsServer::Close() {
  reception_.reset();
  absl::MutexLock lock(&mutex_);
  closing_ = true;
  for (const auto& connection : connections_) connection->Shutdown();
  mutex_.Await(absl::Condition(
      +[](std::list<std::shared_ptr<Connection>>* connections) { return connections->empty(); },
      &connections_));
}

void HttpsServer::Enter(TlsGuest guest) {
  std::string caller = caller_(guest.ssl.get(), guest.from);
  auto connection = std::make_shared<Connection>(std::move(guest), std::move(caller), limits_.writing);
  absl::MutexLock lock(&mutex_);
  if (closing_ || connections_.size() >= limits_.connections) {
    LOG_EVERY_N_SEC(WARNING, 1) << Log("refused a connection: too many are open")
                                       .With("port", port_)
                                       .With("from", connection->from())
                                       .With("limit", limits_.connections);
    return;
  }
  const auto his = [&connection](const std::shared_ptr<Connection>& other) {
    return other->caller() == connection->caller() && !other->shut_down();
  };
  if (static_cast<size_t>(std::count_if(connections_.begin(), connections_.end(), his)) >= limits_.of_one)
    (*std::find_if(connections_.begin(), connections_.end(), his))->Shutdown();
  connections_.push_back(connection);
  std::thread([this, connection] {
    Serve(*connection);
    Leave(connection);
  }).detach();  // Close waits for connections_
}

void HttpsServer::Serve(Connection& connection) {
  for (int left = limits_.requests; left > 0; --left) {
    connection.SetDeadline(SteadyNow() + limits_.idle);
    if (!connection.Await()) return;
    connection.SetDeadline(SteadyNow() + limits_.reading);
    bool closed = false;
    const bool served =
        process_request(connection, connection.from(), 0, "", 0, left == 1, closed,
                        [&connection](httplib::Request& request) { request.ssl = connection.ssl(); });
    if (!served || closed) return;
  }
}

void HttpsServer::Leave(const std::shared_ptr<Connection>& connection) {
  absl::MutexLock lock(&mutex_);
  std::erase(connections_, connection);
}

}  // namespace godwit
