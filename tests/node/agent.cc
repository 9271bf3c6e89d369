// SPDX-License-Identifier: Apache-2.0
// Stands in for an agent in its container: `node_agent GUARD SPEC`. In a mount, cgroup, network, UTS and IPC
// namespace of its own, where nothing of the node is to be seen but /proc, it starts a guard on the node,
// freezes, says "frozen" and stays, for the test to end it.
#include <unistd.h>

#include <cstdio>

#include "agent/guard/client.h"
#include "base/file.h"
#include "base/json.h"

int main(int argc, char** argv) {
  using namespace godwit;
  if (argc != 3) return 2;
  if (FileExists(argv[1])) {
    printf("the node's files are visible: nothing would be tested\n");
    return 1;
  }
  const auto text = ReadFile(std::string("/proc/1/root") + argv[2]);
  const auto spec = text.ok() ? json::Decode<agent_api::GuardSpec>(*text) : text.status();
  if (!spec.ok()) {
    printf("%s\n", spec.status().ToString().c_str());
    return 1;
  }
  auto client = guard::StartGuard(*spec, {.binary = argv[1],
                                          .spec_file = argv[2],
                                          .host_root = "/proc/1/root",
                                          .host_namespaces = "/proc/1/ns"});
  if (!client.ok()) {
    printf("%s\n", client.status().ToString().c_str());
    return 1;
  }
  const auto reply = client->Freeze();
  printf("%s\n", reply.ok() && reply->ok ? "frozen"
                 : reply.ok()            ? reply->message.c_str()
                                         : reply.status().ToString().c_str());
  fflush(stdout);
  while (true) pause();
}
