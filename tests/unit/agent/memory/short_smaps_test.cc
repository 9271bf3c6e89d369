// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/short_smaps.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::HasSubstr;

constexpr char kCode[] = "400000-401000 r-xp 00000000 fe:00 7                          /bin/app";
constexpr char kHeap[] = "7f0000000000-7f0000004000 rw-p 00000000 00:00 0 ";
constexpr char kStack[] = "7ff000000000-7ff000021000 rw-p 00000000 00:00 0                          [stack]";
constexpr char kGate[] =
    "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]";
constexpr uint64_t kHigh = uint64_t{1} << 40, kHigher = uint64_t{1} << 42;

std::string Smaps(std::vector<std::pair<const char*, const char*>> mappings) {
  std::string text;
  for (const auto& [mapping, flags] : mappings)
    absl::StrAppend(&text, mapping, "\nSize:   4 kB\nVmFlags: ", flags, " \n");
  return text;
}
Vma Code(uint64_t flags) { return {{0x400000, 0x401000}, flags}; }
Vma Heap(uint64_t flags) { return {{0x7f0000000000, 0x7f0000004000}, flags}; }
Vma Stack(uint64_t flags) { return {{0x7ff000000000, 0x7ff000021000}, flags}; }

TEST(ShortSmapsTest, HasEachMappingsLineAndTheFlagsThatCriuMinds) {
  const std::string maps = absl::StrCat(kCode, "\n", kHeap, "\n", kStack, "\n", kGate, "\n");
  const auto text = ComposeSmaps(maps, {Code(0x75), Heap(0x20022073), Stack(0x100173)}, VmFlagNames());
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, absl::StrCat(kCode, "\nVmFlags: \n", kHeap, "\nVmFlags: dc hg lo\n", kStack,
                                "\nVmFlags: gd\n", kGate, "\n"));
}

TEST(ShortSmapsTest, ListsOfDifferentMappingsMakeNoText) {
  const std::string maps = absl::StrCat(kCode, "\n", kHeap, "\n");
  const std::vector<Vma> lists[] = {
      {}, {Code(0)}, {Code(0), Stack(0)}, {Heap(0), Code(0)}, {Code(0), Heap(0), Stack(0)}};
  for (const auto& list : lists)
    EXPECT_TRUE(absl::IsDataLoss(ComposeSmaps(maps, list, VmFlagNames()).status()));
  EXPECT_TRUE(absl::IsDataLoss(ComposeSmaps("no mapping\n", {}, VmFlagNames()).status()));
  EXPECT_EQ(*ComposeSmaps("", {}, VmFlagNames()), "");
}

TEST(ShortSmapsTest, HighBitsAreLearntFromTheKernelsOwnText) {
  VmFlagNames names;
  EXPECT_THAT(names.Of(kHigh | 0x75).status().message(), HasSubstr("10000000000"));
  // The heap has both bits, of which the code shows one to mean nothing.
  const absl::Status learnt =
      names.Learn(Smaps({{kCode, "rd ex"}, {kHeap, "rd wr dp xx"}, {kStack, "rd gd"}}),
                  {Code(kHigh | 5), Heap(kHigh | kHigher | 3), Stack(0x101)});
  ASSERT_TRUE(learnt.ok()) << learnt;
  EXPECT_EQ(*names.Of(kHigh | 0x75), "");
  EXPECT_EQ(*names.Of(kHigh | kHigher), "dp");
  EXPECT_EQ(*names.Of(kHigher | 0x2000), "dp lo");
  EXPECT_FALSE(names.Of(kHigher << 1).ok());
}

TEST(ShortSmapsTest, AKernelWithOtherBitsIsNotBelieved) {
  struct Case {
    const char* text;
    uint64_t flags;
  };
  for (const Case& c : {Case{"rd wr", 0x2003},
                        {"rd wr lo", 3},
                        {"rd wr dp", 3},
                        {"rd dp ss", kHigh | kHigher | 3},
                        {"rd dp", kHigh | kHigher | 3},
                        {"rd hg", kHigh | 0x40000001}}) {
    VmFlagNames names;
    EXPECT_TRUE(absl::IsFailedPrecondition(names.Learn(Smaps({{kHeap, c.text}}), {Heap(c.flags)}))) << c.text;
  }
}

TEST(ShortSmapsTest, MappingsThatChangedBetweenTheTwoAreNotLearntFrom) {
  VmFlagNames names;
  EXPECT_TRUE(names.Learn(Smaps({{kHeap, "rd lo"}}), {Stack(kHigh)}).ok());
  EXPECT_FALSE(names.Of(kHigh).ok());
}

}  // namespace
}  // namespace godwit::memory
