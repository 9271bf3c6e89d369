// SPDX-License-Identifier: Apache-2.0
// Any bytes as CRIU's images, its log, its conversation with runc, and as mountinfo: no crash, no endless
// loop.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "agent/criu/criu_log.h"
#include "agent/criu/images.h"
#include "agent/criu/pagemap.h"
#include "agent/criu/plan.h"
#include "agent/criu/protobuf.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/mounts.h"
#include "runtime/criu_launcher/small_tar.h"
#include "runtime/preload/rpc.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace godwit;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (uint32_t magic : {criu::kInventoryMagic, criu::kPstreeMagic, criu::kStatsMagic}) {
    const auto records = criu::ParseImage(bytes, magic, "input");
    if (!records.ok()) continue;
    for (const std::string& record : *records) {
      for (criu::ProtobufFields fields(record); fields.Next();) {
      }
    }
  }
  for (criu::ProtobufFields fields(bytes); fields.Next();) {
  }
  if (const auto pagemap = criu::ParsePagemap(bytes, "input"); pagemap.ok()) {
    const auto again = criu::ParsePagemap(criu::RenderPagemap(*pagemap), "rendered");
    if (!again.ok() || again->pages_id != pagemap->pages_id || again->entries != pagemap->entries) abort();
  }
  (void)criu::ParseMappings(bytes, "input");
  if (std::vector<small_tar::Entry> entries; small_tar::Unpack({bytes.data(), bytes.size()}, &entries)) {
    std::vector<small_tar::Entry> again;
    if (!small_tar::Unpack(small_tar::Pack(entries), &again) || again != entries) abort();
  }
  (void)criu::TellingLines(bytes);
  (void)criu::KnownCause(bytes);
  (void)criu::VersionInLog(bytes);
  (void)preload::IsNotification(data, size, "pre-resume");
  (void)runtime::ResolveCgroupsPath(bytes);
  if (const auto mounts = runtime::ParseMountInfo(bytes); mounts.ok())
    (void)runtime::WritableLayer(*mounts, "0:50");
  return 0;
}
