// SPDX-License-Identifier: Apache-2.0
// Where connections come in of which nobody knows yet who is behind them. One thread accepts them all and
// leads each, without ever waiting for one, to the point where it has shown what it is for. So whoever
// connects and says nothing, or says it slowly, costs a place here for a few seconds and no thread, and keeps
// out nobody: when the places of an address, or all of them, are taken, the newcomer gets the place of the
// one who has waited longest, of the address that has most.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/file.h"

namespace godwit {

class Reception {
 public:
  // A connection on its way in.
  class Guest {
   public:
    enum class Next { kRead, kWrite, kLeave };
    virtual ~Guest() = default;
    // Goes on as far as it can without waiting; what the socket must be ready for before the next call.
    // kLeave: it is done here (and has taken its socket along, or closes it).
    virtual Next Go() = 0;
    virtual int fd() const = 0;
  };
  // Makes a guest of an accepted, non-blocking socket; `from` is its PeerAddress.
  using Welcome = std::function<std::unique_ptr<Guest>(UniqueFd socket, const std::string& from)>;

  struct Limits {
    size_t places = 256;
    size_t of_one = 64;                          // places that one address can have
    absl::Duration patience = absl::Seconds(5);  // from the accept on
  };

  // `name` is for the log.
  Reception(absl::string_view name, UniqueFd listener, Welcome welcome, const Limits& limits);
  ~Reception();  // ends the thread; guests are dropped
  Reception(const Reception&) = delete;
  Reception& operator=(const Reception&) = delete;

 private:
  struct Place {
    std::string from;
    absl::Time until;
    Guest::Next next;
    std::unique_ptr<Guest> guest;
  };

  void Run();
  void Accept();
  void MakeRoom(const std::string& from);
  void GoOn(const std::function<bool(size_t)>& is_ready);
  void SendLateAway(absl::Time now);

  const std::string name_;
  const UniqueFd listener_;
  const Welcome welcome_;
  const Limits limits_;
  UniqueFd wake_;            // readable: end
  std::list<Place> places_;  // in the order in which they came; only Run's thread
  std::thread thread_;
};

}  // namespace godwit
