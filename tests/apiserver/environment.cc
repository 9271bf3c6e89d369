// SPDX-License-Identifier: Apache-2.0
#include "tests/apiserver/environment.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/log/check.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "gtest/gtest.h"
#include "k8s/client.h"
#include "k8s/core.h"
#include "k8s/error.h"

namespace godwit::apiserver {
namespace {

constexpr absl::Duration kReadyLimit = absl::Minutes(3);  // seconds, unless the machine is busy
constexpr absl::Duration kLook = absl::Milliseconds(100);

// A port that was free a moment ago.
absl::StatusOr<int> FreePort() {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (!fd.ok() || bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return ErrnoStatus("find a free port on 127.0.0.1");
  }
  return ntohs(address.sin_port);
}

absl::StatusOr<std::string> Program(const char* variable) {
  const char* path = std::getenv(variable);
  if (path != nullptr && *path != '\0') return std::string(path);
  return absl::FailedPreconditionError(absl::StrCat(
      variable, " is not set: run `eval \"$(tests/cluster/parts kube etcd)\"; export KUBE ETCD` first"));
}

class SharedEnvironment : public ::testing::Environment {
 public:
  apiserver::Environment& Get() {
    if (environment_ == nullptr) {
      absl::StatusOr<std::unique_ptr<apiserver::Environment>> started = apiserver::Environment::Start();
      CHECK_OK(started.status());
      environment_ = *std::move(started);
    }
    return *environment_;
  }
  void TearDown() override { environment_.reset(); }

