// SPDX-License-Identifier: Apache-2.0
// Runs the bundled CRIU, and the programs that CRIU calls, with the bundle's own loader and libraries, so
// that they need nothing of the host (an older C library, no tar). Installed as <bundle>/criu; other names
// are links to it:
//
//   <bundle>/criu                  this program       -> lib/ld.so --library-path lib [--preload ...]
//   criu.bin ARGS <bundle>/bin/tar -> ../criu    and so for others  -> lib/ld.so --library-path lib
//   bin/tar.bin ARGS <bundle>/lib/ld.so, *.so.*, libgodwit-preload.so
//
// What CRIU has tar do with small folders of devices is done by this program itself (small_tar.h).
// The preload library goes along with `criu swrk` alone, the mode in which runc starts CRIU.
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/criu_launcher/small_tar.h"

namespace {

constexpr int kCannotRun = 127;  // as a shell says it

std::string OwnFolder() {
  char path[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (size <= 0) return "";
  path[size] = '\0';
  char* slash = strrchr(path, '/');
  if (slash == nullptr) return "";
  *slash = '\0';
  return path;
}

bool Has(int argc, char** argv, const char* word) {
  for (int i = 1; i < argc; ++i) {
    if (strcmp(argv[i], word) == 0) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string bundle = OwnFolder();
  if (bundle.empty() || argc < 1) {
    fprintf(stderr, "criu launcher: cannot read /proc/self/exe: %s (is /proc mounted?)\n", strerror(errno));
    return kCannotRun;
  }
  const char* slash = strrchr(argv[0], '/');
  const std::string name = slash == nullptr ? argv[0] : slash + 1;
  if (int status = 0; name == "tar" && godwit::small_tar::Run({argv + 1, argv + argc}, &status))
    return status;
  const bool is_criu = name == "criu" || name == "godwit-criu-launcher";

  const std::string loader = bundle + "/lib/ld.so", libraries = bundle + "/lib",
                    preload = libraries + "/libgodwit-preload.so";
  const std::string program = is_criu ? bundle + "/criu.bin" : bundle + "/bin/" + name + ".bin";
  std::vector<const char*> command = {loader.c_str(), "--library-path", libraries.c_str(), "--argv0",
                                      argv[0]};
  if (is_criu && Has(argc, argv, "swrk")) command.insert(command.end(), {"--preload", preload.c_str()});
  command.push_back(program.c_str());
  for (int i = 1; i < argc; ++i) command.push_back(argv[i]);
  command.push_back(nullptr);

  // What CRIU starts (tar, gzip, ip, iptables) comes from the bundle where it is there.
  const char* path = getenv("PATH");
  const std::string own_first = bundle + "/bin:" + (path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
  if (is_criu) setenv("PATH", own_first.c_str(), 1);

  execv(loader.c_str(), const_cast<char**>(command.data()));
  fprintf(stderr, "criu launcher: cannot run %s: %s (was the bundle installed whole?)\n", loader.c_str(),
          strerror(errno));
  return kCannotRun;
}
