// SPDX-License-Identifier: Apache-2.0
// What runs in the containers of the node tests: `workload MODE [ARGUMENT]`. Every mode then counts on
// stdout, a line each 5 ms: "<n> <CLOCK_MONOTONIC in ms> <what the mode has to say>". Static, alone in its
// root file system.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

constexpr int kPort = 7000;

[[noreturn]] void Die(const char* what) {
  printf("workload: %s: %s\n", what, strerror(errno));
  fflush(stdout);
  exit(9);
}

long MonotonicMs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void Nap(long ms) {
  timespec time{ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&time, &time) != 0 && errno == EINTR) {
  }
}

[[noreturn]] void Count(const std::function<std::string()>& say) {
  for (long n = 1;; ++n) {
    char line[256];
    const int size = snprintf(line, sizeof(line), "%ld %ld %s\n", n, MonotonicMs(), say().c_str());
    if (write(1, line, static_cast<size_t>(size)) != size) exit(8);
    Nap(5);
  }
}

std::string Nothing() { return "-"; }

// The name of its session keyring.
std::string Keyring() {
  char text[200] = "";
  const long size = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text, sizeof(text) - 1);
  if (size <= 0) return errno == ENOSYS ? "none" : strerror(errno);
  const char* name = strrchr(text, ';');  // "keyring;uid;gid;permissions;name"
  return name != nullptr ? name + 1 : text;
}

// A sandbox: namespaces that containers join, and nothing else. Says "ready" when loopback is up.
[[noreturn]] void Sandbox() {
  if (unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0) Die("unshare");
  if (system("/usr/sbin/ip link set lo up") != 0) Die("ip link set lo up");
  printf("ready\n");
  fflush(stdout);
  while (true) pause();
}

