// SPDX-License-Identifier: Apache-2.0
// Bearer tokens, also those that are rotated in their file while we run.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace godwit::k8s {

// Thread-safe.
class TokenSource {
 public:
  virtual ~TokenSource() = default;
  virtual absl::StatusOr<std::string> Token() = 0;
  // The server refused `token`: do not answer it from memory again.
  virtual void Refused(const std::string& token) = 0;
};

// A token that never changes.
std::shared_ptr<TokenSource> StaticToken(std::string token);

// A token in a file that kubelet replaces: read again when a minute has passed since the last look, and when
// refused. When the file cannot be read the last good token is used on.
class FileToken : public TokenSource {
 public:
  explicit FileToken(std::string path, Clock& clock = Clock::Real())
      : path_(std::move(path)), clock_(clock) {}
  absl::StatusOr<std::string> Token() override;
  void Refused(const std::string& token) override;

 private:
  const std::string path_;
  Clock& clock_;
  absl::Mutex mutex_;
  std::string token_ ABSL_GUARDED_BY(mutex_);
  absl::Duration read_at_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();  // monotonic
};

}  // namespace godwit::k8s
