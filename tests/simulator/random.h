// SPDX-License-Identifier: Apache-2.0
// Numbers that a seed decides, the same on every machine (SplitMix64, Steele, Lea and Flood 2014).
#pragma once

#include <cstdint>

namespace godwit::simulator {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // 0 to below - 1.
  int64_t Below(int64_t below) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(below)); }
  int64_t Between(int64_t least, int64_t most) { return least + Below(most - least + 1); }
  bool OneIn(int64_t n) { return Below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace godwit::simulator
