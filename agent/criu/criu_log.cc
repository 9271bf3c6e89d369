// SPDX-License-Identifier: Apache-2.0
#include "agent/criu/criu_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::criu {
namespace {

constexpr off_t kTail = off_t{4} << 20;
constexpr size_t kMaxLine = 300;

struct Cause {
  absl::string_view in_log;  // a piece of the message, CRIU 4.1 to 4.2
  absl::string_view sentence;
};
constexpr auto kCauses = std::to_array<Cause>({
    {"[io_uring]", "the process uses io_uring, which CRIU cannot save"},
    {"send_fds failed (-22)",
     "a process holds a descriptor that the kernel does not hand over to CRIU, as those of io_uring since "
     "Linux 6.7"},
    {"[userfaultfd]", "the process uses userfaultfd, which CRIU cannot save"},
    {"[perf_event]", "the process holds a perf event, which CRIU cannot save"},
    {"bpf-prog", "the process holds a BPF program, which CRIU cannot save"},
    {"kvm-", "the process runs a virtual machine (KVM), which CRIU cannot save"},
    {"[seccomp notify]", "the process holds a seccomp notification descriptor, which CRIU cannot save"},
    {"secretmem", "the process uses memfd_secret, which CRIU cannot save"},
    {"Can't dump nested pid", "a process made a pid namespace of its own inside the container"},
    {"Can't dump nested uts", "a process made a UTS namespace of its own inside the container"},
    {"Can't dump nested ipc", "a process made an IPC namespace of its own inside the container"},
    {"Can't dump nested user", "a process made a user namespace of its own inside the container"},
    {"Can't dump nested time", "a process made a time namespace of its own inside the container"},
    {"Can't dump nested net", "a process made a network namespace of its own inside the container"},
    {"Nested mount namespaces", "a process made a mount namespace of its own inside the container"},
    {"External socket is used", "a process holds a Unix socket connected to a process outside the container"},
    {"Can't dump half of stream unix", "a Unix stream connection has its other end outside the container"},
    {"Can't dump name-less external socket",
     "a process holds a Unix socket connected to a process outside the container"},
    {"Can't dump ghost file",
     "a deleted file that a process holds open is larger than can be carried in the images"},
    {"Unsupported proto", "a process holds a socket of a protocol that CRIU cannot save"},
    {"of that type", "a process holds an open file of a kind that CRIU cannot save"},
    {"Found dangling tty", "a process uses a terminal whose other end is outside the container"},
    {"doesn't have a proper root mount", "a mount of the container has its source outside of it"},
    {"has bad size", "a file that was open at the dump has another size here"},
    {"has bad build-ID", "a program or library file that was mapped at the dump is another one here"},
    {"has bad mode", "a file that was open at the dump has other permissions here"},
    {"No space left on device", "there is no space left on the disk"},
    {"CPU xsave size mismatch", "this machine's CPU lacks features that the process was started with"},
    {"is not supported on host", "this machine's CPU lacks features that the process was started with"},
    {"Can't fork for", "a process id of the container is taken here"},
});

// Errors that are there without CAP_SYS_RESOURCE, and without AMD or NVIDIA plugins: they explain nothing.
constexpr auto kAlwaysThere = std::to_array<absl::string_view>({
    "Can't setup RLIMIT_NOFILE for self",
    "cuda_plugin:",
});

// Errors that follow from the first one.
constexpr auto kConsequences = std::to_array<absl::string_view>({
    "Dumping FAILED",
    "Restoring FAILED",
    "Killing processes because of failure",
    "Pre dump FAILED",
    "Dump files (pid",
    "Collect fd failed",
    "exited, status=",
    "Script ret code",
    "exited with",
    "Unable to wait",
    "Can't retrieve FDs from socket",
    "Unable to detach",
    "Pre-resume script ret code",
    "One of more action scripts failed",
});

// Printable ASCII: the log holds names that the container chose, and goes into JSON and terminals.
std::string Printable(absl::string_view text) {
  std::string out(text.substr(0, kMaxLine));
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

// "(00.004567)      1: Error (criu/files.c:1): text" -> "criu/files.c:1: text"; empty when it is no error.
absl::string_view ErrorOf(absl::string_view line, std::string& out) {
  const size_t at = line.find("Error (");
  if (at == absl::string_view::npos) return {};
  absl::string_view rest = line.substr(at + 7);
  const size_t close = rest.find("): ");
  if (close == absl::string_view::npos) return {};
  const absl::string_view text = absl::StripAsciiWhitespace(rest.substr(close + 3));
  out = absl::StrCat(Printable(text), " [", rest.substr(0, close), "]");
  return text;
}

bool ContainsOneOf(absl::string_view text, absl::Span<const absl::string_view> pieces) {
  return std::any_of(pieces.begin(), pieces.end(),
                     [text](absl::string_view piece) { return absl::StrContains(text, piece); });
}

// The end of the file: where errors are. CRIU's log of a dump with many mappings can be long.
absl::StatusOr<std::string> ReadTail(const std::string& path) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  struct stat status{};
  if (fstat(file.get(), &status) != 0) return ErrnoStatus(absl::StrCat("stat ", path));
  const off_t begin = status.st_size > kTail ? status.st_size - kTail : 0;
  std::string tail(static_cast<size_t>(status.st_size - begin), '\0');
  size_t have = 0;
  while (have < tail.size()) {
    const ssize_t size =
        pread(file.get(), tail.data() + have, tail.size() - have, begin + static_cast<off_t>(have));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return ErrnoStatus(absl::StrCat("read ", path));
    if (size == 0) break;
    have += static_cast<size_t>(size);
  }
  tail.resize(have);
  return tail;
}

}  // namespace

