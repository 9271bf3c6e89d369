// SPDX-License-Identifier: Apache-2.0
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"

namespace godwit::crds {

absl::Duration Readable(absl::Duration duration) {
  if (duration >= absl::Minutes(1)) return absl::Trunc(duration, absl::Seconds(1));
  if (duration >= absl::Seconds(1)) return absl::Trunc(duration, absl::Milliseconds(10));
  if (duration >= absl::Milliseconds(100)) return absl::Trunc(duration, absl::Milliseconds(1));
  return absl::Trunc(duration, absl::Microseconds(100));
}

}  // namespace godwit::crds
