// SPDX-License-Identifier: Apache-2.0
#include "agent/preflight/parse.h"

#include <algorithm>
#include <iterator>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace godwit::preflight {
namespace {

// Calls `line` for each line of a text without copying it.
template <class Line>
void ForEachLine(absl::string_view text, Line line) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// Takes the next word off, and the blanks before it.
absl::string_view TakeWord(absl::string_view& line) {
  line = absl::StripLeadingAsciiWhitespace(line);
  const size_t end = std::min(line.find_first_of(" \t"), line.size());
  const absl::string_view word = line.substr(0, end);
  line.remove_prefix(end);
  return word;
}

// What a program asks the CPU for by cpuid and then uses, as Linux names it
// (arch/x86/include/asm/cpufeatures.h). Other flags tell of the machine: its bugs, its virtualization, its
// clocks.
bool IsInstruction(absl::string_view flag) {
  static constexpr absl::string_view kBeginnings[] = {"sse",   "ssse", "avx",  "amx_",   "bmi",
                                                      "xsave", "sha",  "vaes", "clflush"};
  static constexpr absl::string_view kNames[] = {
      "abm",       "adx",         "aes",        "cldemote",   "clwb",    "clzero",    "cmov",
      "cx16",      "cx8",         "enqcmd",     "erms",       "f16c",    "fma",       "fma4",
      "fpu",       "fsgsbase",    "fsrm",       "fxsr",       "gfni",    "hle",       "invpcid",
      "lahf_lm",   "mmx",         "movbe",      "movdir64b",  "movdiri", "pclmulqdq", "pku",
      "popcnt",    "prefetchwt1", "rdpid",      "rdrand",     "rdseed",  "rdtscp",    "rtm",
      "serialize", "tbm",         "user_shstk", "vpclmulqdq", "waitpkg", "xop",       "xgetbv1"};
  for (const absl::string_view beginning : kBeginnings) {
    if (absl::StartsWith(flag, beginning)) return true;
  }
  return std::find(std::begin(kNames), std::end(kNames), flag) != std::end(kNames);
}

}  // namespace

std::string Printable(absl::string_view text, size_t max) {
  std::string out;
  for (const char c : text) {
    const std::string next =
        c >= ' ' && c <= '~' ? std::string(1, c) : absl::StrFormat("\\x%02x", static_cast<unsigned char>(c));
    if (out.size() + next.size() > max) {
      out.resize(std::min(out.size(), max < 3 ? 0 : max - 3));
      return out + "...";
    }
    out += next;
  }
  return out;
}

MapsFacts ParseMaps(absl::string_view text) {
  MapsFacts facts;
  ForEachLine(text, [&facts](absl::string_view line) {
    (void)TakeWord(line);
    const absl::string_view rights = TakeWord(line);
    for (int i = 0; i < 3; ++i) (void)TakeWord(line);  // offset, device, inode
    const absl::string_view name = absl::StripLeadingAsciiWhitespace(line);
    if (name.empty()) return;
    const auto first = [name](std::string& fact) {
      if (fact.empty()) fact = std::string(name.substr(0, 256));
    };
    if (name == "[uprobes]") facts.uprobes = true;
    const bool shared = rights.size() == 4 && rights[3] == 's';
    if (absl::StartsWith(name, "/anon_hugepage")) first(facts.huge_pages);
    if (absl::StartsWith(name, "/SYSV") || absl::StartsWith(name, "/memfd:") ||
        absl::StartsWith(name, "/dev/shm/")) {
      if (shared) first(facts.in_freeze);
    } else if (absl::StartsWith(name, "/dev/") && !absl::StartsWith(name, "/dev/zero")) {
      first(facts.device);
    }
  });
  return facts;
}

StatusFacts ParseStatus(absl::string_view text) {
  StatusFacts facts;
  ForEachLine(text, [&facts](absl::string_view line) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return;
    const absl::string_view key = line.substr(0, colon);
    absl::string_view value = absl::StripAsciiWhitespace(line.substr(colon + 1));
    if (key == "State" && !value.empty()) facts.state = value[0];
    if (key == "Threads") (void)absl::SimpleAtoi(value, &facts.threads);
    if (key == "Seccomp") (void)absl::SimpleAtoi(value, &facts.seccomp);
    if (key != "Uid") return;
    for (absl::string_view id = TakeWord(value); !id.empty(); id = TakeWord(value))
      facts.root = facts.root && id == "0";
  });
  return facts;
}

TcpFacts ParseTcp(absl::string_view text) {
  TcpFacts facts;
  ForEachLine(text, [&facts](absl::string_view line) {
    if (!absl::StrContains(TakeWord(line), ':')) return;  // the heading
    (void)TakeWord(line);
    (void)TakeWord(line);
    const absl::string_view state = TakeWord(line);  // include/net/tcp_states.h
    if (state == "01") ++facts.established;
    if (state == "02" || state == "03" || state == "0C") ++facts.in_flight;
  });
  return facts;
}

bool HasUnresolvedWatch(absl::string_view text, std::string* example) {
  bool found = false;
  ForEachLine(text, [&](absl::string_view line) {
    if (found || !absl::StartsWith(line, "inotify wd:") || absl::StrContains(line, "fhandle-bytes:")) return;
    found = true;
    *example = std::string(line.substr(0, 256));
  });
  return found;
}

std::vector<std::string> ParseCpuFeatures(absl::string_view text) {
  std::optional<std::vector<std::string>> common;
  ForEachLine(text, [&common](absl::string_view line) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) return;
    const absl::string_view key = absl::StripAsciiWhitespace(line.substr(0, colon));
    const bool x86 = key == "flags";
    if (!x86 && key != "Features") return;
    absl::string_view rest = line.substr(colon + 1);
    std::vector<std::string> features;
    for (absl::string_view word = TakeWord(rest); !word.empty(); word = TakeWord(rest)) {
      if (!x86 || IsInstruction(word)) features.emplace_back(word);
    }
    std::sort(features.begin(), features.end());
    if (!common.has_value()) {
      common = std::move(features);
      return;
    }
    std::vector<std::string> both;
    std::set_intersection(common->begin(), common->end(), features.begin(), features.end(),
                          std::back_inserter(both));
    common = std::move(both);
  });
  return common.value_or(std::vector<std::string>());
}

}  // namespace godwit::preflight
