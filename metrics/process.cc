// SPDX-License-Identifier: Apache-2.0
// The process_* metrics, from /proc/self (proc(5)).
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "metrics/metrics.h"

namespace godwit::metrics {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

struct Usage {
  double cpu_seconds = 0;
  double started_after_boot_seconds = 0;
  double virtual_bytes = 0;
  double resident_bytes = 0;
};

// The fields of /proc/self/stat behind the command's name, which may hold anything but ends at the last ')'.
std::optional<Usage> ReadUsage(const std::string& proc) {
  const std::string text = ReadFile(proc + "/self/stat");
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipWhitespace());
  const auto field = [&](size_t number) {  // counted as proc(5) does; the first one here is 3, the state
    uint64_t value = 0;
    return fields.size() > number - 3 && absl::SimpleAtoi(fields[number - 3], &value)
               ? static_cast<double>(value)
               : 0;
  };
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  return Usage{.cpu_seconds = (field(14) + field(15)) / ticks,
               .started_after_boot_seconds = field(22) / ticks,
               .virtual_bytes = field(23),
               .resident_bytes = field(24) * static_cast<double>(sysconf(_SC_PAGESIZE))};
}

double BootTime(const std::string& proc) {
  for (absl::string_view line : absl::StrSplit(ReadFile(proc + "/stat"), '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return 0;
}

double CountOpenFiles(const std::string& proc) {
  std::error_code error;
  std::filesystem::directory_iterator entries(proc + "/self/fd", error);
  double count = 0;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) ++count;
  return count;
}

struct ProcessMetrics {
  explicit ProcessMetrics(Registry& owner) : registry(owner) {}
  Registry& registry;
  Counter<0> cpu{registry, "process_cpu_seconds_total", "CPU time that the process used, user and system."};
  Gauge<0> resident{registry, "process_resident_memory_bytes", "Resident memory of the process."};
  Gauge<0> virtual_memory{registry, "process_virtual_memory_bytes", "Virtual memory of the process."};
  Gauge<0> open_files{registry, "process_open_fds", "Open file descriptors of the process."};
  Gauge<0> start{registry, "process_start_time_seconds", "When the process started, in seconds since 1970."};
};

void Refresh(ProcessMetrics& metrics, const std::string& proc) {
  metrics.open_files.With().Set(CountOpenFiles(proc));
  const std::optional<Usage> usage = ReadUsage(proc);
  if (!usage) return;
  metrics.cpu.With().Increment(usage->cpu_seconds - metrics.cpu.With().Value());
  metrics.resident.With().Set(usage->resident_bytes);
  metrics.virtual_memory.With().Set(usage->virtual_bytes);
  metrics.start.With().Set(BootTime(proc) + usage->started_after_boot_seconds);
}

}  // namespace

void AddProcessMetrics(Registry& registry, const std::string& proc) {
  auto metrics = std::make_shared<ProcessMetrics>(registry);
  registry.BeforeExposition([metrics, proc] { Refresh(*metrics, proc); });
}

}  // namespace godwit::metrics
