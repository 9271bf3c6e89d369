// SPDX-License-Identifier: Apache-2.0
#include "tests/simulator/network.h"

#include <algorithm>
#include <limits>

namespace godwit::simulator {
namespace {

constexpr Micros kNever = std::numeric_limits<Micros>::max();

End Other(End end) { return end == End::kSource ? End::kTarget : End::kSource; }

}  // namespace

const char* NameOf(Frame frame) {
  switch (frame) {
    case Frame::kHello: return "HELLO";
    case Frame::kHelloOk: return "HELLO_OK";
    case Frame::kRefused: return "REFUSED";
    case Frame::kRound: return "PAGES of a round";
    case Frame::kArmed: return "ARMED";
    case Frame::kAtGate: return "AT_GATE";
    case Frame::kState: return "STATE";
    case Frame::kPrepared: return "PREPARED";
    case Frame::kCommit: return "COMMIT";
    case Frame::kRunning: return "RUNNING";
    case Frame::kMissing: return "MISSING";
    case Frame::kMissingEnd: return "MISSING_END";
    case Frame::kPages: return "PAGES";
    case Frame::kPagesLost: return "PAGES_LOST";
    case Frame::kAbort: return "ABORT";
  }
  return "";
}

const char* NameOf(Greeting greeting) {
  switch (greeting) {
    case Greeting::kBegin: return "to begin";
    case Greeting::kResume: return "to go on where it was cut";
    case Greeting::kAsk: return "to ask";
  }
  return "";
}

Network::Connection* Network::Find(int id) {
  for (Connection& connection : connections_) {
    if (connection.id == id) return &connection;
  }
  return nullptr;
}

void Network::CutForGood() {
  gone_ = true;
  std::vector<int> all;
  for (const Connection& connection : connections_) all.push_back(connection.id);
  for (const int id : all) Cut(id);
}

int Network::Connect() {
  if (gone_) return 0;
  connections_.push_back({.id = ++last_});
  held_[0].push_back(last_);
  held_[1].push_back(last_);
  return last_;
}

bool Network::Send(int id, End from, Frame frame, int value) {
  Connection* connection = Find(id);
  if (connection == nullptr || !connection->halves[static_cast<int>(from)].open) return false;
  Half& to = connection->halves[static_cast<int>(Other(from))];
  if (connection->cut || !to.open) return true;  // it is not known yet
  // A pull has no limits of its own: what TCP never does would stop it.
  const bool pages = frame == Frame::kMissing || frame == Frame::kMissingEnd || frame == Frame::kPages ||
                     frame == Frame::kPagesLost;
  if (disorder && !pages && random_.OneIn(30)) return true;
  Micros at = now_ + Delay();
  if (!disorder && !to.inbox.empty()) at = std::max(at, to.inbox.back().at);
  to.inbox.push_back({frame, value, at});
  if (disorder && random_.OneIn(30)) to.inbox.push_back({frame, value, now_ + Delay()});
  if (disorder)
    std::stable_sort(to.inbox.begin(), to.inbox.end(),
                     [](const Message& a, const Message& b) { return a.at < b.at; });
  return true;
}

void Network::Close(int id, End end) {
  Connection* connection = Find(id);
  if (connection == nullptr) return;
  Half& half = connection->halves[static_cast<int>(end)];
  if (!half.open) return;
  half.open = false;
  half.inbox.clear();
  std::erase(held_[static_cast<int>(end)], id);
  Half& other = connection->halves[static_cast<int>(Other(end))];
  if (other.open && other.ends < 0) {
    other.ends = now_ + Delay();
    if (!other.inbox.empty()) other.ends = std::max(other.ends, other.inbox.back().at);
  }
  if (!other.open) std::erase_if(connections_, [id](const Connection& one) { return one.id == id; });
}

void Network::Cut(int id) {
  Connection* connection = Find(id);
  if (connection == nullptr || connection->cut) return;
  connection->cut = true;
  for (Half& half : connection->halves) {
    if (!half.open) continue;
    if (!half.inbox.empty())
      half.inbox.resize(static_cast<size_t>(random_.Between(0, static_cast<int64_t>(half.inbox.size()))));
    if (half.ends < 0) half.ends = now_ + random_.Between(100, 5'000'000);
    if (!half.inbox.empty()) half.ends = std::max(half.ends, half.inbox.back().at);
  }
}

void Network::CloseAll(End end) {
  while (!Held(end).empty()) Close(Held(end).front(), end);
}

bool Network::Open(int id, End end) const {
  const Connection* connection = Find(id);
  return connection != nullptr && connection->halves[static_cast<int>(end)].open;
}

bool Network::Readable(int id, End end) const {
  const Connection* connection = Find(id);
  if (connection == nullptr) return true;
  const Half& half = connection->halves[static_cast<int>(end)];
  if (!half.open) return true;
  if (!half.inbox.empty()) return half.inbox.front().at <= now_;
  return half.ends >= 0 && half.ends <= now_;
}

std::optional<Message> Network::Receive(int id, End end) {
  Connection* connection = Find(id);
  if (connection == nullptr) return std::nullopt;
  Half& half = connection->halves[static_cast<int>(end)];
  if (!half.open || half.inbox.empty()) return std::nullopt;
  const Message message = half.inbox.front();
  half.inbox.erase(half.inbox.begin());
  return message;
}

Micros Network::NextTime(End end) const {
  Micros next = kNever;
  for (const Connection& connection : connections_) {
    const Half& half = connection.halves[static_cast<int>(end)];
    if (!half.open) continue;
    if (!half.inbox.empty()) next = std::min(next, half.inbox.front().at);
    if (half.inbox.empty() && half.ends >= 0) next = std::min(next, half.ends);
  }
  return next;
}

}  // namespace godwit::simulator
