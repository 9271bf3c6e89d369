// SPDX-License-Identifier: Apache-2.0
// resource.Quantity: "512Mi", "1.5G", "100m", "2e3".
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace godwit::k8s {

// The whole number, rounded away from zero (as Quantity.Value()): "512Mi" is 536870912, "100m" is 1.
// OutOfRange beyond int64.
absl::StatusOr<int64_t> ParseQuantity(absl::string_view text);

// Thousandths, rounded away from zero (as Quantity.MilliValue()): "100m" is 100, "2" is 2000.
absl::StatusOr<int64_t> ParseMilliQuantity(absl::string_view text);

}  // namespace godwit::k8s
