// SPDX-License-Identifier: Apache-2.0
// Connections between the two agents. As TCP they deliver in order, up to the point at which they are cut;
// with `disorder`, which is more than TCP does to anybody, frames are also lost, repeated and reordered.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tests/simulator/random.h"

namespace godwit::simulator {

using Micros = int64_t;

enum class Frame {
  kHello,    // value: Greeting
  kHelloOk,  // value: agent_api::TargetState
  kRefused,
  kRound,  // pages, while the source runs
  kArmed,  // the first container's restore can come to its gate
  kAtGate,
  kState,  // all that the restore needs
  kPrepared,
  kCommit,
  kRunning,  // value: pages are missing
  kMissing,
  kMissingEnd,
  kPages,
  kPagesLost,
  kAbort,
};
const char* NameOf(Frame frame);

enum class Greeting { kBegin, kResume, kAsk };
const char* NameOf(Greeting greeting);
enum class End { kSource, kTarget };

struct Message {
  Frame frame;
  int value;
  Micros at;  // when it arrives
};

class Network {
 public:
  Network(Random& random, const Micros& now) : random_(random), now_(now) {}

  bool disorder = false;

  // 0: nobody answers. The target's end is there at once.
  int Connect();
  // False when this end was closed.
  bool Send(int id, End from, Frame frame, int value = 0);
  void Close(int id, End end);
  // Nothing that is sent from now on arrives, nor perhaps what is under way.
  void Cut(int id);
  void CloseAll(End end);
  // Nothing arrives any more, for good, and nobody answers.
  void CutForGood();
  bool gone() const { return gone_; }

  bool Open(int id, End end) const;
  // Whether Receive has something to say: a message, or the end of the connection.
  bool Readable(int id, End end) const;
  // The next message; nullopt: the connection has ended for this end.
  std::optional<Message> Receive(int id, End end);
  // When the next connection of this end becomes readable.
  Micros NextTime(End end) const;
  // The connections that this end has not closed, oldest first.
  const std::vector<int>& Held(End end) const { return held_[static_cast<int>(end)]; }

 private:
  struct Half {
    bool open = true;
    std::vector<Message> inbox;
    Micros ends = -1;  // when this end sees that the other has gone
  };
  struct Connection {
    int id;
    bool cut = false;
    Half halves[2];
  };
  Connection* Find(int id);
  const Connection* Find(int id) const { return const_cast<Network*>(this)->Find(id); }
  Micros Delay() { return random_.OneIn(20) ? random_.Between(1000, 3'000'000) : random_.Between(100, 3000); }

  Random& random_;
  const Micros& now_;
  bool gone_ = false;
  int last_ = 0;
  std::vector<Connection> connections_;
  std::vector<int> held_[2];
};

}  // namespace godwit::simulator
