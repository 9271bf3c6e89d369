// SPDX-License-Identifier: Apache-2.0
// What the tracker's tests look at: `tracker_workload MODE [ARGUMENT...]`. Static. Says "ready" when it is,
// and at the end of what it was asked, which is mostly when a line comes in, what it has seen.
#include <fcntl.h>
#include <link.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kHuge = size_t{2} << 20;
const char* own_path;

[[noreturn]] void Die(const char* what) {
  dprintf(1, "tracker_workload: %s: %s\n", what, strerror(errno));
  _exit(9);
}

void Say(const std::string& text) { dprintf(1, "%s\n", text.c_str()); }

long Ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// ---- mutate SEED GENERATION: changes its memory in every way, for ever ----

// Guard pages are everywhere: a step that meets one ends there.
sigjmp_buf after_fault;

struct Region {
  char* start;
  size_t bytes;
  bool writable;
};

class Mutator {
 public:
  Mutator(unsigned seed, int generation) : random_(seed), generation_(generation) {
    const int urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    random_file_ = urandom;
    for (int i = 0; i < 6; ++i) New();
  }

  // A child ends after a while, in one way or the other.
  [[noreturn]] void Run(long steps) {
    for (long step = 0; steps < 0 || step < steps; ++step) {
      TryStep();
      if (steps >= 0 && children_ == 0 && Below(1500) == 0) Exec();
      while (waitpid(-1, nullptr, WNOHANG) > 0) --children_;
      if (Below(4) == 0) usleep(static_cast<useconds_t>(Below(200)));
    }
    _exit(0);
  }

 private:
  size_t Below(size_t limit) { return random_() % limit; }
  size_t SomeBytes() { return (1 + Below(Below(8) == 0 ? 1100 : 40)) * kPage; }
  Region& Any() { return regions_[Below(regions_.size())]; }

