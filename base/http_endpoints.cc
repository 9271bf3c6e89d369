// SPDX-License-Identifier: Apache-2.0
#include "base/http_endpoints.h"

#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "base/tcp_listener.h"

namespace godwit {
namespace {

constexpr size_t kMaxRequest = 16u << 10;

absl::string_view Phrase(int code) {
  switch (code) {
    case 200: return "OK";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 431: return "Request Header Fields Too Large";
    case 503: return "Service Unavailable";
    default: return "Other";
  }
}

std::string Written(const PlainAnswer& answer, bool with_body) {
  return absl::StrCat("HTTP/1.1 ", answer.code, " ", Phrase(answer.code),
                      "\r\nContent-Type: ", answer.content_type, "\r\nContent-Length: ", answer.body.size(),
                      "\r\nConnection: close\r\n\r\n", with_body ? answer.body : "");
}

}  // namespace

// An answer that another thread makes.
class HttpEndpoints::Making {
 public:
  explicit Making(std::function<PlainAnswer()> answer)
      : done_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), thread_([this, answer = std::move(answer)] {
          answer_ = answer();
          finished_ = true;
          const uint64_t one = 1;
          (void)!write(done_.get(), &one, sizeof(one));
        }) {}
  ~Making() { thread_.join(); }

  int fd() const { return done_.get(); }  // readable, and stays so, when it is finished
  bool finished() const { return finished_; }
  const PlainAnswer& answer() const { return answer_; }  // once finished

 private:
  const UniqueFd done_;
  PlainAnswer answer_;
  std::atomic<bool> finished_ = false;
  std::thread thread_;
};

// One connection: it asks, perhaps waits for the answer, and gets it.
class HttpEndpoints::Visit final : public Reception::Guest {
 public:
  Visit(UniqueFd socket, HttpEndpoints& house) : socket_(std::move(socket)), house_(house) {}
  int fd() const override { return making_ == nullptr ? socket_.get() : making_->fd(); }

  Next Go() override {
    if (making_ != nullptr) {
      if (!making_->finished()) return Next::kRead;
      answer_ = Written(making_->answer(), !head_);
      making_.reset();
    } else if (answer_.empty()) {
      const Next next = Listen();
      if (answer_.empty()) return next;
    }
    return Talk();
  }

 private:
  // Until the answer is there, or somebody makes it.
  Next Listen() {
    char piece[4096];
    for (;;) {
      const ssize_t got = recv(socket_.get(), piece, sizeof(piece), 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR ? Next::kRead : Next::kLeave;
      if (got == 0) return Next::kLeave;
      request_.append(piece, static_cast<size_t>(got));
      if (absl::StrContains(request_, "\r\n\r\n")) {
        Understand();
        return Next::kRead;
      }
      if (request_.size() > kMaxRequest) {
        answer_ = Written({.code = 431, .body = "the request is too long\n"}, true);
        return Next::kWrite;
      }
    }
  }

  // The request is whole, to its empty line.
  void Understand() {
    const std::vector<std::string> words =
        absl::StrSplit(request_.substr(0, request_.find("\r\n")), absl::MaxSplits(' ', 2));
    if (words.size() != 3 || !absl::StartsWith(words[2], "HTTP/1.")) {
      answer_ = Written({.code = 400, .body = "not a request of HTTP/1\n"}, true);
      return;
    }
    head_ = words[0] == "HEAD";
    if (!head_ && words[0] != "GET") {
      answer_ = Written({.code = 405, .body = "only GET is answered\n"}, true);
      return;
    }
    const std::string path = words[1].substr(0, words[1].find('?'));
    if (const auto slow = house_.slow_.find(path); slow != house_.slow_.end()) {
      making_ = house_.Make(path, slow->second);
      return;
    }
    const auto quick = house_.quick_.find(path);
    answer_ = quick == house_.quick_.end() ? Written({.code = 404, .body = "no such path\n"}, !head_)
                                           : Written(quick->second(), !head_);
  }

  Next Talk() {
    while (written_ < answer_.size()) {
      const ssize_t sent =
          send(socket_.get(), answer_.data() + written_, answer_.size() - written_, MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR ? Next::kWrite : Next::kLeave;
      written_ += static_cast<size_t>(sent);
    }
    return Next::kLeave;
  }

  const UniqueFd socket_;
  HttpEndpoints& house_;
  std::string request_;
  bool head_ = false;
  std::shared_ptr<Making> making_;
  std::string answer_;
  size_t written_ = 0;
};

HttpEndpoints::HttpEndpoints(Paths quick, Paths slow) : quick_(std::move(quick)), slow_(std::move(slow)) {}

HttpEndpoints::~HttpEndpoints() { Stop(); }

void HttpEndpoints::Stop() {
  reception_.reset();
  made_.clear();  // waits for what is being made
}

std::shared_ptr<HttpEndpoints::Making> HttpEndpoints::Make(const std::string& path,
                                                           const std::function<PlainAnswer()>& answer) {
  std::shared_ptr<Making>& last = made_[path];
  if (last == nullptr || last->finished()) last = std::make_shared<Making>(answer);
  return last;
}

absl::Status HttpEndpoints::Start(const std::string& address, int port) {
  port_ = static_cast<uint16_t>(port);
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenTcp(address, port_));
  reception_ = std::make_unique<Reception>(
      absl::StrCat(port_), std::move(listener),
      [this](UniqueFd socket, const std::string&) {
        return std::make_unique<Visit>(std::move(socket), *this);
      },
      Reception::Limits{.patience = absl::Seconds(10)});
  return absl::OkStatus();
}

}  // namespace godwit
