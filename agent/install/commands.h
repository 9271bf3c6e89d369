// SPDX-License-Identifier: Apache-2.0
// The agent's subcommands that prepare a node, as main calls them: the exit code of the process is what they
// return. They must be called before any thread is started, for they move this process into the host's
// namespaces.
//
//   godwit-agent install [flags]     puts the host tree on the node and registers the runtime handler
//   (install.h) godwit-agent uninstall [flags]   undoes it; what must stay is said on stdout and in
//   /dev/termination-log godwit-agent stay                does nothing until it is told to end: keeps a pod
//   of a finished DaemonSet Ready
#pragma once

namespace godwit::install {

// argv[0] is the subcommand or the program; flags may come in any form that absl/flags understands, and may
// have been parsed before.
int RunInstall(int argc, char** argv);
int RunUninstall(int argc, char** argv);
int RunStay();

}  // namespace godwit::install
