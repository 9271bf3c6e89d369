// SPDX-License-Identifier: Apache-2.0
#include "agent/install/containerd_config.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/agent/install/dumps.h"

namespace godwit::install {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(ConfigDumpTest, ReadsContainerd2) {
  auto dump = ParseConfigDump(kDump2, "godwit");
  ASSERT_TRUE(dump.ok()) << dump.status();
  EXPECT_EQ(dump->ordinary.name, "runc");
  EXPECT_EQ(dump->ordinary.binary, "/usr/local/sbin/runc");
  EXPECT_TRUE(dump->ordinary.systemd_cgroup);
  EXPECT_EQ(dump->socket, "/run/containerd/containerd.sock");
  EXPECT_EQ(dump->handler_binary, "");
  EXPECT_THAT(dump->settings, Contains("root = '/var/lib/containerd'"));
  EXPECT_THAT(dump->settings, Not(Contains(HasSubstr("imports"))));
}

TEST(ConfigDumpTest, TakesRuncWhereTheDefaultIsOfAnotherKind) {
  auto dump = ParseConfigDump(kDump1, "godwit");
  ASSERT_TRUE(dump.ok()) << dump.status();
  EXPECT_EQ(dump->ordinary.name, "runc");
  EXPECT_EQ(dump->ordinary.binary, "");
  EXPECT_EQ(dump->socket, "/run/other/containerd.sock");
}

TEST(ConfigDumpTest, RefusesWhatItCannotUse) {
  EXPECT_EQ(ParseConfigDump("[[[", "godwit").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseConfigDump("version = 3", "godwit").status().code(), absl::StatusCode::kFailedPrecondition);
  const std::string none = absl::StrReplaceAll(kDump1, {{"io.containerd.runc.v2", "io.containerd.kata.v2"}});
  EXPECT_THAT(std::string(ParseConfigDump(none, "godwit").status().message()), HasSubstr("kata"));
}

TEST(DropInTest, CopiesTheOrdinaryHandlerWithItsSettingsAndAnotherBinary) {
  auto text = WriteDropIn(kDump2, "godwit", "/opt/godwit/bin/godwit-runtime");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_TRUE(absl::StartsWith(*text, kDropInMark));
  EXPECT_THAT(*text, HasSubstr("version = 3"));
  EXPECT_THAT(*text, HasSubstr("BinaryName = '/opt/godwit/bin/godwit-runtime'"));
  EXPECT_THAT(*text, HasSubstr("SystemdCgroup = true"));
  EXPECT_THAT(*text, HasSubstr("NoNewKeyring = true"));
  EXPECT_THAT(*text, HasSubstr("/etc/containerd/spec.json"));
  EXPECT_THAT(*text, HasSubstr("pod_annotations = [ 'example.com/*', 'godwit.io/*' ]"));
  EXPECT_THAT(*text, HasSubstr("container_annotations = [ 'godwit.io/*' ]"));
  EXPECT_THAT(*text, Not(HasSubstr("runtime_path"))) << "what is at its default is left out";
  EXPECT_THAT(*text, Not(HasSubstr("/usr/local/sbin/runc")));
}

TEST(DropInTest, IsTheSameHoweverOftenItIsWritten) {
  auto first = WriteDropIn(kDump2, "godwit", "/b");
  ASSERT_TRUE(first.ok());
  // toml++ cannot open a table twice; what containerd merges is here told by the handler alone.
  auto second =
      WriteDropIn(absl::StrCat(kDump2,
                               "\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit]\n"
                               "runtime_type = 'io.containerd.runc.v2'\n"),
                  "godwit", "/b");
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(*first, *second);
}

TEST(DropInTest, SpeaksVersion2ToContainerd1) {
  auto text = WriteDropIn(kDump1, "godwit", "/b");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("version = 2"));
  EXPECT_THAT(*text, HasSubstr("io.containerd.grpc.v1.cri"));
  auto read = ParseConfigDump(*text, "other");
  EXPECT_FALSE(read.ok()) << "it holds the one handler only";
}

TEST(DifferencesTest, LooksAwayFromTheHandlerAndTheImportsOnly) {
  const std::string with =
      absl::StrCat(kDump2,
                   "\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit]\n"
                   "runtime_type = 'io.containerd.runc.v2'\n"
                   "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit.options]\n"
                   "BinaryName = '/opt/godwit/bin/godwit-runtime'\n");
  auto before = ParseConfigDump(kDump2, "godwit");
  auto after =
      ParseConfigDump(absl::StrReplaceAll(with, {{"conf.d/*.toml'", "conf.d/*.toml', '/x'"}}), "godwit");
  ASSERT_TRUE(before.ok() && after.ok()) << after.status();
  EXPECT_EQ(after->handler_binary, "/opt/godwit/bin/godwit-runtime");
  EXPECT_THAT(Differences(*before, *after), IsEmpty());
  auto changed = ParseConfigDump(absl::StrReplaceAll(with, {{"'overlayfs'", "'native'"}}), "godwit");
  EXPECT_THAT(Differences(*before, *changed),
              ElementsAre(HasSubstr("lost plugins.io.containerd.cri.v1.images.snapshotter = 'overlayfs'"),
                          HasSubstr("new plugins.io.containerd.cri.v1.images.snapshotter = 'native'")));
}

}  // namespace
}  // namespace godwit::install
