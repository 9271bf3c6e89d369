// SPDX-License-Identifier: Apache-2.0
#include "base/backoff.h"

#include <algorithm>

#include "absl/random/distributions.h"

namespace godwit {

absl::Duration BackoffDelay(const BackoffPolicy& policy, int attempt, double random) {
  absl::Duration nominal = policy.first;
  for (int i = 0; i < attempt && nominal < policy.longest; ++i) nominal *= policy.factor;
  nominal = std::min(nominal, policy.longest);
  return std::min(nominal * (1 + policy.jitter * (2 * random - 1)), policy.longest);
}

absl::Duration Backoff::Next(absl::BitGenRef random) {
  const absl::Duration delay = BackoffDelay(policy_, attempt_, absl::Uniform(random, 0.0, 1.0));
  if (attempt_ < 1000) ++attempt_;
  return delay;
}

}  // namespace godwit
