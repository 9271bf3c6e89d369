// SPDX-License-Identifier: Apache-2.0
// main() of a fuzzer that is built without libFuzzer: runs it once for each file of the folders named.
#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "base/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

int main(int argc, char** argv) {
  int replayed = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string folder = argv[i];
    const auto names = godwit::ListFolder(folder);
    if (!names.ok()) {
      fprintf(stderr, "%s\n", names.status().ToString().c_str());
      return 1;
    }
    for (const std::string& name : *names) {
      const auto content = godwit::ReadFile(folder + "/" + name);
      if (!content.ok()) {
        fprintf(stderr, "%s\n", content.status().ToString().c_str());
        return 1;
      }
      fprintf(stderr, "%s/%s\n", folder.c_str(), name.c_str());  // the last line names what crashed
      LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(content->data()), content->size());
      ++replayed;
    }
  }
  return replayed > 0 ? 0 : 1;
}
