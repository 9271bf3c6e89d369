// SPDX-License-Identifier: Apache-2.0
// Getting a checkpoint's archive from the agent that holds it. What was fetched is what the peer had: whether
// it is the right archive (size, digest) is for the caller to check.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/tls/identity.h"
#include "agent/transfer/messages.h"
#include "agent/transfer/stream.h"

namespace godwit::transfer {

struct FetchRequest {
  std::string own_node;
  std::string node;     // whose agent holds it
  std::string address;  // of that agent's stream
  std::string checkpoint_uid;
  std::string archive;    // file name
  std::string digest;     // "sha256:<hex>" of it, as the controller has told us
  int64_t max_bytes = 0;  // more is refused
};

// Fetches into `path`, which is made new (0600); nothing is left there after an error. NotFound: the peer has
// no such archive.
absl::Status FetchArchive(tls::Identity& identity, const FetchRequest& request, const std::string& path,
                          absl::Time deadline);

// Where the archive of a checkpoint lies on this node; PermissionDenied for a wrong digest. The arguments are
// a peer's word: the function must not build a path from them unchecked.
using FindArchive = std::function<absl::StatusOr<std::string>(
    const std::string& checkpoint_uid, const std::string& archive, const std::string& digest)>;

// The other end: answers a HELLO of role kFetch. An agent is no stranger, but that is not enough: it must
// know the archive's digest, which stands in the Checkpoint's status alone, and which the controller tells
// the agent of the node that a Restore is to run on.
absl::Status ServeArchive(Stream& stream, const Hello& hello, const FindArchive& find, absl::Time deadline);

}  // namespace godwit::transfer