// Fills memory with a pattern, and checks all of it each hundredth line.
[[noreturn]] void Memory(size_t mib) {
  const size_t words = mib * (1 << 20) / sizeof(unsigned long);
  auto* memory = static_cast<unsigned long*>(mmap(
      nullptr, words * sizeof(unsigned long), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  for (size_t i = 0; i < words; ++i) memory[i] = i * 2654435761u;
  long lines = 0;
  Count([&]() -> std::string {
    if (++lines % 100 != 0) return "unchecked";
    for (size_t i = 0; i < words; i += 512) {
      if (memory[i] != i * 2654435761u) return "DAMAGED";
    }
    return "sound";
  });
}

// Fills memory with a pattern, then reads a word of four pages at random a line, and says what each took that
// was not there: in microseconds, by CLOCK_MONOTONIC. After SIGUSR1 all pages are compared, once.
[[noreturn]] void Touch(size_t mib) {
  static volatile sig_atomic_t compare = 0;
  signal(SIGUSR1, [](int) { compare = 1; });
  constexpr size_t kPageWords = 4096 / sizeof(unsigned long);
  const size_t words = mib * (1 << 20) / sizeof(unsigned long), pages = words / kPageWords;
  auto* memory = static_cast<volatile unsigned long*>(mmap(
      nullptr, words * sizeof(unsigned long), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  for (size_t i = 0; i < words; ++i) memory[i] = i * 2654435761u;
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt + usage.ru_majflt;
  };
  unsigned long random = 1;
  Count([&]() -> std::string {
    std::string said = "waited";
    for (int touch = 0; touch < 4; ++touch) {
      random = random * 6364136223846793005 + 1442695040888963407;
      const size_t at = (random >> 33) % pages * kPageWords;
      const long before = faults();
      timespec begin{}, end{};
      clock_gettime(CLOCK_MONOTONIC, &begin);
      const bool right = memory[at] == at * 2654435761u;
      clock_gettime(CLOCK_MONOTONIC, &end);
      if (!right) said = "DAMAGED " + said;
      if (faults() == before) continue;
      const double took = static_cast<double>(end.tv_sec - begin.tv_sec) * 1e6 +
                          static_cast<double>(end.tv_nsec - begin.tv_nsec) / 1e3;
      char text[32];
      snprintf(text, sizeof(text), " %.1f", took);
      said += text;
    }
    if (compare == 0) return said;
    compare = 0;
    size_t wrong = 0;
    for (size_t page = 0; page < pages; ++page) {
      for (size_t i = page * kPageWords; i < (page + 1) * kPageWords; ++i) {
        if (memory[i] == i * 2654435761u) continue;
        ++wrong;
        break;
      }
    }
    return "compared " + std::to_string(pages) + " wrong " + std::to_string(wrong);
  });
}

// Rewrites all its memory, page after page, again and again, 64 pages a line (some 50 MB/s), and with `check`
// looks at all of it each hundredth line. What a page holds tells by which write it was written, and the
// number of the next write what every page must hold: a page of another moment shows, and one that was never
// checked is not left.
[[noreturn]] void Rewrite(size_t mib, bool check) {
  constexpr size_t kWords = 4096 / sizeof(unsigned long);
  constexpr unsigned long kPagesALine = 64;
  const size_t pages = mib * (1 << 20) / 4096;
  auto* memory = static_cast<unsigned long*>(
      mmap(nullptr, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  const auto word = [](unsigned long number, size_t i) {
    return (number * kWords + i) * 0x9e3779b97f4a7c15u;
  };
  unsigned long next = 0;
  const auto write = [&] {
    unsigned long* page = memory + next % pages * kWords;
    for (size_t i = 0; i < kWords; ++i) page[i] = word(next, i);
    ++next;
  };
  while (next < pages) write();
  long lines = 0;
  Count([&]() -> std::string {
    for (unsigned long i = 0; i < kPagesALine; ++i) write();
    if (!check || ++lines % 100 != 0) return "unchecked";
    for (size_t page = 0; page < pages; ++page) {
      const unsigned long behind = (next - 1 - page) % pages;  // so many writes before the last
      for (size_t i = 0; i < kWords; ++i) {
        if (memory[page * kWords + i] != word(next - 1 - behind, i)) return "DAMAGED";
      }
    }
    return "sound";
  });
}

// Content that the process itself may not read, but for a moment each line.
[[noreturn]] void Protected() {
  constexpr size_t kBytes = 16 * 4096;
  auto* memory =
      static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  memset(memory, 'p', kBytes);
  if (mprotect(memory, kBytes, PROT_NONE) != 0) Die("mprotect");
  Count([&]() -> std::string {
    if (mprotect(memory, kBytes, PROT_READ) != 0) Die("mprotect");
    bool sound = true;
    for (size_t at = 0; at < kBytes; ++at) sound = sound && memory[at] == 'p';
    if (mprotect(memory, kBytes, PROT_NONE) != 0) Die("mprotect");
    return sound ? "sound" : "DAMAGED";
  });
}

// Memory that a parent and its child share and both write, by turns: each line the parent asks, the child
// fills a page that the parent then checks. Each fiftieth line a process that ends at once writes as well;
// each hundredth the parent looks at all of it. The last quarter stays empty. Part of it is mapped a second
// time. Beside it the parent has memory of its own, a page of which it writes each line, so that the number
// of the last line says what each must hold.
[[noreturn]] void Shared(size_t mib) {
  constexpr size_t kPageWords = 512;
  const size_t bytes = mib << 20, pages = bytes / 4096, used = pages / 4 * 3;
  auto* memory = static_cast<volatile unsigned long*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) Die("mmap");
  auto* const start = const_cast<unsigned long*>(memory);
  // A length of 0 makes another mapping of the same memory (mremap(2)).
  auto* second =
      static_cast<volatile unsigned long*>(mremap(start + kPageWords, 0, bytes / 2, MREMAP_MAYMOVE));
  if (second == MAP_FAILED) Die("mremap");
  volatile unsigned long* const asked = memory;  // the first page has the words that they pass
  volatile unsigned long* const answered = memory + 1;
  for (size_t page = 1; page < used; ++page) memory[page * kPageWords + 511] = page * 2654435761u;
  if (fork() == 0) {
    while (true) {
      if (*answered != *asked) {
        const unsigned long n = *asked;
        memory[(1 + n * 7919 % (used - 1)) * kPageWords + 3] = n;
        *answered = n;
      }
      Nap(1);
    }
  }
  const size_t own_pages = pages / 32;
  auto* own = static_cast<volatile unsigned long*>(
      mmap(nullptr, own_pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (own == MAP_FAILED) Die("mmap");
  const auto own_word = [&](unsigned long line) { return line * 7919 % own_pages * kPageWords + 3; };
  for (size_t page = 0; page < own_pages; ++page) own[page * kPageWords + 3] = 0;
  unsigned long n = 0;
  Count([&]() -> std::string {
    *asked = ++n;
    own[own_word(n)] = n;
    for (int i = 0; *answered != n && i < 2000; ++i) Nap(1);
    if (memory[(1 + n * 7919 % (used - 1)) * kPageWords + 3] != n) return "DAMAGED: the child's page";
    if (n % 50 == 0) {
      const pid_t child = fork();
      if (child == 0) {
        memory[(n % used) * kPageWords + 5] = n;
        _exit(0);
      }
      waitpid(child, nullptr, 0);
      if (memory[(n % used) * kPageWords + 5] != n) return "DAMAGED: an ended process' page";
      if (second[100 * kPageWords + 511] != memory[101 * kPageWords + 511])
        return "DAMAGED: the second mapping";
    }
    if (n % 100 != 0) return "unchecked";
    for (size_t page = 1; page < used; ++page) {
      if (memory[page * kPageWords + 511] != page * 2654435761u) return "DAMAGED";
    }
    for (unsigned long line = n; line > 0 && line + own_pages > n; --line) {
      if (own[own_word(line)] != line) return "DAMAGED: a page of its own";
    }
    return memory[(used + 1 + n % 8) * kPageWords] == 0 ? "sound" : "DAMAGED: not empty";
  });
}

constexpr size_t kPage = 4096;

// Private ones, full of 'm'.
char* ThreePages() {
  void* const memory = mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Die("mmap");
  memset(memory, 'm', 3 * kPage);
  return static_cast<char*>(memory);
}

// Memory with a guard region (MADV_GUARD_INSTALL, Linux 6.13) in its middle, as thread stacks of newer C
// libraries have: writing there must still kill a process.
[[noreturn]] void Guarded() {
  constexpr int kGuardInstall = 102;
  char* const memory = ThreePages();
  if (madvise(memory + kPage, kPage, kGuardInstall) != 0) Die("madvise");
  Count([&]() -> std::string {
    const pid_t child = fork();
    if (child == 0) {
      *const_cast<volatile char*>(memory + kPage) = 'x';
      _exit(0);
    }
    int end = 0;
    waitpid(child, &end, 0);
    const bool sound = memory[0] == 'm' && memory[2 * kPage] == 'm';
    return !sound ? "DAMAGED" : WIFSIGNALED(end) ? "guarded" : "DAMAGED: the guard is gone";
  });
}

// A page that its children are to find empty (MADV_WIPEONFORK), as libraries have that tell a fork by it.
[[noreturn]] void Wiped() {
  char* const memory = ThreePages();
  if (madvise(memory + kPage, kPage, MADV_WIPEONFORK) != 0) Die("madvise");
  const auto* page = const_cast<volatile char*>(memory + kPage);
  Count([=]() -> std::string {
    const pid_t child = fork();
    if (child == 0) _exit(*page == '\0' ? 0 : 1);
    int end = 0;
    waitpid(child, &end, 0);
    if (memory[0] != 'm' || *page != 'm' || memory[2 * kPage] != 'm') return "DAMAGED";
    return WIFEXITED(end) && WEXITSTATUS(end) == 0 ? "wiped" : "DAMAGED: a child has its parent's page";
  });
}

// The parent counts into a pipe, its child prints what comes out.
[[noreturn]] void Pair() {
  int ends[2];
  if (pipe(ends) != 0) Die("pipe");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[1]);
    char buffer[4096];
    for (ssize_t n; (n = read(ends[0], buffer, sizeof(buffer))) > 0;) {
      if (write(1, buffer, static_cast<size_t>(n)) != n) exit(8);
    }
    exit(7);
  }
  close(ends[0]);
  dup2(ends[1], 1);
  Count([child] {
    return waitpid(child, nullptr, WNOHANG) == 0 ? std::string("child lives") : std::string("child is gone");
  });
}

int Connect() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

// One byte from client to server and back over a connection.
bool Works(int client, int server) {
  char byte = 'x';
  pollfd in{server, POLLIN, 0};
  if (send(client, &byte, 1, MSG_NOSIGNAL) != 1 || poll(&in, 1, 1000) != 1) return false;
  return recv(server, &byte, 1, 0) == 1;
}

// A listening socket and a connection to it; says whether each still works.
[[noreturn]] void Tcp() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int one = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 16) != 0)
    Die("listen");
  const int client = Connect();
  if (client < 0) Die("connect");
  const int server = accept(listener, nullptr, nullptr);
  if (server < 0) Die("accept");
  Count([&]() -> std::string {
    const bool old = Works(client, server);
    const int fresh = Connect();
    const int accepted = fresh < 0 ? -1 : accept(listener, nullptr, nullptr);
    const bool listening = accepted >= 0 && Works(fresh, accepted);
    close(fresh);
    close(accepted);
    return std::string(old ? "open" : "closed") + (listening ? " listening" : " deaf");
  });
}

// Gives back what comes in on a connection from outside.
[[noreturn]] void Echo() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener, 16) != 0)
    Die("listen");
  int client = -1;
  Count([&]() -> std::string {
    if (const int fresh = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK); fresh >= 0) {
      close(client);
      client = fresh;
    }
    char bytes[256];
    const ssize_t got = client < 0 ? -1 : read(client, bytes, sizeof(bytes));
    if (got > 0 && send(client, bytes, static_cast<size_t>(got), MSG_NOSIGNAL) != got) return "lost";
    return client < 0 ? "alone" : "connected";
  });
}

