// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/tcp.h"
#include "base/clock.h"
#include "base/failpoint.h"
#include "base/status.h"

namespace godwit::transfer {

namespace {

// A TLS record is at most 16 KiB; the socket is given and asked for many at a time.
constexpr size_t kSocketBytes = 128u << 10;
constexpr int kShortQueueBytes = 256 << 10;

// Puts the session on the socket, with a buffer on either side.
bool Join(SSL* ssl, int socket) {
  if (SSL_set_fd(ssl, socket) != 1) return false;
  SSL_set_read_ahead(ssl, 1);
  SSL_set_default_read_buffer_len(ssl, kSocketBytes);
  BIO* buffer = BIO_new(BIO_f_buffer());
  if (buffer == nullptr || BIO_set_write_buffer_size(buffer, kSocketBytes) != 1) {
    BIO_free(buffer);
    return false;
  }
  BIO* to_socket = SSL_get_wbio(ssl);
  BIO_up_ref(to_socket);  // SSL_set0_wbio lets go of it
  SSL_set0_wbio(ssl, BIO_push(buffer, to_socket));
  return true;
}

}  // namespace

Stream::Stream(UniqueFd socket, tls::ContextPointer context, tls::SslPointer ssl)
    : socket_(std::move(socket)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      context_(std::move(context)),
      ssl_(std::move(ssl)) {}

Stream::~Stream() { Shutdown(); }

absl::StatusOr<std::unique_ptr<Stream>> Stream::Connect(tls::Identity& identity, const std::string& address,
                                                        const std::string& node, absl::Time deadline) {
  const std::string what = absl::StrCat("cannot connect to the agent of node ", node, " at ", address);
  IgnoreBrokenPipes();
  GODWIT_ASSIGN_OR_RETURN(tls::ContextPointer context, identity.ClientContext());
  absl::StatusOr<UniqueFd> socket = ConnectTcp(address, deadline);
  if (!socket.ok()) return Annotate(socket.status(), what);
  tls::SslPointer ssl(SSL_new(context.get()));
  if (ssl == nullptr || !Join(ssl.get(), socket->get())) {
    return absl::InternalError(absl::StrCat(what, ": ", tls::OpenSslErrors()));
  }
  const std::string name = tls::AgentName(node);
  SSL_set_tlsext_host_name(ssl.get(), name.c_str());
  std::unique_ptr<Stream> stream(new Stream(*std::move(socket), std::move(context), std::move(ssl)));
  absl::Status status = stream->Handshake(deadline);
  if (status.ok()) {
    absl::MutexLock lock(&stream->ssl_mutex_);
    status = tls::CheckPeerName(stream->ssl_.get(), name);
  }
  if (!status.ok()) return Annotate(status, what);
  stream->peer_node_ = node;
  return stream;
}

bool Stream::Attach(SSL* ssl, int socket) { return SetSocketOptions(socket).ok() && Join(ssl, socket); }

absl::StatusOr<std::unique_ptr<Stream>> Stream::Admitted(TlsGuest guest) {
  std::unique_ptr<Stream> stream(new Stream(std::move(guest.socket), nullptr, std::move(guest.ssl)));
  absl::MutexLock lock(&stream->ssl_mutex_);
  GODWIT_ASSIGN_OR_RETURN(stream->peer_node_, tls::PeerNode(stream->ssl_.get()));
  return stream;
}

void Stream::Shutdown() {
  if (shut_down_.exchange(true)) return;
  {
    absl::MutexLock lock(&ssl_mutex_);
    ERR_clear_error();
    SSL_shutdown(ssl_.get());  // says goodbye where the socket takes it at once
    ERR_clear_error();
  }
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
  shutdown(socket_.get(), SHUT_WR);
  absl::MutexLock lock(&sides_mutex_);
  for (const std::shared_ptr<Stream>& side : sides_) side->Shutdown();
}

void Stream::AddSide(std::shared_ptr<Stream> side) {
  absl::MutexLock lock(&sides_mutex_);
  if (shut_down_) side->Shutdown();  // nobody will do so after this
  sides_.push_back(std::move(side));
  lanes_ = sides_.size() + 1;
}

size_t Stream::lanes() const {
  absl::MutexLock lock(&sides_mutex_);
  return lanes_;
}

std::shared_ptr<Stream> Stream::Side(size_t lane) const {
  absl::MutexLock lock(&sides_mutex_);
  return sides_[lane - 1];
}

absl::Status Stream::SendPages(size_t lane, absl::Span<const absl::string_view> parts, absl::Time deadline) {
  if (lane == 0) return Send(FrameType::kPages, parts, deadline);
  const std::shared_ptr<Stream> side = Side(lane);
  const absl::Status status = side->Send(FrameType::kPages, parts, deadline);
  if (status.ok())
    ++side->page_frames_;
  else
    Shutdown();
  return status;
}

absl::Status Stream::JoinLanes(absl::Time deadline) {
  SideFrames sides;
  {
    absl::MutexLock lock(&sides_mutex_);
    if (lanes_ == 1) return absl::OkStatus();
    for (const std::shared_ptr<Stream>& side : sides_) sides.frames.push_back(side->page_frames_);
  }
  if (joined_ == sides.frames) return absl::OkStatus();
  joined_ = sides.frames;
  return SendMessage(FrameType::kSides, sides, deadline);
}

void Stream::EndSides() {
  absl::MutexLock lock(&sides_mutex_);
  lanes_ = 1;
}

void Stream::DropSides() {
  absl::MutexLock lock(&sides_mutex_);
  for (const std::shared_ptr<Stream>& side : sides_) {
    side->Shutdown();
    bytes_sent_ += side->bytes_sent_;
    bytes_received_ += side->bytes_received_;
  }
  sides_.clear();
  lanes_ = 1;
}

int64_t Stream::bytes_sent() const {
  absl::MutexLock lock(&sides_mutex_);
  int64_t bytes = bytes_sent_;
  for (const std::shared_ptr<Stream>& side : sides_) bytes += side->bytes_sent_;
  return bytes;
}

int64_t Stream::bytes_received() const {
  absl::MutexLock lock(&sides_mutex_);
  int64_t bytes = bytes_received_;
  for (const std::shared_ptr<Stream>& side : sides_) bytes += side->bytes_received_;
  return bytes;
}

LinkUse Stream::link_use(size_t lane) const {
  return LinkUseOf(lane == 0 ? socket_.get() : Side(lane)->socket_.get());
}

void Stream::KeepQueueShort() {
  const int bytes = kShortQueueBytes;
  setsockopt(socket_.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);  // only a matter of speed
}

absl::Status Stream::AwaitSocket(short events, absl::Time deadline) {
  const absl::Time stalled = events == POLLOUT ? SteadyNow() + stall_limit_ : absl::InfiniteFuture();
  deadline = std::min(deadline, stalled);
  for (;;) {
    const absl::Duration left = deadline - SteadyNow();
    pollfd polled[] = {{socket_.get(), events, 0}, {wake_.get(), POLLIN, 0}};
    const int64_t limit =
        std::clamp<int64_t>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))), 0, 60'000);
    const int ready = poll(polled, 2, static_cast<int>(limit));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("cannot wait for the stream");
    if (shut_down_) return absl::CancelledError("the stream was shut down");
    if (ready > 0) return absl::OkStatus();
    if (SteadyNow() < deadline) continue;
    if (deadline < stalled) return absl::DeadlineExceededError("the peer was too slow");
    return absl::DeadlineExceededError(absl::StrCat("the peer is connected, but has taken nothing for ",
                                                    absl::FormatDuration(stall_limit_)));
  }
}