 private:
  std::unique_ptr<apiserver::Environment> environment_;
};

SharedEnvironment* const shared = [] {
  auto* environment = new SharedEnvironment;
  ::testing::AddGlobalTestEnvironment(environment);  // which owns it
  return environment;
}();

}  // namespace

absl::StatusOr<std::unique_ptr<Environment>> Environment::Start(EnvironmentOptions options) {
  std::unique_ptr<Environment> environment(new Environment(std::move(options)));
  GODWIT_RETURN_IF_ERROR(environment->Prepare());
  GODWIT_RETURN_IF_ERROR(environment->StartEtcd());
  GODWIT_RETURN_IF_ERROR(environment->StartApiServer());
  if (!environment->options_.controllers.empty())
    GODWIT_RETURN_IF_ERROR(environment->StartControllerManager());
  return environment;
}

Environment& Environment::Shared() { return shared->Get(); }

Environment::~Environment() {
  // Killed, not asked: an API server with open watches takes its time, and nothing of all this is kept.
  controller_manager_.reset();
  api_server_.reset();
  etcd_.reset();
  if (!folder_.empty()) RemoveTree(folder_).IgnoreError();
}

absl::Status Environment::Write(const std::string& name, const std::string& content) const {
  return WriteFileDurably(Path(name), content);
}

absl::Status Environment::Prepare() {
  GODWIT_ASSIGN_OR_RETURN(kube_, Program("KUBE"));
  folder_ = "/tmp/godwit-apiserver-XXXXXX";
  if (mkdtemp(folder_.data()) == nullptr) return ErrnoStatus("make a folder in /tmp");
  GODWIT_ASSIGN_OR_RETURN(etcd_port_, FreePort());
  GODWIT_ASSIGN_OR_RETURN(api_port_, FreePort());
  const KeyPair server = authority_.Server({"127.0.0.1", "localhost", "kubernetes.default.svc"});
  const SigningKey signing = MakeSigningKey();
  admin_ = authority_.Client("admin", {"system:masters"});
  const auto base64 = [](const std::string& text) { return absl::Base64Escape(text); };
  const std::string kubeconfig = absl::StrCat(
      "apiVersion: v1\nkind: Config\ncurrent-context: test\ncontexts:\n- {name: test, context: {cluster: "
      "test, user: "
      "admin}}\nclusters:\n- {name: test, cluster: {server: \"https://127.0.0.1:",
      api_port_, "\", certificate-authority-data: ", base64(authority_.certificate()),
      "}}\nusers:\n- {name: admin, user: {client-certificate-data: ", base64(admin_.certificate),
      ", client-key-data: ", base64(admin_.key), "}}\n");
  for (const auto& [name, content] :
       std::initializer_list<std::pair<const char*, std::string>>{{"ca.crt", authority_.certificate()},
                                                                  {"server.crt", server.certificate},
                                                                  {"server.key", server.key},
                                                                  {"tokens.key", signing.private_key},
                                                                  {"tokens.pub", signing.public_key},
                                                                  {"kubeconfig", kubeconfig}}) {
    GODWIT_RETURN_IF_ERROR(Write(name, content));
  }
  return absl::OkStatus();
}

absl::StatusOr<Child> Environment::Spawn(const std::string& name, std::vector<std::string> command) {
  GODWIT_ASSIGN_OR_RETURN(const UniqueFd log, OpenFile(Path(name + ".log"), O_WRONLY | O_CREAT | O_APPEND));
  SpawnOptions options;
  options.stdout_fd = options.stderr_fd = log.get();
  options.die_with_parent = true;
  return Child::Spawn(command, options);
}

std::string Environment::LogTail(const std::string& name) const {
  const absl::StatusOr<std::string> log = ReadFile(Path(name + ".log"), size_t{64} << 20);
  if (!log.ok()) return log.status().ToString();
  return log->size() > 4000 ? log->substr(log->size() - 4000) : *log;
}

absl::Status Environment::StartEtcd() {
  GODWIT_ASSIGN_OR_RETURN(const std::string program, Program("ETCD"));
  GODWIT_ASSIGN_OR_RETURN(const int peer_port, FreePort());
  const std::string url = absl::StrCat("http://127.0.0.1:", etcd_port_);
  const std::string peer_url = absl::StrCat("http://127.0.0.1:", peer_port);
  GODWIT_ASSIGN_OR_RETURN(
      etcd_, Spawn("etcd",
                   {program, "--name=test", absl::StrCat("--data-dir=", Path("etcd")), "--unsafe-no-fsync",
                    absl::StrCat("--listen-client-urls=", url), absl::StrCat("--advertise-client-urls=", url),
                    absl::StrCat("--listen-peer-urls=", peer_url),
                    absl::StrCat("--initial-advertise-peer-urls=", peer_url),
                    absl::StrCat("--initial-cluster=test=", peer_url), "--log-level=warn"}));
  return absl::OkStatus();
}

absl::Status Environment::StartApiServer() {
  std::vector<std::string> command = {kube_,
                                      "kube-apiserver",
                                      absl::StrCat("--etcd-servers=http://127.0.0.1:", etcd_port_),
                                      "--bind-address=127.0.0.1",
                                      "--advertise-address=127.0.0.1",
                                      "--endpoint-reconciler-type=none",
                                      absl::StrCat("--secure-port=", api_port_),
                                      absl::StrCat("--tls-cert-file=", Path("server.crt")),
                                      absl::StrCat("--tls-private-key-file=", Path("server.key")),
                                      absl::StrCat("--client-ca-file=", Path("ca.crt")),
                                      absl::StrCat("--cert-dir=", folder_),
                                      "--service-account-issuer=https://kubernetes.default.svc",
                                      absl::StrCat("--service-account-key-file=", Path("tokens.pub")),
                                      absl::StrCat("--service-account-signing-key-file=", Path("tokens.key")),
                                      "--service-cluster-ip-range=10.0.0.0/24",
                                      "--authorization-mode=RBAC",
                                      "--allow-privileged=true",
                                      "--etcd-compaction-interval=0",
                                      "--profiling=false"};
  // Without a controller manager no namespace gets its default service account.
  if (options_.controllers.empty()) command.push_back("--disable-admission-plugins=ServiceAccount");
  command.insert(command.end(), options_.api_server_flags.begin(), options_.api_server_flags.end());
  GODWIT_ASSIGN_OR_RETURN(api_server_, Spawn("kube-apiserver", std::move(command)));
  return WaitUntilReady();
}

absl::Status Environment::StartControllerManager() {
  GODWIT_ASSIGN_OR_RETURN(
      controller_manager_,
      Spawn("kube-controller-manager",
            {kube_, "kube-controller-manager", absl::StrCat("--kubeconfig=", kubeconfig()),
             "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
             absl::StrCat("--root-ca-file=", Path("ca.crt")),
             absl::StrCat("--service-account-private-key-file=", Path("tokens.key")),
             absl::StrCat("--controllers=", options_.controllers)}));
  return absl::OkStatus();
}

absl::Status Environment::WaitUntilReady() {
  const absl::Duration deadline = Clock::Real().Monotonic() + kReadyLimit;
  const k8s::Api api = ApiFor(config());
  for (;;) {
    const absl::Status ready = api.With(absl::Seconds(5)).GetPath("/readyz").status();
    if (ready.ok()) return ready;
    for (auto [child, name] : {std::pair(&etcd_, "etcd"), std::pair(&api_server_, "kube-apiserver")}) {
      if (const absl::StatusOr<ExitStatus> ended = (*child)->Wait(absl::ZeroDuration()); ended.ok()) {
        return absl::InternalError(
            absl::StrCat(name, " ended with ", ended->ToString(), ":\n", LogTail(name)));
      }
    }
    if (Clock::Real().Monotonic() > deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the API server is not ready after ",
                                                      absl::FormatDuration(kReadyLimit), ": ",
                                                      ready.ToString(), "\n", LogTail("kube-apiserver")));
    }
    absl::SleepFor(kLook);
  }
}

