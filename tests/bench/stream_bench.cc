// SPDX-License-Identifier: Apache-2.0
// stream_bench [MEBIBYTES [ROUNDS]]: how fast memory goes from a task into a page store over a real stream of
// the loopback, beside the same stream with frames of 1 MiB that nobody looks at; and how long the store's
// index takes to say what it holds. Compile it in the release preset's way to compare with other programs.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <random>
#include <thread>

#include "absl/log/check.h"
#include "agent/memory/page_set.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/page_receiver.h"
#include "agent/transfer/page_sender.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

using memory::Range;

absl::Time Late() { return absl::Now() + absl::Minutes(5); }

class Memory {
 public:
  explicit Memory(size_t bytes)
      : bytes_(bytes),
        data_(static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    CHECK(data_ != MAP_FAILED);
    std::mt19937_64 random(1);
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
      const uint64_t word = random();
      memcpy(data_ + i, &word, sizeof(word));
    }
  }
  ~Memory() { munmap(data_, bytes_); }
  Range range() const {
    const auto start = reinterpret_cast<uint64_t>(data_);
    return {start, start + bytes_};
  }
  absl::string_view bytes() const { return {data_, bytes_}; }

 private:
  const size_t bytes_;
  char* const data_;
};

absl::Duration ThreadCpuTime() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// Sends in a thread of its own, receives in this one, until ROUND_END.
void Run(const char* what, size_t bytes, StreamPair& pair, const std::function<void()>& send,
         const std::function<void(const Frame&)>& take) {
  absl::Duration sender;
  const absl::Duration cpu_start = ThreadCpuTime();
  const absl::Time start = absl::Now();
  std::thread sending([&] {
    send();
    CHECK_OK(pair.a->Send(FrameType::kRoundEnd, {}, Late()));
    sender = ThreadCpuTime();
  });
  for (Frame frame;;) {
    CHECK_OK(pair.b->Receive(frame, Late()));
    if (frame.type == FrameType::kRoundEnd) break;
    take(frame);
  }
  sending.join();
  const absl::Duration took = absl::Now() - start;
  const absl::Duration receiver = ThreadCpuTime() - cpu_start;
  const double mebibytes = static_cast<double>(bytes >> 20);
  printf("%-20s %6.0f MB/s, CPU of sender %4.0f and receiver %4.0f us/MiB\n", what,
         static_cast<double>(bytes) / 1e6 / absl::ToDoubleSeconds(took),
         absl::ToDoubleMicroseconds(sender) / mebibytes, absl::ToDoubleMicroseconds(receiver) / mebibytes);
}

void PlainFrames(const Memory& memory) {
  StreamPair pair;
  const auto send = [&] {
    for (size_t at = 0; at < memory.bytes().size(); at += kMaxDataBytes) {
      CHECK_OK(pair.a->Send(FrameType::kFileData, {"twelve bytes", memory.bytes().substr(at, kMaxDataBytes)},
                            Late()));
    }
  };
  Run("frames of 1 MiB", memory.bytes().size(), pair, send, [](const Frame&) {});
}

void PagesIntoAStore(const Memory& memory) {
  StreamPair pair;
  memory::PageStore store(memory.bytes().size());
  PageReceiver receiver({{"app", &store}});
  TokenBucket bucket(0);
  PageSender sender("app", ReadTaskMemory, &bucket);
  sender.SetStream(pair.a.get());
  PageTotals totals;
  Run(
      "pages into a store", memory.bytes().size(), pair,
      [&] { CHECK_OK(sender.Send(getpid(), 1, {memory.range()}, Late(), &totals)); },
      [&](const Frame& frame) { CHECK_OK(receiver.Take(frame)); });
  CHECK_EQ(totals.sent, static_cast<int64_t>(memory.bytes().size()));
  CHECK_EQ(store.bytes(), memory.bytes().size());
}

void Index() {
  constexpr uint64_t kBytes = uint64_t{8} << 30;
  const uint64_t page = memory::PageBytes();
  memory::PageSet together, apart;
  together.Insert({page, page + kBytes});
  for (uint64_t at = 0; at < 2 * kBytes; at += 2 * page) apart.Insert({at, at + page});
  for (const auto& [what, set] : {std::pair{"together", &together}, {"every other page", &apart}}) {
    const absl::Duration start = ThreadCpuTime();
    const size_t ranges = set->Inside({0, memory::kAddressEnd}).size();
    printf("8 GiB of pages, %s: %zu ranges listed in %s\n", what, ranges,
           absl::FormatDuration(ThreadCpuTime() - start).c_str());
  }
}

}  // namespace
}  // namespace godwit::transfer

int main(int argc, char** argv) {
  using namespace godwit::transfer;
  const size_t bytes = static_cast<size_t>(argc > 1 ? atoi(argv[1]) : 1024) << 20;
  const int rounds = argc > 2 ? atoi(argv[2]) : 3;
  Index();
  const Memory memory(bytes);
  for (int i = 0; i < rounds; ++i) {
    PlainFrames(memory);
    PagesIntoAStore(memory);
  }
  return 0;
}