absl::Status Stream::Step(const std::function<int(SSL*)>& call, Direction direction, absl::Time deadline,
                          bool& done) {
  int error = SSL_ERROR_NONE;
  int error_number = 0;
  std::string text;
  {
    absl::MutexLock lock(&ssl_mutex_);
    if (shut_down_) return absl::CancelledError("the stream was shut down");
    ERR_clear_error();
    errno = 0;
    const int result = call(ssl_.get());
    error_number = errno;
    error = SSL_get_error(ssl_.get(), result);
    if (error == SSL_ERROR_SSL) {
      const long verified = SSL_get_verify_result(ssl_.get());
      text = verified == X509_V_OK ? tls::OpenSslErrors() : X509_verify_cert_error_string(verified);
    }
  }
  done = error == SSL_ERROR_NONE;
  switch (error) {
    case SSL_ERROR_NONE: return absl::OkStatus();
    case SSL_ERROR_WANT_READ: return AwaitSocket(POLLIN, deadline);
    case SSL_ERROR_WANT_WRITE: return AwaitSocket(POLLOUT, deadline);
    case SSL_ERROR_ZERO_RETURN: return absl::UnavailableError("the peer closed the connection");
    case SSL_ERROR_SYSCALL:
      if (error_number == 0) return absl::UnavailableError("the connection was cut");
      return absl::UnavailableError(
          ErrnoStatus(error_number, direction == Direction::kRead ? "cannot receive" : "cannot send")
              .message());
    default: return absl::UnavailableError(absl::StrCat("TLS: ", text));
  }
}

