// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/vma_iterator.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "agent/memory/vma_program.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

constexpr size_t kMaxMappings = size_t{1} << 20;  // the kernel's own limit is 65530 unless it was raised

struct FreeBtf {
  void operator()(btf* types) const { btf__free(types); }
};
using Btf = std::unique_ptr<btf, FreeBtf>;

absl::Status Cannot(absl::string_view what, int error) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot list mappings by BPF: ", what, ": ", strerror(error)));
}

// Fields of unnamed structures and unions count as their holder's. -1: there is none of this name.
int64_t OffsetOf(const btf* types, int32_t holder, const char* field, int64_t base = 0, int depth = 0) {
  constexpr int kMaxDepth = 8;
  const btf_type* type = btf__type_by_id(types, static_cast<uint32_t>(holder));
  if (type == nullptr || !btf_is_composite(type) || depth > kMaxDepth) return -1;
  const btf_member* member = btf_members(type);
  for (uint32_t i = 0; i < btf_vlen(type); ++i, ++member) {
    const int64_t offset = base + btf_member_bit_offset(type, i) / 8;
    const char* name = btf__name_by_offset(types, member->name_off);
    if (name == nullptr) return -1;
    if (strcmp(name, field) == 0) return offset;
    if (name[0] != '\0') continue;
    const int64_t inner = OffsetOf(types, static_cast<int32_t>(member->type), field, offset, depth + 1);
    if (inner >= 0) return inner;
  }
  return -1;
}

absl::StatusOr<VmaOffsets> FindOffsets(const btf* types) {
  const int32_t vma = btf__find_by_name_kind(types, "vm_area_struct", BTF_KIND_STRUCT);
  if (vma < 0) return Cannot("BTF has no vm_area_struct", ENOENT);
  VmaOffsets offsets;
  for (const auto& [name, offset] : {std::pair("vm_start", &offsets.start), std::pair("vm_end", &offsets.end),
                                     std::pair("vm_flags", &offsets.flags)}) {
    const int64_t found = OffsetOf(types, vma, name);
    if (found < 0 || found > std::numeric_limits<int16_t>::max())
      return Cannot(absl::StrCat("BTF has no ", name), ENOENT);
    *offset = static_cast<int16_t>(found);
  }
  return offsets;
}

}  // namespace

absl::StatusOr<VmaIterator> VmaIterator::Load() {
  libbpf_set_print(nullptr);
  const Btf types(btf__load_vmlinux_btf());
  if (types == nullptr) return Cannot("the kernel's BTF (CONFIG_DEBUG_INFO_BTF)", errno);
  const int32_t iterator = btf__find_by_name_kind(types.get(), "bpf_iter_task_vma", BTF_KIND_FUNC);
  if (iterator < 0) return Cannot("the kernel has no iterator of mappings", ENOENT);
  GODWIT_ASSIGN_OR_RETURN(const VmaOffsets offsets, FindOffsets(types.get()));
  const auto program = VmaProgram(offsets);
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_TRACE_ITER,
              .attach_btf_id = static_cast<uint32_t>(iterator));
  UniqueFd loaded(bpf_prog_load(BPF_PROG_TYPE_TRACING, "godwit_vmas", kVmaProgramLicense, program.data(),
                                program.size(), &options));
  if (!loaded.ok()) return Cannot("bpf(BPF_PROG_LOAD)", errno);
  return VmaIterator(std::move(loaded));
}

absl::StatusOr<std::vector<Vma>> VmaIterator::Read(pid_t pid) const {
  bpf_iter_link_info info{};
  info.task.tid = static_cast<uint32_t>(pid);
  LIBBPF_OPTS(bpf_link_create_opts, options, .iter_info = &info, .iter_info_len = sizeof info);
  const UniqueFd link(bpf_link_create(program_.get(), 0, BPF_TRACE_ITER, &options));
  const UniqueFd iterator(link.ok() ? bpf_iter_create(link.get()) : -1);
  if (!iterator.ok()) {
    return errno == ESRCH ? absl::NotFoundError(absl::StrCat("process ", pid, " is gone"))
                          : ErrnoStatus(absl::StrCat("cannot list the mappings of process ", pid));
  }
  struct Record {
    uint64_t start, end, flags;
  };
  std::vector<Vma> mappings;
  Record records[512];
  size_t have = 0;  // bytes
  // When the end of a list has come that took several reads, the next read begins again where the last but
  // one ended (kernel/bpf/task_iter.c saves its place only in the middle): a read that brings nothing new is
  // the end, too.
  bool more = true;
  while (more) {
    const ssize_t got = read(iterator.get(), reinterpret_cast<char*>(records) + have, sizeof records - have);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot list the mappings of process ", pid));
    if (got == 0) break;
    have += static_cast<size_t>(got);
    const size_t whole = have / sizeof(Record);
    const size_t before = mappings.size();
    for (size_t i = 0; i < whole; ++i) {
      const Range range = {records[i].start, records[i].end};
      if (mappings.empty() || range.start >= mappings.back().range.end)
        mappings.push_back({.range = range, .flags = records[i].flags});
    }
    more = whole == 0 || mappings.size() > before;
    if (mappings.size() > kMaxMappings)
      return absl::ResourceExhaustedError(
          absl::StrCat("process ", pid, " has more than ", kMaxMappings, " mappings"));
    have %= sizeof(Record);
    memmove(records, records + whole, have);
  }
  if (have != 0 && more) return absl::DataLossError("the kernel's list of mappings ends within one");
  return mappings;
}

}  // namespace godwit::memory
