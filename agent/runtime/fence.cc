// SPDX-License-Identifier: Apache-2.0
#include "agent/runtime/fence.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/process.h"
#include "base/status.h"

namespace godwit::runtime {
namespace {

constexpr char kPrefix[] = "godwit-";
constexpr char kSet4[] = "ipv4", kSet6[] = "ipv6";
constexpr absl::Duration kNftLimit = absl::Seconds(10);
constexpr int kAnswerMs = 2000;

// Before connection tracking, and after everything.
constexpr char kRules[] = R"(table inet $TABLE {}
delete table inet $TABLE
table inet $TABLE {
  set ipv4 { type ipv4_addr; flags timeout; }
  set ipv6 { type ipv6_addr; flags timeout; }
  chain arriving {
    type filter hook prerouting priority -400; policy accept;
    ip daddr @ipv4 drop; ip saddr @ipv4 drop; ip6 daddr @ipv6 drop; ip6 saddr @ipv6 drop;
  }
  chain leaving {
    type filter hook postrouting priority 400; policy accept;
    ip daddr @ipv4 drop; ip saddr @ipv4 drop; ip6 daddr @ipv6 drop; ip6 saddr @ipv6 drop;
  }
}
)";

// A netlink message of nested attributes (linux/netlink.h; Documentation/userspace-api/netlink/intro.rst).
class Message {
 public:
  Message(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
    nlmsghdr head{};
    head.nlmsg_type = type;
    head.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    Append(&head, sizeof(head));
    const nfgenmsg generic{family, NFNETLINK_V0, htons(resource)};
    Append(&generic, sizeof(generic));
  }
  void Add(uint16_t type, const void* data, size_t size) {
    const nlattr head{static_cast<uint16_t>(sizeof(nlattr) + size), type};
    Append(&head, sizeof(head));
    Append(data, size);
  }
  void AddName(uint16_t type, const std::string& name) { Add(type, name.c_str(), name.size() + 1); }
  size_t Begin(uint16_t type) {
    const size_t at = bytes_.size();
    Add(static_cast<uint16_t>(type | NLA_F_NESTED), nullptr, 0);
    return at;
  }
  void End(size_t at) {
    const auto size = static_cast<uint16_t>(bytes_.size() - at);
    memcpy(&bytes_[at], &size, sizeof(size));  // nlattr.nla_len
  }
  std::string Finish() {
    const auto size = static_cast<uint32_t>(bytes_.size());
    memcpy(&bytes_[0], &size, sizeof(size));  // nlmsghdr.nlmsg_len
    return bytes_;
  }

 private:
  void Append(const void* data, size_t size) {
    if (size > 0) bytes_.append(static_cast<const char*>(data), size);
    bytes_.resize((bytes_.size() + 3) / 4 * 4);  // NLMSG_ALIGN
  }
  std::string bytes_;
};

// Has the kernel do what these messages say, all or nothing. The first error it answers with.
absl::Status Transact(const std::vector<std::string>& messages, absl::string_view what) {
  std::string batch = Message(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES).Finish();
  for (const std::string& message : messages) batch += message;
  batch += Message(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES).Finish();
  const UniqueFd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!socket.ok()) return ErrnoStatus(absl::StrCat(what, ": this kernel has no nfnetlink"));
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  if (sendto(socket.get(), batch.data(), batch.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
             sizeof(kernel)) != static_cast<ssize_t>(batch.size()))
    return ErrnoStatus(what);
  for (size_t answers = 0; answers < messages.size();) {
    pollfd answer{socket.get(), POLLIN, 0};
    if (poll(&answer, 1, kAnswerMs) <= 0)
      return absl::DeadlineExceededError(absl::StrCat(what, ": the kernel does not answer"));
    alignas(nlmsghdr) char buffer[8192];
    ssize_t size = recv(socket.get(), buffer, sizeof(buffer), 0);
    if (size < 0) return ErrnoStatus(what);
    for (auto* head = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(head, size);
         head = NLMSG_NEXT(head, size)) {
      if (head->nlmsg_type != NLMSG_ERROR) continue;
      const int error = -static_cast<nlmsgerr*>(NLMSG_DATA(head))->error;
      if (error != 0) return ErrnoStatus(error, what);
      ++answers;
    }
  }
  return absl::OkStatus();
}

Message NftMessage(int type, uint16_t flags) {
  return {static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type), static_cast<uint16_t>(flags | NLM_F_ACK),
          NFPROTO_INET, 0};
}

std::string AddElements(const std::string& table, const char* set, const std::vector<std::string>& keys,
                        absl::Duration limit) {
  Message message = NftMessage(NFT_MSG_NEWSETELEM, NLM_F_CREATE);
  message.AddName(NFTA_SET_ELEM_LIST_TABLE, table);
  message.AddName(NFTA_SET_ELEM_LIST_SET, set);
  const size_t list = message.Begin(NFTA_SET_ELEM_LIST_ELEMENTS);
  const uint64_t timeout = htobe64(static_cast<uint64_t>(absl::ToInt64Milliseconds(limit)));
  for (const std::string& key : keys) {
    const size_t element = message.Begin(NFTA_LIST_ELEM);
    const size_t value = message.Begin(NFTA_SET_ELEM_KEY);
    message.Add(NFTA_DATA_VALUE, key.data(), key.size());
    message.End(value);
    message.Add(NFTA_SET_ELEM_TIMEOUT, &timeout, sizeof(timeout));
    message.End(element);
  }
  message.End(list);
  return message.Finish();
}

