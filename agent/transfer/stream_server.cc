// SPDX-License-Identifier: Apache-2.0
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "absl/time/clock.h"
#include "agent/transfer/stream.h"
#include "agent/transfer/tcp.h"
#include "base/log.h"

namespace godwit::transfer {
namespace {

constexpr int kMaxConnections = 64;
constexpr absl::Duration kHandshakeLimit = absl::Seconds(10);

}  // namespace

absl::StatusOr<std::unique_ptr<StreamServer>> StreamServer::Start(tls::Identity& identity,
                                                                  const std::string& address, uint16_t port,
                                                                  Serve serve) {
  IgnoreBrokenPipes();
  GODWIT_ASSIGN_OR_RETURN(tls::ContextPointer context, identity.ServerContext());
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenTcp(address, port));
  return std::unique_ptr<StreamServer>(
      new StreamServer(std::move(listener), port, std::move(context), std::move(serve)));
}

StreamServer::StreamServer(UniqueFd listener, uint16_t port, tls::ContextPointer context, Serve serve)
    : listener_(std::move(listener)),
      port_(port),
      context_(std::move(context)),
      serve_(std::move(serve)),
      thread_([this] { AcceptLoop(); }) {}

StreamServer::~StreamServer() {
  std::vector<std::shared_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    streams = streams_;
  }
  shutdown(listener_.get(), SHUT_RDWR);  // wakes the accepting thread
  thread_.join();
  for (const auto& stream : streams) stream->Shutdown();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &StreamServer::Idle));
}

bool StreamServer::Enter() {
  absl::MutexLock lock(&mutex_);
  if (stopping_ || connections_ >= kMaxConnections) return false;
  ++connections_;
  return true;
}

void StreamServer::Leave(const std::shared_ptr<Stream>& stream) {
  absl::MutexLock lock(&mutex_);
  std::erase(streams_, stream);
  --connections_;
}

void StreamServer::AcceptLoop() {
  for (;;) {
    pollfd polled{listener_.get(), POLLIN, 0};
    poll(&polled, 1, -1);
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.ok()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) absl::SleepFor(absl::Milliseconds(100));
      continue;
    }
    if (!Enter()) {
      LOG(WARNING) << Log("refused a stream: too many are open").With("limit", kMaxConnections);
      continue;
    }
    std::thread([this, moved = std::move(socket)]() mutable { ServeOne(std::move(moved)); }).detach();
  }
}

void StreamServer::ServeOne(UniqueFd socket) {
  absl::StatusOr<std::unique_ptr<Stream>> accepted =
      Stream::Accept(context_.get(), std::move(socket), absl::Now() + kHandshakeLimit);
  std::shared_ptr<Stream> stream;
  if (accepted.ok()) {
    stream = *std::move(accepted);
    bool stopping = false;
    {
      absl::MutexLock lock(&mutex_);
      stopping = stopping_;
      streams_.push_back(stream);
    }
    if (!stopping) serve_(stream);
    stream->Shutdown();
  } else {
    LOG(WARNING) << Log("refused a stream").With(accepted.status());
  }
  Leave(stream);
}

}  // namespace godwit::transfer
