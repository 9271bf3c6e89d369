// SPDX-License-Identifier: Apache-2.0
// One connection between two agents: frames over TLS 1.3, both sides proven by certificate.
// Threads: any may Send (a frame is never torn by another), one at a time may Receive, any may Shut down.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "agent/tls/identity.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/link_use.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status.h"
#include "base/tls_reception.h"

namespace godwit::transfer {

class Stream {
 public:
  // Connects to "ip:port" or "[ip6]:port" and checks that the agent of `node` is there.
  static absl::StatusOr<std::unique_ptr<Stream>> Connect(tls::Identity& identity, const std::string& address,
                                                         const std::string& node, absl::Time deadline);

  // A server's end: Attach puts a session on an accepted socket, Admitted takes it over after the handshake.
  // The peer must be the agent of some node: peer_node().
  static bool Attach(SSL* ssl, int socket);
  static absl::StatusOr<std::unique_ptr<Stream>> Admitted(TlsGuest guest);

  ~Stream();

  // Sends one frame whose payload is the parts joined. DeadlineExceeded and every other error leave the
  // stream useless.
  absl::Status Send(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline);
  template <class Message>
  absl::Status SendMessage(FrameType type, const Message& message, absl::Time deadline) {
    return Send(type, {json::Encode(message)}, deadline);
  }
  // The same, but the frame may stay here until the next Send, so that many small ones travel together.
  absl::Status Queue(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline);

  // The next frame that is not a PING. DeadlineExceeded may be followed by another Receive; Unavailable: the
  // connection ended; InvalidArgument and DataLoss: the peer sent nonsense. After these the stream is
  // useless.
  absl::StatusOr<Frame> Receive(absl::Time deadline);
  // The same into `frame`, whose payload's memory is used again: for many large frames.
  absl::Status Receive(Frame& frame, absl::Time deadline);

  // Ends both directions, of the side connections too; whoever waits in Send or Receive returns Cancelled.
  // Safe from any thread.
  void Shutdown() ABSL_LOCKS_EXCLUDED(sides_mutex_);

