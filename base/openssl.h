// SPDX-License-Identifier: Apache-2.0
// OpenSSL's objects, owned.
#pragma once

#include <memory>

#include "openssl/ssl.h"

namespace godwit {

template <auto Free>
struct OpenSslDeleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using ContextPointer = std::unique_ptr<SSL_CTX, OpenSslDeleter<SSL_CTX_free>>;
using SslPointer = std::unique_ptr<SSL, OpenSslDeleter<SSL_free>>;

}  // namespace godwit