  void New() {
    const size_t bytes = SomeBytes();
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) Die("mmap");
    regions_.push_back({static_cast<char*>(at), bytes, true});
  }

  void Drop(Region& region) {
    munmap(region.start, region.bytes);
    region = regions_.back();
    regions_.pop_back();
  }

  void Write(Region& region) {
    if (!region.writable) return;
    for (size_t i = 0, n = 1 + Below(40); i < n; ++i) {
      const uint64_t value = random_();
      memcpy(region.start + Below(region.bytes / kPage) * kPage + Below(kPage / 8) * 8, &value,
             sizeof(value));
    }
  }

  // Part of a region, in whole pages.
  void Part(const Region& region, char*& start, size_t& bytes) {
    const size_t pages = region.bytes / kPage, first = Below(pages);
    start = region.start + first * kPage;
    bytes = (1 + Below(pages - first)) * kPage;
  }

  void Advise(int advice) {
    char* start;
    size_t bytes;
    Part(Any(), start, bytes);
    madvise(start, bytes, advice);  // some are not for every mapping
  }

  void Resize(Region& region) {
    const size_t bytes = SomeBytes();
    void* at = mremap(region.start, region.bytes, bytes, MREMAP_MAYMOVE);
    if (at == MAP_FAILED) return;  // more than one mapping by now
    region.start = static_cast<char*>(at);
    region.bytes = bytes;
  }

  // To where another region is, which goes.
  void MoveOver() {
    if (regions_.size() < 3) return;
    Region& from = regions_[Below(regions_.size() - 1)];
    const Region over = regions_.back();
    void* at = mremap(from.start, from.bytes, std::min(from.bytes, over.bytes), MREMAP_MAYMOVE | MREMAP_FIXED,
                      over.start);
    if (at == MAP_FAILED) return;
    if (over.bytes > from.bytes) munmap(over.start + from.bytes, over.bytes - from.bytes);
    from.start = over.start;
    from.bytes = std::min(from.bytes, over.bytes);
    regions_.pop_back();
  }

  void MoveAndLeave(Region& region) {
    void* at = mremap(region.start, region.bytes, region.bytes, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
    if (at != MAP_FAILED) regions_.push_back({static_cast<char*>(at), region.bytes, region.writable});
  }

  void MapAgain(Region& region) {
    munmap(region.start, region.bytes);
    void* at = mmap(region.start, region.bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (at == MAP_FAILED) Die("mmap again");
    region.writable = true;
    if (Below(2) == 0) Write(region);
  }

  void Huge() {
    char* at = static_cast<char*>(
        mmap(nullptr, 5 * kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (at == MAP_FAILED) Die("mmap huge");
    char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + kHuge - 1) / kHuge * kHuge);
    munmap(at, static_cast<size_t>(start - at));
    munmap(start + 4 * kHuge, kHuge - static_cast<size_t>(start - at));
    madvise(start, 4 * kHuge, MADV_HUGEPAGE);
    for (size_t i = 0; i < 4; ++i) {
      if (Below(3) != 0) memset(start + i * kHuge, static_cast<int>(random_()), kHuge);
    }
    regions_.push_back({start, 4 * kHuge, true});
  }

  // All of the page tables of 2 MiB, or of a huge page.
  void DropHuge() {
    for (Region& region : regions_) {
      char* start =
          reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(region.start) + kHuge - 1) / kHuge * kHuge);
      if (start + kHuge > region.start + region.bytes || !region.writable) continue;
      const size_t whole = static_cast<size_t>(region.start + region.bytes - start) / kHuge;
      char* at = start + Below(whole) * kHuge;
      madvise(at, kHuge, MADV_DONTNEED);
      if (Below(2) == 0) Touch(*(at + Below(512) * kPage));  // a page of zeros, or a huge one
      return;
    }
  }

  static char Touch(const volatile char& byte) { return byte; }

  void Protect(Region& region) {
    const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE};
    const int protection = protections[Below(3)];
    mprotect(region.start, region.bytes, protection);
    region.writable = protection == (PROT_READ | PROT_WRITE);
  }

  void ByTheKernel(Region& region) {
    char* start;
    size_t bytes;
    Part(region, start, bytes);
    if (read(random_file_, start, std::min(bytes, 3 * kPage)) < 0 && errno != EFAULT) Die("read");
  }

  void Break() {
    if (Below(3) != 0 || broken_ == 0) {
      const size_t bytes = (1 + Below(30)) * kPage;
      char* at = static_cast<char*>(sbrk(static_cast<intptr_t>(bytes)));
      if (at == reinterpret_cast<char*>(-1)) return;
      broken_ = at == break_ ? broken_ + bytes : bytes;
      break_ = at + bytes;
      for (size_t i = 0; i < bytes; i += kPage) at[i] = static_cast<char>(random_());
    } else if (sbrk(0) == break_) {  // else malloc has gone on from there
      sbrk(-static_cast<intptr_t>(broken_));
      broken_ = 0;
    }
  }

  void Lock(Region& region) {
    Below(3) == 0 ? mlock(region.start, region.bytes) : munlock(region.start, region.bytes);
  }

  void Droppable() {
    const size_t bytes = 4 * kPage;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, 0x08 /* MAP_DROPPABLE */ | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return;  // before 6.11
    memset(at, 7, bytes);
    regions_.push_back({static_cast<char*>(at), bytes, true});
  }

  void Same(Region& region) {
    if (!region.writable) return;
    madvise(region.start, region.bytes, MADV_MERGEABLE);
    memset(region.start, 5, region.bytes);
  }

  void Fork() {
    if (children_ >= 2 || generation_ >= 2) return;
    const unsigned seed = static_cast<unsigned>(random_());
    const pid_t child = fork();
    if (child < 0) Die("fork");
    if (child > 0) {
      ++children_;
      return;
    }
    random_.seed(seed);
    ++generation_;
    children_ = 0;
    Run(static_cast<long>(500 + Below(3000)));
  }

  [[noreturn]] void Exec() {
    execl(own_path, own_path, "mutate", std::to_string(random_()).c_str(),
          std::to_string(generation_).c_str(), std::to_string(500 + Below(3000)).c_str(), nullptr);
    Die("exec");
  }

  void Vfork() {
    const pid_t child = vfork();
    if (child == 0) {
      execl(own_path, own_path, "nothing", nullptr);
      _exit(1);
    }
    waitpid(child, nullptr, 0);
  }

  void TryStep() {
    if (sigsetjmp(after_fault, 1) == 0) Step();
  }

  void Step() {
    while (regions_.size() > 16) Drop(Any());
    if (regions_.size() < 4) New();
    switch (Below(40)) {
      case 0: return New();
      case 1: return Drop(Any());
      case 2: return MapAgain(Any());
      case 3: return Resize(Any());
      case 4: return MoveOver();
      case 5: return MoveAndLeave(Any());
      case 6: return Advise(MADV_DONTNEED);
      case 7: return Advise(MADV_FREE);
      case 8: return DropHuge();
      case 9: return Below(4) == 0 ? Huge() : void();
      case 10: return Protect(Any());
      case 11: return Break();
      case 12: return Lock(Any());
      case 13: return Droppable();
      case 14: return Same(Any());
      case 15: return Below(3) == 0 ? Fork() : void();
      case 16: return Below(6) == 0 ? Vfork() : void();
      case 17: return Advise(102);  // MADV_GUARD_INSTALL
      case 18: return Advise(103);  // MADV_GUARD_REMOVE
      case 19: return Advise(MADV_PAGEOUT);
      case 20: return Advise(MADV_COLD);
      case 21: return Below(50) == 0 ? Advise(25) : void();  // MADV_COLLAPSE waits for every processor
      case 22: return Advise(MADV_NOHUGEPAGE);
      case 23: return ByTheKernel(Any());
      default: return Write(Any());
    }
  }

  std::mt19937 random_;
  int generation_;
  int random_file_ = -1;
  std::vector<Region> regions_;
  size_t broken_ = 0;
  char* break_ = nullptr;
  int children_ = 0;
};

