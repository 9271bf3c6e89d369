// SPDX-License-Identifier: Apache-2.0
#include "tests/node/memory.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "agent/runtime/cgroup.h"
#include "base/socket.h"
#include "gtest/gtest.h"

namespace godwit::node_test {
namespace {

using memory::Range;
using memory::Ranges;

constexpr uint32_t kRestoreFinished = 0x52535446;

// Private mappings without a file, but for the kernel's own.
Ranges OwnedOf(pid_t pid) {
  Ranges owned;
  for (absl::string_view line :
       absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/maps")).value_or(""), '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    const std::vector<std::string> ends = absl::StrSplit(words[0], '-');
    const absl::string_view name = words.size() > 5 ? words[5] : "";
    if (words[1][3] != 'p' || (!name.empty() && name != "[heap]" && name != "[stack]")) continue;
    memory::Append(owned, {strtoull(ends[0].c_str(), nullptr, 16), strtoull(ends[1].c_str(), nullptr, 16)});
  }
  return owned;
}

Ranges PopulatedOf(pid_t pid, const Ranges& owned) {
  Ranges populated;
  const UniqueFd pagemap(open(absl::StrCat("/proc/", pid, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  for (const Range& range : owned) {
    std::vector<uint64_t> entries(range.bytes() / memory::PageBytes());
    const auto offset = static_cast<off_t>(range.start / memory::PageBytes() * 8);
    EXPECT_EQ(pread(pagemap.get(), entries.data(), entries.size() * 8, offset),
              static_cast<ssize_t>(entries.size() * 8));
    for (size_t i = 0; i < entries.size(); ++i) {
      const uint64_t address = range.start + i * memory::PageBytes();
      const bool guard_region = (entries[i] >> 58 & 1) != 0;  // is shown as swapped
      if ((entries[i] >> 62) != 0 && !guard_region)
        memory::Append(populated, {address, address + memory::PageBytes()});
    }
  }
  return populated;
}

UniqueFd StoreOf(pid_t pid, const Ranges& populated) {
  UniqueFd store(memfd_create("pages", MFD_CLOEXEC));
  for (const Range& range : populated) {
    EXPECT_EQ(ftruncate(store.get(), static_cast<off_t>(range.end)), 0);
    void* to = mmap(nullptr, range.bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, store.get(),
                    static_cast<off_t>(range.start));
    EXPECT_NE(to, MAP_FAILED);
    const iovec local{to, range.bytes()}, remote{reinterpret_cast<void*>(range.start), range.bytes()};
    EXPECT_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), static_cast<ssize_t>(range.bytes()));
    munmap(to, range.bytes());
  }
  return store;
}

pid_t ContainerPid(pid_t pid) {
  for (absl::string_view line :
       absl::StrSplit(ReadFile(absl::StrCat("/proc/", pid, "/status")).value_or(""), '\n')) {
    if (!absl::StartsWith(line, "NSpid:")) continue;
    const std::vector<absl::string_view> pids =
        absl::StrSplit(line.substr(6), absl::ByAnyChar("\t "), absl::SkipEmpty());
    int last = 0;
    EXPECT_TRUE(absl::SimpleAtoi(pids.back(), &last));
    return last;
  }
  return 0;
}

// One message's bytes, exactly, and its descriptor where it has one.
bool Receive(int socket, void* data, size_t size, UniqueFd* fd) {
  iovec iov{data, size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL) != static_cast<ssize_t>(size)) return false;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  int got = -1;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) memcpy(&got, CMSG_DATA(header), sizeof(got));
  if (fd != nullptr) fd->Reset(got);
  return fd == nullptr || got >= 0;
}

}  // namespace

std::vector<TaskMemory> TakeMemory(const std::string& cgroup) {
  std::vector<TaskMemory> tasks;
  std::vector<pid_t> pids = runtime::ProcessesInCgroup(cgroup).value_or(std::vector<pid_t>{});
  std::sort(pids.begin(), pids.end());
  EXPECT_FALSE(pids.empty());
  for (pid_t pid : pids) {
    TaskMemory task;
    task.pid = pid;
    task.container_pid = ContainerPid(pid);
    task.owned = OwnedOf(pid);
    task.populated = PopulatedOf(pid, task.owned);
    task.store = StoreOf(pid, task.populated);
    tasks.push_back(std::move(task));
  }
  return tasks;
}

