// SPDX-License-Identifier: Apache-2.0
// That the product's hand-over holds, and that the simulator would see it if it did not. `make simulate` runs
// more.
#include <algorithm>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "tests/simulator/simulation.h"

namespace godwit::simulator {
namespace {

Outcome First(Mutation mutation, uint64_t schedules, Figures& figures) {
  for (uint64_t seed = 1; seed <= schedules; ++seed) {
    Outcome outcome = Simulation(seed, mutation, /*tracing=*/false, figures).Run();
    outcome.seed = seed;
    if (!outcome.violation.empty()) return outcome;
  }
  return {};
}

TEST(SimulatorTest, TheHandOverHoldsInEverySchedule) {
  Figures figures;
  const Outcome outcome = First(Mutation::kNone, 10'000, figures);
  EXPECT_EQ(outcome.violation, "") << "godwit-simulate --schedules 1 --trace --seed " << outcome.seed;
  EXPECT_GT(figures.done, 1000);
  EXPECT_GT(figures.aborted, 1000);
  for (const int64_t crashes : figures.write_crashes) EXPECT_GT(crashes, 100);
  EXPECT_GT(figures.cuts, 100);
  EXPECT_GT(figures.stalls, 100);
  EXPECT_GT(figures.clock_jumps, 100);
}

TEST(SimulatorTest, ASeedIsOneRunToTheLastByte) {
  Figures figures;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    const Outcome first = Simulation(seed, Mutation::kNone, /*tracing=*/true, figures).Run();
    const Outcome again = Simulation(seed, Mutation::kNone, /*tracing=*/true, figures).Run();
    EXPECT_EQ(first.trace, again.trace);
    EXPECT_EQ(first.hash, Simulation(seed, Mutation::kNone, /*tracing=*/false, figures).Run().hash);
  }
}

class MutationTest : public testing::TestWithParam<std::pair<Mutation, absl::string_view>> {};

TEST_P(MutationTest, IsFoundAndReplayed) {
  Figures figures;
  const Mutation mutation = GetParam().first;
  const Outcome outcome = First(mutation, 100'000, figures);
  ASSERT_NE(outcome.violation, "");
  const Outcome replayed = Simulation(outcome.seed, mutation, /*tracing=*/true, figures).Run();
  EXPECT_EQ(replayed.violation, outcome.violation);
  EXPECT_EQ(replayed.hash, outcome.hash);
  EXPECT_NE(replayed.trace.find(outcome.violation), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(All, MutationTest, testing::ValuesIn(kMutations), [](const auto& info) {
  std::string name(info.param.second);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace godwit::simulator
