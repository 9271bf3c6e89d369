// SPDX-License-Identifier: Apache-2.0
#include "k8s/token.h"

#include "absl/log/log.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::k8s {
namespace {

constexpr absl::Duration kReadAgainAfter = absl::Minutes(1);
constexpr size_t kMaxTokenBytes = 64 << 10;

class FixedToken : public TokenSource {
 public:
  explicit FixedToken(std::string token) : token_(std::move(token)) {}
  absl::StatusOr<std::string> Token() override { return token_; }
  void Refused(const std::string&) override {}

 private:
  const std::string token_;
};

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxTokenBytes);
  if (!text.ok()) return Annotate(text.status(), absl::StrCat("cannot read the bearer token ", path));
  std::string token(absl::StripAsciiWhitespace(*text));
  if (token.empty())
    return absl::FailedPreconditionError(absl::StrCat("the bearer token file ", path, " is empty"));
  for (char c : token) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) {
      return absl::FailedPreconditionError(
          absl::StrCat("the bearer token file ", path, " holds more than one line"));
    }
  }
  return token;
}

}  // namespace

std::shared_ptr<TokenSource> StaticToken(std::string token) {
  return std::make_shared<FixedToken>(std::move(token));
}

absl::StatusOr<std::string> FileToken::Token() {
  absl::MutexLock lock(&mutex_);
  const absl::Duration now = clock_.Monotonic();
  if (!token_.empty() && now - read_at_ < kReadAgainAfter) return token_;
  absl::StatusOr<std::string> token = ReadToken(path_);
  if (!token.ok() && token_.empty()) return token.status();
  if (!token.ok()) LOG(WARNING) << Log("token not read again, using the last one").With(token.status());
  if (token.ok()) token_ = *std::move(token);
  read_at_ = now;
  return token_;
}

void FileToken::Refused(const std::string& token) {
  absl::MutexLock lock(&mutex_);
  if (token == token_) read_at_ = -absl::InfiniteDuration();
}

}  // namespace godwit::k8s
