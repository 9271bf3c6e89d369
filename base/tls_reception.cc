// SPDX-License-Identifier: Apache-2.0
#include "base/tls_reception.h"

#include <utility>

#include "absl/log/log.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "openssl/err.h"
#include "openssl/x509.h"

namespace godwit {
namespace {

struct House {
  std::string name;
  ContextPointer context;
  Admit admit;
};

std::string WhyRefused(const SSL* ssl) {
  const long verified = SSL_get_verify_result(ssl);
  if (verified != X509_V_OK) return X509_verify_cert_error_string(verified);
  char text[256] = "";
  ERR_error_string_n(ERR_peek_error(), text, sizeof(text));
  return text;
}

class Handshake final : public Reception::Guest {
 public:
  Handshake(const House& house, TlsGuest guest) : house_(house), guest_(std::move(guest)) {}
  int fd() const override { return guest_.socket.get(); }

  Next Go() override {
    ERR_clear_error();
    const int result = SSL_accept(guest_.ssl.get());
    if (result == 1) {
      house_.admit(std::move(guest_));
      return Next::kLeave;
    }
    const int error = SSL_get_error(guest_.ssl.get(), result);
    if (error == SSL_ERROR_WANT_READ) return Next::kRead;
    if (error == SSL_ERROR_WANT_WRITE) return Next::kWrite;
    if (error == SSL_ERROR_SSL) {
      LOG_EVERY_N_SEC(WARNING, 1) << Log("refused a connection")
                                         .With("port", house_.name)
                                         .With("from", guest_.from)
                                         .With("why", WhyRefused(guest_.ssl.get()));
    }
    ERR_clear_error();
    return Next::kLeave;
  }

 private:
  const House& house_;
  TlsGuest guest_;
};

}  // namespace

std::unique_ptr<Reception> ReceiveTls(absl::string_view name, UniqueFd listener, ContextPointer context,
                                      Admit admit, Attach attach, const Reception::Limits& limits) {
  if (!attach) attach = [](SSL* ssl, int socket) { return SSL_set_fd(ssl, socket) == 1; };
  // Shared, as a std::function must be copied; guests go before it does.
  auto house = std::make_shared<const House>(House{std::string(name), std::move(context), std::move(admit)});
  auto welcome = [house, attach = std::move(attach)](
                     UniqueFd socket, const std::string& from) -> std::unique_ptr<Reception::Guest> {
    SslPointer ssl(SSL_new(house->context.get()));
    if (ssl == nullptr || !attach(ssl.get(), socket.get())) {
      ERR_clear_error();
      return nullptr;
    }
    return std::make_unique<Handshake>(*house, TlsGuest{std::move(socket), std::move(ssl), from});
  };
  return std::make_unique<Reception>(name, std::move(listener), std::move(welcome), limits);
}

}  // namespace godwit
