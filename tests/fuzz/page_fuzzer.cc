// SPDX-License-Identifier: Apache-2.0
// Any bytes as frames of pages (a type byte, two bytes of length, the payload, again and again) into a
// receiver. Whatever comes, the stores hold no more than they may, and their index and their files say the
// same.
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "absl/strings/string_view.h"
#include "agent/memory/page_store.h"
#include "agent/transfer/page_receiver.h"

namespace {

using namespace godwit;

constexpr uint64_t kLimit = 1 << 20;
constexpr size_t kMaxTasks = 4;

void Require(bool holds) {
  if (!holds) std::abort();
}

// `exact`: no page was ever missing. One that is, or has come as zeros, counts as held.
void CheckStore(const memory::PageStore& store, bool exact) {
  Require(store.bytes() <= kLimit);
  std::vector<pid_t> tasks = store.Tasks();
  for (const pid_t object : store.Objects()) {
    Require(store.Missing(object).empty());
    tasks.push_back(object);
  }
  Require(tasks.size() <= kMaxTasks);
  uint64_t held = 0;
  for (const pid_t task : tasks) {
    const memory::Ranges ranges = store.Held(task);
    Require(ranges.empty() || ranges.back().end <= memory::kAddressEnd);
    struct stat status{};
    Require(fstat(store.FileOf(task)->get(), &status) == 0);
    const uint64_t blocks = static_cast<uint64_t>(status.st_blocks) * 512;
    Require(blocks <= memory::Bytes(ranges) && (blocks == memory::Bytes(ranges) || !exact));
    Require(memory::Difference(store.Missing(task), ranges).empty());
    held += memory::Bytes(ranges);
  }
  Require(store.bytes() == held);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  memory::PageStore app(kLimit, kMaxTasks);
  memory::PageStore side(kLimit, kMaxTasks);
  transfer::PageReceiver receiver({{"app", &app}, {"side", &side}});
  absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  bool exact = true;
  while (bytes.size() >= 3) {
    static constexpr transfer::FrameType kTypes[] = {
        transfer::FrameType::kPages, transfer::FrameType::kKeepPages, transfer::FrameType::kMissing};
    const bool arriving = bytes[0] % 4 == 3;
    const transfer::FrameType type = arriving ? transfer::FrameType::kPages : kTypes[bytes[0] % 4];
    const size_t length = static_cast<uint8_t>(bytes[1]) | size_t{static_cast<uint8_t>(bytes[2])} << 8;
    const transfer::Frame frame{type, std::string(bytes.substr(3, length))};
    bytes.remove_prefix(3 + frame.payload.size());
    exact = exact && type != transfer::FrameType::kMissing;
    if (arriving) {
      (void)receiver.TakeArriving(frame);
    } else {
      (void)receiver.Take(frame);
    }
    CheckStore(app, exact);
    CheckStore(side, exact);
  }
  return 0;
}
