// SPDX-License-Identifier: Apache-2.0
#include "base/failpoint.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"

namespace godwit::failpoint {
namespace {

constexpr std::chrono::seconds kLongestWait(60);
constexpr std::chrono::milliseconds kLook(1);

// What was ordered for the point; empty: nothing, or somebody else was here first.
std::string Take(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0) return "";
  absl::StatusOr<std::string> order = ReadFile(path);
  if (!order.ok() || rename(path.c_str(), absl::StrCat(path, ".reached").c_str()) != 0) return "";
  return std::string(absl::StripAsciiWhitespace(*order));
}

std::string Path(absl::string_view point, absl::string_view key, const std::string& folder) {
  return absl::StrCat(folder, "/", key, "/", FileName(point));
}

}  // namespace

const char kFolder[] = "/run/godwit/chaos";

std::string FileName(absl::string_view point) {
  std::string name;
  for (const char c : point) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_')
      name.push_back(c);
    if (c == ' ') name.push_back('-');
  }
  return name;
}

void Reach(absl::string_view point, absl::string_view key, const std::string& folder) {
  const std::string path = Path(point, key, folder);
  const std::string order = Take(path);
  if (order == "die") kill(getpid(), SIGKILL);
  if (order != "wait") return;
  // Not by absl's clock, which a test may step.
  const auto deadline = std::chrono::steady_clock::now() + kLongestWait;
  const std::string reached = absl::StrCat(path, ".reached");
  while (access(reached.c_str(), F_OK) == 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(kLook);
}

bool Corrupts(absl::string_view point, absl::string_view key, const std::string& folder) {
  return Take(Path(point, key, folder)) == "corrupt";
}

bool Mutated(absl::string_view name, const std::string& folder) {
  const absl::StatusOr<std::string> on = ReadFile(absl::StrCat(folder, "/mutation"));
  return on.ok() && absl::StripAsciiWhitespace(*on) == name;
}

}  // namespace godwit::failpoint
