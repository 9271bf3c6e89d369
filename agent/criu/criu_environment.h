// SPDX-License-Identifier: Apache-2.0
// What CRIU is told through its environment. runc hands its own environment on to `criu swrk`, so whoever
// starts runc (godwit-guard for a dump, godwit-runtime for a restore) sets these; the preload library
// (runtime/preload) reads all but the first and takes them out of the environment of CRIU's children. Each is
// optional: absent, nothing happens.
//
// No includes: the preload library is built without the C++ library.
#pragma once

namespace godwit::criu {

// A file of CRIU options, one a line without "--". CRIU's own variable, read before runc's request, which
// wins where both speak; /etc/criu/runc.conf (a person's word) wins over both. Works with every runc, for
// dump and restore.
inline constexpr char kConfigFileVariable[] = "CRIU_CONFIG_FILE";

// Restore: the container's cgroup2 folder (absolute). At CRIU's pre-resume notification, after the last code
// that the tasks run for CRIU and before the first of their own, the library freezes that cgroup and waits
// until it is frozen. The restored tasks come out standing still. Where that fails the tasks are killed
// (cgroup.kill): CRIU itself would let them run.
inline constexpr char kHoldCgroupVariable[] = "GODWIT_CRIU_HOLD_CGROUP";

// Restore, with the above: the cgroup2 folder (absolute) that CRIU moves to before it comes to its gate,
// since runc puts it into the container's. It must be one that may hold processes: the caller's own is. Where
// that fails CRIU ends.
inline constexpr char kOutsideCgroupVariable[] = "GODWIT_CRIU_OUTSIDE_CGROUP";

// Restore: a file of the anonymous shared memory that is there already, read when the gate has been passed. A
// line for each object: "<id> <inode> <path>\n", the number in its image's name (pagemap-shmem-<id>.img), the
// inode number (both decimal) and "/proc/<pid>/fd/<n>" of the process that holds it. CRIU makes an empty
// memfd for each object that tasks map; before it reads the object's image the library puts the one that is
// there in its place. When one of them cannot be had, or was not asked for by the end, the restore fails.
inline constexpr char kSharedMemoryVariable[] = "GODWIT_CRIU_SHARED_MEMORY";

// A FIFO. A dump waits before it stops the first task, a restore before it opens the first image, until
// somebody opens the FIFO for writing and writes a byte; closed without one, CRIU ends. So runc and CRIU can
// be started ahead of time, and have all done that depends on neither tasks nor images.
inline constexpr char kGateVariable[] = "GODWIT_CRIU_GATE";

// Dump: a file of the memory that the page engine carries, read when the gate has been passed. Text, a line
// for each range, sorted: "<pid> <start>-<end>\n", pid (decimal) in the host's pid namespace, addresses in
// hexadecimal. The kernel's answer to PAGEMAP_SCAN is changed so that CRIU finds no page there; a file that
// cannot be read fails the dump. Lines of pid 0 are of anonymous shared memory, which CRIU dumps by object: a
// range of inode numbers, in hexadecimal, of objects in which it finds no page (lseek, SEEK_DATA).
inline constexpr char kHiddenPagesVariable[] = "GODWIT_CRIU_HIDDEN_PAGES";

// Dump: a folder with a file for each task, named by its pid (in the host's pid namespace), that CRIU reads
// in place of the task's smaps: its mappings and their VmFlags as of the freeze, without what costs the
// kernel a walk over all page tables. A task without a file has its own smaps read.
inline constexpr char kSmapsVariable[] = "GODWIT_CRIU_SMAPS";

// Dump: a FIFO that somebody reads. It gets a byte when the dump has succeeded: the images are complete and
// CRIU has let the tasks go. runc and CRIU need a few milliseconds more to end.
inline constexpr char kDoneVariable[] = "GODWIT_CRIU_DONE";

// Dump: "1": CRIU finds no connection tracking entries in the pod's network namespace. It reads the machine's
// whole table twice for them (5 ms each for 262144 buckets), also when that namespace is not its to restore;
// they are of no use where connections are closed on restore.
inline constexpr char kNoConntrackVariable[] = "GODWIT_CRIU_NO_CONNTRACK";

// "1" to "4": CRIU logs no more than this (1 errors, 2 warnings, 3 information, 4 all). runc asks for 4, some
// hundred lines, each a write of its own, in the freeze.
inline constexpr char kLogLevelVariable[] = "GODWIT_CRIU_LOG_LEVEL";

// A file of one byte or more, mapped and looked at whenever CRIU writes pages, scans memory or opens an
// image. From the moment its first byte is not 0, those calls fail with ECANCELED: CRIU takes its own error
// path, which heals the tasks it has injected code into. Killing CRIU instead can kill the application.
inline constexpr char kAbortVariable[] = "GODWIT_CRIU_ABORT";

// A file that gets, appended, what CRIU would write to stdout and stderr, and the library's own messages. On
// a restore those descriptors are the container's: what is written there lands in the pod's log.
inline constexpr char kMessagesVariable[] = "GODWIT_CRIU_MESSAGES";

}  // namespace godwit::criu
