// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "agent/files/content.h"
#include "agent/files/layer.h"
#include "agent/memory/maps.h"
#include "agent/preflight/inspect.h"
#include "agent/runtime/mounts.h"
#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::preflight {
namespace {

using agent_api::Finding;
using agent_api::Severity;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

std::vector<std::string> Ids(const std::vector<Finding>& findings) {
  std::vector<std::string> ids;
  for (const Finding& finding : findings) ids.push_back(finding.id);
  return ids;
}

class PreflightTest : public testing::Test {
 protected:
  PreflightTest()
      : folder_(absl::StrCat(testing::TempDir(), "/preflight-",
                             testing::UnitTest::GetInstance()->current_test_info()->name(), getpid())) {
    host_ = {.root = folder_ + "/host", .proc = folder_ + "/proc", .cgroup = "/cgroup"};
    container_.name = "app";
    container_.pod_uid = "u1";
    container_.init_pid = 77;
    AddProcess(77);
    container_.rootfs = "/bundle/rootfs";
    container_.root_device = "0:50";
    container_.namespaces = {{"network", ""}, {"ipc", ""}, {"uts", ""}};
    Write("/proc/77/mountinfo", "1 0 0:50 / / rw - overlay overlay rw\n");
    std::filesystem::create_directories(folder_ + "/host/bundle/rootfs");
    Link("/proc/77/root", folder_ + "/host/bundle/rootfs");
    Write("/proc/1/mountinfo",
          absl::StrCat("1 0 ", Device(), " / /bundle/rootfs rw - overlay overlay rw,lowerdir=/l,",
                       "upperdir=/layers/1,workdir=/w\n"));
    Write("/user-namespace", "");
    for (const char* pid : {"1", "77"})
      Link(absl::StrCat("/proc/", pid, "/ns/user"), folder_ + "/user-namespace");
    Link("/proc/1/ns/net", "net:[1]");
    Link("/proc/1/ns/pid", "pid:[1]");
    Link("/proc/1/ns/ipc", "ipc:[1]");
  }
  ~PreflightTest() override { std::filesystem::remove_all(folder_); }

  // Of the container's root.
  std::string Device() const { return runtime::DeviceOf(folder_ + "/host/bundle/rootfs").value_or("none"); }
  void AddProcess(int pid, const std::string& pid_namespace = "pid:[5]", const std::string& status = "") {
    Write(absl::StrCat("/proc/", pid, "/status"),
          absl::StrCat("Name:\tserver\nState:\tS\nPPid:\t", pid == 77 ? 1 : 77, "\nRssAnon:\t  2048 kB\n",
                       status));
    Write(absl::StrCat("/proc/", pid, "/task/", pid, "/status"), "SigPnd:\t0\n");
    Write(absl::StrCat("/proc/", pid, "/maps"), "");
    Link(absl::StrCat("/proc/", pid, "/ns/pid"), pid_namespace);
    Link(absl::StrCat("/proc/", pid, "/ns/net"), "net:[6]");
    std::filesystem::create_directories(absl::StrCat(folder_, "/proc/", pid, "/fd"));
  }
  void Open(const std::string& target, int pid = 77) {
    Link(absl::StrCat("/proc/", pid, "/fd/", 10 + next_++), target);
  }
  void Link(const std::string& path, const std::string& target) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + path).parent_path());
    std::filesystem::create_symlink(target, folder_ + path);
  }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(folder_ + path).parent_path());
    std::ofstream(folder_ + path, std::ios::trunc) << text;
  }
  std::vector<Finding> Processes(std::vector<pid_t> pids = {77}) {
    return InspectProcesses(host_, container_,
                            {.processes = pids,
                             .weight = runtime::Weigh(host_.proc, pids),
                             .held = runtime::HeldBytes(host_.proc, pids)});
  }
  std::vector<Finding> Configuration() { return InspectConfiguration(host_, container_); }

  std::string folder_;
  runtime::HostView host_;
  runtime::Container container_;
  int next_ = 0;
};

