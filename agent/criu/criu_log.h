// SPDX-License-Identifier: Apache-2.0
// What CRIU's log (dump.log, restore.log) says about a failure, for a person who has not read CRIU's source.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "agent/criu/plan.h"

namespace godwit::criu {

// "Version: 4.2.1 (gitid 0)" of the log's head; 0.0.0 when it does not say.
Version VersionInLog(absl::string_view log);

// The first lines that tell why, at most `max_lines`, joined by "; ": errors that CRIU found, without time
// stamps, and without the errors that only follow from them ("Dumping FAILED."). Empty when the log holds no
// error.
std::string TellingLines(absl::string_view log, int max_lines = 3);

// One sentence for a person when the cause is a known one ("the process uses io_uring, which CRIU cannot
// save"), else empty. `log` as above.
std::string KnownCause(absl::string_view log);

// Both, for an error message: "<known cause> (CRIU: <telling lines>)". Reads at most the last 4 MiB of the
// file; when it cannot be read, says so.
std::string ExplainFailure(const std::string& log_file);

// What the preload library says in its messages file, as the beginning of an error message: at most 4 KiB,
// ended by "; ". Empty when it says nothing.
std::string PreloadSays(const std::string& messages_file);

}  // namespace godwit::criu
