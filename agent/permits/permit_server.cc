// SPDX-License-Identifier: Apache-2.0
#include "agent/permits/permit_server.h"

#include <sys/socket.h>

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/log.h"
#include "base/socket.h"
#include "base/status.h"

namespace godwit::permits {

namespace {
// A runtime reads its reply at once, or it is stuck and shall not hold the table's lock.
constexpr absl::Duration kWriteLimit = absl::Seconds(2);
}  // namespace

class PermitServer::Connection final : public RuntimePeer {
 public:
  explicit Connection(UniqueFd socket) : channel_(std::move(socket), kMaxRequest) {}

  void Reply(const agent_api::RuntimeReply& reply) override {
    absl::MutexLock lock(&write_mutex_);
    if (absl::Status status = channel_.WriteLine(json::Encode(reply), kWriteLimit); !status.ok()) {
      channel_.Shutdown();  // its reader sees the end, and OnClosed says what that means
    }
  }
  absl::StatusOr<std::string> Read() { return channel_.ReadLine(absl::InfiniteDuration()); }
  void Shutdown() { channel_.Shutdown(); }

 private:
  absl::Mutex write_mutex_;
  LineChannel channel_;
};

absl::StatusOr<std::unique_ptr<PermitServer>> PermitServer::Start(const std::string& path,
                                                                  PermitTable* table) {
  GODWIT_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(path).parent_path(), 0755));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(path, 0600));
  std::unique_ptr<PermitServer> server(new PermitServer(std::move(listener), table));
  server->acceptor_ = std::thread([raw = server.get()] { raw->AcceptLoop(); });
  return server;
}

PermitServer::~PermitServer() {
  shutdown(listener_.get(), SHUT_RDWR);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    for (const auto& connection : connections_) connection->Shutdown();
  }
  acceptor_.join();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](absl::flat_hash_set<std::shared_ptr<Connection>>* connections) { return connections->empty(); },
      &connections_));
}

void PermitServer::AcceptLoop() {
  while (true) {
    absl::StatusOr<UniqueFd> socket = AcceptUnix(listener_.get(), absl::InfiniteDuration());
    if (!socket.ok()) {
      absl::MutexLock lock(&mutex_);
      if (stopping_ || absl::IsCancelled(socket.status())) return;
      LOG(ERROR) << Log("cannot accept a runtime's connection").With(socket.status());
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::Seconds(1));  // out of descriptors, perhaps
      continue;
    }
    absl::StatusOr<PeerCredentials> peer = PeerOf(socket->get());
    if (!peer.ok() || peer->uid != 0) {
      LOG(WARNING) << Log("refused a connection that is not root's").With("uid", peer.ok() ? peer->uid : 0);
      continue;
    }
    auto connection = std::make_shared<Connection>(*std::move(socket));
    absl::MutexLock lock(&mutex_);
    if (stopping_) return;
    if (connections_.size() >= kMaxConnections) {
      LOG(WARNING) << Log("refused a connection: too many").With("connections", connections_.size());
      continue;
    }
    connections_.insert(connection);
    std::thread([this, connection] { Serve(connection); }).detach();  // the destructor waits for connections_
  }
}

void PermitServer::Serve(const std::shared_ptr<Connection>& connection) {
  while (true) {
    absl::StatusOr<std::string> line = connection->Read();
    if (!line.ok()) break;
    absl::StatusOr<agent_api::RuntimeRequest> request =
        json::Decode<agent_api::RuntimeRequest>(*line, {.max_bytes = kMaxRequest, .max_depth = 8});
    if (!request.ok()) {
      connection->Reply({.action = agent_api::RuntimeAction::kRefuse,
                         .message = absl::StrCat("not a request: ", request.status().message())});
      break;
    }
    table_->OnRequest(connection, *request);
  }
  connection->Shutdown();
  table_->OnClosed(connection);
  absl::MutexLock lock(&mutex_);
  connections_.erase(connection);
}

}  // namespace godwit::permits
