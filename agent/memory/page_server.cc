// SPDX-License-Identifier: Apache-2.0
#include "agent/memory/page_server.h"

#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "agent/api/host_protocol.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status.h"

namespace godwit::memory {
namespace {

using agent_api::PagesReply;
using agent_api::PagesRequest;

constexpr size_t kMaxRequest = 4096;
// A pager asks and reads at once; one that does not must not keep the others waiting.
constexpr absl::Duration kPatience = absl::Seconds(2);

absl::StatusOr<PageServer::Found> Find(LineChannel& channel, const PageServer::Lookup& lookup) {
  GODWIT_ASSIGN_OR_RETURN(const std::string line, channel.ReadLine(kPatience));
  const absl::StatusOr<PagesRequest> request =
      json::Decode<PagesRequest>(line, {.max_bytes = kMaxRequest, .max_depth = 4});
  if (!request.ok()) return Annotate(request.status(), "not a request for pages");
  return lookup(request->sandbox_uid, request->container);
}

absl::Status Send(LineChannel& channel, const PageServer::Found& found) {
  const PageServer::Stores& stores = found.stores;
  const bool pulled = !found.maps.empty();
  size_t at = 0;
  do {
    const size_t end = std::min(stores.size(), at + agent_api::kMaxPagesBatch);
    PagesReply reply = {.ok = true, .more = end < stores.size(), .pulled = pulled, .give = found.give};
    std::vector<int> descriptors;
    for (; at < end; ++at) {
      reply.tasks.push_back(stores[at].first);
      descriptors.push_back(stores[at].second.get());
      if (pulled) descriptors.push_back(found.maps[at].get());
    }
    GODWIT_RETURN_IF_ERROR(channel.WriteLine(json::Encode(reply), descriptors, kPatience));
  } while (at < stores.size());
  return absl::OkStatus();
}

void Serve(UniqueFd socket, const PageServer::Lookup& lookup) {
  const absl::StatusOr<PeerCredentials> peer = PeerOf(socket.get());
  if (!peer.ok() || peer->uid != 0) {
    LOG(WARNING) << Log("refused a connection that is not root's").With("uid", peer.ok() ? peer->uid : 0);
    return;
  }
  LineChannel channel(std::move(socket), agent_api::kMaxWord);
  const absl::StatusOr<PageServer::Found> found = Find(channel, lookup);
  const absl::Status sent =
      found.ok() ? Send(channel, *found)
                 : channel.WriteLine(
                       json::Encode(PagesReply{.message = std::string(found.status().message())}), kPatience);
  if (!found.ok()) LOG(WARNING) << Log("a pager gets no pages").With(found.status());
  if (!sent.ok()) LOG(WARNING) << Log("a pager did not take its pages").With(sent);
  if (found.ok() && sent.ok() && found->pull) found->pull(std::move(channel));
}

}  // namespace

class PageServer::Impl {
 public:
  Impl(UniqueFd listener, Lookup lookup) : listener_(std::move(listener)), lookup_(std::move(lookup)) {
    acceptor_ = std::thread([this] { AcceptLoop(); });
  }
  ~Impl() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
  }

 private:
  // One after another: each is answered at once.
  void AcceptLoop() {
    while (true) {
      absl::StatusOr<UniqueFd> socket = AcceptUnix(listener_.get(), absl::InfiniteDuration());
      if (socket.ok()) {
        Serve(*std::move(socket), lookup_);
        continue;
      }
      absl::MutexLock lock(&mutex_);
      if (stopping_ || absl::IsCancelled(socket.status())) return;
      LOG(ERROR) << Log("cannot accept a pager's connection").With(socket.status());
      mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::Seconds(1));  // out of descriptors, perhaps
    }
  }

  UniqueFd listener_;
  const Lookup lookup_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread acceptor_;
};

absl::StatusOr<std::unique_ptr<PageServer>> PageServer::Start(const std::string& socket, Lookup lookup) {
  GODWIT_RETURN_IF_ERROR(MakeFolders(std::filesystem::path(socket).parent_path(), 0755));
  GODWIT_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(socket, 0600));
  return std::unique_ptr<PageServer>(
      new PageServer(std::make_unique<Impl>(std::move(listener), std::move(lookup))));
}

PageServer::PageServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PageServer::~PageServer() = default;

}  // namespace godwit::memory
