// SPDX-License-Identifier: Apache-2.0
// The promises of the hand-over (docs/security.md) that can be seen broken from the controller's place.
#pragma once

#include <string>
#include <vector>

#include "controller/migration/observed.h"

namespace godwit::controller {

struct BrokenInvariant {
  std::string invariant;  // "I1", "I3"
  std::string message;
};

// What the two sides say of themselves cannot both be true of a hand-over that kept its promises. The target
// was asked before the source (observe.cc), and the states named here are never left again by a source, nor
// reached by a target without the source's word: no race makes them look so.
std::vector<BrokenInvariant> BrokenInvariants(const MigrationObserved& seen);

}  // namespace godwit::controller
