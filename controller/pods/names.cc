// SPDX-License-Identifier: Apache-2.0
#include "controller/pods/names.h"

#include <cstdint>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace godwit::controller {
namespace {

constexpr absl::string_view kAlphabet =
    "bcdfghjklmnpqrstvwxz2456789";  // no vowels, no 0, 1, 3: no words, no look-alikes
constexpr size_t kSuffixLength = 5;
constexpr size_t kLongestName = 253;
// Each API server of a control plane stamps what is created there by its own clock.
constexpr absl::Duration kClocksDiffer = absl::Seconds(5);

// FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv): the same in every version and on every machine.
uint64_t StableHash(absl::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (const unsigned char c : text) hash = (hash ^ c) * 1099511628211u;
  return hash;
}

}  // namespace

bool MadeBy(const k8s::ObjectMeta& owner, const k8s::ObjectMeta& pod) {
  if (owner.uid.empty() || pod.Label(kMigrationKey) != owner.uid) return false;
  return !owner.creation_timestamp || !pod.creation_timestamp ||
         *pod.creation_timestamp >= *owner.creation_timestamp - kClocksDiffer;
}

std::string Suffix(absl::string_view uid) {
  uint64_t hash = StableHash(uid);
  std::string suffix;
  for (size_t i = 0; i < kSuffixLength; ++i, hash /= kAlphabet.size())
    suffix += kAlphabet[hash % kAlphabet.size()];
  return suffix;
}

std::string MovedPodName(const k8s::ObjectMeta& pod, absl::string_view uid) {
  absl::string_view base = pod.name;
  if (const std::string earlier = pod.Label(kSuffixLabel); !earlier.empty()) {
    base = absl::StripSuffix(base, absl::StrCat("-", earlier));
  }
  base = base.substr(0, kLongestName - kSuffixLength - 1);
  while (absl::EndsWith(base, "-") || absl::EndsWith(base, ".")) base.remove_suffix(1);
  return absl::StrCat(base, "-", Suffix(uid));
}

}  // namespace godwit::controller