void WriteHidden(const std::string& path, const std::vector<TaskMemory>& tasks) {
  std::string text;
  for (const TaskMemory& task : tasks) {
    for (const Range& range : task.owned)
      absl::StrAppendFormat(&text, "%d %x-%x\n", task.pid, range.start, range.end);
  }
  EXPECT_TRUE(WriteFileDurably(path, text).ok());
}

LazyPages::LazyPages(const std::string& socket, const std::vector<TaskMemory>* memory) : memory_(memory) {
  absl::StatusOr<UniqueFd> listener = ListenUnix(socket);
  EXPECT_TRUE(listener.ok()) << listener.status();
  if (listener.ok()) listener_ = *std::move(listener);
  stop_.Reset(eventfd(0, EFD_CLOEXEC));
  thread_ = std::thread([this] { Serve(); });
}

LazyPages::~LazyPages() {
  const uint64_t one = 1;
  EXPECT_EQ(write(stop_.get(), &one, sizeof(one)), 8);
  thread_.join();
}

void LazyPages::Serve() {
  while (true) {
    std::vector<pollfd> polled = {{stop_.get(), POLLIN, 0},
                                  {connection_.ok() ? connection_.get() : listener_.get(), POLLIN, 0}};
    for (const auto& source : sources_) polled.push_back({source->uffd.get(), POLLIN, 0});
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[0].revents != 0) return;
    for (size_t i = polled.size(); i-- > 2;) {
      if ((polled[i].revents & POLLIN) != 0) {
        Answer(*sources_[i - 2]);
      } else if (polled[i].revents != 0) {  // the process has gone
        sources_.erase(sources_.begin() + static_cast<ptrdiff_t>(i - 2));
      }
    }
    if (polled[1].revents != 0) Take();
  }
}

void LazyPages::Take() {
  if (!connection_.ok()) {
    absl::StatusOr<UniqueFd> connection = AcceptUnix(listener_.get(), absl::Seconds(1));
    if (!connection.ok()) return;
    connection_ = *std::move(connection);
    fcntl(connection_.get(), F_SETFL, fcntl(connection_.get(), F_GETFL) & ~O_NONBLOCK);
    return;
  }
  uint32_t pid = 0;
  char filler = 0;
  UniqueFd uffd;
  const bool received = Receive(connection_.get(), &pid, sizeof(pid), nullptr);
  if (received && static_cast<int32_t>(pid) < 0) return;  // a zombie's: it has no memory
  if (!received || pid == kRestoreFinished || !Receive(connection_.get(), &filler, 1, &uffd)) {
    connection_.Reset(eventfd(0, EFD_CLOEXEC));  // nothing comes any more
    return;
  }
  for (const TaskMemory& task : *memory_) {
    if (task.container_pid != static_cast<pid_t>(pid)) continue;
    sources_.push_back(std::make_unique<Source>(Source{std::move(uffd), task.store.get()}));
    ++tasks_;
    return;
  }
}

void LazyPages::Answer(const Source& source) {
  uffd_msg message{};
  if (read(source.uffd.get(), &message, sizeof(message)) != sizeof(message)) return;
  if (message.event == UFFD_EVENT_FORK) {
    sources_.push_back(
        std::make_unique<Source>(Source{UniqueFd(static_cast<int>(message.arg.fork.ufd)), source.store}));
  }
  if (message.event != UFFD_EVENT_PAGEFAULT) return;
  const uint64_t page = message.arg.pagefault.address & ~(memory::PageBytes() - 1);
  std::vector<char> bytes(memory::PageBytes());
  if (pread(source.store, bytes.data(), bytes.size(), static_cast<off_t>(page)) < 0) return;  // fewer: zeros
  uffdio_copy copy{};
  copy.dst = page;
  copy.src = reinterpret_cast<uint64_t>(bytes.data());
  copy.len = bytes.size();
  if (ioctl(source.uffd.get(), UFFDIO_COPY, &copy) == 0) ++faults_;
}

}  // namespace godwit::node_test