void SurviveFaults() {
  struct sigaction action{};
  action.sa_handler = [](int) { siglongjmp(after_fault, 1); };
  sigaction(SIGSEGV, &action, nullptr);
}

[[noreturn]] void Mutate(unsigned seed, int generation, long steps) {
  static std::vector<char> shared(64 * kPage);
  for (unsigned i = 0; i < 2; ++i) {
    std::thread([i] {
      std::mt19937 random(i);
      while (true) {
        shared[random() % shared.size()] = static_cast<char>(random());
        if (random() % 64 == 0) usleep(20);
      }
    }).detach();
  }
  Mutator(seed, generation).Run(steps);
}

// ---- what an injection must not disturb ----

void AwaitLine() {
  char byte = 0;
  if (read(0, &byte, 1) != 1) Die("read");
}

// One nap: how long it took, and whether the call returned early.
void Nap(long ms) {
  Say("ready");
  const long began = Ms();
  const timespec time{ms / 1000, ms % 1000 * 1000000};
  const int result = nanosleep(&time, nullptr);
  Say(result == 0 ? "slept " + std::to_string(Ms() - began) : std::string("woke: ") + strerror(errno));
}

void Futex() {
  static std::atomic<uint32_t> word = 0;
  std::thread waker([] {
    AwaitLine();
    word = 1;
    syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  });
  Say("ready");
  const long result = syscall(SYS_futex, &word, FUTEX_WAIT, 0, nullptr, nullptr, 0);
  Say(result == 0 && word == 1 ? "woken" : std::string("futex: ") + strerror(errno));
  waker.join();
}

void Pipe() {
  Say("ready");
  char text[64];
  const ssize_t size = read(0, text, sizeof(text));
  Say("read " + std::string(text, static_cast<size_t>(size < 0 ? 0 : size - 1)));
}

void Pending() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  sigval value{};
  value.sival_int = 77;
  sigqueue(getpid(), SIGUSR1, value);
  Say("ready");
  AwaitLine();
  siginfo_t info{};
  const timespec none{};
  const int signal = sigtimedwait(&set, &info, &none);
  Say(signal == SIGUSR1 && info.si_value.sival_int == 77 ? "still pending" : "lost");
}

template <size_t kSize>
void Install(sock_filter (&code)[kSize]) {
  const sock_fprog program{kSize, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    Die("seccomp");
}

void Filter() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  Install(code);
  Say("ready");
  AwaitLine();
  Say("alive");
  AwaitLine();
  syscall(SYS_userfaultfd, 0);
  Say("the filter is gone");
}

// A handler's signal, waited for by sigsuspend: none may be lost, and none may come early.
volatile sig_atomic_t alarms = 0;