absl::Status Stream::Handshake(absl::Time deadline) {
  for (bool done = false; !done;) {
    const absl::Status status =
        Step([](SSL* ssl) { return SSL_connect(ssl); }, Direction::kRead, deadline, done);
    if (!status.ok()) return Annotate(status, "TLS handshake");
  }
  return absl::OkStatus();
}

absl::Status Stream::Write(absl::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    size_t written = 0;
    bool done = false;
    GODWIT_RETURN_IF_ERROR(
        Step([&](SSL* ssl) { return SSL_write_ex(ssl, bytes.data(), bytes.size(), &written); },
             Direction::kWrite, deadline, done));
    if (done) bytes.remove_prefix(written);
  }
  return absl::OkStatus();
}

absl::Status Stream::Flush(absl::Time deadline) {
  for (;;) {
    {
      absl::MutexLock lock(&ssl_mutex_);
      if (shut_down_) return absl::CancelledError("the stream was shut down");
      BIO* buffer = SSL_get_wbio(ssl_.get());
      ERR_clear_error();
      errno = 0;
      if (BIO_flush(buffer) == 1) return absl::OkStatus();
      if (!BIO_should_retry(buffer)) return absl::UnavailableError(ErrnoStatus("cannot send").message());
    }
    GODWIT_RETURN_IF_ERROR(AwaitSocket(POLLOUT, deadline));
  }
}

absl::Status Stream::Put(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline) {
  const HeaderBytes header = EncodeHeader(type, parts);
  // Small parts travel with the header in one TLS record.
  std::string head(header.data(), header.size());
  size_t next = 0;
  while (next < parts.size() && parts[next].size() <= 4096) absl::StrAppend(&head, parts[next++]);
  if (GODWIT_CORRUPTS(absl::StrCat("stream.", FrameTypeName(type)), "any")) head.back() ^= 1;
  GODWIT_RETURN_IF_ERROR(Write(head, deadline));
  int64_t sent = static_cast<int64_t>(head.size());
  for (; next < parts.size(); ++next) {
    GODWIT_RETURN_IF_ERROR(Write(parts[next], deadline));
    sent += static_cast<int64_t>(parts[next].size());
  }
  bytes_sent_ += sent;
  return absl::OkStatus();
}

absl::Status Stream::Fail(FrameType type, const absl::Status& status) {
  Shutdown();
  return Annotate(status, absl::StrCat("cannot send ", FrameTypeName(type)));
}

absl::Status Stream::Send(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline) {
  absl::MutexLock lock(&send_mutex_);
  absl::Status status = Put(type, parts, deadline);
  if (status.ok()) status = Flush(deadline);
  return status.ok() ? status : Fail(type, status);
}

absl::Status Stream::Queue(FrameType type, absl::Span<const absl::string_view> parts, absl::Time deadline) {
  absl::MutexLock lock(&send_mutex_);
  const absl::Status status = Put(type, parts, deadline);
  return status.ok() ? status : Fail(type, status);
}

absl::Status Stream::Fill(char* to, size_t size, size_t& filled, absl::Time deadline) {
  while (filled < size) {
    size_t got = 0;
    bool done = false;
    GODWIT_RETURN_IF_ERROR(Step([&](SSL* ssl) { return SSL_read_ex(ssl, to + filled, size - filled, &got); },
                                Direction::kRead, deadline, done));
    if (done) filled += got;
  }
  return absl::OkStatus();
}

absl::StatusOr<Frame> Stream::Receive(absl::Time deadline) {
  Frame frame;
  GODWIT_RETURN_IF_ERROR(Receive(frame, deadline));
  return frame;
}

absl::Status Stream::Receive(Frame& frame, absl::Time deadline) {
  for (;;) {
    if (header_filled_ < header_.size()) {
      GODWIT_RETURN_IF_ERROR(Fill(header_.data(), header_.size(), header_filled_, deadline));
      GODWIT_ASSIGN_OR_RETURN(decoded_, DecodeHeader({header_.data(), header_.size()}));
      payload_.resize(decoded_.length);
      payload_filled_ = 0;
    }
    GODWIT_RETURN_IF_ERROR(Fill(payload_.data(), payload_.size(), payload_filled_, deadline));
    GODWIT_RETURN_IF_ERROR(CheckPayload({header_.data(), header_.size()}, decoded_, payload_));
    header_filled_ = 0;
    bytes_received_ += static_cast<int64_t>(kFrameHeaderBytes + payload_.size());
    if (decoded_.type == FrameType::kPing) continue;
    frame.type = decoded_.type;
    frame.payload.swap(payload_);
    return absl::OkStatus();
  }
}

}  // namespace godwit::transfer
