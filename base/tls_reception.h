// SPDX-License-Identifier: Apache-2.0
// A reception that makes TLS handshakes: whoever is admitted has proven what the context asks for.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/openssl.h"
#include "base/reception.h"

namespace godwit {

struct TlsGuest {
  UniqueFd socket;   // non-blocking
  SslPointer ssl;    // on that socket, its handshake made
  std::string from;  // PeerAddress
};

// Called on the reception's thread: must not block.
using Admit = std::function<void(TlsGuest guest)>;
// Puts a session on a socket; false when it cannot. SSL_set_fd, unless buffers are wanted.
using Attach = std::function<bool(SSL* ssl, int socket)>;

// `context` is a server's, and is kept.
std::unique_ptr<Reception> ReceiveTls(absl::string_view name, UniqueFd listener, ContextPointer context,
                                      Admit admit, Attach attach = {}, const Reception::Limits& limits = {});

}  // namespace godwit
