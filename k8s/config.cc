// SPDX-License-Identifier: Apache-2.0
#include "k8s/config.h"

#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status.h"
#include "yaml-cpp/yaml.h"

namespace godwit::k8s {
namespace {

constexpr size_t kMaxFileBytes = 4 << 20;

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// One kubeconfig text: its nodes are looked at here and nowhere else, so that yaml-cpp's exceptions stay in
// this file.
class KubeconfigReader {
 public:
  KubeconfigReader(const YAML::Node& root, std::string folder) : root_(root), folder_(std::move(folder)) {}

  absl::StatusOr<Config> Read(std::string context) {
    if (context.empty()) context = Text(root_["current-context"]);
    if (context.empty()) return absl::InvalidArgumentError("no current-context, and none was asked for");
    GODWIT_ASSIGN_OR_RETURN(YAML::Node chosen, Entry("contexts", "context", context));
    GODWIT_ASSIGN_OR_RETURN(YAML::Node cluster, Entry("clusters", "cluster", Text(chosen["cluster"])));
    Config config;
    config.name_space = Text(chosen["namespace"]);
    if (config.name_space.empty()) config.name_space = "default";
    GODWIT_RETURN_IF_ERROR(ReadCluster(cluster, config));
    if (const std::string user = Text(chosen["user"]); !user.empty()) {
      GODWIT_ASSIGN_OR_RETURN(YAML::Node credentials, Entry("users", "user", user));
      GODWIT_RETURN_IF_ERROR(ReadUser(credentials, user, config));
    }
    GODWIT_RETURN_IF_ERROR(Validate(config));
    return config;
  }

 private:
  static std::string Text(const YAML::Node& node) {
    return node.IsDefined() && node.IsScalar() ? node.Scalar() : "";
  }

  // The `inner` of the entry of that name in the list `section`.
  absl::StatusOr<YAML::Node> Entry(const char* section, const char* inner, const std::string& name) {
    const YAML::Node list = root_[section];
    if (list.IsDefined() && list.IsSequence()) {
      for (const YAML::Node& entry : list) {
        if (entry.IsMap() && Text(entry["name"]) == name && entry[inner].IsDefined() &&
            entry[inner].IsMap()) {
          return entry[inner];
        }
      }
    }
    return absl::InvalidArgumentError(absl::StrCat("no ", inner, " named \"", name, "\" in ", section));
  }

  static absl::Status Refuse(const YAML::Node& node, const char* key, absl::string_view why) {
    if (!node[key].IsDefined() || node[key].IsNull()) return absl::OkStatus();
    if (node[key].IsScalar() && (node[key].Scalar().empty() || node[key].Scalar() == "false"))
      return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat("\"", key, "\" is not supported: ", why));
  }

  // `key`-data in base64, or the file that `key` names, or "".
  absl::StatusOr<std::string> DataOrFile(const YAML::Node& node, const std::string& key) {
    std::string out;
    if (const std::string data = Text(node[key + "-data"]); !data.empty()) {
      if (!absl::Base64Unescape(data, &out))
        return absl::InvalidArgumentError(absl::StrCat(key, "-data: not base64"));
      return out;
    }
    const std::string path = Text(node[key]);
    if (path.empty()) return out;
    absl::StatusOr<std::string> content = ReadFile(Absolute(path), kMaxFileBytes);
    if (!content.ok()) return Annotate(content.status(), key);
    return content;
  }

  std::string Absolute(const std::string& path) const {
    return absl::StartsWith(path, "/") ? path : absl::StrCat(folder_, "/", path);
  }

  absl::Status ReadCluster(const YAML::Node& cluster, Config& config) {
    GODWIT_RETURN_IF_ERROR(
        Refuse(cluster, "insecure-skip-tls-verify",
               "the server's certificate is always verified; give certificate-authority-data"));
    GODWIT_RETURN_IF_ERROR(Refuse(cluster, "proxy-url", "connections are made directly"));
    config.server = std::string(absl::StripSuffix(Text(cluster["server"]), "/"));
    config.tls_server_name = Text(cluster["tls-server-name"]);
    GODWIT_ASSIGN_OR_RETURN(config.ca, DataOrFile(cluster, "certificate-authority"));
    return absl::OkStatus();
  }

  absl::Status ReadUser(const YAML::Node& user, const std::string& name, Config& config) {
    const std::string instead =
        absl::StrCat("user \"", name, "\" needs a client certificate, a token or a tokenFile");
    for (const char* key : {"exec", "auth-provider", "username", "password", "as", "as-uid", "as-groups"}) {
      GODWIT_RETURN_IF_ERROR(Refuse(user, key, instead));
    }
    GODWIT_ASSIGN_OR_RETURN(config.client_certificate, DataOrFile(user, "client-certificate"));
    GODWIT_ASSIGN_OR_RETURN(config.client_key, DataOrFile(user, "client-key"));
    if (const std::string path = Text(user["tokenFile"]); !path.empty()) {
      config.token = std::make_shared<FileToken>(Absolute(path));
      return config.token->Token().status();
    }
    if (const std::string token = Text(user["token"]); !token.empty()) config.token = StaticToken(token);
    return absl::OkStatus();
  }

