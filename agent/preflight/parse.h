// SPDX-License-Identifier: Apache-2.0
// What preflight reads of /proc, as functions of its text: a container's processes choose some of it (names,
// paths, watches), so none of it can be trusted to be short, well-formed or printable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace godwit::preflight {

// At most `max` bytes of printable ASCII: everything else as \xNN, and what is cut off as "...".
std::string Printable(absl::string_view text, size_t max);

// Of /proc/PID/maps: lines "start-end rights offset device inode  name". The name is all that follows: a
// process can name a file as it likes, but not begin a line, for the kernel writes a newline as \012.
struct MapsFacts {
  bool uprobes = false;
  std::string device;      // the first name of a mapped device; empty: none
  std::string huge_pages;  // the first name of a hugetlb mapping
  std::string in_freeze;   // the first name of shared memory that the page engine does not carry
};
MapsFacts ParseMaps(absl::string_view text);

// Of /proc/PID/status.
struct StatusFacts {
  char state = '?';
  int threads = 0;
  int seccomp = 0;   // 0: none, 1: strict, 2: a filter
  bool root = true;  // all its user ids are 0
};
StatusFacts ParseStatus(absl::string_view text);

// Of /proc/PID/net/tcp or tcp6.
struct TcpFacts {
  int established = 0;
  int in_flight = 0;  // SYN sent or received
};
TcpFacts ParseTcp(absl::string_view text);

// Of the fdinfo of an inotify descriptor: whether a watch has no file handle. `example` is then its line.
bool HasUnresolvedWatch(absl::string_view text, std::string* example);

// Of /proc/cpuinfo: the instructions (amd64: flags that a program could use; arm64: all features) that every
// processor of the node has, sorted.
std::vector<std::string> ParseCpuFeatures(absl::string_view text);

}  // namespace godwit::preflight
