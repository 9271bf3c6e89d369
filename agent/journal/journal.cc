// SPDX-License-Identifier: Apache-2.0
#include "agent/journal/journal.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace godwit::journal {

using agent_api::SourceState;
using agent_api::TargetState;

bool MayFollow(SourceState from, SourceState to) {
  switch (to) {
    case SourceState::kNone: return false;
    case SourceState::kOpen: return from == SourceState::kNone;
    case SourceState::kFrozen:  // a checkpoint's guard writes no OPEN before it
      return from == SourceState::kNone || from == SourceState::kOpen;
    case SourceState::kCeded: return from == SourceState::kFrozen;
    case SourceState::kDone: return from == SourceState::kCeded;
    case SourceState::kAborted:  // after CEDED only because the target said ABORTED
      return from != SourceState::kDone && from != SourceState::kAborted;
  }
  return false;
}

bool MayFollow(TargetState from, TargetState to) {
  switch (to) {
    case TargetState::kNone: return false;
    case TargetState::kOpen: return from == TargetState::kNone;
    case TargetState::kPrepared: return from == TargetState::kOpen;
    case TargetState::kRunning: return from == TargetState::kPrepared;
    case TargetState::kAborted: return from != TargetState::kRunning && from != TargetState::kAborted;
  }
  return false;
}

namespace internal {
namespace {

constexpr size_t kMaxText = 2048;  // bytes; JSON may escape each of them into six

// Length of the UTF-8 sequence that `text` begins with; 0 when it begins with none.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t length = byte(0) < 0x80       ? 1
                        : byte(0) >> 5 == 6  ? 2
                        : byte(0) >> 4 == 14 ? 3
                        : byte(0) >> 3 == 30 ? 4
                                             : 0;
  if (length == 0 || length > text.size()) return 0;
  uint32_t point = length == 1 ? byte(0) : byte(0) & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return 0;
    point = point << 6 | (byte(i) & 0x3f);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};  // overlong forms are not UTF-8
  const bool surrogate = point >= 0xd800 && point < 0xe000;
  return point < kSmallest[length] || surrogate || point > 0x10ffff ? 0 : length;
}

}  // namespace

std::string RecordText(absl::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    if (valid.size() + length > kMaxText) return valid + "...";
    valid += length == 0 ? "?" : std::string(text.substr(0, length));
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

}  // namespace internal
}  // namespace godwit::journal
