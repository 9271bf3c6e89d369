// SPDX-License-Identifier: Apache-2.0
// stream_bench [MEBIBYTES [ROUNDS [--json]]]: how fast memory goes from a task into a page store over a real
// stream of the loopback, and what the same machine makes of the same bytes by memcpy, over a bare TCP
// connection, over TLS, and in frames of 1 MiB that nobody looks at. Sockets have the stream's options, reads
// and writes its sizes; one connection, one thread on either side, where nothing else is said. Before, how
// long the store's index takes to say what it holds. With --json a line of JSON for each measurement. Compile
// it in the release preset's way to compare with other programs.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/log/check.h"
#include "agent/memory/page_set.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/page_receiver.h"
#include "agent/transfer/page_sender.h"
#include "agent/transfer/tcp.h"
#include "base/tcp_listener.h"
#include "tests/unit/agent/tls/test_authority.h"
#include "tests/unit/agent/transfer/stream_pair.h"

namespace godwit::transfer {
namespace {

using memory::Range;

absl::Time Late() { return absl::Now() + absl::Minutes(5); }

// The stream's, agent/transfer/stream.cc.
constexpr size_t kSocketBytes = 128u << 10;

bool json = false;

enum class Content {
  kRandom,   // does not compress
  kRecords,  // as a heap of small records: most of each 64 bytes is the same as in the one before
};

class Memory {
 public:
  Memory(size_t bytes, Content content)
      : bytes_(bytes),
        data_(static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    CHECK(data_ != MAP_FAILED);
    std::mt19937_64 random(1);
    const size_t step = content == Content::kRandom ? sizeof(uint64_t) : 64;
    for (size_t i = 0; i < bytes; i += step) {
      const uint64_t word = random();
      if (content == Content::kRecords)
        memcpy(data_ + i, "{name: \"record\", state: \"live\", next: null, value: ", 50);
      memcpy(data_ + i + step - sizeof(word), &word, sizeof(word));
    }
  }
  ~Memory() { munmap(data_, bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  Range range() const {
    const auto start = reinterpret_cast<uint64_t>(data_);
    return {start, start + bytes_};
  }
  absl::string_view bytes() const { return {data_, bytes_}; }

 private:
  const size_t bytes_;
  char* const data_;
};

absl::Duration CpuTime(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return absl::DurationFromTimespec(time);
}
absl::Duration ThreadCpuTime() { return CpuTime(CLOCK_THREAD_CPUTIME_ID); }

struct Figures {
  absl::Duration took;
  absl::Duration sender, receiver;  // CPU time of the two ends
};

// `wire`: what went over of `bytes`.
void Tell(const char* what, size_t bytes, const Figures& figures, size_t wire) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  const double rate = static_cast<double>(bytes) / 1e6 / absl::ToDoubleSeconds(figures.took);
  printf(json ? "{\"what\": \"%s\", \"mb_s\": %.1f, \"sender_us_mib\": %.1f, \"receiver_us_mib\": %.1f, "
                "\"wire_part\": %.3f}\n"
              : "%-34s %6.0f MB/s, CPU of sender %4.0f and receiver %4.0f us/MiB, %.3f of it on the wire\n",
         what, rate, absl::ToDoubleMicroseconds(figures.sender) / mebibytes,
         absl::ToDoubleMicroseconds(figures.receiver) / mebibytes,
         static_cast<double>(wire) / static_cast<double>(bytes));
  fflush(stdout);
}

using Tasks = std::vector<std::function<void()>>;

// Sends and receives, each in a thread of its own; returns when all have returned. Threads that a sender
// starts count as its.
Figures Run(const Tasks& senders, const Tasks& receivers) {
  const absl::Duration cpu_start = CpuTime(CLOCK_PROCESS_CPUTIME_ID);
  const absl::Time start = absl::Now();
  std::vector<std::thread> threads;
  std::vector<absl::Duration> received(receivers.size());
  for (const std::function<void()>& send : senders) threads.emplace_back(send);
  for (size_t i = 0; i < receivers.size(); ++i) {
    threads.emplace_back([&, i] {
      receivers[i]();
      received[i] = ThreadCpuTime();
    });
  }
  for (std::thread& thread : threads) thread.join();
  Figures figures{.took = absl::Now() - start};
  for (const absl::Duration one : received) figures.receiver += one;
  figures.sender = CpuTime(CLOCK_PROCESS_CPUTIME_ID) - cpu_start - figures.receiver;
  return figures;
}
Figures Run(const std::function<void()>& send, const std::function<void()>& receive) {
  return Run(Tasks{send}, Tasks{receive});
}

// Takes frames until ROUND_END.
void Receive(Stream& stream, const std::function<void(const Frame&)>& take) {
  for (Frame frame;;) {
    CHECK_OK(stream.Receive(frame, Late()));
    if (frame.type == FrameType::kRoundEnd) return;
    take(frame);
  }
}
void End(Stream& stream) { CHECK_OK(stream.Send(FrameType::kRoundEnd, {}, Late())); }

void Memcpy(const Memory& memory) {
  const size_t bytes = memory.bytes().size();
  Memory copy(bytes, Content::kRecords);  // its pages are there
  const absl::Time start = absl::Now();
  const absl::Duration cpu = ThreadCpuTime();
  memcpy(const_cast<char*>(copy.bytes().data()), memory.bytes().data(), bytes);
  Tell("memcpy", bytes, {absl::Now() - start, ThreadCpuTime() - cpu, {}}, bytes);
}

// Two ends of a TCP connection with the stream's options. They block: nothing else waits here.
struct Connection {
  Connection() {
    uint16_t port = 0;
    const absl::StatusOr<UniqueFd> listener = ListenTcp("127.0.0.1", port);
    CHECK_OK(listener);
    absl::StatusOr<UniqueFd> connected = ConnectTcp(absl::StrCat("127.0.0.1:", port), Late());
    CHECK_OK(connected);
    a = *std::move(connected);
    pollfd waiting{listener->get(), POLLIN, 0};
    poll(&waiting, 1, 10'000);
    b.Reset(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    CHECK(b.ok());
    CHECK_OK(SetSocketOptions(b.get()));
    CHECK_EQ(fcntl(a.get(), F_SETFL, 0), 0);
  }
  UniqueFd a, b;
};

void BareTcp(const Memory& memory) {
  const Connection connection;
  const absl::string_view all = memory.bytes();
  const Figures figures = Run(
      [&] {
        for (size_t at = 0; at < all.size();) {
          const ssize_t sent =
              write(connection.a.get(), all.data() + at, std::min(kSocketBytes, all.size() - at));
          CHECK_GT(sent, 0);
          at += static_cast<size_t>(sent);
        }
      },
      [&] {
        std::string buffer(kSocketBytes, '\0');
        for (size_t at = 0; at < all.size();) {
          const ssize_t got = read(connection.b.get(), buffer.data(), buffer.size());
          CHECK_GT(got, 0);
          at += static_cast<size_t>(got);
        }
      });
  Tell("TCP", all.size(), figures, all.size());
}

// With the stream's cipher, record and buffer sizes, but no frames.
class BareTls {
 public:
  BareTls() {
    const std::string folder = tls::TestFolder();
    const tls::TestAuthority authority;
    for (tls::Identity** identity : {&one_, &other_}) {
      auto loaded = tls::Identity::Load(tls::MakeIdentityFiles(folder, authority, {"n1.agent.godwit"}));
      CHECK_OK(loaded);
      *identity = loaded->release();  // as long as this program
    }
  }
  void Measure(const char* what, const Memory& memory, size_t connections) {
    auto client = one_->ClientContext(), server = other_->ServerContext();
    CHECK_OK(client);
    CHECK_OK(server);
    std::vector<std::unique_ptr<Pair>> pairs;
    Tasks senders, receivers;
    const size_t part = memory.bytes().size() / connections;
    for (size_t i = 0; i < connections; ++i) {
      pairs.push_back(std::make_unique<Pair>(client->get(), server->get()));
      Pair& pair = *pairs.back();
      senders.emplace_back([&pair, all = memory.bytes().substr(i * part, part)] { pair.Send(all); });
      receivers.emplace_back([&pair, part] { pair.Receive(part); });
    }
    Tell(what, part * connections, Run(senders, receivers), part * connections);
  }

 private:
  struct Pair {
    Pair(SSL_CTX* client, SSL_CTX* server) : a(SSL_new(client)), b(SSL_new(server)) {
      Join(a.get(), connection.a.get());
      Join(b.get(), connection.b.get());
      std::thread accepting([&] { CHECK_EQ(SSL_accept(b.get()), 1) << tls::OpenSslErrors(); });
      CHECK_EQ(SSL_connect(a.get()), 1) << tls::OpenSslErrors();
      accepting.join();
    }
    void Send(absl::string_view all) const {
      for (size_t at = 0; at < all.size(); at += kMaxDataBytes) {
        absl::string_view part = all.substr(at, kMaxDataBytes);
        for (size_t written = 0; !part.empty(); part.remove_prefix(written))
          CHECK_EQ(SSL_write_ex(a.get(), part.data(), part.size(), &written), 1) << tls::OpenSslErrors();
        CHECK_EQ(BIO_flush(SSL_get_wbio(a.get())), 1);
      }
    }
    void Receive(size_t bytes) const {
      std::string buffer(kMaxDataBytes, '\0');
      for (size_t at = 0; at < bytes;) {
        size_t got = 0;
        CHECK_EQ(SSL_read_ex(b.get(), buffer.data(), buffer.size(), &got), 1) << tls::OpenSslErrors();
        at += got;
      }
    }
    const Connection connection;
    const tls::SslPointer a, b;
  };
  static void Join(SSL* ssl, int socket) {
    CHECK_EQ(SSL_set_fd(ssl, socket), 1);
    SSL_set_read_ahead(ssl, 1);
    SSL_set_default_read_buffer_len(ssl, kSocketBytes);
    BIO* buffer = BIO_new(BIO_f_buffer());
    CHECK_EQ(BIO_set_write_buffer_size(buffer, kSocketBytes), 1);
    BIO* to_socket = SSL_get_wbio(ssl);
    BIO_up_ref(to_socket);  // SSL_set0_wbio lets go of it
    SSL_set0_wbio(ssl, BIO_push(buffer, to_socket));
  }

  tls::Identity *one_ = nullptr, *other_ = nullptr;
};

void PlainFrames(const Memory& memory) {
  StreamPair pair;
  const auto send = [&] {
    for (size_t at = 0; at < memory.bytes().size(); at += kMaxDataBytes) {
      CHECK_OK(pair.a->Send(FrameType::kFileData, {"twelve bytes", memory.bytes().substr(at, kMaxDataBytes)},
                            Late()));
    }
    End(*pair.a);
  };
  const Figures figures = Run(send, [&] { Receive(*pair.b, [](const Frame&) {}); });
  Tell("frames of 1 MiB", memory.bytes().size(), figures, memory.bytes().size());
}

// Over a stream with so many side connections.
void PagesIntoAStore(const char* what, const Memory& memory, size_t sides = 0) {
  const StreamPair pair;
  std::vector<std::unique_ptr<StreamPair>> side_pairs;
  std::vector<std::shared_ptr<Stream>> side_ends;
  for (size_t i = 0; i < sides; ++i) {
    side_pairs.push_back(std::make_unique<StreamPair>());
    side_ends.emplace_back(std::move(side_pairs.back()->a));
    pair.a->AddSide(side_ends.back());
  }
  memory::PageStore store(memory.bytes().size());
  TokenBucket bucket(0);
  PageSender sender("app", ReadTaskMemory, &bucket);
  sender.SetStream(pair.a.get());
  PageTotals totals;
  const auto send = [&] {
    CHECK_OK(sender.Send(getpid(), 1, {memory.range()}, Late(), &totals));
    End(*pair.a);
    for (const std::shared_ptr<Stream>& side : side_ends) End(*side);
  };
  const auto receive = [&store](Stream& stream) {
    PageReceiver receiver({{"app", &store}});
    Receive(stream, [&](const Frame& frame) { CHECK_OK(receiver.Take(frame)); });
  };
  Tasks receivers = {[&] { receive(*pair.b); }};
  for (const auto& side : side_pairs) receivers.emplace_back([&] { receive(*side->b); });
  const Figures figures = Run({send}, receivers);
  Tell(what, memory.bytes().size(), figures, static_cast<size_t>(totals.wire));
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
  json = argc > 3 && argv[3] == absl::string_view("--json");
  if (!json) Index();
  const Memory random(bytes, Content::kRandom), records(bytes, Content::kRecords);
  BareTls tls;
  for (int i = 0; i < rounds; ++i) {
    Memcpy(random);
    BareTcp(random);
    tls.Measure("TLS", random, 1);
    PlainFrames(random);
    PagesIntoAStore("random pages", random);
    PagesIntoAStore("compressible pages", records);
    tls.Measure("TLS, 2 connections", random, 2);
    PagesIntoAStore("random pages, 2 connections", random, 1);
    PagesIntoAStore("compressible pages, 2 connections", records, 1);
  }
  return 0;
}
