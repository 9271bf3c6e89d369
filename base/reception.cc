// SPDX-License-Identifier: Apache-2.0
#include "base/reception.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <utility>
#include <vector>

#include "absl/log/log.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/tcp_listener.h"

namespace godwit {
namespace {

// So many are accepted before those who wait are looked at again.
constexpr int kAtOnce = 64;

}  // namespace

Reception::Reception(absl::string_view name, UniqueFd listener, Welcome welcome, const Limits& limits)
    : name_(name),
      listener_(std::move(listener)),
      welcome_(std::move(welcome)),
      limits_(limits),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

Reception::~Reception() {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

void Reception::Run() {
  std::vector<pollfd> polled;
  for (;;) {
    polled.assign({{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}});
    for (const Place& place : places_) {
      const short events = place.next == Guest::Next::kWrite ? POLLOUT : POLLIN;
      polled.push_back({place.guest->fd(), events, 0});
    }
    const absl::Duration left = places_.empty()
                                    ? absl::Minutes(1)
                                    : std::max(absl::ZeroDuration(), places_.front().until - SteadyNow());
    poll(polled.data(), polled.size(),
         static_cast<int>(absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)))));
    if (polled[0].revents != 0) return places_.clear();
    GoOn([&polled](size_t at) { return polled[at + 2].revents != 0; });
    SendLateAway(SteadyNow());
    if (polled[1].revents != 0) Accept();
  }
}

void Reception::GoOn(const std::function<bool(size_t)>& is_ready) {
  size_t at = 0;
  for (auto place = places_.begin(); place != places_.end(); ++at) {
    if (is_ready(at)) place->next = place->guest->Go();
    place = place->next == Guest::Next::kLeave ? places_.erase(place) : std::next(place);
  }
}

// All have the same patience: whoever came first must go first.
void Reception::SendLateAway(absl::Time now) {
  while (!places_.empty() && places_.front().until <= now) {
    LOG_EVERY_N_SEC(WARNING, 10) << Log("a connection was closed: it said too little in its time")
                                        .With("port", name_)
                                        .With("from", places_.front().from)
                                        .With("waiting", places_.size());
    places_.pop_front();
  }
}

void Reception::MakeRoom(const std::string& from) {
  std::map<std::string, size_t> of;
  for (const Place& place : places_) ++of[place.from];
  std::string most;
  if (const auto mine = of.find(from); mine != of.end() && mine->second >= limits_.of_one) {
    most = from;
  } else if (places_.size() >= limits_.places) {
    most = std::max_element(of.begin(), of.end(), [](const auto& a, const auto& b) {
             return a.second < b.second;
           })->first;
  } else {
    return;
  }
  LOG_EVERY_N_SEC(WARNING, 10) << Log("a connection was closed: its address has too many that say nothing")
                                      .With("port", name_)
                                      .With("from", most)
                                      .With("waiting", places_.size());
  places_.erase(std::find_if(places_.begin(), places_.end(),
                             [&most](const Place& place) { return place.from == most; }));
}

void Reception::Accept() {
  for (int i = 0; i < kAtOnce; ++i) {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.ok()) {
      const bool full = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
      if (full && !places_.empty()) places_.pop_front();
      if (full) absl::SleepFor(absl::Milliseconds(10));
      return;
    }
    const std::string from = PeerAddress(socket.get());
    MakeRoom(from);
    std::unique_ptr<Guest> guest = welcome_(std::move(socket), from);
    if (guest == nullptr) continue;
    const Guest::Next next = guest->Go();
    if (next == Guest::Next::kLeave) continue;
    places_.push_back({from, SteadyNow() + limits_.patience, next, std::move(guest)});
  }
}

}  // namespace godwit
