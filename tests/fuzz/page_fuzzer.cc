// SPDX-License-Identifier: Apache-2.0
// Any bytes as frames of pages (a type byte, two bytes of length, the payload, again and again) into a receiver.
// Whatever comes, the stores hold no more than they may, and their index and their files say the same.
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

void CheckStore(const memory::PageStore& store) {
  Require(store.bytes() <= kLimit);
  Require(store.Tasks().size() <= kMaxTasks);
  uint64_t held = 0;
  for (const pid_t task : store.Tasks()) {
    const memory::Ranges ranges = store.Held(task);
    Require(ranges.empty() || ranges.back().end <= memory::kAddressEnd);
    struct stat status{};
    Require(fstat(store.FileOf(task)->get(), &status) == 0);
    Require(static_cast<uint64_t>(status.st_blocks) * 512 == memory::Bytes(ranges));
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
  while (bytes.size() >= 3) {
    const auto type = bytes[0] % 2 == 0 ? transfer::FrameType::kPages : transfer::FrameType::kKeepPages;
    const size_t length = static_cast<uint8_t>(bytes[1]) | size_t{static_cast<uint8_t>(bytes[2])} << 8;
    const transfer::Frame frame{type, std::string(bytes.substr(3, length))};
    bytes.remove_prefix(3 + frame.payload.size());
    (void)receiver.Take(frame);
    CheckStore(app);
    CheckStore(side);
  }
  return 0;
}