Version VersionInLog(absl::string_view log) {
  for (absl::string_view line : absl::StrSplit(log.substr(0, 16384), '\n')) {
    const size_t at = line.find("Version: ");
    if (at != absl::string_view::npos) return ParseVersion(line.substr(at));
  }
  return {};
}

std::string TellingLines(absl::string_view log, int max_lines) {
  std::vector<std::string> lines;
  std::vector<std::string> consequences;
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    std::string shown;
    const absl::string_view text = ErrorOf(line, shown);
    if (text.empty() || ContainsOneOf(text, kAlwaysThere)) continue;
    std::vector<std::string>& list = ContainsOneOf(text, kConsequences) ? consequences : lines;
    if (list.size() < static_cast<size_t>(max_lines) && (list.empty() || list.back() != shown))
      list.push_back(shown);
  }
  return absl::StrJoin(lines.empty() ? consequences : lines, "; ");
}

std::string KnownCause(absl::string_view log) {
  for (absl::string_view line : absl::StrSplit(log, '\n')) {
    std::string shown;
    const absl::string_view text = ErrorOf(line, shown);
    if (text.empty()) continue;
    for (const Cause& cause : kCauses) {
      if (absl::StrContains(text, cause.in_log)) return std::string(cause.sentence);
    }
  }
  return "";
}

std::string ExplainFailure(const std::string& log_file) {
  const absl::StatusOr<std::string> log = ReadTail(log_file);
  if (!log.ok()) return absl::StrCat("CRIU left no log: ", log.status().message());
  const std::string cause = KnownCause(*log);
  const std::string lines = TellingLines(*log);
  if (lines.empty()) return absl::StrCat("CRIU's log holds no error: ", log_file);
  return cause.empty() ? absl::StrCat("CRIU: ", lines) : absl::StrCat(cause, " (CRIU: ", lines, ")");
}

std::string PreloadSays(const std::string& messages_file) {
  const absl::StatusOr<UniqueFd> file = OpenFile(messages_file, O_RDONLY);
  if (!file.ok()) return "";
  std::string text(4096, '\0');
  const ssize_t size = pread(file->get(), text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  const absl::string_view said = absl::StripAsciiWhitespace(text);
  return said.empty() ? "" : absl::StrCat(said, "; ");
}

}  // namespace godwit::criu
