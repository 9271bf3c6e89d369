// SPDX-License-Identifier: Apache-2.0
// The launcher in a bundle whose loader is a script that prints what it was asked to run.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class LauncherTest : public testing::Test {
 protected:
  LauncherTest() : bundle_(absl::StrCat(testing::TempDir(), "bundle", getpid())) {
    std::filesystem::create_directories(bundle_ + "/lib");
    std::filesystem::create_directories(bundle_ + "/bin");
    std::filesystem::copy_file(LAUNCHER, bundle_ + "/criu",
                               std::filesystem::copy_options::overwrite_existing);
    std::filesystem::create_symlink("../criu", bundle_ + "/bin/tar");
    std::ofstream(bundle_ + "/lib/ld.so") << "#!/bin/sh\necho \"$@\"\necho \"PATH $PATH\"\n";
    std::filesystem::permissions(bundle_ + "/lib/ld.so", std::filesystem::perms::owner_all);
  }
  ~LauncherTest() override { std::filesystem::remove_all(bundle_); }
  std::string Output(const std::vector<std::string>& argv) {
    RunOptions options;
    options.spawn.env = std::vector<std::string>{"PATH=/usr/bin:/bin"};
    const auto result = godwit::Run(argv, options);
    return result.ok() ? result->out : result.status().ToString();
  }
  std::string bundle_;
};

TEST_F(LauncherTest, RunsCriuByTheBundlesLoader) {
  EXPECT_THAT(Output({bundle_ + "/criu", "--version"}),
              HasSubstr(absl::StrCat("--library-path ", bundle_, "/lib --argv0 ", bundle_, "/criu ", bundle_,
                                     "/criu.bin --version\n")));
}

TEST_F(LauncherTest, PreloadsForSwrkAlone) {
  EXPECT_THAT(Output({bundle_ + "/criu", "swrk", "3"}),
              HasSubstr(absl::StrCat("--preload ", bundle_, "/lib/libgodwit-preload.so")));
  EXPECT_THAT(Output({bundle_ + "/criu", "check"}), Not(HasSubstr("--preload")));
}

TEST_F(LauncherTest, WhatCriuCallsComesFromTheBundleFirst) {
  EXPECT_THAT(Output({bundle_ + "/criu", "check"}),
              HasSubstr(absl::StrCat("PATH ", bundle_, "/bin:/usr/bin:/bin\n")));
  const std::string tar = Output({bundle_ + "/bin/tar", "--create"});
  EXPECT_THAT(tar, HasSubstr(absl::StrCat(bundle_, "/bin/tar.bin --create\n")));
  EXPECT_THAT(tar, HasSubstr("PATH /usr/bin:/bin\n"));
}

TEST_F(LauncherTest, AMissingLoaderIsNamed) {
  std::filesystem::remove(bundle_ + "/lib/ld.so");
  const auto result = godwit::Run({bundle_ + "/criu", "check"});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->status.code, 127);
  EXPECT_THAT(result->err, HasSubstr(absl::StrCat("cannot run ", bundle_, "/lib/ld.so")));
}

}  // namespace
}  // namespace godwit
