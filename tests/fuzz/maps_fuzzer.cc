// SPDX-License-Identifier: Apache-2.0
// Any bytes as /proc/PID/maps, smaps and status: no crash, and ranges that hold what range.h says of them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "agent/memory/maps.h"
#include "agent/memory/task_status.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace godwit::memory;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)ParseTaskStatus(bytes);
  const auto space = ParseMaps(bytes);
  if (!space.ok()) return 0;
  uint64_t end = 0;
  const auto check = [&end](const Range& range) {
    if (range.start < end || range.end <= range.start || range.start % PageBytes() != 0 ||
        range.end % PageBytes() != 0)
      abort();
    end = range.end;
  };
  for (const Range& range : space->private_anonymous) check(range);
  end = 0;
  for (const SharedMapping& mapping : space->shared_anonymous) {
    check(mapping.range);
    if (mapping.inode == 0 || mapping.device.size() > size) abort();
  }
  return 0;
}
