// SPDX-License-Identifier: Apache-2.0
#include "controller/application.h"

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/backoff.h"
#include "base/http_endpoints.h"
#include "base/log.h"
#include "base/status.h"
#include "controller/agents/http_agent.h"
#include "controller/certificates/authority_store.h"
#include "controller/certificates/bootstrap.h"
#include "k8s/cancellation.h"
#include "k8s/events.h"
#include "k8s/leader.h"
#include "k8s/transport.h"
#include "metrics/metrics.h"

namespace godwit::controller {
namespace {

constexpr absl::Duration kCertificateLifetime = absl::Hours(24);

std::string CodeName(int code) { return code == 0 ? "error" : absl::StrCat(code); }

k8s::TransportOptions Observed(metrics::ControllerMetrics* metrics) {
  k8s::TransportOptions options;
  options.observer = [metrics](const k8s::RequestRecord& record) {
    metrics->kubernetes_requests
        .With(absl::string_view(record.verb), absl::string_view(record.resource),
              absl::string_view(CodeName(record.code)))
        .Increment();
    if (record.verb != "watch") {
      metrics->kubernetes_request_duration.Observe(record.latency, absl::string_view(record.verb),
                                                   absl::string_view(record.resource));
    }
  };
  return options;
}

HttpAgentOptions AgentOptions(int port, metrics::ControllerMetrics* metrics) {
  HttpAgentOptions options{.port = port};
  options.observer = [metrics](const AgentRequestRecord& record) {
    metrics->agent_requests
        .With(absl::string_view(record.method), absl::string_view(record.route),
              absl::string_view(CodeName(record.code)))
        .Increment();
    metrics->agent_request_duration.Observe(record.latency, absl::string_view(record.route));
  };
  return options;
}

class Application {
 public:
  Application(k8s::Api api, const ApplicationOptions& options, metrics::Registry* registry,
              metrics::ControllerMetrics* metrics)
      : api_(std::move(api)), options_(options), registry_(registry), metrics_(metrics) {}

  absl::Status Run();

 private:
  absl::Status PrepareAuthority();
  absl::Status StartServers(HttpEndpoints& health, HttpEndpoints& metrics);
  void RenewCertificates();
  PlainAnswer Ready(const Cluster& cluster) const;
  std::vector<std::string> OwnNames() const {
    return {"controller.godwit", absl::StrCat("godwit-controller.", options_.name_space, ".svc")};
  }
  // From any thread: ends Run with this exit.
  void End(absl::Status why);

  const k8s::Api api_;
  const ApplicationOptions options_;
  metrics::Registry* const registry_;
  metrics::ControllerMetrics* const metrics_;
  std::unique_ptr<Authority> authority_;
  std::unique_ptr<IdentityHolder> identity_;
  k8s::Cancellation stop_;
  std::atomic<bool> stopping_ = false;
  absl::Mutex mutex_;
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
};

void Application::End(absl::Status why) {
  {
    absl::MutexLock lock(&mutex_);
    ended_.Update(why);
  }
  kill(getpid(), SIGTERM);
}

// The API server may not answer yet when we start: tried for two minutes.
absl::Status Application::PrepareAuthority() {
  absl::BitGen random;
  Backoff backoff;
  const absl::Time give_up = absl::Now() + absl::Minutes(2);
  for (;;) {
    absl::StatusOr<std::unique_ptr<Authority>> authority =
        EnsureAuthority(api_, options_.name_space, absl::Now());
    absl::Status status = authority.status();
    if (status.ok()) status = PublishBundle(api_, options_.name_space, **authority);
    if (status.ok()) {
      authority_ = *std::move(authority);
      break;
    }
    if (absl::Now() > give_up) return Annotate(status, "cannot get the certificate authority");
    LOG(WARNING) << Log("no certificate authority yet; trying again").With(status);
    absl::SleepFor(backoff.Next(random));
  }
  GODWIT_ASSIGN_OR_RETURN(Identity identity,
                          authority_->Issue(OwnNames(), kCertificateLifetime, absl::Now()));
  identity_ = std::make_unique<IdentityHolder>(std::move(identity));
  return absl::OkStatus();
}

// Our own certificate is renewed at half of its life. Somebody may also have replaced the authority: then
// everything begins anew, with the new one.
void Application::RenewCertificates() {
  while (!stop_.WaitFor(absl::Minutes(1))) {
    const auto identity = identity_->Get();
    if (absl::Now() > identity->not_before + (identity->not_after - identity->not_before) / 2) {
      absl::StatusOr<Identity> renewed = authority_->Issue(OwnNames(), kCertificateLifetime, absl::Now());
      if (renewed.ok()) identity_->Set(*std::move(renewed));
      LOG_IF(ERROR, !renewed.ok()) << Log("cannot renew our own certificate").With(renewed.status());
    }
    const auto authority = EnsureAuthority(api_.With(&stop_), options_.name_space, absl::Now());
    if (authority.ok() && (*authority)->certificate() != authority_->certificate()) {
      return End(
          absl::AbortedError("the certificate authority was replaced: starting again with the new one"));
    }
    if (authority.ok()) PublishBundle(api_.With(&stop_), options_.name_space, *authority_).IgnoreError();
  }
}

PlainAnswer Application::Ready(const Cluster& cluster) const {
  if (cluster.synced()) return {.body = "ok\n"};
  return {.code = 503, .body = "the copies of the cluster's objects are not complete yet\n"};
}

absl::Status Application::StartServers(HttpEndpoints& health, HttpEndpoints& metrics) {
  GODWIT_RETURN_IF_ERROR(health.Start(options_.listen, options_.health_port));
  return metrics.Start(options_.listen, options_.metrics_port);
}

absl::Status Application::Run() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  std::atomic<const Cluster*> watched = nullptr;
  HttpEndpoints health({{"/healthz", [] { return PlainAnswer{.body = "ok\n"}; }},
                        {"/readyz", [&] {
                           const Cluster* cluster = watched;
                           return cluster == nullptr ? PlainAnswer{.code = 503, .body = "starting\n"}
                                                     : Ready(*cluster);
                         }}});
  HttpEndpoints metrics({}, {{"/metrics", [this] {
                                return PlainAnswer{.content_type = metrics::kContentType,
                                                   .body = registry_->Exposition()};
                              }}});
  GODWIT_RETURN_IF_ERROR(StartServers(health, metrics));
  GODWIT_RETURN_IF_ERROR(PrepareAuthority());

