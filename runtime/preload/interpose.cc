// SPDX-License-Identifier: Apache-2.0
// The libc calls through which CRIU talks to runc, finds and writes pages and makes shared memory. Each does
// what its namesake does, by the same system call, and looks at what passes. CRIU 4.2: criu/cr-service.c,
// criu/cr-dump.c, criu/seize.c, criu/cr-restore.c, criu/page-xfer.c, criu/pagemap-cache.c, criu/shmem.c,
// criu/memfd.c.
#include <errno.h>
#include <fcntl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "runtime/preload/hidden.h"
#include "runtime/preload/hold.h"
#include "runtime/preload/rpc.h"
#include "runtime/preload/settings.h"
#include "runtime/preload/shared.h"
#include "runtime/preload/smaps.h"

#define GODWIT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using godwit::preload::Active;
using godwit::preload::Settings;

ssize_t Fail(int error) {
  errno = error;
  return -1;
}

constexpr size_t kMaxNotification = 256;  // type, success, a name and a pid

// What CRIU is about to send. False: it must not go. CRIU sends notifications over a copy of its socket, so
// that the descriptor tells nothing; in its main process only a notification reads as one.
bool MaySend(const void* data, size_t size) {
  if (size > kMaxNotification) return true;
  const Settings* settings = Active();
  if (settings == nullptr) return true;
  if (godwit::preload::IsDumpSuccess(data, size)) godwit::preload::TellDone(*settings);
  if (settings->hold_cgroup[0] == '\0') return true;
  if (!godwit::preload::IsNotification(data, size, "pre-resume")) return true;
  return godwit::preload::HoldContainer(*settings);
}

// A request for all connection tracking entries (CRIU 4.2: criu/net.c, dump_nf_ct;
// linux/netfilter/nfnetlink.h) becomes one for those that are not confirmed, a list that is empty or short.
void HideConntrack(const struct msghdr* message) {
  constexpr uint16_t kGet = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
  constexpr uint16_t kGetUnconfirmed = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_UNCONFIRMED;
  const auto* to = static_cast<const sockaddr*>(message->msg_name);
  if (message->msg_iovlen != 1 || to == nullptr || message->msg_namelen != sizeof(sockaddr_nl) ||
      to->sa_family != AF_NETLINK || message->msg_iov[0].iov_len != sizeof(nlmsghdr) + sizeof(nfgenmsg))
    return;
  auto* head = static_cast<nlmsghdr*>(message->msg_iov[0].iov_base);
  if (head->nlmsg_type == kGet && head->nlmsg_flags == (NLM_F_DUMP | NLM_F_REQUEST))
    head->nlmsg_type = kGetUnconfirmed;
}

// The type of the request that is still to come to its gate, or 0.
uint64_t request_before_gate = 0;

ssize_t AfterReceive(int fd, void* data, size_t buffer_size, ssize_t size, int flags) {
  const Settings* settings = Active();
  if (settings == nullptr || fd != settings->socket || size <= 0 || (flags & MSG_PEEK) != 0) return size;
  // With MSG_TRUNC the length is the whole message's, also beyond the buffer.
  const size_t have = static_cast<size_t>(size) < buffer_size ? static_cast<size_t>(size) : buffer_size;
  const uint64_t type = godwit::preload::MessageType(data, have);
  if (type != godwit::preload::kRequestDump && type != godwit::preload::kRequestRestore) return size;
  if (settings->broken) return Fail(ECANCELED);
  if (settings->log_level != 0) godwit::preload::LimitLogLevel(data, have, settings->log_level);
  request_before_gate = type;
  return size;
}

// CRIU's last act before it looks at what must stand still: a dump sets its alarm and seizes the tasks, a
// restore opens the inventory, the first of the images. What it does before (its options, what the kernel can
// do, a word to runc) takes milliseconds and is not in the freeze. Nothing was touched yet, so that a request
// which is refused may end with the process; runc reports that.
void AtGate(uint64_t type) {
  if (request_before_gate != type) return;
  const Settings* settings = Active();
  if (settings == nullptr) return;
  request_before_gate = 0;
  if (type == godwit::preload::kRequestRestore && !godwit::preload::LeaveContainer(*settings)) _exit(1);
  if (!godwit::preload::PassGate(*settings)) _exit(1);
  const bool hides = type == godwit::preload::kRequestDump && settings->hidden_pages[0] != '\0';
  if (hides && !godwit::preload::LoadHidden(settings->hidden_pages)) _exit(1);
  const bool has_shared = type == godwit::preload::kRequestRestore && settings->shared_memory[0] != '\0';
  if (has_shared && !godwit::preload::LoadShared(settings->shared_memory)) _exit(1);
}

