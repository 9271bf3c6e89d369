// SPDX-License-Identifier: Apache-2.0
// The program itself: two replicas, one leads; the leader is killed, the other goes on.
#include <fcntl.h>
#include <httplib.h>
#include <signal.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/process.h"
#include "crds/migration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/pod.h"
#include "k8s/unstructured.h"
#include "tests/apiserver/conditions.h"
#include "tests/apiserver/controller/crds.h"
#include "tests/apiserver/environment.h"

namespace godwit::controller {
namespace {

using apiserver::Environment;
using apiserver::WaitUntil;
using crds::Migration;
using ::testing::HasSubstr;

// One replica on ports of its own.
class Replica {
 public:
  Replica(const std::string& ns, const std::string& name, int first_port)
      : port_(first_port), log_(::testing::TempDir() + "/" + name + ".log") {
    auto log = OpenFile(log_, O_CREAT | O_TRUNC | O_WRONLY);
    SpawnOptions options{
        .env = std::vector<std::string>{absl::StrCat("POD_NAMESPACE=", ns), absl::StrCat("POD_NAME=", name)},
        .stdout_fd = log->get(),
        .stderr_fd = log->get(),
        .die_with_parent = true};
    auto child =
        Child::Spawn({CONTROLLER_PROGRAM, absl::StrCat("--kubeconfig=", Environment::Shared().kubeconfig()),
                      "--listen=127.0.0.1", absl::StrCat("--bootstrap_port=", port_),
                      absl::StrCat("--metrics_port=", port_ + 1), absl::StrCat("--health_port=", port_ + 2)},
                     options);
    EXPECT_TRUE(child.ok()) << child.status();
    child_ = std::make_unique<Child>(*std::move(child));
  }
  std::string Get(int offset, const std::string& path) {
    httplib::Client client("127.0.0.1", port_ + offset);
    auto answer = client.Get(path);
    return answer ? absl::StrCat(answer->status, " ", answer->body) : "none";
  }
  bool Ready() { return Get(2, "/readyz") == "200 ok\n"; }
  bool Leads() { return Get(1, "/metrics").find("\ngodwit_controller_leader 1\n") != std::string::npos; }
  Child& child() { return *child_; }
  // The most memory that it has had, by /proc.
  int PeakKilobytes() {
    const std::string status = ReadFile(absl::StrCat("/proc/", child_->pid(), "/status")).value_or("");
    const size_t at = status.find("VmHWM:");
    return at == std::string::npos ? 1 << 30 : std::atoi(status.c_str() + at + 6);
  }
  std::string Log() { return ReadFile(log_).value_or("no log"); }

