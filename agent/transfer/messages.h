// SPDX-License-Identifier: Apache-2.0
// The JSON payloads of the stream's frames (docs/stream.md). Names and sizes in them are a peer's word:
// file_receiver.h and agent/migration check them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "agent/api/messages.h"
#include "base/json.h"

namespace godwit::transfer {

// kMigration: the source brings a pod's state. kFetch: the caller asks for one archive of a checkpoint.
// kRehearsal: the caller measures the link (rehearsal.h).
enum class Role { kMigration, kFetch, kRehearsal };
constexpr std::array<std::pair<Role, absl::string_view>, 3> JsonNames(Role) {
  return {{{Role::kMigration, "migration"}, {Role::kFetch, "fetch"}, {Role::kRehearsal, "rehearsal"}}};
}

// HELLO: the first frame of whoever connected.
struct Hello {
  Role role = Role::kMigration;
  std::string uid;        // of the Migration, of the Checkpoint for kFetch, of the pod for kRehearsal
  std::string from_node;  // must be the node of the certificate
  std::string to_node;
  bool ask =
      false;  // kMigration: the source has ceded and only wants to know the target's state, and to commit
  bool resume = false;  // kMigration: goes on with the rounds of a pre-copy whose connection was cut
  int64_t sides = 0;    // kMigration: so many side connections are wanted
  int64_t side = 0;     // kMigration: this is one, from 1 on, of the stream whose HELLO_OK named `session`
  std::string session;
  std::string archive;  // kFetch: its file name
  std::string digest;   // kFetch: the archive's, by which the caller shows that the controller sent it
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("role", self.role);
    field.Required("uid", self.uid);
    field.Required("from", self.from_node);
    field.Required("to", self.to_node);
    field("ask", self.ask);
    field("resume", self.resume);
    field("sides", self.sides);
    field("side", self.side);
    field("session", self.session);
    field("archive", self.archive);
    field("digest", self.digest);
  }
  bool operator==(const Hello&) const = default;
};

// HELLO_OK: accepted; what the target's journal says. Nothing is frozen before the source has read this.
struct HelloOk {
  agent_api::TargetState state = agent_api::TargetState::kOpen;
  std::string reason;   // kAborted
  std::string message;  // kAborted
  int64_t sides = 0;    // so many side connections are taken, each with this `session` in its HELLO
  std::string session;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("state", self.state);
    field("reason", self.reason);
    field("message", self.message);
    field("sides", self.sides);
    field("session", self.session);
  }
};

// SIDES, from the source: so many PAGES frames were sent over each side connection, the first one's first.
// What follows over this one is to be taken after them.
struct SideFrames {
  std::vector<int64_t> frames;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("frames", self.frames);
  }
};

enum class FileKind { kImage, kRootfs, kVolume, kArchive };
constexpr std::array<std::pair<FileKind, absl::string_view>, 4> JsonNames(FileKind) {
  return {{{FileKind::kImage, "image"},
           {FileKind::kRootfs, "rootfs"},
           {FileKind::kVolume, "volume"},
           {FileKind::kArchive, "archive"}}};
}

// FILE_BEGIN: the frames with this id bring one file.
struct FileBegin {
  uint32_t id = 0;        // unique in the stream
  std::string container;  // kVolume: the container before which the volume must be there; kArchive: "archive"
  FileKind kind = FileKind::kImage;
  // kImage: of CRIU's image file; kRootfs: the round, "0" first; kVolume: "<emptyDir>-<round>"; kArchive:
  // empty
  std::string name;
  // kImage: the container's images are small, and nobody needs them after the restore: memory will do.
  bool in_memory = false;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("id", self.id);
    field.Required("container", self.container);
    field.Required("kind", self.kind);
    field("name", self.name);
    field("inMemory", self.in_memory);
  }
  bool operator==(const FileBegin&) const = default;
};

// FILE_END: the file is complete.
struct FileEnd {
  uint32_t id = 0;
  int64_t size = 0;  // bytes
  std::string xxh3;  // XXH3-64 of the whole file, 16 hex digits
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("id", self.id);
    field.Required("size", self.size);
    field.Required("xxh3", self.xxh3);
  }
  bool operator==(const FileEnd&) const = default;
};

// CONTAINER_END: all files of the container have been sent. The receiver compares.
struct ContainerEnd {
  std::string container;
  int64_t files = 0;
  int64_t bytes = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("container", self.container);
    field.Required("files", self.files);
    field.Required("bytes", self.bytes);
  }
  bool operator==(const ContainerEnd&) const = default;
};

// ROUND_END, from the source: all pages of the round were sent. ROUND_OK, the target's answer: they are
// there.
struct Round {
  int64_t number = 0;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("number", self.number);
  }
};

// AT_GATE, from the target: the container's restore has been started and waits for its state.
struct AtGate {
  std::string container;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("container", self.container);
  }
};

// RUNNING: what took how long on the target. The clocks of two nodes are not compared: offsets are from the
// moment in which the target had the stream's first FILE_BEGIN in hand; the source knows when it sent it.
struct Timings {
  std::vector<agent_api::FreezeStep> steps;
  absl::Duration thawed_ago;  // from the last thaw to the sending of this message
  bool missing = false;       // pages are missing, and are listed next: the source is to serve them
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field("steps", self.steps);
    field("thawedAgo", self.thawed_ago);
    field("missing", self.missing);
  }
};

// MISSING_END, from the target: the MISSING frames since RUNNING have listed all; `bytes` in all. With 0
// bytes nothing is missing any more, and the source is not needed; `lost` then says that it came to that
// because what was missing cannot be had.
struct MissingEnd {
  int64_t bytes = 0;
  std::string lost;
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("bytes", self.bytes);
    field("lost", self.lost);
  }
};

// ABORT, REFUSED and PAGES_LOST.
//   ABORT from the source: it has decided ABORTED. ABORT from the target: ABORTED is in its journal, its copy
//   never runs. REFUSED: the answer to a HELLO that cannot be accepted; it decides nothing.
struct Reason {
  std::string reason;   // CamelCase
  std::string message;  // for a person
  template <class Self, class V>
  static void Fields(Self& self, V& field) {
    field.Required("reason", self.reason);
    field("message", self.message);
  }
  bool operator==(const Reason&) const = default;
};

}  // namespace godwit::transfer
