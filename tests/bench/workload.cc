// SPDX-License-Identifier: Apache-2.0
// The pod that benchmarks move: memory of a given size, rewritten at a given rate, that knows what each of
// its pages should hold; and a watch on how long it stood still. One file, static, runs alone in an image.
//
//   workload MIB RATE [shared]   MiB of memory; MB (10^6 bytes) rewritten a second, whole pages at random
//                                places; memory as processes share it (MAP_SHARED | MAP_ANONYMOUS)
//
// Says on stdout, a line each:
//   ready <pages>                          all pages are written once
//   beat <n> <seconds>                     four times a second, with CLOCK_REALTIME
//   gap <ms> <seconds>                     the watch (it looks twice a millisecond) was held up that long
//   until then verified <pages> wrong <pages>         after SIGUSR1: every page compared with what was last
//   written to it
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kWords = kPage / sizeof(uint64_t);
constexpr double kTellingGapMs = 10;
constexpr size_t kTold = 20;  // of the wrong pages

std::atomic<bool> verify_wanted = false;

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void Nap(double seconds) {
  timespec time{static_cast<time_t>(seconds),
                static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
  while (nanosleep(&time, &time) != 0) {
  }
}

uint64_t Scramble(uint64_t x) {  // splitmix64: https://prng.di.unimi.it/splitmix64.c
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Memory {
 public:
  Memory(size_t mib, bool shared) : pages_(mib * (size_t{1} << 20) / kPage), version_(pages_, 0) {
    const int kind = shared ? MAP_SHARED : MAP_PRIVATE;
    words_ = static_cast<uint64_t*>(
        mmap(nullptr, pages_ * kPage, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0));
    if (words_ == MAP_FAILED) {
      perror("workload: mmap");
      exit(1);
    }
    for (size_t page = 0; page < pages_; ++page) Fill(page, 0);
  }
  size_t pages() const { return pages_; }

  void Rewrite(size_t page) {
    Fill(page, version_[page] + 1);
    ++version_[page];
  }
  // Tells of the first few.
  size_t CountWrong() const {
    size_t wrong = 0;
    uint64_t expected[kWords];
    for (size_t page = 0; page < pages_; ++page) {
      Content(page, version_[page], expected);
      if (memcmp(words_ + page * kWords, expected, kPage) != 0 && ++wrong <= kTold) Tell(page);
    }
    return wrong;
  }

 private:
  // Random enough that no compressor and no zero test finds anything; cheap enough for gigabytes a second.
  static void Content(size_t page, uint32_t version, uint64_t* to) {
    uint64_t word = Scramble(page * 0x10001 + version);
    for (size_t i = 0; i < kWords; ++i) {
      to[i] = word;
      word = word * 6364136223846793005 + 1442695040888963407;
    }
  }
  // What is wrong with a page: zeros, an older or newer version as a whole, or neither.
  void Tell(size_t page) const {
    const uint64_t* words = words_ + page * kWords;
    uint64_t content[kWords] = {};
    if (memcmp(words, content, kPage) == 0) {
      printf("page %zu at %p: zeros, not version %u\n", page, static_cast<const void*>(words),
             version_[page]);
      return;
    }
    for (uint32_t version = 0; version <= version_[page] + 2; ++version) {
      Content(page, version, content);
      if (memcmp(words, content, kPage) != 0) continue;
      printf("page %zu at %p: version %u, not %u\n", page, static_cast<const void*>(words), version,
             version_[page]);
      return;
    }
    size_t same = 0;
    Content(page, version_[page], content);
    for (size_t i = 0; i < kWords; ++i) same += words[i] == content[i];
    printf("page %zu at %p: %zu of %zu words of version %u\n", page, static_cast<const void*>(words), same,
           kWords, version_[page]);
  }
  void Fill(size_t page, uint32_t version) { Content(page, version, words_ + page * kWords); }

  const size_t pages_;
  std::vector<uint32_t> version_;
  uint64_t* words_;
};

[[noreturn]] void Watch() {
  double last = Seconds(CLOCK_REALTIME);
  double beat = last;
  for (long n = 0;;) {
    Nap(0.0005);
    const double now = Seconds(CLOCK_REALTIME);
    if ((now - last) * 1000 >= kTellingGapMs) printf("gap %.2f %.6f\n", (now - last) * 1000, now);
    if (now - beat >= 0.25) {
      printf("beat %ld %.6f\n", ++n, now);
      beat = now;
    }
    last = now;
  }
}

// In slices of a millisecond or so, by the monotonic clock: time that it stood still is not made up for.
[[noreturn]] void Write(Memory& memory, double bytes_a_second) {
  uint64_t random = 1;
  double owed = 0;
  double last = Seconds(CLOCK_MONOTONIC);
  for (;;) {
    Nap(0.001);
    const double now = Seconds(CLOCK_MONOTONIC);
    owed += (now - last) * bytes_a_second;
    last = now;
    for (; owed >= kPage && memory.pages() > 0; owed -= kPage) {
      random = Scramble(random);
      memory.Rewrite(random % memory.pages());
    }
    if (verify_wanted.exchange(false)) {
      printf("verified %zu wrong %zu\n", memory.pages(), memory.CountWrong());
      last = Seconds(CLOCK_MONOTONIC);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool shared = argc == 4 && strcmp(argv[3], "shared") == 0;
  if (argc != 3 && !shared) {
    fprintf(stderr, "usage: workload MIB RATE [shared]\n");
    return 2;
  }
  setvbuf(stdout, nullptr, _IOLBF, 0);
  Memory memory(strtoul(argv[1], nullptr, 10), shared);
  signal(SIGUSR1, [](int) { verify_wanted = true; });
  signal(SIGTERM, [](int) { _exit(0); });
  printf("ready %zu\n", memory.pages());
  std::thread(Watch).detach();
  Write(memory, strtod(argv[2], nullptr) * 1e6);
}
