// SPDX-License-Identifier: Apache-2.0
// The certificate that a process shows, and the authorities it trusts; replaced as a whole when it is
// renewed.
#pragma once

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace godwit::controller {

// PEM texts.
struct Identity {
  std::string certificate;  // the leaf first
  std::string key;
  std::string authorities;
  absl::Time not_before;
  absl::Time not_after;
};

// Thread-safe. Readers keep what they got.
class IdentityHolder {
 public:
  explicit IdentityHolder(Identity identity) { Set(std::move(identity)); }
  std::shared_ptr<const Identity> Get() const {
    absl::MutexLock lock(&mutex_);
    return identity_;
  }
  void Set(Identity identity) {
    absl::MutexLock lock(&mutex_);
    identity_ = std::make_shared<const Identity>(std::move(identity));
  }

 private:
  mutable absl::Mutex mutex_;
  std::shared_ptr<const Identity> identity_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace godwit::controller