  // Side connections carry PAGES beside this one, so that more than one processor works on either end
  // (docs/stream.md). They end with it.
  void AddSide(std::shared_ptr<Stream> side) ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // How many connections carry PAGES: this one and its sides.
  size_t lanes() const ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // Sends over one of them; 0 is this one. Frames of a lane arrive in their order, those of several in any. A
  // side that fails ends all. Several threads may send, one a lane.
  absl::Status SendPages(size_t lane, absl::Span<const absl::string_view> parts, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // What is sent over this one from now on is taken after all pages that were sent so far. While nobody sends
  // pages.
  absl::Status JoinLanes(absl::Time deadline) ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // From now on this one alone carries pages; after JoinLanes. The sides are left as they are: the peer may
  // be taking their last frames still.
  void EndSides() ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // Ends them.
  void DropSides() ABSL_LOCKS_EXCLUDED(sides_mutex_);
  // Of a server's: there are places left for them that no other stream is likely to need.
  bool has_room_for_sides() const { return has_room_for_sides_; }

  // From now on little is queued here before it is on the wire, so that what is sent next is not held up by
  // it.
  void KeepQueueShort();

  // How long the peer may take nothing at all of what is sent before Send gives up, whatever its deadline: it
  // is connected, but stands still.
  void SetStallLimit(absl::Duration limit) { stall_limit_ = limit; }

  // A number for a file to be sent that no other on this stream has.
  uint32_t NextFileId() { return ++last_file_id_; }

  const std::string& peer_node() const { return peer_node_; }
  // Nothing goes over it any more: it was shut down, or a Send has failed.
  bool down() const { return shut_down_; }
  // With the sides, dropped ones too.
  int64_t bytes_sent() const ABSL_LOCKS_EXCLUDED(sides_mutex_);
  int64_t bytes_received() const ABSL_LOCKS_EXCLUDED(sides_mutex_);
  LinkUse link_use(size_t lane) const ABSL_LOCKS_EXCLUDED(sides_mutex_);

 private:
  friend class StreamServer;
  enum class Direction { kRead, kWrite };

  Stream(UniqueFd socket, tls::ContextPointer context, tls::SslPointer ssl);
  absl::Status Handshake(absl::Time deadline);
  absl::Status Fill(char* to, size_t size, size_t& filled, absl::Time deadline);
  absl::Status Write(absl::string_view bytes, absl::Time deadline);
  // Writes a frame into the buffer, which goes to the socket when it is full.
  absl::Status Put(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  // A frame that could not be sent: half of it may be out, and nothing that follows could be understood.
  absl::Status Fail(FrameType type, const absl::Status& status);
  // One call of an SSL_* function under the lock; then, where it could not go on, waits for the socket.
  absl::Status Step(const std::function<int(SSL*)>& call, Direction direction, absl::Time deadline,
                    bool& done);
  // Hands what the buffer holds to the socket.
  absl::Status Flush(absl::Time deadline);
  absl::Status AwaitSocket(short events, absl::Time deadline);
  std::shared_ptr<Stream> Side(size_t lane) const ABSL_LOCKS_EXCLUDED(sides_mutex_);

  UniqueFd socket_;
  UniqueFd wake_;  // an eventfd: readable once the stream was shut down
  std::atomic<bool> shut_down_ = false;
  tls::ContextPointer context_;  // of a client; servers share theirs
  absl::Mutex send_mutex_ ABSL_ACQUIRED_BEFORE(ssl_mutex_);
  absl::Mutex ssl_mutex_;  // held for single calls only, so that a slow reader does not hold up a writer
  tls::SslPointer ssl_ ABSL_GUARDED_BY(ssl_mutex_);
  std::string peer_node_;
  absl::Duration stall_limit_ = absl::Seconds(60);
  std::atomic<uint32_t> last_file_id_ = 0;
  std::atomic<int64_t> bytes_sent_ = 0;
  std::atomic<int64_t> bytes_received_ = 0;

  mutable absl::Mutex sides_mutex_;
  std::vector<std::shared_ptr<Stream>> sides_ ABSL_GUARDED_BY(sides_mutex_);
  size_t lanes_ ABSL_GUARDED_BY(sides_mutex_) = 1;
  bool has_room_for_sides_ = false;
  std::atomic<int64_t> page_frames_ = 0;  // of a side: sent
  std::vector<int64_t> joined_;           // of the thread that calls JoinLanes

  // The frame that Receive is at; kept over a DeadlineExceeded.
  HeaderBytes header_{};
  size_t header_filled_ = 0;
  FrameHeader decoded_;
  std::string payload_;
  size_t payload_filled_ = 0;
};

// Reads a JSON payload.
template <class Message>
absl::StatusOr<Message> DecodeMessage(const Frame& frame) {
  absl::StatusOr<Message> message =
      json::Decode<Message>(frame.payload, {.max_bytes = kMaxMessageBytes, .max_depth = 8});
  if (!message.ok()) {
    return Annotate(message.status(), absl::StrCat("payload of a ", FrameTypeName(frame.type), " frame"));
  }
  return message;
}

// Listens and hands each connection that proved to be an agent's to `serve`, in a thread of its own. A node
// has only so many at a time: one that is not to be trusted keeps out no other.
class StreamServer {
 public:
  using Serve = std::function<void(std::shared_ptr<Stream>)>;
  static constexpr int kMaxStreams = 256;
  static constexpr int kMaxStreamsOfOne = 64;

  // Port 0 takes a free one. An empty address is every one of this machine.
  static absl::StatusOr<std::unique_ptr<StreamServer>> Start(tls::Identity& identity,
                                                             const std::string& address, uint16_t port,
                                                             Serve serve);
  // Shuts all streams down and waits until every Serve has returned.
  ~StreamServer();

  uint16_t port() const { return port_; }

 private:
  StreamServer(uint16_t port, Serve serve) : port_(port), serve_(std::move(serve)) {}
  void Enter(TlsGuest guest);
  bool HasRoom(const std::string& node, int part) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Leave(const std::shared_ptr<Stream>& stream);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_.empty(); }

  const uint16_t port_;
  const Serve serve_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Reception> reception_;
};

}  // namespace godwit::transfer