// System calls of all kinds, without a pause between them, each with its one right result; until a line
// comes.
void Calls() {
  int ends[2], epoll = epoll_create1(EPOLL_CLOEXEC);
  if (pipe2(ends, O_CLOEXEC) != 0) Die("pipe");
  const pid_t pid = getpid(), parent = getppid();
  sigset_t alarm, before;
  sigemptyset(&alarm);
  sigaddset(&alarm, SIGALRM);
  sigprocmask(SIG_BLOCK, &alarm, &before);
  struct sigaction action{};
  action.sa_handler = [](int) { alarms = alarms + 1; };
  sigaction(SIGALRM, &action, nullptr);
  static std::atomic<uint32_t> word = 0;
  const timespec tiny{0, 200000};
  Say("ready");
  long rounds = 0;
  const auto check = [&](bool right, const char* what) {
    if (!right) {
      Say(std::string("DAMAGED: ") + what + ": " + strerror(errno) + " in round " + std::to_string(rounds));
      _exit(1);
    }
  };
  pollfd line{0, POLLIN, 0};
  for (; poll(&line, 1, 0) == 0; ++rounds) {
    errno = 0;
    check(syscall(SYS_getpid) == pid && syscall(SYS_getppid) == parent, "getpid");
    char out = static_cast<char>(rounds), in = 0;
    check(write(ends[1], &out, 1) == 1 && read(ends[0], &in, 1) == 1 && in == out, "pipe");
    check(nanosleep(&tiny, nullptr) == 0, "nanosleep");
    pollfd nothing{ends[0], POLLIN, 0};
    check(poll(&nothing, 1, 1) == 0, "poll");
    epoll_event event{};
    // signal(7): this one returns early after any stop, and errno says so.
    check(epoll_wait(epoll, &event, 1, 1) == 0 || errno == EINTR, "epoll_wait");
    check(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &tiny, nullptr, 0) == -1 && errno == ETIMEDOUT, "futex");
    const sig_atomic_t seen = alarms;
    const itimerval soon{{0, 0}, {0, 300}};
    setitimer(ITIMER_REAL, &soon, nullptr);
    check(sigsuspend(&before) == -1 && errno == EINTR && alarms == seen + 1, "sigsuspend");
    check(close(999) == -1 && errno == EBADF, "close");
  }
  Say("sound after " + std::to_string(rounds));
}

// Registers of both kinds, without a system call.
bool ComputeUntil(const std::atomic<bool>& end) {
  uint64_t wanted = 0;
  bool sound = true;
  for (long round = 0; !end && sound; ++round) {
    uint64_t a = 1, b = 2, c = 3, d = 5;
    double x = 1;
    for (int i = 0; i < 20000; ++i) {
      a = a * 6364136223846793005u + b;
      b ^= a >> 17;
      c += b * d;
      d = (d << 7 | d >> 57) + a;
      x = x * 1.0000001 + static_cast<double>(d & 3);
    }
    uint64_t sum = a ^ b ^ c ^ d ^ static_cast<uint64_t>(x);
    if (round == 0) wanted = sum;
    sound = sum == wanted;
  }
  return sound;
}

void Spin() {
  Say("ready");
  std::atomic<bool> end = false;
  std::thread reader([&end] {
    AwaitLine();
    end = true;
  });
  Say(ComputeUntil(end) ? "sound" : "DAMAGED");
  reader.join();
}

#if defined(__x86_64__)

// ---- rewrite spin|call: what the thread executes is changed under the injection ----

std::string Umask() {
  char text[256] = "";
  const int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0) Die("read status");
  close(fd);
  const char* umask = strstr(text, "Umask:");
  return umask == nullptr ? "" : std::string(umask, 11);
}

// Refuses umask; and kills for userfaultfd and for what is no system call.
void RefuseUmask() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_umask, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  Install(code);
}

