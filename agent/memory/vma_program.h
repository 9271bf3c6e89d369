// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// The BPF program of VmaIterator: for each mapping it writes start, end and flags, 64 bits each. The helper
// that writes is for programs under the GPL alone, so this file may be taken under either licence.
#pragma once

#include <linux/bpf.h>

#include <array>
#include <cstdint>

namespace godwit::memory {

inline constexpr char kVmaProgramLicense[] = "GPL";

// Offsets in the kernel's struct vm_area_struct.
struct VmaOffsets {
  int16_t start = 0, end = 0, flags = 0;
};

constexpr bpf_insn VmaInstruction(uint8_t code, uint8_t to, uint8_t from, int16_t offset, int32_t value) {
  bpf_insn instruction{};
  instruction.code = code;
  instruction.dst_reg = to & 0xf;
  instruction.src_reg = from & 0xf;
  instruction.off = offset;
  instruction.imm = value;
  return instruction;
}

// int program(struct bpf_iter__task_vma *context), the context's fields being meta, task and vma:
//   if (context->vma) bpf_seq_write(context->meta->seq, (u64[3]){vma->vm_start, vma->vm_end, vma->vm_flags},
//   24);
constexpr auto VmaProgram(VmaOffsets offsets) {
  constexpr uint8_t kMove = BPF_ALU64 | BPF_MOV | BPF_X, kSet = BPF_ALU64 | BPF_MOV | BPF_K;
  constexpr uint8_t kLoad = BPF_LDX | BPF_MEM | BPF_DW, kStore = BPF_STX | BPF_MEM | BPF_DW;
  return std::array{
      VmaInstruction(kMove, 6, 1, 0, 0),
      VmaInstruction(kLoad, 2, 6, 16, 0),                      // r2 = context->vma
      VmaInstruction(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, 12, 0),  // at the end of the list it is null
      VmaInstruction(kLoad, 3, 2, offsets.start, 0),
      VmaInstruction(kStore, 10, 3, -24, 0),
      VmaInstruction(kLoad, 3, 2, offsets.end, 0),
      VmaInstruction(kStore, 10, 3, -16, 0),
      VmaInstruction(kLoad, 3, 2, offsets.flags, 0),
      VmaInstruction(kStore, 10, 3, -8, 0),
      VmaInstruction(kLoad, 1, 6, 0, 0),  // context->meta
      VmaInstruction(kLoad, 1, 1, 0, 0),  // ->seq
      VmaInstruction(kMove, 2, 10, 0, 0),
      VmaInstruction(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -24),
      VmaInstruction(kSet, 3, 0, 0, 24),
      VmaInstruction(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_seq_write),
      VmaInstruction(kSet, 0, 0, 0, 0),
      VmaInstruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
}

}  // namespace godwit::memory