void Environment::StopApiServer() { api_server_.reset(); }

k8s::Config Environment::config() const {
  k8s::Config config;
  config.server = absl::StrCat("https://127.0.0.1:", api_port_);
  config.ca = authority_.certificate();
  config.client_certificate = admin_.certificate;
  config.client_key = admin_.key;
  config.name_space = "default";
  return config;
}

k8s::Config Environment::ConfigFor(const std::string& user, const std::vector<std::string>& groups) const {
  k8s::Config other = config();
  const KeyPair pair = authority_.Client(user, groups);
  other.client_certificate = pair.certificate;
  other.client_key = pair.key;
  return other;
}

k8s::Api Environment::ApiFor(k8s::Config config, k8s::TransportOptions options) {
  absl::StatusOr<std::shared_ptr<k8s::Transport>> transport =
      k8s::Transport::Create(std::move(config), std::move(options));
  CHECK_OK(transport.status());
  return k8s::Api(*transport);
}

k8s::Api Environment::api(k8s::TransportOptions options) const {
  return ApiFor(config(), std::move(options));
}

std::string Environment::NewNamespace(const std::string& prefix) {
  k8s::Namespace made{.metadata = {.name = absl::StrCat(prefix, "-", ++namespaces_)}};
  CHECK_OK(k8s::Client<k8s::Namespace>(api()).Create(made).status());
  return made.metadata.name;
}

// Over etcd's JSON gateway (/v3/kv/..., as etcd's documentation names its gRPC services); loopback only, so
// plain HTTP.
absl::Status Environment::Compact() {
  k8s::Config etcd;
  etcd.server = absl::StrCat("http://127.0.0.1:", etcd_port_);
  GODWIT_ASSIGN_OR_RETURN(const std::shared_ptr<k8s::Transport> transport, k8s::Transport::Create(etcd));
  const auto post = [&transport](const char* path, std::string body) {
    return transport->Do(
        {.method = "POST", .path = path, .body = std::move(body), .content_type = "application/json"});
  };
  GODWIT_ASSIGN_OR_RETURN(const std::string range, post("/v3/kv/range", R"({"key":"AA==","limit":"1"})"));
  GODWIT_ASSIGN_OR_RETURN(const k8s::Unstructured answer, k8s::Unstructured::Parse(range));
  const std::string revision = answer.String("/header/revision");
  return post("/v3/kv/compaction", absl::StrCat(R"({"revision":")", revision, R"(","physical":true})"))
      .status();
}

}  // namespace godwit::apiserver
