// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace godwit::controller {

// An event to come: for the object itself and for the pods that it concerns.
struct Tell {
  bool warning = false;
  std::string reason;
  std::string message;
  bool operator==(const Tell&) const = default;
};

}  // namespace godwit::controller