int OpenAt(int folder, const char* path, int flags, mode_t mode) {
  if (strcmp(path, "inventory.img") == 0) AtGate(godwit::preload::kRequestRestore);
  const Settings* settings = strcmp(path, "smaps") == 0 ? Active() : nullptr;
  if (settings != nullptr && settings->smaps[0] != '\0') {
    const int fd = godwit::preload::OpenSmaps(settings->smaps, folder);
    if (fd >= 0) return fd;
  }
  if (!godwit::preload::PutSharedInPlace(folder, path)) return -1;
  return static_cast<int>(syscall(SYS_openat, folder, path, flags, mode));
}

off64_t Seek(int fd, off64_t offset, int whence) {
  if (whence == SEEK_DATA && Active() != nullptr && godwit::preload::HidesObject(fd)) return Fail(ENXIO);
  return syscall(SYS_lseek, fd, offset, whence);
}

// The argument after `flags`, which is there for some of them only (openat(2)).
#define GODWIT_MODE(flags, mode)                \
  mode_t mode = 0;                              \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) { \
    va_list arguments;                          \
    va_start(arguments, flags);                 \
    mode = va_arg(arguments, mode_t);           \
    va_end(arguments);                          \
  }

}  // namespace

GODWIT_EXPORT ssize_t recv(int fd, void* buffer, size_t size, int flags) {
  const ssize_t got = syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
  return AfterReceive(fd, buffer, size, got, flags);
}

// What recv becomes under _FORTIFY_SOURCE.
GODWIT_EXPORT ssize_t __recv_chk(int fd, void* buffer, size_t size, size_t buffer_size, int flags) {
  if (size > buffer_size) return Fail(EFAULT);
  return recv(fd, buffer, size, flags);
}

GODWIT_EXPORT ssize_t write(int fd, const void* data, size_t size) {
  if (fd == STDOUT_FILENO || fd == STDERR_FILENO) {
    // Of CRIU's main process these are a restored container's own.
    if (Active() != nullptr && godwit::preload::AppendMessages(data, size)) return static_cast<ssize_t>(size);
  }
  if (!MaySend(data, size)) return Fail(ECANCELED);
  return syscall(SYS_write, fd, data, size);
}

GODWIT_EXPORT ssize_t send(int fd, const void* data, size_t size, int flags) {
  if (!MaySend(data, size)) return Fail(ECANCELED);
  return syscall(SYS_sendto, fd, data, size, flags, nullptr, 0);
}

GODWIT_EXPORT ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  for (size_t i = 0; message != nullptr && i < message->msg_iovlen; ++i) {
    if (!MaySend(message->msg_iov[i].iov_base, message->msg_iov[i].iov_len)) return Fail(ECANCELED);
  }
  if (message != nullptr && godwit::preload::HidesConntrack()) HideConntrack(message);
  return syscall(SYS_sendmsg, fd, message, flags);
}

GODWIT_EXPORT int openat(int folder, const char* path, int flags, ...) {
  GODWIT_MODE(flags, mode)
  return OpenAt(folder, path, flags, mode);
}

// What openat becomes with _FILE_OFFSET_BITS=64: the same where files are of 64 bits anyway.
GODWIT_EXPORT int openat64(int folder, const char* path, int flags, ...) {
  GODWIT_MODE(flags, mode)
  return OpenAt(folder, path, flags, mode);
}

GODWIT_EXPORT unsigned alarm(unsigned seconds) {
  AtGate(godwit::preload::kRequestDump);
  const itimerval next{{0, 0}, {static_cast<time_t>(seconds), 0}};
  itimerval before{};
  syscall(SYS_setitimer, ITIMER_REAL, &next, &before);
  return static_cast<unsigned>(before.it_value.tv_sec) + (before.it_value.tv_usec != 0 ? 1 : 0);
}

GODWIT_EXPORT off_t lseek(int fd, off_t offset, int whence) { return Seek(fd, offset, whence); }
GODWIT_EXPORT off64_t lseek64(int fd, off64_t offset, int whence) { return Seek(fd, offset, whence); }

GODWIT_EXPORT int memfd_create(const char* name, unsigned flags) {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, name, flags));
  godwit::preload::NoteMemfd(fd);
  return fd;
}

GODWIT_EXPORT ssize_t splice(int in, off64_t* in_offset, int out, off64_t* out_offset, size_t size,
                             unsigned flags) {
  if (godwit::preload::AbortRequested()) return Fail(ECANCELED);
  return syscall(SYS_splice, in, in_offset, out, out_offset, size, flags);
}

GODWIT_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request == godwit::preload::kPagemapScan && Active() != nullptr) {
    if (godwit::preload::AbortRequested()) return static_cast<int>(Fail(ECANCELED));
    return static_cast<int>(
        godwit::preload::ScanVisible(fd, static_cast<godwit::preload::PagemapScan*>(argument)));
  }
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}
