// SPDX-License-Identifier: Apache-2.0
// What the host's files, its container runtime and its command lines say: bundles, journals, containerd's
// configuration and status.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "agent/install/containerd_config.h"
#include "agent/install/cri_status.h"
#include "agent/journal/journal.h"
#include "agent/journal/log_file.h"
#include "runtime/godwit_runtime/bundle.h"
#include "runtime/godwit_runtime/command_line.h"

using namespace godwit;  // NOLINT: a fuzzer's one function

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto log = journal::ParseLog(bytes); log.ok() && log->good_bytes + log->torn_bytes != size)
    std::abort();
  // What a journal takes as a message it must give back.
  agent_api::TargetState state = agent_api::TargetState::kAborted;
  const journal::TargetRecord record = {.state = state, .message = journal::internal::RecordText(bytes)};
  if (!json::Decode<journal::TargetRecord>(json::Encode(record)).ok()) std::abort();
  (void)godwit_runtime::ParseBundle(bytes);
  const std::vector<std::string> words = absl::StrSplit(bytes, '\n');
  if (const auto line = godwit_runtime::ParseCommandLine(words); line.ok()) {
    if (line->id == ".." || line->id.find('/') != std::string::npos) std::abort();
  }
  // A drop-in that was written can be read, and holds the binary.
  if (const auto drop_in = install::WriteDropIn(bytes, "godwit", "/opt/godwit/bin/godwit-runtime");
      drop_in.ok()) {
    if (drop_in->find("/opt/godwit/bin/godwit-runtime") == std::string::npos) std::abort();
  }
  (void)install::ParseConfigDump(bytes, "godwit");
  (void)install::HandlersInStatus(bytes);
  return 0;
}
