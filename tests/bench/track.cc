// SPDX-License-Identifier: Apache-2.0
// What being watched costs a workload: attaches the page engine's tracker to the processes of a cgroup2
// folder and makes rounds as pre-copy does, but copies nothing.
//
//   bench_track CGROUP [MILLISECONDS]     between the end of a round and the next one (100)
//
// Says "attached" and a line each round, "round <n> dirty <bytes> owned <bytes> took <us>", until its input
// ends; then it detaches. Ends with 1 and the reason when the processes cannot be tracked.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "agent/memory/tracker.h"

namespace {

// False when the input has ended before the time was over.
bool Pause(int milliseconds) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  return poll(&input, 1, milliseconds) == 0;
}

int Fail(const absl::Status& why) {
  fprintf(stderr, "bench_track: %s\n", why.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: bench_track CGROUP [MILLISECONDS]\n");
    return 2;
  }
  const int pause = argc > 2 ? atoi(argv[2]) : 100;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  const auto tracker = godwit::memory::Tracker::Attach("/proc", argv[1]);
  if (!tracker.ok()) return Fail(tracker.status());
  printf("attached\n");
  for (long n = 1;; ++n) {
    const auto look = (*tracker)->Round();
    if (!look.ok()) return Fail(look.status());
    printf("round %ld dirty %llu owned %llu took %.0f\n", n,
           static_cast<unsigned long long>(look->dirty_bytes()),
           static_cast<unsigned long long>(look->owned_bytes()), absl::ToDoubleMicroseconds(look->took));
    if (!Pause(pause)) return 0;
  }
}
