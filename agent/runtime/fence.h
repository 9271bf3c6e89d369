// SPDX-License-Identifier: Apache-2.0
// Drops the packets to and from a pod's addresses on its node while it stands still, so that CRIU need not
// lock its connections one by one: a frozen task's kernel goes on acknowledging what arrives. An nftables
// table for each fence, "inet godwit-NAME", before and after all others in priority. Made with the program
// nft, which costs a fork; raised and lowered by one message to the kernel. Needs CAP_NET_ADMIN in the node's
// network namespace. Packets that a bridge passes from pod to pod without the node's IP layer are not seen.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace godwit::runtime {

// An IP address, however it is written, as its 4 or 16 bytes; empty when it is none.
std::string AddressKey(const std::string& address);

class Fence {
 public:
  // A fence that drops nothing yet; one of this name that an earlier process has left is lifted. `nft`: the
  // program. `limit`: a raised fence is lifted by the kernel after that, whatever has become of this process.
  // InvalidArgument: an address is none, or is the node's own. Else nf_tables does not work here, and why.
  static absl::StatusOr<Fence> Make(const std::string& nft, const std::string& name,
                                    const std::vector<std::string>& addresses, absl::Duration limit);
  Fence(Fence&& other) noexcept;
  Fence& operator=(Fence&& other) noexcept;
  // Lowers it, and nothing of it is left.
  ~Fence();

  // Both may be repeated.
  absl::Status Raise();
  absl::Status Lower();

 private:
  Fence(std::string table, std::vector<std::string> keys, absl::Duration limit);
  void Remove();

  std::string table_;              // empty: moved from
  std::vector<std::string> keys_;  // the addresses, in network byte order
  absl::Duration limit_;
};

// Lifts the fence of this name, which may be an earlier process'. OK when there is none.
absl::Status LiftFence(const std::string& name);

// Lifts every fence but those of whose name `lives` is true: a guard serves it.
absl::Status LiftFencesLeft(const std::string& nft,
                            const std::function<bool(const std::string& name)>& lives);

}  // namespace godwit::runtime
