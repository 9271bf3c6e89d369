// SPDX-License-Identifier: Apache-2.0
// The binary payloads of PAGES, KEEP_PAGES, MISSING and WANTED frames (docs/stream.md). Pure. What is decoded
// here comes from the network: it is bounded, and InvalidArgument says which rule was broken.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "agent/memory/range.h"

namespace godwit::transfer {

enum class Encoding : uint8_t { kRaw = 0, kLz4 = 1, kZstd = 2 };

inline constexpr size_t kMaxContainerName = 128;
inline constexpr size_t kMaxPagesRuns = 4096;             // in one PAGES frame
inline constexpr size_t kMaxKeptRanges = 65536;           // in one KEEP_PAGES or MISSING frame
inline constexpr pid_t kMaxContainerPid = (1 << 22) - 1;  // the kernel's PID_MAX_LIMIT
// Beyond, a task's number is the key of an object of shared memory (agent/memory/shared_key.h), whose pages
// are told of in the same way, by their offsets.

// Pages that follow each other, all of them content or all of them zeros.
struct PageRun {
  memory::Range range;
  bool zero = false;
  bool operator==(const PageRun&) const = default;
};

// PAGES: pages of one task. The content of all runs that are not zero, in their order, is `content_bytes`
// long (kMaxDataBytes at most) before it is encoded.
struct Pages {
  std::string container;
  pid_t container_pid = 0;
  Encoding encoding = Encoding::kRaw;
  std::vector<PageRun> runs;  // by address, without overlaps
  size_t content_bytes = 0;
  absl::string_view encoded;  // inside the payload that was decoded
};

// All of the payload but the encoded content, which follows it.
std::string EncodePagesHead(const Pages& pages);
absl::StatusOr<Pages> DecodePages(absl::string_view payload);

// KEEP_PAGES: what a container's memory is made of. Either one task's pages: of those in `window`, only
// `ranges` are there (container_pid not 0); or the container's tasks: there are no others (container_pid 0).
struct KeepPages {
  std::string container;
  pid_t container_pid = 0;
  memory::Range window;
  memory::Ranges ranges;
  std::vector<pid_t> tasks;
};

std::string EncodeKeepPages(const KeepPages& keep);
absl::StatusOr<KeepPages> DecodeKeepPages(absl::string_view payload);

// MISSING and WANTED: pages of one task, by address. A range is at most kMaxRunBytes long.
struct TaskRanges {
  std::string container;
  pid_t container_pid = 0;
  memory::Ranges ranges;
};

std::string EncodeTaskRanges(const TaskRanges& task);
absl::StatusOr<TaskRanges> DecodeTaskRanges(absl::string_view payload);

// Far below what a run's 32 bits of pages can say.
inline constexpr uint64_t kMaxRunBytes = uint64_t{1} << 32;
// The payloads of as many MISSING frames as these ranges take.
std::vector<std::string> EncodeMissing(const TaskRanges& task);

}  // namespace godwit::transfer
