// SPDX-License-Identifier: Apache-2.0
// Work that falls into parts, done by a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace godwit {

// Calls `work(i)` for all i < count, each once, and returns when all have returned: by this thread, and by
// others beside it when there is more than one thing to do and a processor for it, four in all at most.
inline void ShareWork(size_t count, absl::FunctionRef<void(size_t)> work) {
  constexpr unsigned kThreads = 4;
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i; (i = next++) < count;) work(i);
  };
  std::vector<std::thread> others;
  const size_t wanted =
      std::min<size_t>({count, kThreads, std::max(1u, std::thread::hardware_concurrency())});
  try {
    for (size_t i = 1; i < wanted; ++i) others.emplace_back(run);
  } catch (const std::system_error&) {  // no more threads are to be had: those that there are do it all
  }
  run();
  for (std::thread& thread : others) thread.join();
}

}  // namespace godwit
