// SPDX-License-Identifier: Apache-2.0
// Which way a `create` goes, decided from the permits on the disk before anybody is asked.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "agent/permits/permit_store.h"
#include "runtime/godwit_runtime/bundle.h"

namespace godwit::godwit_runtime {

// kubelet gives StartContainer two minutes by default (runtimeRequestTimeout) and at its end the shim kills
// this process: an end of our own comes before that, with a message.
inline constexpr absl::Duration kLongestCreate = absl::Seconds(110);
inline constexpr absl::Duration kCreateWithoutPermit = absl::Seconds(20);  // the agent refuses at once

enum class Way {
  kOrdinary,  // exec the node's runtime
  kAsk,       // the agent knows
  kFail,      // with `message`
};

struct Course {
  Way way = Way::kFail;
  std::string message;          // kFail
  absl::Duration create_limit;  // kAsk: from the beginning of `create`
};

// `sandbox` are the permits of the container's sandbox, `held` why none of its containers may be started
// (permits::WhyHeld); unused unless bundle.is_container.
Course ChooseCourse(const Bundle& bundle, const absl::StatusOr<std::vector<permits::StoredPermit>>& sandbox,
                    const absl::StatusOr<std::string>& held);

}  // namespace godwit::godwit_runtime
