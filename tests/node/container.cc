// SPDX-License-Identifier: Apache-2.0
#include "tests/node/container.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "agent/criu/criu_log.h"
#include "agent/runtime/cgroup.h"
#include "agent/runtime/freezer.h"
#include "agent/runtime/mounts.h"
#include "gtest/gtest.h"

namespace godwit::node_test {
namespace {

constexpr char kRuncRoot[] = "/run/runc";

std::string Variable(const char* name) {
  const char* value = getenv(name);
  if (value == nullptr) {
    fprintf(stderr, "%s is not set: run these tests with tests/node/run\n", name);
    exit(1);
  }
  return value;
}

int Serial() {
  static std::atomic<int> next = 1;
  return next++;
}

// As containerd's default spec has it, as far as CRIU could stumble over it.
constexpr char kConfig[] = R"({
 "ociVersion": "1.0.2",
 "process": {"terminal": false, "user": {"uid": 0, "gid": 0}, "args": [$ARGS], "env": ["PATH=/"], "cwd": "/",
  "capabilities": {"bounding": [$CAPS], "effective": [$CAPS], "permitted": [$CAPS]},
  "noNewPrivileges": true, "oomScoreAdj": 1000},
 "root": {"path": "rootfs"},
 "annotations": {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "$ID",
  "io.kubernetes.cri.sandbox-uid": "$POD"},
 "mounts": [
  {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
  {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
  {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
  {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
  {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
  {"destination": "/etc/hosts", "type": "bind", "source": "$FOLDER/hosts", "options": ["rbind", "rprivate", "rw"]},
  {"destination": "/data", "type": "bind", "source": "$FOLDER/data", "options": ["rbind", "rprivate", "rw"]}
 ],
 "linux": {
  "cgroupsPath": "$CGROUP",
  "resources": {"devices": [{"allow": false, "access": "rwm"}]},
  "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
   {"type": "network", "path": "/proc/$SANDBOX/ns/net"}, {"type": "ipc", "path": "/proc/$SANDBOX/ns/ipc"},
   {"type": "uts", "path": "/proc/$SANDBOX/ns/uts"}],
  "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
  "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
 }
})";

std::string Quoted(const std::vector<std::string>& words) {
  return absl::StrJoin(
      words, ",", [](std::string* out, const std::string& word) { absl::StrAppend(out, "\"", word, "\""); });
}

void Replace(std::string& text, absl::string_view key, absl::string_view value) {
  for (size_t at; (at = text.find(std::string(key))) != std::string::npos;)
    text.replace(at, key.size(), std::string(value));
}

void WriteText(const std::string& path, absl::string_view text) {
  absl::StatusOr<UniqueFd> file = OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(WriteAll(file->get(), text, path).ok());
}

// runc with the container's output as its own, to the end.
absl::Status RunWithOutput(const std::vector<std::string>& argv,
                           const std::optional<std::vector<std::string>>& env, const Output& output) {
  SpawnOptions options;
  options.env = env;
  options.stdout_fd = output.write_end();
  options.stderr_fd = output.write_end();
  absl::StatusOr<Child> child = Child::Spawn(argv, options);
  if (!child.ok()) return child.status();
  const absl::StatusOr<ExitStatus> end = child->Wait(absl::Seconds(30));
  if (!end.ok()) return end.status();
  return end->ok() ? absl::OkStatus() : absl::InternalError(end->ToString());
}

}  // namespace

const Node& Node::Get() {
  static const Node* node = [] {
    auto* made = new Node;
    made->work = Variable("GODWIT_NODE_WORK");
    made->criu = Variable("GODWIT_NODE_CRIU");
    made->guard = Variable("GODWIT_NODE_GUARD");
    made->pager = Variable("GODWIT_NODE_PAGER");
    made->workload = Variable("GODWIT_NODE_WORKLOAD");
    made->agent = Variable("GODWIT_NODE_AGENT");
    made->tracker_workload = Variable("GODWIT_NODE_TRACKER_WORKLOAD");
    if (const char* runc = getenv("GODWIT_NODE_RUNC"); runc != nullptr) made->runc = runc;
    made->runc_version = criu::ParseVersion(*RunOrError({made->runc, "--version"}));
    made->own_cgroup = *runtime::CgroupOfProcess("/proc", getpid());
    return made;
  }();
  return *node;
}

Output::Output() {
  int ends[2];
  EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
  read_.Reset(ends[0]);
  write_.Reset(ends[1]);
  stop_.Reset(eventfd(0, EFD_CLOEXEC));
  thread_ = std::thread([this] { Read(); });
}

Output::~Output() {
  const uint64_t one = 1;
  EXPECT_EQ(write(stop_.get(), &one, sizeof(one)), 8);
  thread_.join();
}

void Output::Read() {
  while (true) {
    pollfd sources[2] = {{read_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    poll(sources, 2, -1);
    if (sources[1].revents != 0) return;
    char buffer[4096];
    const ssize_t n = read(read_.get(), buffer, sizeof(buffer));
    if (n <= 0) return;
    absl::MutexLock lock(&mutex_);
    text_.append(buffer, static_cast<size_t>(n));
  }
}

std::string Output::text() const {
  absl::MutexLock lock(&mutex_);
  return text_;
}

std::vector<std::string> Output::lines() const {
  std::string all = text();
  const size_t end = all.rfind('\n');
  all.resize(end == std::string::npos ? 0 : end + 1);
  return absl::StrSplit(all, '\n', absl::SkipEmpty());
}

bool Output::WaitLines(size_t count, absl::Duration limit) const {
  const auto enough = [this, count] {
    mutex_.AssertReaderHeld();
    return static_cast<size_t>(std::count(text_.begin(), text_.end(), '\n')) >= count;
  };
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), limit);
}

std::vector<long> Output::numbers() const {
  std::vector<long> numbers;
  for (const std::string& line : lines()) {
    long n = 0;
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    EXPECT_TRUE(absl::SimpleAtoi(words[0], &n)) << "not of the workload: " << line;
    numbers.push_back(n);
  }
  return numbers;
}

Sandbox::Sandbox() {
  Output output;
  SpawnOptions options;
  options.stdout_fd = output.write_end();
  absl::StatusOr<Child> child = Child::Spawn({Node::Get().workload, "sandbox"}, options);
  EXPECT_TRUE(child.ok()) << child.status();
  child_ = std::make_unique<Child>(*std::move(child));
  EXPECT_TRUE(output.WaitLines(1)) << output.text();
}

Container::Container(std::string id, const Sandbox& sandbox, std::vector<std::string> arguments)
    : id_(absl::StrCat(id, "-", Serial())), output_(std::make_unique<Output>()) {
  folder_ = absl::StrCat(Node::Get().work, "/", id_);
  cgroup_path_ = absl::StrCat("/pods/", id_);
  for (const char* part : {"/upper", "/overlay-work", "/rootfs", "/lower/dev", "/lower/proc", "/lower/sys",
                           "/lower/etc", "/lower/data", "/data", "/images", "/work"}) {
    EXPECT_TRUE(MakeFolders(folder_ + part).ok());
  }
  std::filesystem::copy_file(Node::Get().workload, folder_ + "/lower/workload");
  WriteText(folder_ + "/lower/etc/hosts", "");
  WriteText(folder_ + "/hosts", "127.0.0.1 localhost\n");
  const std::string options = absl::StrCat("lowerdir=", folder_, "/lower,upperdir=", folder_,
                                           "/upper,workdir=", folder_, "/overlay-work");
  EXPECT_EQ(mount("overlay", rootfs().c_str(), "overlay", 0, options.c_str()), 0) << strerror(errno);
  WriteConfig(sandbox, arguments);
}

void Container::WriteConfig(const Sandbox& sandbox, const std::vector<std::string>& arguments) const {
  std::vector<std::string> args = {"/workload"};
  args.insert(args.end(), arguments.begin(), arguments.end());
  std::string config = kConfig;
  Replace(config, "$ARGS", Quoted(args));
  Replace(config, "$CAPS",
          Quoted({"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
                  "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
                  "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE", "CAP_SYS_ADMIN"}));
  Replace(config, "$ID", id_);
  Replace(config, "$POD", kPodUid);
  Replace(config, "$FOLDER", folder_);
  Replace(config, "$CGROUP", cgroup_path_);
  Replace(config, "$SANDBOX", absl::StrCat(sandbox.pid()));
  WriteText(folder_ + "/config.json", config);
}

Container::~Container() {
  runtime::KillCgroup(cgroup(), absl::Seconds(10)).IgnoreError();  // not there when it was never started
  WriteKernelFile(cgroup() + "/cgroup.freeze", "0").IgnoreError();
  godwit::Run({Node::Get().runc, "--root", kRuncRoot, "delete", "--force", id_}).IgnoreError();
  rmdir(cgroup().c_str());
  output_->CloseWriteEnd();
  umount2(rootfs().c_str(), MNT_DETACH);
  RemoveTree(folder_).IgnoreError();
}

void Container::Start() {
  const absl::Status started = RunWithOutput({Node::Get().runc, "--root", kRuncRoot, "run", "--detach",
                                              "--bundle", folder_, "--pid-file", folder_ + "/init.pid", id_},
                                             std::nullopt, *output_);
  ASSERT_TRUE(started.ok()) << started << "\n" << output_->text();
}

criu::Plan Container::PlanRestore(const std::string& images, const std::string& gate, bool lazy_pages,
                                  const std::string& shared_memory) {
  const Node& node = Node::Get();
  return criu::PlanRestore(node.programs(),
                           {.global_arguments = {"--root", kRuncRoot, "--log", folder_ + "/runc.log"},
                            .id = id_,
                            .bundle = folder_,
                            .pid_file = folder_ + "/init.pid",
                            .images = images,
                            .work = work(),
                            .cgroup = cgroup_path_,
                            .cgroup_root = "/sys/fs/cgroup",
                            .own_cgroup = node.own_cgroup,
                            .gate = gate,
                            .lazy_pages = lazy_pages,
                            .shared_memory = shared_memory});
}

absl::Status Container::Restore(const std::string& images, const std::string& gate, bool lazy_pages,
                                const std::string& shared_memory) {
  return Restore(PlanRestore(images, gate, lazy_pages, shared_memory));
}

absl::Status Container::RestoreWith(const std::string& images, const std::string& name,
                                    const std::string& value) {
  criu::Plan plan = PlanRestore(images, "", false, "");
  for (std::string& variable : plan.env) {
    if (absl::StartsWith(variable, name + "=")) variable = name + "=" + value;
  }
  return Restore(plan);
}

absl::Status Container::Restore(const criu::Plan& plan) {
  const absl::Status prepared = criu::Prepare(plan);
  if (!prepared.ok()) return prepared;
  const absl::Status restored = RunWithOutput(plan.argv, plan.env, *output_);
  if (restored.ok()) return restored;
  return absl::InternalError(absl::StrCat(restored.message(), ": ", criu::ExplainFailure(plan.log_file),
                                          "; messages: ", ReadFile(plan.messages).value_or("none")));
}

void Container::Thaw() { EXPECT_TRUE(WriteKernelFile(cgroup() + "/cgroup.freeze", "0").ok()); }

bool Container::Frozen() const {
  const absl::StatusOr<std::string> events = ReadFile(cgroup() + "/cgroup.events");
  return events.ok() && absl::StrContains(*events, "frozen 1");
}

bool Container::Running() const {
  const absl::StatusOr<std::string> events = ReadFile(cgroup() + "/cgroup.events");
  return events.ok() && absl::StrContains(*events, "populated 1");
}

pid_t Container::init_pid() const {
  pid_t pid = 0;
  EXPECT_TRUE(
      absl::SimpleAtoi(absl::StripAsciiWhitespace(ReadFile(folder_ + "/init.pid").value_or("")), &pid));
  return pid;
}

// As runtime::PlaceOf has it.
static std::string IdentityOf(const std::string& path) {
  struct stat status{};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return absl::StrCat(status.st_dev, ":", status.st_ino);
}

agent_api::GuardContainer Container::Spec() const {
  return {.name = id_,
          .id = id_,
          .cgroup = cgroup(),
          .runc_root = kRuncRoot,
          .init_pid = init_pid(),
          .root_device = runtime::DeviceOf(rootfs()).value_or("none"),
          .place = {{"root", IdentityOf(rootfs())}, {"ns/user", IdentityOf("/proc/self/ns/user")}},
          .images = images(),
          .work = work()};
}

agent_api::GuardSpec SpecFor(const std::vector<const Container*>& containers, absl::Duration freeze_limit) {
  const Node& node = Node::Get();
  const std::string uid = absl::StrCat("guard-", Serial());
  const std::string folder = absl::StrCat(node.work, "/", uid);
  EXPECT_TRUE(MakeFolders(folder).ok());
  agent_api::GuardSpec spec = {.migration_uid = uid,
                               .socket = folder + "/guard.sock",
                               .journal = folder + "/journal",
                               .log = folder + "/guard.log",
                               .runtime = node.runc,
                               .criu_folder = node.criu,
                               .freeze_limit = freeze_limit,
                               .containers = {}};
  for (const Container* container : containers) spec.containers.push_back(container->Spec());
  return spec;
}

}  // namespace godwit::node_test