[[noreturn]] void IoUring() {
  io_uring_params params{};
  const long fd = syscall(SYS_io_uring_setup, 8, &params);
  if (fd < 0) Die("io_uring_setup");
  Count(Nothing);
}

[[noreturn]] void NestedPidNamespace() {
  if (unshare(CLONE_NEWPID) != 0) Die("unshare pid");
  if (fork() == 0) {
    while (true) pause();
  }
  Count(Nothing);
}

// Waits for SIGUSR1, and then makes a user namespace: as the first process, or as a child of it.
[[noreturn]] void NestedUserNamespace(bool child) {
  static volatile sig_atomic_t wanted = 0;
  signal(SIGUSR1, [](int) { wanted = 1; });
  if (child && fork() == 0) {
    while (wanted == 0) Nap(5);
    if (unshare(CLONE_NEWUSER) != 0) Die("unshare user");
    while (true) pause();
  }
  bool made = child;
  Count([&made] {
    if (wanted != 0 && !made && unshare(CLONE_NEWUSER) != 0) Die("unshare user");
    made = made || wanted != 0;
    return made ? "made" : "-";
  });
}

[[noreturn]] void PendingTerm() {
  sigset_t term;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  sigprocmask(SIG_BLOCK, &term, nullptr);
  kill(getpid(), SIGTERM);
  Count(Nothing);
}

