// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/fetch.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "agent/transfer/file_receiver.h"
#include "agent/transfer/file_sender.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

constexpr char kArchiveName[] = "archive";  // stands where a container's name stands in other streams

absl::Status AwaitAccepted(Stream& stream, absl::Time deadline) {
  GODWIT_ASSIGN_OR_RETURN(Frame frame, stream.Receive(deadline));
  if (frame.type == FrameType::kHelloOk) return absl::OkStatus();
  if (frame.type != FrameType::kRefused) {
    return absl::InvalidArgumentError(absl::StrCat("the peer answered with ", FrameTypeName(frame.type)));
  }
  GODWIT_ASSIGN_OR_RETURN(Reason reason, DecodeMessage<Reason>(frame));
  if (reason.reason == "NotFound") return absl::NotFoundError(reason.message);
  return absl::FailedPreconditionError(absl::StrCat(reason.reason, ": ", reason.message));
}

absl::Status SendFile(Stream& stream, const std::string& path, absl::Time deadline) {
  GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_NOFOLLOW));
  FileSender sender(stream, kArchiveName, deadline);
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<FileSender::File> file, sender.Begin(FileKind::kArchive, ""));
  std::string buffer(kMaxDataBytes, '\0');
  for (;;) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", path));
    if (got == 0) break;
    GODWIT_RETURN_IF_ERROR(file->Write(absl::string_view(buffer.data(), got)));
  }
  GODWIT_RETURN_IF_ERROR(file->Finish());
  return sender.End();
}

absl::Status ReceiveFile(Stream& stream, const std::string& folder, int64_t max_bytes, absl::Time deadline) {
  FileReceiver receiver({.folder = folder,
                         .containers = {kArchiveName},
                         .kinds = {FileKind::kArchive},
                         .max_bytes = max_bytes,
                         .max_files = 1});
  while (receiver.complete().empty()) {
    GODWIT_ASSIGN_OR_RETURN(Frame frame, stream.Receive(deadline));
    if (frame.type == FrameType::kAbort) {
      GODWIT_ASSIGN_OR_RETURN(Reason reason, DecodeMessage<Reason>(frame));
      return absl::UnavailableError(absl::StrCat("the peer gave up: ", reason.reason, ": ", reason.message));
    }
    GODWIT_RETURN_IF_ERROR(receiver.Take(frame));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status FetchArchive(tls::Identity& identity, const FetchRequest& request, const std::string& path,
                          absl::Time deadline) {
  const std::string what =
      absl::StrCat("cannot fetch the archive ", request.archive, " from node ", request.node);
  GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream,
                          Stream::Connect(identity, request.address, request.node, deadline));
  const Hello hello{.role = Role::kFetch,
                    .uid = request.checkpoint_uid,
                    .from_node = request.own_node,
                    .to_node = request.node,
                    .archive = request.archive,
                    .digest = request.digest};
  GODWIT_RETURN_IF_ERROR(stream->SendMessage(FrameType::kHello, hello, deadline));
  if (absl::Status status = AwaitAccepted(*stream, deadline); !status.ok()) return Annotate(status, what);
  const std::string folder = absl::StrCat(path, ".fetching");
  GODWIT_RETURN_IF_ERROR(RemoveTree(folder));  // of an attempt that a crash ended
  GODWIT_RETURN_IF_ERROR(MakeFolders(folder, 0700));
  absl::Cleanup remove = [&folder] { (void)RemoveTree(folder); };
  absl::Status status = ReceiveFile(*stream, folder, request.max_bytes, deadline);
  if (!status.ok()) return Annotate(status, what);
  const std::string fetched = absl::StrCat(folder, "/", kArchiveName, ".tar");
  if (!FileExists(fetched)) return absl::DataLossError(absl::StrCat(what, ": the peer sent no file"));
  if (link(fetched.c_str(), path.c_str()) != 0)
    return ErrnoStatus(absl::StrCat(what, ": cannot make ", path));
  return absl::OkStatus();
}

absl::Status ServeArchive(Stream& stream, const Hello& hello, const FindArchive& find, absl::Time deadline) {
  absl::StatusOr<std::string> path = absl::PermissionDeniedError(
      absl::StrCat("the caller is node ", stream.peer_node(), ", not ", hello.from_node));
  if (hello.from_node == stream.peer_node()) path = find(hello.uid, hello.archive, hello.digest);
  if (!path.ok()) {
    const Reason reason{absl::IsNotFound(path.status()) ? "NotFound" : "Refused",
                        std::string(path.status().message())};
    GODWIT_RETURN_IF_ERROR(stream.SendMessage(FrameType::kRefused, reason, deadline));
    return path.status();
  }
  GODWIT_RETURN_IF_ERROR(stream.SendMessage(FrameType::kHelloOk, HelloOk{}, deadline));
  const absl::Status status = SendFile(stream, *path, deadline);
  if (!status.ok()) {
    (void)stream.SendMessage(FrameType::kAbort, Reason{"ReadFailed", std::string(status.message())},
                             deadline);
    return status;
  }
  // Until the peer has closed, so that nothing of what was sent is lost with the connection.
  (void)stream.Receive(deadline);
  return absl::OkStatus();
}

}  // namespace godwit::transfer
