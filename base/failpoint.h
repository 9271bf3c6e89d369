// SPDX-License-Identifier: Apache-2.0
// Named points at which a test stops a process, kills it or makes it err, by files in a folder of its node.
// Only in builds with GODWIT_CHAOS, the CMake option for the images of chaos tests (docs/design/chaos.md): in
// all others the macros are nothing, their arguments are not evaluated, and no name of a point is in a
// binary.
//
//   <folder>/<key>/<point>          what happens when somebody comes there; holds once, for whoever is first:
//                                     wait     until the test removes <point>.reached, a minute at most
//                                     die      by SIGKILL
//                                     corrupt  GODWIT_CORRUPTS is true
//   <folder>/<key>/<point>.reached  the same file, when somebody has come there
//   <folder>/mutation               the name of the deliberate error that is switched on
#pragma once

#include <string>

#include "absl/strings/string_view.h"

#ifdef GODWIT_CHAOS
#define GODWIT_FAILPOINT(point, key) ::godwit::failpoint::Reach((point), (key))
#define GODWIT_CORRUPTS(point, key) ::godwit::failpoint::Corrupts((point), (key))
#define GODWIT_MUTATED(name) ::godwit::failpoint::Mutated((name))
#else
#define GODWIT_FAILPOINT(point, key) static_cast<void>(0)
#define GODWIT_CORRUPTS(point, key) false
#define GODWIT_MUTATED(name) false
#endif

namespace godwit::failpoint {

// "/run/godwit/chaos": the same path in the agent's container and on the host. Not in the header, so that it
// is in each program that has failpoints as it stands here, and only there: by that they are found out.
extern const char kFolder[];

// `point` as a file's name: blanks become '-', all but letters, digits, '.', '-' and '_' is left out.
std::string FileName(absl::string_view point);

// `key`: a Migration's UID.
void Reach(absl::string_view point, absl::string_view key, const std::string& folder = kFolder);
bool Corrupts(absl::string_view point, absl::string_view key, const std::string& folder = kFolder);
bool Mutated(absl::string_view name, const std::string& folder = kFolder);

}  // namespace godwit::failpoint