TEST_F(PreflightTest, AnOrdinaryPodHasNoFindings) {
  for (const char* target :
       {"/dev/null", "pipe:[123]", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "anon_inode:inotify",
        "anon_inode:[timerfd]", "anon_inode:[signalfd]", "anon_inode:[pidfd]", "/var/log/app.log",
        "/memfd:x (deleted)", "/tmp/x (deleted)"}) {
    Open(target);
  }
  container_.mounts = {
      {"/proc", "proc", "proc", {}},
      {"/data", "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~empty-dir/d", "bind", {}},
      {"/conf", "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~configmap/c", "bind", {}},
      {"/var/run/secrets/kubernetes.io/serviceaccount",
       "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~projected/kube-api-access-x",
       "bind",
       {}},
      {"/etc/hosts", "/var/lib/kubelet/pods/u1/etc-hosts", "bind", {}},
      {"/dev/termination-log", "/var/lib/kubelet/pods/u1/containers/app/1234", "bind", {}},
      {"/etc/hostname", "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/s/hostname", "bind", {}},
      {"/etc/resolv.conf",
       "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/s/resolv.conf",
       "bind",
       {}},
      {"/dev/shm", "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s/shm", "bind", {}},
  };
  EXPECT_THAT(Ids(Processes()), IsEmpty());
  EXPECT_THAT(Ids(Configuration()), IsEmpty());
}

TEST_F(PreflightTest, WhatIsHeldOpenIsNamedWithProcessContainerAndRemedy) {
  Open("anon_inode:[io_uring]");
  const std::vector<Finding> findings = Processes();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id, "IoUring");
  EXPECT_EQ(findings[0].severity, Severity::kBlocking);
  EXPECT_EQ(findings[0].container, "app");
  EXPECT_EQ(findings[0].message, "process 77 (server) of container app uses io_uring");
  EXPECT_EQ(findings[0].evidence, absl::StrCat(folder_, "/proc/77/fd/10 -> anon_inode:[io_uring]"));
  EXPECT_THAT(findings[0].remedy, HasSubstr("UV_USE_IO_URING=0"));
}

TEST_F(PreflightTest, EveryUnsupportedDescriptorBlocks) {
  const struct {
    const char *target, *id;
  } cases[] = {{"anon_inode:[userfaultfd]", "Userfaultfd"},
               {"anon_inode:[perf_event]", "PerfEvent"},
               {"anon_inode:kvm-vm", "VirtualMachine"},
               {"anon_inode:bpf-prog", "BpfProgram"},
               {"anon_inode:seccomp notify", "SeccompNotify"},
               {"/secretmem (deleted)", "SecretMemory"},
               {"/dmabuf:x", "DeviceFile"}};
  for (const auto& c : cases) Open(c.target);
  std::vector<std::string> ids = Ids(Processes());
  for (const auto& c : cases) EXPECT_THAT(ids, Contains(c.id)) << c.target;
}

TEST_F(PreflightTest, AnUnknownKernelObjectIsAWarning) {
  Open("anon_inode:[future]");
  EXPECT_THAT(Processes(), ElementsAre(Field(&Finding::severity, Severity::kWarning)));
}

TEST_F(PreflightTest, TheSameThingIsSaidOnceAProcessAndAtMostThreeTimes) {
  for (int i = 0; i < 5; ++i) Open("anon_inode:[io_uring]");
  EXPECT_EQ(Processes().size(), 1u);
  for (int pid = 80; pid < 90; ++pid) {
    AddProcess(pid);
    Open("anon_inode:[io_uring]", pid);
  }
  EXPECT_EQ(Processes({77, 80, 81, 82, 83, 84}).size(), 3u);
}

TEST_F(PreflightTest, ANestedNamespaceBlocks) {
  AddProcess(78, "pid:[9]");
  const std::vector<Finding> findings = Processes({77, 78});
  ASSERT_THAT(Ids(findings), ElementsAre("NestedNamespace"));
  EXPECT_THAT(findings[0].message, HasSubstr("process 78 (server) of container app is in a pid namespace"));
}

