// SPDX-License-Identifier: Apache-2.0
// Any bytes as what preflight reads of /proc: no crash, and nothing that is told is unprintable or endless.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/preflight/finding.h"
#include "agent/preflight/parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace godwit::preflight;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const MapsFacts maps = ParseMaps(bytes);
  for (const std::string* name : {&maps.device, &maps.huge_pages, &maps.in_freeze}) {
    if (name->size() > 256) abort();
  }
  (void)ParseStatus(bytes);
  const TcpFacts tcp = ParseTcp(bytes);
  if (tcp.established < 0 || tcp.in_flight < 0) abort();
  std::string watch;
  if (HasUnresolvedWatch(bytes, &watch) && (watch.empty() || watch.size() > 256)) abort();
  (void)ParseCpuFeatures(bytes);
  Findings findings("app");
  for (int i = 0; i < 5; ++i)
    findings.Add("UnknownDescriptor", std::string(bytes) + std::to_string(i), bytes);
  const auto told = findings.Take();
  if (told.empty() || told.size() > 3) abort();
  for (const auto& finding : told) {
    for (const std::string* text : {&finding.message, &finding.evidence}) {
      if (text->size() > 512) abort();
      for (const char c : *text) {
        if (c < ' ' || c > '~') abort();
      }
    }
  }
  return 0;
}