absl::StatusOr<std::vector<std::string>> NodesOwn() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return ErrnoStatus("cannot list the node's addresses");
  const absl::Cleanup free_list = [list] { freeifaddrs(list); };
  std::vector<std::string> own;
  for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr) continue;
    if (at->ifa_addr->sa_family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
      own.emplace_back(reinterpret_cast<const char*>(&address->sin_addr), 4);
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr);
      own.emplace_back(reinterpret_cast<const char*>(&address->sin6_addr), 16);
    }
  }
  return own;
}

absl::Status CheckName(const std::string& name) {
  const bool plain =
      std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '-'; });
  if (plain && !name.empty() && name.size() <= 128) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" cannot name a fence"));
}

}  // namespace

std::string AddressKey(const std::string& address) {
  char bytes[16];
  if (inet_pton(AF_INET, address.c_str(), bytes) == 1) return std::string(bytes, 4);
  if (inet_pton(AF_INET6, address.c_str(), bytes) == 1) return std::string(bytes, 16);
  return "";
}

Fence::Fence(std::string table, std::vector<std::string> keys, absl::Duration limit)
    : table_(std::move(table)), keys_(std::move(keys)), limit_(limit) {}

Fence::Fence(Fence&& other) noexcept
    : table_(std::exchange(other.table_, "")), keys_(std::move(other.keys_)), limit_(other.limit_) {}

Fence& Fence::operator=(Fence&& other) noexcept {
  if (this == &other) return *this;
  Remove();
  table_ = std::exchange(other.table_, "");
  keys_ = std::move(other.keys_);
  limit_ = other.limit_;
  return *this;
}

Fence::~Fence() { Remove(); }

void Fence::Remove() {
  if (table_.empty()) return;
  const absl::Status status = LiftFence(std::string(absl::StripPrefix(table_, kPrefix)));
  if (!status.ok()) LOG(ERROR) << Log("a fence is left behind").With("table", table_).With(status);
}

absl::StatusOr<Fence> Fence::Make(const std::string& nft, const std::string& name,
                                  const std::vector<std::string>& addresses, absl::Duration limit) {
  GODWIT_RETURN_IF_ERROR(LiftFence(name));
  GODWIT_ASSIGN_OR_RETURN(const std::vector<std::string> own, NodesOwn());
  std::vector<std::string> keys;
  for (const std::string& address : addresses) {
    keys.push_back(AddressKey(address));
    if (keys.back().empty())
      return absl::InvalidArgumentError(absl::StrCat("cannot fence \"", address, "\": it is no IP address"));
    if (std::find(own.begin(), own.end(), keys.back()) != own.end())
      return absl::InvalidArgumentError(
          absl::StrCat("cannot fence ", address, ": it is an address of the node itself"));
  }
  const std::string table = absl::StrCat(kPrefix, name);
  RunOptions options;
  options.limit = kNftLimit;
  options.input = absl::StrReplaceAll(kRules, {{"$TABLE", table}});
  GODWIT_RETURN_IF_ERROR(Annotate(RunOrError({nft, "-f", "-"}, options).status(), "cannot make a fence"));
  return Fence(table, std::move(keys), limit);
}

absl::Status Fence::Raise() {
  std::vector<std::string> of4, of6;
  for (const std::string& key : keys_) (key.size() == 4 ? of4 : of6).push_back(key);
  std::vector<std::string> messages;
  if (!of4.empty()) messages.push_back(AddElements(table_, kSet4, of4, limit_));
  if (!of6.empty()) messages.push_back(AddElements(table_, kSet6, of6, limit_));
  return Transact(messages, absl::StrCat("cannot raise the fence ", table_));
}

absl::Status Fence::Lower() {
  std::vector<std::string> messages;
  for (const char* set : {kSet4, kSet6}) {
    Message message = NftMessage(NFT_MSG_DELSETELEM, 0);  // of a set's name alone: all elements
    message.AddName(NFTA_SET_ELEM_LIST_TABLE, table_);
    message.AddName(NFTA_SET_ELEM_LIST_SET, set);
    messages.push_back(message.Finish());
  }
  return Transact(messages, absl::StrCat("cannot lower the fence ", table_));
}

absl::Status LiftFence(const std::string& name) {
  GODWIT_RETURN_IF_ERROR(CheckName(name));
  const std::string table = absl::StrCat(kPrefix, name);
  Message message = NftMessage(NFT_MSG_DELTABLE, 0);
  message.AddName(NFTA_TABLE_NAME, table);
  const absl::Status status = Transact({message.Finish()}, absl::StrCat("cannot lift the fence ", table));
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

absl::Status LiftFencesLeft(const std::string& nft, const std::function<bool(const std::string&)>& lives) {
  RunOptions options;
  options.limit = kNftLimit;
  GODWIT_ASSIGN_OR_RETURN(const std::string tables, RunOrError({nft, "list", "tables", "inet"}, options));
  absl::Status first;
  for (absl::string_view line : absl::StrSplit(tables, '\n')) {
    if (!absl::ConsumePrefix(&line, absl::StrCat("table inet ", kPrefix))) continue;
    const std::string name(line);
    if (!CheckName(name).ok() || lives(name)) continue;
    LOG(WARNING) << Log("lifting a fence that nobody answers for").With("name", name);
    first.Update(LiftFence(name));
  }
  return first;
}

}  // namespace godwit::runtime
