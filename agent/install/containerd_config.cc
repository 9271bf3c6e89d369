// SPDX-License-Identifier: Apache-2.0
#include "agent/install/containerd_config.h"

#include <algorithm>
#include <iterator>
#include <sstream>

#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 1
// The parser of 3.4 asserts what bad input can break, and then reports the error all the same.
#define TOML_ASSERT(condition) static_cast<void>(0)
#define TOML_ENABLE_FORMATTERS 1
#include <toml++/toml.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace godwit::install {
namespace {

constexpr size_t kMaxDump = 4u << 20;
constexpr char kRuncShim[] = "io.containerd.runc.v2";
// The CRI plugin's runtime part: containerd 2 (configuration version 3 and newer), and 1 (version 2).
constexpr char kCri2[] = "io.containerd.cri.v1.runtime";
constexpr char kCri1[] = "io.containerd.grpc.v1.cri";

absl::StatusOr<toml::table> Parse(absl::string_view text) {
  if (text.size() > kMaxDump) return absl::InvalidArgumentError("containerd's configuration is too long");
  try {
    return toml::parse(std::string_view(text.data(), text.size()));
  } catch (const toml::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat("containerd's configuration cannot be read: line ",
                                                   error.source().begin.line, ": ", error.what()));
  }
}

struct Cri {
  std::string plugin;     // its id
  toml::table* runtimes;  // by name
  std::string default_runtime;
};

absl::StatusOr<Cri> FindCri(toml::table& config) {
  for (const char* plugin : {kCri2, kCri1}) {
    toml::node_view<toml::node> containerd = config["plugins"][plugin]["containerd"];
    if (toml::table* runtimes = containerd["runtimes"].as_table()) {
      return Cri{plugin, runtimes, containerd["default_runtime_name"].value_or(std::string())};
    }
  }
  return absl::FailedPreconditionError(
      "containerd's configuration has no CRI plugin with runtimes (is the plugin disabled?)");
}

absl::StatusOr<std::string> OrdinaryName(const Cri& cri, const std::string& handler) {
  for (const std::string& name : {cri.default_runtime, std::string("runc")}) {
    const toml::table* runtime = (*cri.runtimes)[name].as_table();
    if (runtime == nullptr || name == handler) continue;
    if ((*runtime)["runtime_type"].value_or(std::string()) == kRuncShim) return name;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("containerd's default runtime \"", cri.default_runtime, "\" is not of type ", kRuncShim,
                   ", and there is none named \"runc\": Godwit restores by runc"));
}

std::string ToText(const toml::node& node) {
  std::ostringstream out;
  out << toml::toml_formatter(node);
  return out.str();
}

void Flatten(const toml::node& node, const std::string& path, std::vector<std::string>& out) {
  if (const toml::table* table = node.as_table()) {
    for (const auto& [key, value] : *table) {
      Flatten(value, absl::StrCat(path, path.empty() ? "" : ".", std::string(key.str())), out);
    }
  } else {
    out.push_back(absl::StrCat(path, " = ", ToText(node)));
  }
}

bool IsEmptyValue(const toml::node& node) {
  if (const auto* text = node.as_string()) return text->get().empty();
  if (const auto* flag = node.as_boolean()) return !flag->get();
  if (const auto* number = node.as_integer()) return number->get() == 0;
  if (const auto* list = node.as_array()) return list->empty();
  if (const auto* table = node.as_table()) return table->empty();
  return false;
}

// Without what is at its default: a dump holds every setting, also such that another version of the file does
// not know.
toml::table WithoutDefaults(const toml::table& table) {
  toml::table out;
  for (const auto& [key, value] : table) {
    if (const toml::table* inner = value.as_table()) {
      toml::table kept = WithoutDefaults(*inner);
      if (!kept.empty()) out.insert(key, std::move(kept));
    } else if (!IsEmptyValue(value)) {
      out.insert(key, value);
    }
  }
  return out;
}

