// SPDX-License-Identifier: Apache-2.0
// How an agent comes by its certificate: it makes a key, asks the controller to sign a request for its own
// name, proving with its pod's token who it is, and asks again when half of the certificate's life is over.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/json.h"

namespace godwit::tls {

// POST https://<controller>/v1/certificates with `Authorization: Bearer <token>`.
struct CertificateRequest {
  std::string request;  // PEM
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("csr", self.request);
  }
};
struct CertificateAnswer {
  std::string certificate;  // PEM: the leaf, then intermediates
  absl::Time not_after;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("certificate", self.certificate);
    field("notAfter", self.not_after);
  }
};

struct BootstrapOptions {
  std::string node;
  std::string controller;  // host:port
  std::string token_file;  // read anew for each request: kubelet rotates it
  std::string authority_file;
  std::string certificate_and_key_file;  // written as a whole, mode 0600; its folder must exist
  absl::Duration request_limit = absl::Seconds(20);
};

// One request; writes certificate_and_key_file. The controller must prove that it is controller.godwit. An
// answer whose certificate is not for this node is refused.
absl::Status ObtainCertificate(const BootstrapOptions& options);

// When a certificate with this life should be replaced: at half of it.
absl::Time RenewalTime(absl::Time not_before, absl::Time not_after);

// Keeps the file fresh for as long as it lives, from a thread of its own. Never gives up; each failure is
// logged.
class CertificateRenewal {
 public:
  // `attempted` is told the outcome of every request, from the thread.
  CertificateRenewal(BootstrapOptions options, std::function<void(const absl::Status&)> attempted);
  ~CertificateRenewal();

  // OK when there is a certificate for this node that has not ended; DeadlineExceeded with the last error
  // otherwise.
  absl::Status AwaitCertificate(absl::Duration limit);

 private:
  void Run();
  bool StopsWithin(absl::Duration duration);
  absl::Duration UntilRenewal() const;

  const BootstrapOptions options_;
  const std::function<void(const absl::Status&)> attempted_;
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool usable_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status last_ ABSL_GUARDED_BY(mutex_) = absl::UnavailableError("no certificate was asked for yet");
  std::thread thread_;
};

}  // namespace godwit::tls
