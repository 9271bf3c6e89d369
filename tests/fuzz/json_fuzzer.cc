// SPDX-License-Identifier: Apache-2.0
// Any bytes as the messages that agents and runtime take: no crash, and what was understood survives a round
// trip.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/api/host_protocol.h"
#include "agent/api/messages.h"
#include "base/json.h"

namespace {

template <class Message>
void RoundTrip(absl::string_view text) {
  const auto message = godwit::json::Decode<Message>(text);
  if (!message.ok()) return;
  const std::string once = godwit::json::Encode(*message);
  const auto again = godwit::json::Decode<Message>(once);
  if (!again.ok() || godwit::json::Encode(*again) != once) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace godwit::agent_api;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  RoundTrip<TargetSpec>(text);
  RoundTrip<SourceSpec>(text);
  RoundTrip<SourceStatus>(text);
  RoundTrip<CheckpointSpec>(text);
  RoundTrip<RestoreSpec>(text);
  RoundTrip<PreflightReport>(text);
  RoundTrip<RehearsalRequest>(text);
  RoundTrip<RehearsalReport>(text);
  RoundTrip<RuntimeRequest>(text);
  RoundTrip<PermitFile>(text);
  RoundTrip<GuardSpec>(text);
  return 0;
}