  BootstrapServer bootstrap(api_, authority_.get(), identity_.get(),
                            {.name_space = options_.name_space,
                             .listen = options_.listen,
                             .port = options_.bootstrap_port,
                             .observer = [this](absl::string_view outcome) {
                               metrics_->certificates_signed.With(outcome).Increment();
                             }});
  GODWIT_RETURN_IF_ERROR(bootstrap.Start());

  HttpAgents agents(identity_.get(), AgentOptions(options_.agent_api_port, metrics_));
  Cluster cluster(api_, &agents, {.name_space = options_.name_space});
  k8s::EventRecorder events(api_, {.component = "godwit-controller", .instance = options_.identity});
  Controllers controllers(&cluster, &events, metrics_, options_.controllers);
  registry_->BeforeExposition([&, this] {
    controllers.Publish();
    metrics_->certificate_expiry.With("ca").Set(
        absl::ToDoubleSeconds(authority_->not_after() - absl::UnixEpoch()));
    metrics_->certificate_expiry.With("server").Set(
        absl::ToDoubleSeconds(identity_->Get()->not_after - absl::UnixEpoch()));
  });
  cluster.Start();
  watched = &cluster;
  std::thread renewal([this] { RenewCertificates(); });

  absl::BitGen random;
  const std::string identity =
      absl::StrCat(options_.identity, "_", absl::Hex(absl::Uniform<uint32_t>(random), absl::kZeroPad8));
  k8s::LeaderElector elector(
      api_, {.name_space = options_.name_space, .name = "godwit-controller", .identity = identity},
      {.on_started =
           [&] {
             LOG(INFO) << Log("leading").With("identity", identity);
             metrics_->leader.With().Set(1);
             controllers.Start();
           },
       .on_stopped =
           [&] {
             metrics_->leader.With().Set(0);
             if (stopping_) return controllers.Stop();
             // Another replica may lead by now: nothing more may be written, not even by a look that is half
             // done.
             LOG(ERROR) << Log("lost the Lease; ending at once").With("identity", identity);
             std::_Exit(1);
           },
       .on_new_leader =
           [](const std::string& holder) { LOG(INFO) << Log("leader").With("holder", holder); }});
  // Decisions need complete copies: what is not there must not look as if it did not exist.
  absl::Status status = Annotate(cluster.WaitForSync(absl::Minutes(2)), "no view of the cluster");
  if (status.ok()) status = elector.Start();
  int received = 0;
  if (status.ok()) sigwait(&signals, &received);
  LOG(INFO) << Log("stopping").With("signal", received);
  stopping_ = true;
  elector.Stop();
  stop_.Cancel();
  renewal.join();
  controllers.Stop();
  cluster.Stop();
  metrics.Stop();  // what it shows is about to go
  health.Stop();
  absl::MutexLock lock(&mutex_);
  status.Update(ended_);
  return status;
}

}  // namespace

absl::Status RunController(const k8s::Config& config, const ApplicationOptions& options) {
  metrics::Registry registry;
  metrics::ControllerMetrics metrics(registry);
  metrics::AddProcessMetrics(registry);
  metrics.build_info.With(GODWIT_VERSION).Set(1);
  metrics.leader.With().Set(0);
  GODWIT_ASSIGN_OR_RETURN(std::shared_ptr<k8s::Transport> transport,
                          k8s::Transport::Create(config, Observed(&metrics)));
  return Application(k8s::Api(std::move(transport)), options, &registry, &metrics).Run();
}

}  // namespace godwit::controller
