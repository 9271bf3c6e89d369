// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/image_sender.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace godwit::transfer {
namespace {

// How often a growing folder is looked at. A look costs some ten microseconds; inotify would tell of each of
// CRIU's splices, which are far more.
constexpr absl::Duration kLookEvery = absl::Milliseconds(2);

bool IsPageImage(absl::string_view name) {
  return absl::StartsWith(name, "pages-") && absl::EndsWith(name, ".img");
}

// One file on its way.
struct Outgoing {
  UniqueFd fd;
  std::unique_ptr<FileSender::File> file;
};

class Sending {
 public:
  Sending(const std::string& folder, FileSender& sender)
      : folder_(folder), sender_(sender), buffer_(kMaxDataBytes, '\0') {}

  absl::Status SendGrowth() {
    GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names, ListFolder(folder_));
    for (const std::string& name : names) {
      if (!IsPageImage(name)) continue;
      auto found = growing_.find(name);
      if (found == growing_.end()) {
        GODWIT_ASSIGN_OR_RETURN(Outgoing outgoing, Open(name));
        found = growing_.emplace(name, std::move(outgoing)).first;
      }
      GODWIT_RETURN_IF_ERROR(SendRest(name, found->second));
    }
    return absl::OkStatus();
  }

  // After the dump's end.
  absl::StatusOr<ImageTotals> SendTheOthers() {
    ImageTotals totals;
    for (auto& [name, outgoing] : growing_) {
      GODWIT_RETURN_IF_ERROR(Close(name, outgoing));
      totals.page_bytes += outgoing.file->size();
    }
    GODWIT_ASSIGN_OR_RETURN(std::vector<std::string> names, ListFolder(folder_));
    for (const std::string& name : names) {
      if (growing_.contains(name) || name == kDescriptors) continue;
      GODWIT_ASSIGN_OR_RETURN(const int64_t size, SendWhole(name));
      totals.other_bytes += size;
    }
    return totals;
  }

  absl::StatusOr<int64_t> SendWhole(const std::string& name) {
    GODWIT_ASSIGN_OR_RETURN(Outgoing outgoing, Open(name));
    GODWIT_RETURN_IF_ERROR(SendRest(name, outgoing));
    GODWIT_RETURN_IF_ERROR(Close(name, outgoing));
    return outgoing.file->size();
  }

 private:
  absl::StatusOr<Outgoing> Open(const std::string& name) {
    const std::string path = absl::StrCat(folder_, "/", name);
    GODWIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
    struct stat info{};
    if (fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cannot look at ", path));
    if (!S_ISREG(info.st_mode))
      return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
    GODWIT_ASSIGN_OR_RETURN(std::unique_ptr<FileSender::File> file, sender_.Begin(FileKind::kImage, name));
    return Outgoing{std::move(fd), std::move(file)};
  }

  // What the file has now beyond what was sent.
  absl::Status SendRest(const std::string& name, Outgoing& outgoing) {
    for (;;) {
      const ssize_t got = pread(outgoing.fd.get(), buffer_.data(), buffer_.size(), outgoing.file->size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoStatus(absl::StrCat("cannot read ", folder_, "/", name));
      if (got == 0) return absl::OkStatus();
      GODWIT_RETURN_IF_ERROR(outgoing.file->Write(absl::string_view(buffer_.data(), got)));
    }
  }

  absl::Status Close(const std::string& name, Outgoing& outgoing) {
    struct stat info{};
    if (fstat(outgoing.fd.get(), &info) != 0)
      return ErrnoStatus(absl::StrCat("cannot look at ", folder_, "/", name));
    if (info.st_size != outgoing.file->size()) {
      return absl::DataLossError(absl::StrCat(folder_, "/", name, " has ", info.st_size, " bytes, but ",
                                              outgoing.file->size(), " were sent: it changed under way"));
    }
    return outgoing.file->Finish();
  }

  const std::string& folder_;
  FileSender& sender_;
  std::string buffer_;
  std::map<std::string, Outgoing> growing_;
};

}  // namespace

void DumpProgress::Finish(absl::Status status) {
  status_ = std::move(status);
  ended_.Notify();
}

absl::Status SendImage(const std::string& folder, const std::string& name, FileSender& sender) {
  return Sending(folder, sender).SendWhole(name).status();
}

absl::StatusOr<ImageTotals> SendImages(const std::string& folder, const DumpProgress& dump,
                                       FileSender& sender) {
  Sending sending(folder, sender);
  for (bool ended = false; !ended;) {
    ended = dump.AwaitEnd(kLookEvery);  // first: what is there after the end is all there will be
    if (ended) GODWIT_RETURN_IF_ERROR(dump.status());
    if (sender.cancelled()) return absl::CancelledError("the sending was given up");
    GODWIT_RETURN_IF_ERROR(sending.SendGrowth());
  }
  return sending.SendTheOthers();
}

}  // namespace godwit::transfer