TEST_F(PreflightTest, ATracedProcessBlocks) {
  AddProcess(78, "pid:[5]", "TracerPid:\t99\n");
  EXPECT_THAT(Ids(Processes({77, 78})), ElementsAre("Traced"));
}

TEST_F(PreflightTest, AUprobeBlocks) {
  Write("/proc/77/maps", "7fffffffe000-7ffffffff000 --xp 00000000 00:00 0    [uprobes]\n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("Uprobes"));
}

TEST_F(PreflightTest, DeviceMemoryAndHugePagesBlockAndMemfdsAreTold) {
  Write("/proc/77/maps",
        "10000-20000 rw-s 00000000 00:06 12   /dev/nvidia0\n"
        "20000-30000 rw-s 00000000 00:10 13   /anon_hugepage (deleted)\n"
        "30000-40000 rw-s 00000000 00:01 14   /memfd:frames (deleted)\n"
        "40000-50000 rw-s 00000000 00:01 15   /dev/zero (deleted)\n");
  EXPECT_THAT(Ids(Processes()), UnorderedElementsAre("DeviceMapping", "HugePages", "CopiedInFreeze"));
}

TEST_F(PreflightTest, MoreMappingsThanCanBeReadBlock) {
  Write("/proc/77/maps", "7fffffffe000-7ffffffff000 --xp 00000000 00:00 0    [uprobes]\n");
  std::filesystem::resize_file(folder_ + "/proc/77/maps", memory::kMostMapsText);
  EXPECT_THAT(Ids(Processes()), ElementsAre("Uprobes"));
  std::filesystem::resize_file(folder_ + "/proc/77/maps", memory::kMostMapsText + 1);
  const std::vector<Finding> findings = Processes();
  ASSERT_THAT(Ids(findings), ElementsAre("TooManyObjects"));
  EXPECT_EQ(findings[0].severity, Severity::kBlocking);
  EXPECT_THAT(findings[0].message, HasSubstr("process 77 (server) of container app has so many mappings"));
  EXPECT_THAT(findings[0].evidence, HasSubstr("/proc/77/maps: more than 64 MiB"));
}

TEST_F(PreflightTest, ThreadsThatOutliveTheirFirstBlockAndZombiesAreTold) {
  AddProcess(78, "pid:[5]", "Threads:\t3\n");
  Write("/proc/78/status", "Name:\tserver\nState:\tZ (zombie)\nPPid:\t77\nThreads:\t3\n");
  EXPECT_THAT(Ids(Processes({77, 78})), ElementsAre("DeadLeader"));
  Write("/proc/78/status", "Name:\tserver\nState:\tS\nPPid:\t77\nThreads:\t2\n");
  Write("/proc/78/task/79/status", "Name:\tworker\nState:\tZ (zombie)\n");
  EXPECT_THAT(Ids(Processes({77, 78})), ElementsAre("ZombieThread"));
}

TEST_F(PreflightTest, WhoIsBeingEndedAndWhoCameInByExecIsTold) {
  Write("/proc/77/status", "Name:\tserver\nState:\tS\nPPid:\t1\n");
  AddProcess(78, "pid:[5]");
  Write("/proc/78/status", "Name:\tsh\nState:\tS\nPPid:\t1\n");
  EXPECT_THAT(Ids(Processes({77, 78})), ElementsAre("ExecInFlight"));
  Write("/proc/77/status", "Name:\tserver\nState:\tS\nPPid:\t1\nShdPnd:\t0000000000004000\n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("PendingTermination"));
}

TEST_F(PreflightTest, WatchesWithoutAHandleAreAWarning) {
  Open("anon_inode:inotify");
  Write("/proc/77/fdinfo/10",
        "pos:\t0\ninotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 "
        "fhandle-type:1 f_handle:7e\n");
  EXPECT_THAT(Processes(), IsEmpty());
  Write("/proc/77/fdinfo/10", "pos:\t0\ninotify wd:1 ino:9e7e sdev:34 mask:800afce ignored_mask:0 \n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("InotifyUnresolved"));
}

TEST_F(PreflightTest, ProfilesAndStrictSeccompAreTold) {
  Write("/proc/77/attr/current", std::string("cri-containerd.apparmor.d (enforce)\n\0", 37));
  Write("/proc/77/status", "Name:\tserver\nState:\tS\nPPid:\t1\nSeccomp:\t1\n");
  const std::vector<Finding> findings = Processes();
  EXPECT_THAT(Ids(findings), UnorderedElementsAre("SeccompStrict", "SecurityLabel"));
  Write("/proc/77/attr/current", "unconfined\n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("SeccompStrict"));
}

TEST_F(PreflightTest, ManyDescriptorsAreTold) {
  for (int i = 0; i < 1001; ++i) Open("/var/log/app.log");
  const std::vector<Finding> findings = Processes();
  ASSERT_THAT(Ids(findings), ElementsAre("ManyObjects"));
  EXPECT_EQ(findings[0].severity, Severity::kInfo);
  EXPECT_THAT(findings[0].message, HasSubstr("1001 descriptors"));
}

// A container's processes choose names of files, watches and themselves.
TEST_F(PreflightTest, NamesCannotForgeAFindingOrItsText) {
  Open("/tmp/x (deleted)\nanon_inode:[io_uring]");
  Open("/tmp/anon_inode:[io_uring]");
  Open(absl::StrCat("/", std::string(3000, 'a'), " (deleted)"));
  EXPECT_THAT(Processes(), IsEmpty());
  Open("anon_inode:[\x1b[31mred\n]");
  const std::vector<Finding> findings = Processes();
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].id, "UnknownDescriptor");
  EXPECT_THAT(findings[0].message, HasSubstr("[\\x1b[31mred\\x0a]"));
  for (const std::string& text : {findings[0].message, findings[0].evidence}) {
    EXPECT_LE(text.size(), 512u);
    for (const char c : text) EXPECT_TRUE(c >= ' ' && c <= '~') << static_cast<int>(c);
  }
}

TEST_F(PreflightTest, EstablishedConnectionsAreTold) {
  Write("/proc/77/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:1B58 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 "
        "100 0 0 10 0\n"
        "   1: 0100007F:1B58 0100007F:8888 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 "
        "100 0 0 10 0\n");
  const std::vector<Finding> findings = Processes();
  ASSERT_THAT(Ids(findings), ElementsAre("ConnectionsClose"));
  EXPECT_EQ(findings[0].severity, Severity::kInfo);
  EXPECT_THAT(findings[0].message, HasSubstr("1 established"));
  Write("/proc/77/net/tcp", "   0: 0100007F:1B58 0100007F:8888 02 0:0 0:0 0 0 0 2 1 0\n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("ConnectionInFlight"));
}

TEST_F(PreflightTest, ProcessesThatEndMeanwhileAreNoError) { EXPECT_THAT(Processes({77, 4242}), IsEmpty()); }

TEST_F(PreflightTest, ConfigurationThatTiesAPodToItsNodeBlocks) {
  container_.terminal = true;
  container_.devices = {"/dev/nvidia0"};
  container_.mounts = {{"/host", "/etc", "bind", {}},
                       {"/pv", "/var/lib/kubelet/pods/u1/volumes/kubernetes.io~csi/pvc-1/mount", "bind", {}},
                       {"/other", "/var/lib/kubelet/pods/u2/volumes/kubernetes.io~empty-dir/d", "bind", {}}};
  container_.namespaces["pid"] = "/proc/5/ns/pid";
  container_.namespaces["user"] = "";
  EXPECT_THAT(Ids(Configuration()),
              UnorderedElementsAre("Terminal", "DeviceFile", "HostPath", "PersistentVolume", "HostPath",
                                   "SharedProcessNamespace", "UserNamespace"));
}

TEST_F(PreflightTest, DeletedFilesCountTogether) {
  std::filesystem::create_directories(folder_ + "/files");
  std::vector<int> open_files;
  for (int i = 0; i < 3; ++i) {
    const std::string file = absl::StrCat(folder_, "/files/", i);
    const int fd = open(file.c_str(), O_RDWR | O_CREAT, 0600);
    ASSERT_EQ(posix_fallocate(fd, 0, 100 << 20), 0);
    unlink(file.c_str());
    open_files.push_back(fd);
  }
  // This process' own descriptors stand for the container's.
  std::filesystem::remove_all(folder_ + "/proc/77/fd");
  Link("/proc/77/fd", absl::StrCat("/proc/", getpid(), "/fd"));
  EXPECT_THAT(Processes(), Contains(testing::AllOf(Field(&Finding::id, "LargeDeletedFile"),
                                                   Field(&Finding::message, HasSubstr("of 300 MiB open")))));
  for (const int fd : open_files) close(fd);
}

TEST_F(PreflightTest, TheNodesOwnNamespacesBlock) {
  std::filesystem::remove(folder_ + "/proc/77/ns/net");
  Link("/proc/77/ns/net", "net:[1]");
  EXPECT_THAT(Ids(Configuration()), ElementsAre("HostNetwork"));
}

TEST_F(PreflightTest, FileSystemsThatCriuDoesNotKnowBlock) {
  Write("/proc/77/mountinfo",
        "1 0 0:50 / / rw - overlay overlay rw,upperdir=/layers/1\n2 1 0:51 / /mnt rw - fuse.sshfs x rw\n");
  EXPECT_THAT(Ids(Configuration()), ElementsAre("UnsupportedMount"));
  Write("/proc/77/mountinfo",
        "1 0 0:50 / / rw - overlay overlay rw\n2 1 0:51 / /mnt rw - overlay overlay rw\n");
  EXPECT_THAT(Ids(Processes()), ElementsAre("UnsupportedMount"));
  Write("/proc/77/mountinfo", "1 0 8:1 / / rw - ext4 /dev/vda rw\n");
  Write("/proc/1/mountinfo", absl::StrCat("1 0 ", Device(), " / /bundle/rootfs rw - ext4 /dev/vda rw\n"));
  EXPECT_THAT(Ids(Configuration()), ElementsAre("NoWritableLayer"));
}

TEST(PreflightNode, CriuMustFitKernelAndCpu) {
  NodeFacts facts;
  facts.node = {.node = "n1",
                .version = "",
                .architecture = "amd64",
                .kernel = "6.18.44",
                .criu_version = "4.2.1",
                .runc_version = "",
                .storage_available = 1000};
  EXPECT_THAT(InspectNode(facts, 10, false), IsEmpty());
  EXPECT_THAT(Ids(InspectNode(facts, 2000, false)), ElementsAre("NoRoom"));
  facts.node.criu_version = "4.1.1";
  EXPECT_THAT(Ids(InspectNode(facts, 10, false)), ElementsAre("CriuTooOld"));
  facts.node.kernel = "6.12.0";
  EXPECT_THAT(InspectNode(facts, 10, false), IsEmpty());
  facts.node.architecture = "arm64";
  facts.hwcap = uint64_t{1} << 30;
  EXPECT_THAT(Ids(InspectNode(facts, 10, false)), ElementsAre("PointerAuthentication"));
  facts.node.criu_version = "4.2.1";
  EXPECT_THAT(InspectNode(facts, 10, false), IsEmpty());
  facts.node.kernel = "5.10.0";
  facts.node.runc_version = "1.0.3";
  facts.node.criu_check = "Restoring X is not supported";
  EXPECT_THAT(Ids(InspectNode(facts, 10, false)),
              ElementsAre("CriuCheckFailed", "KernelTooOld", "RuntimeTooOld"));
  facts.node.kernel = "6.12.0";
  facts.node.runc_version = "1.3.6";
  facts.node.criu_check = "";
  facts.node.lacks_sys_resource = true;
  EXPECT_THAT(InspectNode(facts, 10, false), IsEmpty()) << "root's processes need no more";
  EXPECT_THAT(Ids(InspectNode(facts, 10, true)), ElementsAre("NoSysResource"));
  facts.node.criu_version = "";
  EXPECT_THAT(Ids(InspectNode(facts, 10, false)), ElementsAre("CriuMissing"));
}

// Of this very process, by the real /proc: known sockets are no finding; one of another protocol is, where
// the kernel has any.
TEST(PreflightSockets, ProtocolsAreToldApart) {
  runtime::HostView host;
  runtime::Container self;
  self.name = "app";
  self.init_pid = getpid();
  const int known[] = {socket(AF_INET, SOCK_STREAM, 0), socket(AF_INET6, SOCK_DGRAM, 0),
                       socket(AF_UNIX, SOCK_STREAM, 0), socket(AF_UNIX, SOCK_DGRAM, 0),
                       socket(AF_NETLINK, SOCK_RAW, 0)};
  EXPECT_THAT(Ids(InspectProcesses(host, self, {.processes = {getpid()}})),
              testing::Not(Contains("UnsupportedSocket")));
  for (const auto& [family, type, protocol] :
       std::vector<std::tuple<int, int, int>>{{AF_INET, SOCK_STREAM, 262 /* MPTCP */},
                                              {AF_ALG, SOCK_SEQPACKET, 0},
                                              {AF_VSOCK, SOCK_STREAM, 0}}) {
    const int fd = socket(family, type, protocol);
    if (fd < 0) continue;
    EXPECT_THAT(Ids(InspectProcesses(host, self, {.processes = {getpid()}})), Contains("UnsupportedSocket"))
        << family << " " << protocol;
    close(fd);
  }
  for (int fd : known) close(fd);
}

TEST_F(PreflightTest, ThousandsOfMountsAreNotLookedAt) {
  const std::string mount =
      absl::StrCat("9 0 ", Device(), " / /", std::string(100, 'x'), " rw - tmpfs t rw\n");
  std::string mounts;
  for (int i = 0; i < 1000; ++i) mounts += mount;
  Write("/proc/77/mountinfo", mounts);
  EXPECT_THAT(Ids(Processes()), IsEmpty());
  for (int i = 0; i < 5000; ++i) mounts += mount;
  Write("/proc/77/mountinfo", mounts);
  EXPECT_THAT(Ids(Processes()), ElementsAre("TooManyObjects"));
}

TEST_F(PreflightTest, NothingIsLookedAtWhenTheTimeIsOver) {
  Open("anon_inode:[io_uring]");
  const Look late{.processes = {77}, .deadline = SteadyNow() - absl::Seconds(1)};
  EXPECT_THAT(Ids(InspectProcesses(host_, container_, late)), IsEmpty());
}

TEST(MeasureFolder, CountsContentAndNames) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/measure-", getpid());
  std::filesystem::create_directories(folder + "/a/b");
  std::ofstream(folder + "/a/b/file") << std::string(10000, 'x');
  std::ofstream(folder + "/file") << std::string(5000, 'x');
  std::filesystem::create_symlink("/etc", folder + "/link");
  const Measured measured = MeasureFolder(folder, absl::Seconds(5), /*overlay=*/false);
  EXPECT_EQ(measured.bytes, 10240 + 5120 + 5 * 1536) << "content in blocks of 512 bytes, headers";
  EXPECT_EQ(measured.names, 5);
  EXPECT_EQ(measured.path_bytes, 1 + 3 + 8 + 4 + (4 + 4));
  EXPECT_TRUE(measured.whole);
  EXPECT_EQ(measured.device_file, "");
  EXPECT_EQ(measured.huge_file, "");
  EXPECT_EQ(MeasureFolder(folder + "/none", absl::Seconds(5), false).bytes, 0);
  EXPECT_FALSE(MeasureFolder(folder, -absl::Seconds(1), false).whole) << "the time is over";
  if (truncate((folder + "/a/b/file").c_str(), files::kMostFileBytes + 1) == 0) {  // not all file systems can
    EXPECT_EQ(MeasureFolder(folder, absl::Seconds(5), false).huge_file, "/a/b/file");
  }
  std::filesystem::remove_all(folder);
}

// Bytes of the folder's tar.
int64_t Packed(const std::string& folder) {
  int64_t bytes = 0;
  const auto totals = files::Pack(folder, files::Layout::kPlain, [&bytes](absl::string_view piece) {
    bytes += static_cast<int64_t>(piece.size());
    return absl::OkStatus();
  });
  EXPECT_TRUE(totals.ok()) << totals.status();
  return bytes;
}

// Names cost the pod next to nothing, and in the tar up to two paths of 4 KiB each.
TEST(MeasureFolder, CountsNamesAsTheyAreInTheTar) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/measure-names-", getpid());
  const auto expect = [&folder](absl::string_view what) {
    const Measured measured = MeasureFolder(folder, absl::Seconds(30), /*overlay=*/false);
    const int64_t packed = Packed(folder) - 1536 - 1024;  // the folder itself, the end
    EXPECT_GE(measured.bytes, packed) << what;
    EXPECT_LE(measured.bytes, packed + packed / 5) << what;
    return measured;
  };
  std::string deep = folder;
  while (deep.size() < folder.size() + 3500) absl::StrAppend(&deep, "/", std::string(249, 'd'));
  std::filesystem::create_directories(deep);
  std::ofstream(deep + "/first") << std::string(10000, 'x');
  for (int i = 0; i < 500; ++i)
    ASSERT_EQ(link((deep + "/first").c_str(), absl::StrCat(deep, "/", i).c_str()), 0);
  EXPECT_GT(expect("links below a deep folder").bytes, 500 * 7000);
  for (int i = 0; i < 500; ++i)
    ASSERT_EQ(link((deep + "/first").c_str(), absl::StrCat(folder, "/z", i).c_str()), 0);
  expect("links to a deep file");
  const std::string target(4000, 't');
  ASSERT_EQ(symlink(target.c_str(), (folder + "/soft").c_str()), 0);
  for (int i = 0; i < 500; ++i)
    ASSERT_EQ(link((folder + "/soft").c_str(), absl::StrCat(folder, "/soft", i).c_str()), 0);
  expect("names of a symbolic link");
  std::filesystem::remove_all(folder);
  for (const size_t length : {10, 90, 100, 110, 150, 240}) {
    std::filesystem::create_directories(folder);
    for (int i = 100; i < 200; ++i) {
      const std::string path = absl::StrCat(folder, "/", i, std::string(length - 3, 'n'));
      std::ofstream(path) << "x";
      ASSERT_EQ(truncate(path.c_str(), i % 2 == 0 ? 1 : 1 << 20), 0);
    }
    ASSERT_EQ(mkfifo((folder + "/fifo").c_str(), 0600), 0);
    expect(absl::StrCat("names of ", length, " bytes"));
    std::filesystem::remove_all(folder);
  }
}

TEST(MeasureFolder, LooksAsDeepAsThePackerAndNoLongerThanItMay) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/measure-deep-", getpid());
  std::string deep = folder;
  for (int i = 0; i < 390; ++i) deep += "/d";
  std::filesystem::create_directories(deep);
  for (int i = 0; i < 300; ++i) std::ofstream(absl::StrCat(deep, "/", i)) << "x";
  EXPECT_EQ(MeasureFolder(folder, absl::Seconds(30), false).names, 390 + 300);
  const Measured late = MeasureFolder(deep, -absl::Seconds(1), false);
  EXPECT_FALSE(late.whole) << "though there is no folder in it";
  EXPECT_LT(late.names, 300);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace godwit::preflight
