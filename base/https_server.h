// SPDX-License-Identifier: Apache-2.0
// An httplib::Server behind a TLS reception: a request gets a thread only after its connection's handshake,
// has a deadline as a whole, and no caller gets all threads. Routes are set as with any httplib::Server;
// requests carry their session (Request::ssl).
#pragma once

#include <httplib.h>

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/openssl.h"
#include "base/tls_reception.h"

namespace godwit {

class HttpsServer : public httplib::Server {
 public:
  struct Limits {
    size_t connections = 128;
    size_t of_one = 64;  // of one caller; a newer one ends his oldest
    absl::Duration idle = absl::Seconds(10);
    absl::Duration reading = absl::Seconds(15);  // a whole request
    absl::Duration writing = absl::Seconds(15);  // a whole answer
    int requests = 100;                          // on one connection
  };
  // By what callers are told apart, after their handshake; `from` is their PeerAddress.
  using Caller = std::function<std::string(const SSL* ssl, const std::string& from)>;

  HttpsServer(Caller caller, const Limits& limits) : caller_(std::move(caller)), limits_(limits) {}
  ~HttpsServer() override { Close(); }

  // Port 0 takes a free one. An empty address: every one of the machine.
  absl::Status Open(const std::string& address, int port, ContextPointer context);
  // Ends the connections, and returns when the requests in work are answered or given up.
  void Close();
  int tls_port() const { return port_; }

 private:
  class Connection;

  void Enter(TlsGuest guest);
  void Serve(Connection& connection);
  void Leave(const std::shared_ptr<Connection>& connection);

  const Caller caller_;
  const Limits limits_;
  uint16_t port_ = 0;
  std::unique_ptr<Reception> reception_;
  absl::Mutex mutex_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);  // the oldest first
};

}  // namespace godwit
