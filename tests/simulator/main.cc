// SPDX-License-Identifier: Apache-2.0
// godwit-simulate [--seed N] [--schedules N] [--mutation NAME|all] [--trace]: runs migrations with the faults
// that the seeds N, N+1, ... decide. Without a mutation each must hold: what is violated is listed, each with
// its first seed, and the first is shown with its trace; the exit code is 1 then. A mutation must be found.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/string_view.h"
#include "tests/simulator/simulation.h"

ABSL_FLAG(uint64_t, seed, 1, "seed of the first schedule");
ABSL_FLAG(uint64_t, schedules, 100'000, "how many; for a mutation, at most");
ABSL_FLAG(std::string, mutation, "",
          "a deliberate error that must be found, or all of them; empty: the product");
ABSL_FLAG(bool, trace, false, "print what happens in each schedule");

namespace godwit::simulator {
namespace {

// The first violation, or none.
Outcome Search(Mutation mutation, uint64_t seed, uint64_t schedules, Figures& figures) {
  const bool trace = absl::GetFlag(FLAGS_trace);
  for (uint64_t i = 0; i < schedules; ++i) {
    Outcome outcome = Simulation(seed + i, mutation, trace, figures).Run();
    outcome.seed = seed + i;
    if (trace) printf("--- seed %llu\n%s", static_cast<unsigned long long>(seed + i), outcome.trace.c_str());
    if (!outcome.violation.empty()) return outcome;
  }
  return {};
}

void Print(const Figures& figures, double seconds) {
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  printf("%lld schedules (%lld moved, %lld stayed), %lld steps in %.1f s: %.1f million steps a minute\n",
         number(figures.schedules), number(figures.done), number(figures.aborted), number(figures.steps),
         seconds, static_cast<double>(figures.steps) / seconds * 60 / 1e6);
  printf(
      "faults: %lld processes and %lld nodes ended, of these %lld before, %lld within and %lld after a "
      "record;\n"
      "        %lld cuts, %lld stalls, %lld jumps of a clock, %lld failed records, %lld aborts\n",
      number(figures.process_crashes), number(figures.node_crashes), number(figures.write_crashes[0]),
      number(figures.write_crashes[1]), number(figures.write_crashes[2]), number(figures.cuts),
      number(figures.stalls), number(figures.clock_jumps), number(figures.disk_faults),
      number(figures.aborts));
}

bool Holds(uint64_t seed, uint64_t schedules) {
  Figures figures;
  std::map<std::string, std::pair<uint64_t, int>> violations;  // the first seed, how often
  uint64_t first = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (uint64_t next = seed; next < seed + schedules;) {
    const Outcome outcome = Search(Mutation::kNone, next, seed + schedules - next, figures);
    if (outcome.violation.empty()) break;
    if (violations.empty()) first = outcome.seed;
    ++violations.try_emplace(outcome.violation, outcome.seed, 0).first->second.second;
    next = outcome.seed + 1;
  }
  Print(figures, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (violations.empty()) return true;
  printf("%s", Simulation(first, Mutation::kNone, /*tracing=*/true, figures).Run().trace.c_str());
  for (const auto& [violation, where] : violations)
    printf("VIOLATED in %d schedules, the first of them --seed %llu --schedules 1 --trace: %s\n",
           where.second, static_cast<unsigned long long>(where.first), violation.c_str());
  return false;
}

bool Found(Mutation mutation, absl::string_view name, uint64_t seed, uint64_t schedules) {
  Figures figures;
  const Outcome outcome = Search(mutation, seed, schedules, figures);
  const std::string shown(name);
  if (outcome.violation.empty()) {
    printf("%-26s NOT FOUND in %lld schedules\n", shown.c_str(), static_cast<long long>(figures.schedules));
    return false;
  }
  printf("%-26s found, --seed %llu --schedules 1: %s\n", shown.c_str(),
         static_cast<unsigned long long>(outcome.seed), outcome.violation.c_str());
  return true;
}

int Main() {
  const std::string wanted = absl::GetFlag(FLAGS_mutation);
  const uint64_t seed = absl::GetFlag(FLAGS_seed);
  const uint64_t schedules = absl::GetFlag(FLAGS_schedules);
  if (wanted.empty()) return Holds(seed, schedules) ? 0 : 1;
  bool known = false;
  bool found = true;
  for (const auto& [mutation, name] : kMutations) {
    if (wanted != "all" && wanted != name) continue;
    known = true;
    found = Found(mutation, name, seed, schedules) && found;
  }
  if (known) return found ? 0 : 1;
  fprintf(stderr, "godwit-simulate: there is no mutation \"%s\"; all of them:\n", wanted.c_str());
  for (const auto& [mutation, name] : kMutations) fprintf(stderr, "  %s\n", std::string(name).c_str());
  return 2;
}

}  // namespace
}  // namespace godwit::simulator

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("godwit-simulate [--seed N] [--schedules N] [--mutation NAME|all] [--trace]");
  absl::ParseCommandLine(argc, argv);
  return godwit::simulator::Main();
}