void PassAnnotations(toml::table& runtime, const char* list) {
  toml::array patterns;
  if (const toml::array* old = runtime[list].as_array()) patterns = *old;
  patterns.push_back("godwit.io/*");
  runtime.insert_or_assign(list, std::move(patterns));
}

}  // namespace

absl::StatusOr<ConfigDump> ParseConfigDump(absl::string_view dump, const std::string& handler) {
  GODWIT_ASSIGN_OR_RETURN(toml::table config, Parse(dump));
  GODWIT_ASSIGN_OR_RETURN(const Cri cri, FindCri(config));
  GODWIT_ASSIGN_OR_RETURN(const std::string name, OrdinaryName(cri, handler));
  const toml::node_view<toml::node> options = (*cri.runtimes)[name]["options"];
  ConfigDump out;
  out.ordinary = {name, options["BinaryName"].value_or(std::string()),
                  options["SystemdCgroup"].value_or(false)};
  out.handler_binary = (*cri.runtimes)[handler]["options"]["BinaryName"].value_or(std::string());
  out.socket = config["grpc"]["address"].value_or(std::string());
  if (out.socket.empty()) {  // since containerd 2.3
    out.socket = config["plugins"]["io.containerd.server.v1.grpc"]["address"].value_or(std::string());
  }
  if (out.socket.empty()) out.socket = "/run/containerd/containerd.sock";
  cri.runtimes->erase(handler);
  config.erase("imports");
  Flatten(config, "", out.settings);
  std::sort(out.settings.begin(), out.settings.end());
  return out;
}

absl::StatusOr<std::string> WriteDropIn(absl::string_view dump, const std::string& handler,
                                        const std::string& binary) {
  GODWIT_ASSIGN_OR_RETURN(toml::table config, Parse(dump));
  GODWIT_ASSIGN_OR_RETURN(const Cri cri, FindCri(config));
  GODWIT_ASSIGN_OR_RETURN(const std::string name, OrdinaryName(cri, handler));
  toml::table runtime = WithoutDefaults(*(*cri.runtimes)[name].as_table());
  PassAnnotations(runtime, "pod_annotations");
  PassAnnotations(runtime, "container_annotations");
  if (!runtime["options"].is_table()) runtime.insert_or_assign("options", toml::table{});
  toml::table& options = *runtime["options"].as_table();
  options.insert_or_assign("BinaryName", binary);
  // Said also where it is the default: it must be what the ordinary handler has.
  options.insert_or_assign("SystemdCgroup",
                           (*cri.runtimes)[name]["options"]["SystemdCgroup"].value_or(false));

  toml::table runtimes, containerd, plugin, plugins, file;
  runtimes.insert(handler, std::move(runtime));
  containerd.insert("runtimes", std::move(runtimes));
  plugin.insert("containerd", std::move(containerd));
  plugins.insert(cri.plugin, std::move(plugin));
  // Every containerd 2 reads version 3, whatever version its dump has.
  file.insert("version", cri.plugin == kCri2 ? 3 : 2);
  file.insert("plugins", std::move(plugins));
  return absl::StrCat(kDropInMark, "\n# The handler of RuntimeClass \"", handler, "\": a copy of \"", name,
                      "\" with another binary.\n", ToText(file), "\n");
}

std::vector<std::string> Differences(const ConfigDump& before, const ConfigDump& after, size_t max) {
  std::vector<std::string> gone, come, out;
  std::set_difference(before.settings.begin(), before.settings.end(), after.settings.begin(),
                      after.settings.end(), std::back_inserter(gone));
  std::set_difference(after.settings.begin(), after.settings.end(), before.settings.begin(),
                      before.settings.end(), std::back_inserter(come));
  for (const std::string& setting : gone) out.push_back(absl::StrCat("lost ", setting));
  for (const std::string& setting : come) out.push_back(absl::StrCat("new ", setting));
  if (out.size() > max) out.resize(max);
  return out;
}

}  // namespace godwit::install
