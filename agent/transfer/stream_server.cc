// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <thread>

#include "absl/log/log.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/tcp.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/tcp_listener.h"

namespace godwit::transfer {

absl::StatusOr<std::unique_ptr<StreamServer>> StreamServer::Start(tls::Identity& identity,
                                                                  const std::string& address, uint16_t port,
                                                                  Serve serve) {
  IgnoreBrokenPipes();
  GODWIT_ASSIGN_OR_RETURN(tls::ContextPointer context, identity.ServerContext());
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenTcp(address, port));
  std::unique_ptr<StreamServer> server(new StreamServer(port, std::move(serve)));
  server->reception_ = ReceiveTls(
      "stream", std::move(listener), std::move(context),
      [raw = server.get()](TlsGuest guest) { raw->Enter(std::move(guest)); }, Stream::Attach);
  return server;
}

StreamServer::~StreamServer() {
  reception_.reset();
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
  for (const auto& stream : streams_) stream->Shutdown();
  mutex_.Await(absl::Condition(this, &StreamServer::Idle));
}

// Whether fewer than one in `part` of the places that `node` may have are taken.
bool StreamServer::HasRoom(const std::string& node, int part) const {
  const auto of_node = std::count_if(streams_.begin(), streams_.end(),
                                     [&node](const auto& stream) { return stream->peer_node() == node; });
  return !stopping_ && static_cast<int>(streams_.size()) < kMaxStreams / part &&
         of_node < kMaxStreamsOfOne / part;
}

void StreamServer::Enter(TlsGuest guest) {
  const std::string from = guest.from;
  absl::StatusOr<std::unique_ptr<Stream>> admitted = Stream::Admitted(std::move(guest));
  if (!admitted.ok()) {
    LOG_EVERY_N_SEC(WARNING, 1) << Log("refused a stream").With("from", from).With(admitted.status());
    return;
  }
  const std::shared_ptr<Stream> stream = *std::move(admitted);
  absl::MutexLock lock(&mutex_);
  if (!HasRoom(stream->peer_node(), 1)) {
    LOG_EVERY_N_SEC(WARNING, 1) << Log("refused a stream: too many are open")
                                       .With("peer", stream->peer_node())
                                       .With("limit", kMaxStreams)
                                       .With("of a node", kMaxStreamsOfOne);
    return;
  }
  stream->has_room_for_sides_ = HasRoom(stream->peer_node(), 2);
  streams_.push_back(stream);
  std::thread([this, stream] {
    serve_(stream);
    stream->Shutdown();
    Leave(stream);
  }).detach();  // the destructor waits for streams_
}

void StreamServer::Leave(const std::shared_ptr<Stream>& stream) {
  absl::MutexLock lock(&mutex_);
  std::erase(streams_, stream);
}

}  // namespace godwit::transfer
