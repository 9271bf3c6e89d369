// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/quick_breakpoints.h"

#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/log/log.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::runtime {

QuickBreakpoints::QuickBreakpoints() {
  perf_event_attr attributes = {};
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_SW_DUMMY;
  attributes.disabled = 1;
  attributes.exclude_kernel = 1;  // so that it is allowed to more users
  event_ = UniqueFd(static_cast<int>(syscall(SYS_perf_event_open, &attributes, /*pid=*/0, /*cpu=*/-1,
                                             /*group_fd=*/-1, PERF_FLAG_FD_CLOEXEC)));
  if (!event_.ok()) {
    LOG_FIRST_N(WARNING, 1)
        << Log("freezes take some 7 ms longer").With(ErrnoStatus("cannot open a performance event"));
  }
}

}  // namespace godwit::runtime
