// SPDX-License-Identifier: Apache-2.0
// Load on a redis server at a fixed rate, and what each request took.
//
//   redis_load HOST PORT CONNECTIONS RATE SECONDS [KEYS [BYTES]]
//
// SET and GET by turns, of one of KEYS keys with values of BYTES; RATE requests a second over all
// connections, 0: as many as it answers. With a rate, a request's time runs from the moment at which it was
// due, so that waiting behind a slow one counts. What is due while there is no connection is left out and
// counted. Says a line each quarter of a second:
//   window <end, CLOCK_REALTIME> done <n> left-out <n> reconnects <n> times <bucket>:<n>,...
// A bucket b < 32 is b microseconds; above, 16 buckets a doubling: (16 + b % 16) << (b / 16 - 1) and up.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace {

constexpr double kWindow = 0.25;
constexpr size_t kBuckets = 512;  // up to an hour

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void Nap(double seconds) {
  timespec time{static_cast<time_t>(seconds),
                static_cast<long>((seconds - static_cast<double>(static_cast<time_t>(seconds))) * 1e9)};
  nanosleep(&time, nullptr);
}

size_t Bucket(double seconds) {
  const auto us = static_cast<uint64_t>(std::max(seconds, 0.0) * 1e6);
  if (us < 32) return us;
  const int doubling = 63 - __builtin_clzll(us);  // 5 and up
  return std::min(kBuckets - 1, static_cast<size_t>(doubling - 3) * 16 + ((us >> (doubling - 4)) & 15));
}

struct Counts {
  std::atomic<long> done = 0, left_out = 0, reconnects = 0;
  std::array<std::atomic<long>, kBuckets> times{};
};

struct Options {
  sockaddr_in address{};
  int connections = 0;
  double rate = 0;  // of one connection; 0: no pause
  unsigned keys = 0;
  std::string value;
};

// A connection to redis, and what it has to say.
class Connection {
 public:
  ~Connection() { Close(); }
  bool open() const { return fd_ >= 0; }
  bool Open(const sockaddr_in& address) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    const int one = 1;
    const timeval patience{0, 500000};
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));  // connect(2) minds it too
    if (connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return true;
    Close();
    return false;
  }
  // One request and its whole reply; false: the connection is of no use any more, and closed.
  bool Call(const std::string& request) {
    if (send(fd_, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()) &&
        Reply())
      return true;
    Close();
    return false;
  }

 private:
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  // "+OK\r\n", "$5\r\nvalue\r\n" or "$-1\r\n" (RESP 2); an error ("-...") is none of them.
  bool Reply() {
    size_t filled = 0, wanted = 0;
    while (wanted == 0 || filled < wanted) {
      const ssize_t got = recv(fd_, buffer_.data() + filled, buffer_.size() - filled, 0);
      if (got <= 0) return false;
      filled += static_cast<size_t>(got);
      const char* end = static_cast<const char*>(memchr(buffer_.data(), '\n', filled));
      if (end == nullptr || wanted != 0) continue;
      wanted = static_cast<size_t>(end - buffer_.data()) + 1;
      if (buffer_[0] == '$') {
        const long size = atol(buffer_.data() + 1);
        if (size >= 0) wanted += static_cast<size_t>(size) + 2;
      } else if (buffer_[0] != '+') {
        return false;
      }
      if (wanted > buffer_.size()) return false;
    }
    return true;
  }

  int fd_ = -1;
  std::array<char, 65536> buffer_{};
};

std::string Request(const Options& options, uint64_t number) {
  char key[32];
  snprintf(key, sizeof(key), "load:%08u", static_cast<unsigned>(number * 2654435761u % options.keys));
  const std::string name = "$13\r\n" + std::string(key) + "\r\n";
  if (number % 2 == 0) return "*2\r\n$3\r\nGET\r\n" + name;
  return "*3\r\n$3\r\nSET\r\n" + name + "$" + std::to_string(options.value.size()) + "\r\n" + options.value +
         "\r\n";
}

[[noreturn]] void Load(const Options& options, int number, Counts& counts) {
  prctl(PR_SET_TIMERSLACK, 1);
  Connection connection;
  uint64_t next = static_cast<uint64_t>(number) << 32;
  // Connections take turns.
  double due =
      Seconds(CLOCK_MONOTONIC) + (options.rate > 0 ? number / options.rate / options.connections : 0);
  for (bool first = true;;) {
    if (!connection.open()) {
      if (connection.Open(options.address)) {
        if (!first) ++counts.reconnects;
        first = false;
      } else {
        Nap(0.02);
      }
      if (options.rate > 0) {
        for (const double now = Seconds(CLOCK_MONOTONIC); due < now; due += 1 / options.rate)
          ++counts.left_out;
      }
      continue;
    }
    double begun = Seconds(CLOCK_MONOTONIC);
    if (options.rate > 0) {
      if (begun < due) {
        Nap(due - begun);
        continue;
      }
      begun = due;
      due += 1 / options.rate;
    }
    if (!connection.Call(Request(options, next++))) continue;
    ++counts.times[Bucket(Seconds(CLOCK_MONOTONIC) - begun)];
    ++counts.done;
  }
}

void TellWindow(Counts& counts) {
  printf("window %.6f done %ld left-out %ld reconnects %ld times ", Seconds(CLOCK_REALTIME),
         counts.done.exchange(0), counts.left_out.exchange(0), counts.reconnects.exchange(0));
  for (size_t bucket = 0; bucket < kBuckets; ++bucket) {
    if (const long n = counts.times[bucket].exchange(0); n > 0) printf("%zu:%ld,", bucket, n);
  }
  printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc < 6 || argc > 8 || inet_pton(AF_INET, argv[1], &options.address.sin_addr) != 1 ||
      atoi(argv[3]) < 1) {
    fprintf(stderr, "usage: redis_load HOST PORT CONNECTIONS RATE SECONDS [KEYS [BYTES]]\n");
    return 2;
  }
  options.address.sin_family = AF_INET;
  options.address.sin_port = htons(static_cast<uint16_t>(atoi(argv[2])));
  options.connections = atoi(argv[3]);
  options.rate = strtod(argv[4], nullptr) / options.connections;
  options.keys = static_cast<unsigned>(std::max(1, argc > 6 ? atoi(argv[6]) : 20000));
  options.value.assign(static_cast<size_t>(std::clamp(argc > 7 ? atoi(argv[7]) : 256, 1, 32768)), 'v');
  setvbuf(stdout, nullptr, _IOLBF, 0);
  static Counts counts;
  for (int i = 0; i < options.connections; ++i)
    std::thread([&options, i] { Load(options, i, counts); }).detach();
  const double end = Seconds(CLOCK_MONOTONIC) + strtod(argv[5], nullptr);
  for (double window = Seconds(CLOCK_MONOTONIC) + kWindow; window < end + kWindow / 2; window += kWindow) {
    Nap(std::max(0.0, window - Seconds(CLOCK_MONOTONIC)));
    TellWindow(counts);
  }
  _exit(0);  // the threads have no end
}