// A file in the working folder that was deleted and is still open.
[[noreturn]] void DeletedFile(size_t mib) {
  const int fd = open("/deleted", O_RDWR | O_CREAT, 0600);
  if (fd < 0) Die("open");
  const std::string block(1 << 20, 'g');
  for (size_t i = 0; i < mib; ++i) {
    if (write(fd, block.data(), block.size()) != static_cast<ssize_t>(block.size())) Die("write");
  }
  unlink("/deleted");
  Count([&]() -> std::string {
    char byte = 0;
    const bool sound = pread(fd, &byte, 1, static_cast<off_t>((mib << 20) - 1)) == 1 && byte == 'g';
    return sound ? "sound" : "DAMAGED";
  });
}

// So many more of one kind of thing that CRIU looks at one by one.
[[noreturn]] void Many(const std::string& kind, size_t count) {
  const rlimit limit{65536, 65536};
  setrlimit(RLIMIT_NOFILE, &limit);
  for (size_t i = 0; i < count; ++i) {
    if (kind == "processes") {
      const pid_t child = fork();
      if (child < 0) Die("fork");
      while (child == 0) pause();
    } else if (kind == "threads") {
      pthread_t thread;
      const auto idle = [](void*) -> void* {
        while (true) pause();
      };
      if (pthread_create(&thread, nullptr, idle, nullptr) != 0) Die("pthread_create");
    } else if (kind == "files") {
      if (open(("/file-" + std::to_string(i)).c_str(), O_RDWR | O_CREAT, 0600) < 0) Die("open");
    } else if (kind == "pipes") {
      int ends[2];
      if (pipe(ends) != 0) Die("pipe");
    } else if (kind == "sockets") {
      if (socket(AF_INET, SOCK_DGRAM, 0) < 0) Die("socket");
    } else if (kind == "events") {
      if (eventfd(0, 0) < 0) Die("eventfd");
    } else if (kind == "mappings") {
      // Neighbours of other rights, so that they stay apart.
      void* page = mmap(nullptr, 4096, i % 2 == 0 ? PROT_READ | PROT_WRITE : PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (page == MAP_FAILED) Die("mmap");
      if (i % 2 == 0) *static_cast<char*>(page) = 'm';
    }
  }
  Count(Nothing);
}

// Makes files, and changes one at a line: in place, by a file that takes its place, or away and anew. What
// each holds is known in memory; every hundredth line compares all.
[[noreturn]] void Files(size_t count) {
  std::vector<long> held(count, 0);  // -1: the file is not there
  const auto path = [](size_t i) { return "/tree/" + std::to_string(i / 100) + "/" + std::to_string(i); };
  const auto put = [](const std::string& name, int flags, long number) {
    const int fd = open(name.c_str(), O_WRONLY | O_CREAT | flags, 0640);
    if (fd < 0 || write(fd, &number, sizeof(number)) != sizeof(number)) Die("write");
    close(fd);
  };
  if (mkdir("/tree", 0755) != 0) Die("mkdir");
  for (size_t i = 0; i < count; ++i) {
    if (i % 100 == 0 && mkdir(("/tree/" + std::to_string(i / 100)).c_str(), 0755) != 0) Die("mkdir");
    put(path(i), O_EXCL, 0);
  }
  const auto sound = [&] {
    for (size_t i = 0; i < count; ++i) {
      long number = -1;
      const int fd = open(path(i).c_str(), O_RDONLY);
      if (fd >= 0 && read(fd, &number, sizeof(number)) != sizeof(number)) number = -2;
      if (fd >= 0) close(fd);
      if (number != held[i]) return false;
    }
    return true;
  };
  unsigned long random = 1;
  long lines = 0;
  Count([&]() -> std::string {
    random = random * 6364136223846793005 + 1442695040888963407;
    const size_t i = (random >> 33) % count;
    ++lines;
    if (held[i] < 0) {
      put(path(i), O_EXCL, lines);
      held[i] = lines;
    } else if (lines % 3 == 0) {
      put(path(i), 0, lines);
      held[i] = lines;
    } else if (lines % 3 == 1) {
      put("/tree/new", O_EXCL, lines);
      if (rename("/tree/new", path(i).c_str()) != 0) Die("rename");
      held[i] = lines;
    } else {
      if (unlink(path(i).c_str()) != 0) Die("unlink");
      held[i] = -1;
    }
    if (lines % 100 != 0) return "unchecked";
    return sound() ? "sound" : "DAMAGED";
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  const size_t argument = argc > 2 ? strtoul(argv[2], nullptr, 10) : 0;
  if (mode == "sandbox") Sandbox();
  if (mode == "count") Count(Nothing);
  if (mode == "keyring") Count(Keyring);
  if (mode == "memory") Memory(argument);
  if (mode == "touch") Touch(argument);
  if (mode == "rewrite") Rewrite(argument, /*check=*/true);
  if (mode == "rewrite-only") Rewrite(argument, /*check=*/false);
  if (mode == "protected") Protected();
  if (mode == "shared") Shared(argument);
  if (mode == "guarded") Guarded();
  if (mode == "wiped") Wiped();
  if (mode == "pair") Pair();
  if (mode == "tcp") Tcp();
  if (mode == "echo") Echo();
  if (mode == "io-uring") IoUring();
  if (mode == "nested-pid") NestedPidNamespace();
  if (mode == "nested-user") NestedUserNamespace(/*child=*/false);
  if (mode == "nested-user-child") NestedUserNamespace(/*child=*/true);
  if (mode == "pending-term") PendingTerm();
  if (mode == "deleted-file") DeletedFile(argument);
  if (mode == "many" && argc > 3) Many(argv[2], strtoul(argv[3], nullptr, 10));
  if (mode == "files") Files(argument);
  if (mode == "sleep") {
    while (true) pause();
  }
  fprintf(stderr, "workload: no mode \"%s\"\n", mode.c_str());
  return 2;
}