  const YAML::Node root_;
  const std::string folder_;
};

bool IsLoopback(absl::string_view authority) {
  if (absl::ConsumePrefix(&authority, "[")) return absl::StartsWith(authority, "::1]");
  authority = authority.substr(0, authority.find(':'));
  return authority == "localhost" || authority == "127.0.0.1";
}

}  // namespace

absl::Status Validate(const Config& config) {
  absl::string_view rest = config.server;
  const bool plain = absl::ConsumePrefix(&rest, "http://");
  if (!plain && !absl::ConsumePrefix(&rest, "https://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("server \"", config.server, "\" is not an https:// address"));
  }
  const absl::string_view authority = rest.substr(0, rest.find('/'));
  if (authority.empty() || absl::StrContains(authority, "@")) {
    return absl::InvalidArgumentError(absl::StrCat("server \"", config.server, "\" names no host"));
  }
  if (plain && !IsLoopback(authority)) {
    return absl::InvalidArgumentError(
        absl::StrCat("server \"", config.server, "\": http is for this machine only, use https"));
  }
  if (config.client_certificate.empty() != config.client_key.empty()) {
    return absl::InvalidArgumentError("a client certificate and its key must be given together");
  }
  return absl::OkStatus();
}

absl::StatusOr<Config> InClusterConfig(absl::string_view folder) {
  std::string host = Environment("KUBERNETES_SERVICE_HOST");
  const std::string port = Environment("KUBERNETES_SERVICE_PORT");
  const std::string token_path = absl::StrCat(folder, "/token");
  if (host.empty() || port.empty() || !FileExists(token_path)) {
    return absl::NotFoundError(absl::StrCat(
        "not in a pod: KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT or ", token_path, " is missing"));
  }
  if (absl::StrContains(host, ":")) host = absl::StrCat("[", host, "]");
  Config config;
  config.server = absl::StrCat("https://", host, ":", port);
  GODWIT_ASSIGN_OR_RETURN(config.ca, ReadFile(absl::StrCat(folder, "/ca.crt"), kMaxFileBytes));
  config.token = std::make_shared<FileToken>(token_path);
  GODWIT_RETURN_IF_ERROR(config.token->Token().status());
  absl::StatusOr<std::string> name_space = ReadFile(absl::StrCat(folder, "/namespace"), kMaxFileBytes);
  if (name_space.ok()) config.name_space = std::string(absl::StripAsciiWhitespace(*name_space));
  if (config.name_space.empty()) config.name_space = "default";
  GODWIT_RETURN_IF_ERROR(Validate(config));
  return config;
}

absl::StatusOr<Config> Kubeconfig(const std::string& yaml, const std::string& folder,
                                  absl::string_view context) {
  try {
    return KubeconfigReader(YAML::Load(yaml), folder).Read(std::string(context));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not YAML: ", error.what()));
  }
}

absl::StatusOr<Config> KubeconfigFile(const std::string& path, absl::string_view context) {
  const std::string what = absl::StrCat("kubeconfig ", path);
  absl::StatusOr<std::string> text = ReadFile(path, kMaxFileBytes);
  if (!text.ok()) return Annotate(text.status(), what);
  const size_t slash = path.rfind('/');
  absl::StatusOr<Config> config =
      Kubeconfig(*text, slash == std::string::npos ? "." : path.substr(0, slash), context);
  if (!config.ok()) return Annotate(config.status(), what);
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& kubeconfig, absl::string_view context) {
  if (!kubeconfig.empty()) return KubeconfigFile(kubeconfig, context);
  const std::string from_environment = Environment("KUBECONFIG");
  if (absl::StrContains(from_environment, ":")) {
    return absl::UnimplementedError(
        "KUBECONFIG names several files; merge them into one (kubectl config view --flatten)");
  }
  if (!from_environment.empty()) return KubeconfigFile(from_environment, context);
  absl::StatusOr<Config> in_cluster = InClusterConfig();
  if (in_cluster.ok() || !absl::IsNotFound(in_cluster.status())) return in_cluster;
  const std::string at_home = absl::StrCat(Environment("HOME"), "/.kube/config");
  if (FileExists(at_home)) return KubeconfigFile(at_home, context);
  return absl::NotFoundError(absl::StrCat("no way to the API server: no --kubeconfig, no KUBECONFIG, no ",
                                          at_home, ", and ", in_cluster.status().message()));
}

}  // namespace godwit::k8s