 private:
  const int port_;
  const std::string log_;
  std::unique_ptr<Child> child_;
};

Migration Create(const std::string& ns, const std::string& name) {
  auto made = k8s::Client<Migration>(Environment::Shared().api())
                  .Create({.metadata = {.name = name, .name_space = ns},
                           .spec = {.pod_ref = {"missing"}, .target = {.node_name = "n"}}});
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *made : Migration();
}

std::string Reason(const std::string& ns, const std::string& name) {
  const auto migration = k8s::Client<Migration>(Environment::Shared().api()).Get(ns, name);
  if (!migration.ok() || migration->status.phase != crds::MigrationPhase::kFailed) return "";
  return k8s::FindCondition(migration->status.conditions, crds::kComplete)->reason;
}

TEST(ProgramTest, OneOfTwoReplicasLeadsAndTheOtherTakesOverWhenItIsKilled) {
  apiserver::InstallCrds(Environment::Shared().api());
  const std::string ns = Environment::Shared().NewNamespace("program");
  Replica first(ns, "controller-1", 29443);
  ASSERT_TRUE(WaitUntil([&] { return first.Ready() && first.Leads(); })) << first.Log();
  Replica second(ns, "controller-2", 29453);
  ASSERT_TRUE(WaitUntil([&] { return second.Ready(); })) << second.Log();
  EXPECT_FALSE(second.Leads());
  Create(ns, "one");
  EXPECT_TRUE(WaitUntil([&] { return Reason(ns, "one") == "PodNotFound"; })) << first.Log();
  EXPECT_THAT(first.Get(1, "/metrics"),
              HasSubstr("godwit_controller_failures_total{kind=\"Migration\",reason=\"PodNotFound\"} "));
  EXPECT_THAT(first.Get(1, "/metrics"),
              HasSubstr("godwit_controller_certificate_expiry_timestamp_seconds{certificate=\"server\"}"));
  EXPECT_EQ(first.Get(2, "/healthz"), "200 ok\n");
  const auto events = [&] {
    auto all = k8s::Client<k8s::Event>(Environment::Shared().api()).List(ns);
    return all.ok() && std::any_of(all->items.begin(), all->items.end(), [](const k8s::Event& event) {
             return event.reason == "PodNotFound" && event.type == "Warning";
           });
  };
  EXPECT_TRUE(WaitUntil(events));
  ASSERT_TRUE(first.child().Signal(SIGKILL).ok());
  Create(ns, "two");
  EXPECT_TRUE(WaitUntil([&] { return Reason(ns, "two") == "PodNotFound"; })) << second.Log();
  EXPECT_TRUE(second.Leads());
  // A proper end gives the Lease back at once.
  ASSERT_TRUE(second.child().Signal(SIGTERM).ok());
  const auto end = second.child().Wait(absl::Seconds(20));
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_TRUE(end->ok()) << end->ToString() << second.Log();
  const auto lease = k8s::Client<k8s::Lease>(Environment::Shared().api()).Get(ns, "godwit-controller");
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->spec.holder_identity, "");
}

// Pods of a tenant who fills them with what their annotations hold at most. The chart's limit is 256 MiB.
TEST(ProgramTest, HundredsOfHugePodsDoNotFillItsMemory) {
  apiserver::InstallCrds(Environment::Shared().api());
  const std::string ns = Environment::Shared().NewNamespace("huge");
  const k8s::Client<k8s::Unstructured> accounts(Environment::Shared().api(),
                                                {"", "v1", "serviceaccounts", "ServiceAccount", true});
  ASSERT_TRUE(
      accounts
          .Create(apiserver::FromYaml(absl::StrCat(
              "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: ", ns, "}}")))
          .ok());
  const k8s::Client<k8s::Unstructured> pods(Environment::Shared().api(), k8s::Pod::kResource);
  k8s::Unstructured pod = apiserver::FromYaml(
      "{apiVersion: v1, kind: Pod, spec: {schedulingGates: [{name: example.com/never}], containers: [{name: "
      "c, "
      "image: i}]}}");
  pod.Set("/metadata/namespace", ns);
  pod.Set("/metadata/annotations/notes", std::string(250'000, 'x'));
  for (int i = 0; i < 480; ++i) {
    pod.Set("/metadata/name", absl::StrCat("p", i));
    const auto made = pods.Create(pod);
    ASSERT_TRUE(made.ok()) << made.status();
  }
  Replica replica(ns, "controller-3", 29463);
  EXPECT_TRUE(WaitUntil([&] { return replica.Ready(); })) << replica.Log();
  EXPECT_LT(replica.PeakKilobytes(), 128 << 10);
  for (int i = 0; i < 480; ++i) EXPECT_TRUE(pods.Delete(ns, absl::StrCat("p", i), {.grace_seconds = 0}).ok());
}

TEST(ProgramTest, NonsenseIsRefusedAtTheStart) {
  const auto limits = godwit::Run({CONTROLLER_PROGRAM, "--freeze_limit=2m", "--create_limit=100s"});
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->status.code, 1);
  EXPECT_THAT(limits->err, HasSubstr("--freeze_limit must be shorter than --create_limit"));
  const auto kubeconfig = godwit::Run({CONTROLLER_PROGRAM, "--kubeconfig=/does/not/exist"});
  ASSERT_TRUE(kubeconfig.ok());
  EXPECT_EQ(kubeconfig->status.code, 1);
  EXPECT_THAT(kubeconfig->err, HasSubstr("/does/not/exist"));
}

}  // namespace
}  // namespace godwit::controller
