// SPDX-License-Identifier: Apache-2.0
// Two ends of a real stream over the loopback, with certificates made for the test: a is node n1's, b node
// n2's.
#pragma once

#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "agent/transfer/stream.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/tls/test_authority.h"

namespace godwit::transfer {

inline absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class StreamPair {
 public:
  StreamPair() : folder_(tls::TestFolder()) {
    n1_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n1.agent.godwit"}));
    n2_ = *tls::Identity::Load(tls::MakeIdentityFiles(folder_, authority_, {"n2.agent.godwit"}));
    server_ = *StreamServer::Start(*n2_, "127.0.0.1", 0, [this](std::shared_ptr<Stream> stream) {
      b = std::move(stream);
      accepted_.Notify();
      done_.WaitForNotification();
    });
    absl::StatusOr<std::unique_ptr<Stream>> connected =
        Stream::Connect(*n1_, absl::StrCat("127.0.0.1:", server_->port()), "n2", Soon());
    EXPECT_TRUE(connected.ok()) << connected.status();
    a = *std::move(connected);
    EXPECT_TRUE(accepted_.WaitForNotificationWithTimeout(absl::Seconds(20)));
  }
  ~StreamPair() {
    a.reset();
    done_.Notify();
    server_.reset();
  }

  std::unique_ptr<Stream> a;
  std::shared_ptr<Stream> b;

 private:
  const std::string folder_;
  const tls::TestAuthority authority_;
  std::unique_ptr<tls::Identity> n1_;
  std::unique_ptr<tls::Identity> n2_;
  absl::Notification accepted_;
  absl::Notification done_;
  std::unique_ptr<StreamServer> server_;
};

}  // namespace godwit::transfer