// Where an injection finds the instruction first. The mapping's protection changes as a whole or not at all.
char* FindInVdso() {
  char* vdso = reinterpret_cast<char*>(getauxval(AT_SYSINFO_EHDR));
  if (vdso == nullptr) Die("find the vDSO");
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(vdso);
  const size_t bytes = header->e_shoff + size_t{header->e_shnum} * header->e_shentsize;
  if (mprotect(vdso, (bytes + kPage - 1) / kPage * kPage, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
    Die("change the vDSO");
  void* found = memmem(vdso, bytes, "\x0f\x05", 2);
  if (found == nullptr) Die("find the instruction");
  return static_cast<char*>(found);
}

long CallBy(const char* code, long number, const void* first, long second) {
  long result = number;
  asm volatile("sub $128, %%rsp\n\tcall *%[code]\n\tadd $128, %%rsp"  // past the red zone
               : "+a"(result), "+D"(first)
               : [code] "r"(code), "S"(second)
               : "rcx", "r11", "memory");
  return result;
}

void Rewrite(const std::string& how) {
  RefuseUmask();
  const std::string before = Umask();
  // syscall, or a jump past "ret" to: mov $SYS_umask, %eax; mov $0123, %edi; syscall; and all of it again or
  // "ret".
  unsigned char code[] = {0x0f, 0x05, 0xc3, 0xb8, 95, 0, 0, 0, 0xbf, 0x53, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf2};
  char* at;
  if (how == "call") {
    code[15] = 0xc3;
    at = static_cast<char*>(
        mmap(nullptr, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (at == MAP_FAILED) Die("mmap");
  } else {
    at = FindInVdso();
  }
  memcpy(at, code, sizeof(code));
  const uint16_t call = 0x050f, other = 0x01eb;
  std::atomic<bool> end = false;
  std::thread reader([&end] {
    AwaitLine();
    end = true;
  });
  std::thread rewriter([&] {
    volatile uint16_t& instruction = *reinterpret_cast<uint16_t*>(at);
    for (unsigned i = 0; !end; ++i) {
      instruction = i % 2 == 0 ? other : call;
      for (unsigned wait = 0; wait < 20 * (i % 64); ++wait) asm volatile("pause");
    }
    instruction = call;
  });
  Say("ready");
  bool sound = true;
  if (how != "call") sound = ComputeUntil(end);
  const timespec nap{0, 200000};
  while (!end) {
    const long result = CallBy(at, SYS_nanosleep, &nap, 0);
    sound = sound && (result == 0 || result == -EPERM);
  }
  rewriter.join();
  reader.join();
  Say(Umask() != before ? "the filter was passed by: " + Umask() : sound ? "sound" : "DAMAGED");
}

#endif

// Processes that cannot be stopped: each waits in vfork(2) for a child that does not end.
[[noreturn]] void Vforks(long count) {
  Say("ready");
  AwaitLine();
  int ends[2];
  if (pipe(ends) != 0) Die("pipe");
  for (long i = 0; i < count; ++i) {
    if (fork() != 0) continue;
    if (vfork() == 0) {
      syscall(SYS_write, ends[1], "x", 1);
      while (true) pause();
    }
    _exit(1);
  }
  char byte = 0;
  for (long i = 0; i < count; ++i) {
    if (read(ends[0], &byte, 1) != 1) Die("read");
  }
  Say("waiting");
  while (true) pause();
}

void Direct(const char* path) {
  const int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
  if (fd < 0) Die("open with O_DIRECT");
  Say("ready");
  AwaitLine();
}

void Aio() {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, 8, &context) != 0) Die("io_setup");
  Say("ready");
  AwaitLine();
}

// Memory without a zero page; then, a line at a time, one page in a hundred is written.
[[noreturn]] void Fill(size_t mib) {
  const size_t bytes = mib << 20;
  char* memory =
      static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  for (size_t i = 0; i < bytes; i += kPage) memory[i] = 1;
  Say("ready");
  while (true) {
    AwaitLine();
    for (size_t i = 0; i < bytes; i += 100 * kPage) ++memory[i];
    Say("written");
  }
}

// Memory of which the lower half is unmapped when a line comes in.
[[noreturn]] void Unmap(size_t mib) {
  const size_t bytes = mib << 20;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap");
  memset(memory, 1, bytes);
  Say("ready");
  AwaitLine();
  if (munmap(memory, bytes / 2) != 0) Die("munmap");
  Say("unmapped");
  while (true) pause();
}

// Memory of which single pages are written at random places, for ever: many short ranges at each look.
[[noreturn]] void Scatter(size_t mib) {
  const size_t pages = (mib << 20) / kPage;
  char* memory = static_cast<char*>(
      mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  for (size_t i = 0; i < pages; ++i) memory[i * kPage] = 1;
  Say("ready");
  std::minstd_rand random(1);
  while (true) {
    for (int i = 0; i < 10; ++i) ++memory[random() % pages * kPage];
    usleep(50);
  }
}

// ---- shared SEED: processes that come and go, and do everything to memory that they share ----

struct SharedRegion {
  char* start;
  size_t bytes;
};

class Sharer {
 public:
  explicit Sharer(unsigned seed) : random_(seed) {
    for (int i = 0; i < 4; ++i) New();
  }

  [[noreturn]] void Run(long steps) {
    for (long step = 0; steps < 0 || step < steps; ++step) {
      Step(steps < 0);
      while (waitpid(-1, nullptr, WNOHANG) > 0) --children_;
      if (Below(3) == 0) usleep(static_cast<useconds_t>(Below(300)));
    }
    _exit(0);
  }

 private:
  size_t Below(size_t limit) { return random_() % limit; }
  void New() {
    const size_t bytes = (1 + Below(600)) * kPage;
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) Die("mmap");
    regions_.push_back({static_cast<char*>(at), bytes});
  }
  void Drop(SharedRegion& region) {
    munmap(region.start, region.bytes);
    region = regions_.back();
    regions_.pop_back();
  }
  // Another mapping of part of the same object, and at times the region itself elsewhere.
  void Remap(SharedRegion region, size_t index) {
    if (Below(2) == 0) {
      void* const moved = mremap(region.start, region.bytes, region.bytes, MREMAP_MAYMOVE);
      if (moved != MAP_FAILED) regions_[index].start = static_cast<char*>(moved);
      return;
    }
    const size_t pages = region.bytes / kPage, first = Below(pages);
    const size_t bytes = (1 + Below(pages - first)) * kPage;
    void* const again = mremap(region.start + first * kPage, 0, bytes, MREMAP_MAYMOVE);
    if (again != MAP_FAILED) regions_.push_back({static_cast<char*>(again), bytes});
  }
  void Write(const SharedRegion& region) {
    for (size_t i = 0, n = 1 + Below(30); i < n; ++i) {
      const uint64_t value = random_();
      memcpy(region.start + Below(region.bytes / kPage) * kPage + Below(kPage / 8) * 8, &value,
             sizeof(value));
    }
  }
  void Advise(const SharedRegion& region, int advice) {
    const size_t pages = region.bytes / kPage, first = Below(pages);
    madvise(region.start + first * kPage, (1 + Below(pages - first)) * kPage, advice);
  }
  void Fork() {
    if (children_ >= 3) return;
    const pid_t child = fork();
    if (child < 0) return;
    if (child > 0) {
      ++children_;
      return;
    }
    Sharer own(*this, static_cast<unsigned>(random_()) ^ static_cast<unsigned>(getpid()));
    own.Run(static_cast<long>(Below(2) == 0 ? 1 : own.Below(600)));
  }
  Sharer(const Sharer& parent, unsigned seed) : random_(seed), regions_(parent.regions_) {}

  void Step(bool may_fork) {
    if (regions_.empty()) return New();
    const size_t index = Below(regions_.size());
    SharedRegion& region = regions_[index];
    switch (Below(40)) {
      case 0: return regions_.size() < 12 ? New() : Drop(region);
      case 1: return Drop(region);
      case 2: return Remap(region, index);
      case 3: return Advise(region, MADV_REMOVE);
      case 4: return Advise(region, MADV_DONTNEED);
      case 5: return Advise(region, MADV_PAGEOUT);
      case 6: {  // the mapping falls into three
        const size_t pages = region.bytes / kPage, page = Below(pages);
        mprotect(region.start + page * kPage, kPage, PROT_READ);
        mprotect(region.start + page * kPage, kPage, PROT_READ | PROT_WRITE);
        return;
      }
      case 7:
      case 8:
        if (may_fork) Fork();
        return;
      default: return Write(region);
    }
  }

  std::mt19937 random_;
  std::vector<SharedRegion> regions_;
  int children_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  own_path = argv[0];
  const std::string mode = argc > 1 ? argv[1] : "";
  const auto number = [&](int i) { return argc > i ? strtol(argv[i], nullptr, 10) : 0; };
  if (mode == "mutate") {
    SurviveFaults();
    mallopt(M_ARENA_MAX, 1);  // 64 MiB each to compare, of nothing
    if (argc < 5) Say("ready");
    Mutate(static_cast<unsigned>(number(2)), static_cast<int>(number(3)), argc > 4 ? number(4) : -1);
  }
  if (mode == "shared") {
    Say("ready");
    Sharer(static_cast<unsigned>(number(2))).Run(-1);
  }
  if (mode == "nap") Nap(number(2));
  if (mode == "futex") Futex();
  if (mode == "pipe") Pipe();
  if (mode == "pending") Pending();
  if (mode == "filter") Filter();
  if (mode == "calls") Calls();
  if (mode == "spin") Spin();
#if defined(__x86_64__)
  if (mode == "rewrite") Rewrite(argv[2]);
#endif
  if (mode == "vforks") Vforks(number(2));
  if (mode == "direct") Direct(argv[2]);
  if (mode == "aio") Aio();
  if (mode == "scatter") Scatter(static_cast<size_t>(number(2)));
  if (mode == "fill") Fill(static_cast<size_t>(number(2)));
  if (mode == "unmap") Unmap(static_cast<size_t>(number(2)));
  return 0;
}
