// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_frame.h"

#include <algorithm>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "agent/memory/page_store.h"
#include "agent/memory/shared_key.h"
#include "agent/transfer/frame.h"
#include "agent/transfer/little_endian.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::transfer {
namespace {

using testing::HasSubstr;

const uint64_t kPage = memory::PageBytes();

std::string Payload(const Pages& pages) { return absl::StrCat(EncodePagesHead(pages), pages.encoded); }

// Ascending runs of random lengths, with and without gaps.
std::vector<PageRun> RandomRuns(std::mt19937_64& random, size_t most) {
  std::vector<PageRun> runs;
  uint64_t at = (random() % 1000) * kPage;
  for (size_t i = random() % most; i > 0; --i) {
    const uint64_t bytes = (1 + random() % 5) * kPage;
    runs.push_back({{at, at + bytes}, random() % 2 == 0});
    at += bytes + (random() % 3) * (uint64_t{1} << (12 + random() % 30)) / kPage * kPage;
  }
  return runs;
}

// A task's process id, or the key of an object of shared memory.
pid_t RandomTask(std::mt19937_64& random) {
  if (random() % 3 == 0) return memory::SharedKey(1 + static_cast<uint32_t>(random() % memory::kMaxSharedId));
  return 1 + static_cast<pid_t>(random() % kMaxContainerPid);
}

// Property: what is encoded is decoded.
TEST(PageFrameTest, PagesComeBackAsTheyWereSent) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 300; ++i) {
    Pages pages{.container = std::string(1 + random() % kMaxContainerName, 'c'),
                .container_pid = RandomTask(random),
                .encoding = static_cast<Encoding>(random() % 3)};
    for (const PageRun& run : RandomRuns(random, 60)) {
      if (!run.zero && pages.content_bytes + run.range.bytes() > kMaxDataBytes) continue;
      pages.runs.push_back(run);
      if (!run.zero) pages.content_bytes += run.range.bytes();
    }
    const std::string content(pages.encoding == Encoding::kRaw ? pages.content_bytes : random() % 1000, 'x');
    pages.encoded = content;
    absl::StatusOr<Pages> decoded = DecodePages(Payload(pages));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->container, pages.container);
    EXPECT_EQ(decoded->container_pid, pages.container_pid);
    EXPECT_EQ(decoded->encoding, pages.encoding);
    EXPECT_EQ(decoded->runs, pages.runs);
    EXPECT_EQ(decoded->content_bytes, pages.content_bytes);
    EXPECT_EQ(decoded->encoded.size(), content.size());
  }
}

TEST(PageFrameTest, WhatIsKeptComesBackAsItWasSent) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 300; ++i) {
    KeepPages keep{.container = "app", .container_pid = RandomTask(random)};
    for (const PageRun& run : RandomRuns(random, 100)) memory::Append(keep.ranges, run.range);
    keep.window = {keep.ranges.empty() ? 0 : keep.ranges.front().start,
                   keep.ranges.empty() ? kPage : keep.ranges.back().end + random() % 2 * kPage};
    absl::StatusOr<KeepPages> decoded = DecodeKeepPages(EncodeKeepPages(keep));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->container, "app");
    EXPECT_EQ(decoded->container_pid, keep.container_pid);
    EXPECT_EQ(decoded->window, keep.window);
    EXPECT_EQ(decoded->ranges, keep.ranges);
  }
  const KeepPages tasks{
      .container = "app",
      .tasks = {1, 7, kMaxContainerPid, memory::SharedKey(1), memory::SharedKey(memory::kMaxSharedId)}};
  EXPECT_EQ(DecodeKeepPages(EncodeKeepPages(tasks))->tasks, tasks.tasks);
  const KeepPages none{.container = "app"};
  EXPECT_TRUE(DecodeKeepPages(EncodeKeepPages(none))->tasks.empty());
}

TEST(PageFrameTest, TheBytesOnTheWireAreThese) {
  const std::string content(kPage, 'x');
  const Pages pages{.container = "app",
                    .container_pid = 0x010203,
                    .runs = {{{0x10000, 0x10000 + kPage}, false}, {{0x20000, 0x20000 + 3 * kPage}, true}},
                    .content_bytes = kPage,
                    .encoded = content};
  if (kPage != 4096) GTEST_SKIP() << "written down for pages of 4 KiB";
  EXPECT_EQ(EncodePagesHead(pages),
            std::string("\x03\x02\x01\x00\x00\x0c\x03\x00\x02\x00\x00\x00\x00\x10\x00\x00"
                        "app"
                        "\x00\x00\x01\x00\x00\x00\x00\x00\x01\x00\x00\x00"
                        "\x01\x00\x02\x00\x00\x00\x00\x00\x03\x00\x00\x00",
                        43));
}

TEST(PageFrameTest, TheLargestPayloadsFitTheirFrames) {
  Pages pages{
      .container = std::string(kMaxContainerName, 'c'), .container_pid = 1, .content_bytes = kMaxDataBytes};
  for (uint64_t i = 0; i < kMaxPagesRuns; ++i)
    pages.runs.push_back({{2 * i * kPage, (2 * i + 1) * kPage}, i >= 16});
  EXPECT_LE(EncodePagesHead(pages).size() + kMaxDataBytes, kMaxPagesPayloadBytes);
  KeepPages keep{.container = pages.container, .container_pid = 1, .window = {0, memory::kAddressEnd}};
  for (uint64_t i = 0; i < kMaxKeptRanges; ++i) keep.ranges.push_back({2 * i * kPage, (2 * i + 1) * kPage});
  EXPECT_LE(EncodeKeepPages(keep).size(), kMaxPagesPayloadBytes);
  EXPECT_TRUE(DecodeKeepPages(EncodeKeepPages(keep)).ok());
  const KeepPages tasks{.container = pages.container,
                        .tasks = std::vector<pid_t>(memory::PageStore::kMaxTasks, 1)};
  EXPECT_LE(EncodeKeepPages(tasks).size(), kMaxPagesPayloadBytes);
  EXPECT_TRUE(DecodeKeepPages(EncodeKeepPages(tasks)).ok());
}

// A sound payload of two data runs and a zero run, and one change to it.
constexpr size_t kRunsAt = 16 + 3;  // behind the name "app"
struct Refusal {
  const char* name;
  std::function<void(std::string&)> change;
  const char* message;
};
std::string SoundPages() {
  const std::string content(3 * kPage, 'x');
  return Payload({.container = "app",
                  .container_pid = 7,
                  .runs = {{{16 * kPage, 18 * kPage}, false},
                           {{18 * kPage, 20 * kPage}, true},
                           {{32 * kPage, 33 * kPage}, false}},
                  .content_bytes = content.size(),
                  .encoded = content});
}
template <class T>
std::function<void(std::string&)> Put(size_t at, T value) {
  return [at, value](std::string& payload) { Store<T>(&payload[at], value); };
}
std::function<void(std::string&)> Cut(size_t to) {
  return [to](std::string& payload) { payload.resize(to); };
}

class RefusedPagesTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusedPagesTest, SayWhichRuleWasBroken) {
  std::string payload = SoundPages();
  ASSERT_TRUE(DecodePages(payload).ok());
  GetParam().change(payload);
  const absl::Status status = DecodePages(payload).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("the peer broke the stream's rules"));
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedPagesTest,
    testing::Values(
        Refusal{"Empty", Cut(0), "without its first 16 bytes"},
        Refusal{"TaskZero", Put<uint32_t>(0, 0), "pages of task 0"},
        Refusal{"TaskBeyondTheKernels", Put<uint32_t>(0, 1 << 22), "task 4194304"},
        Refusal{"TaskBelowTheObjects", Put<uint32_t>(0, 0x7fffffff), "task 2147483647"},
        Refusal{"ObjectZero", Put<uint32_t>(0, 0x80000000), "task 2147483648"},
        Refusal{"Encoding", Put<uint8_t>(4, 3), "unknown encoding 3"},
        Refusal{"OtherPageSize", Put<uint8_t>(5, 21), "pages of 2^21 bytes"},
        Refusal{"NoName", Put<uint8_t>(6, 0), "a container name of 0 bytes"},
        Refusal{"NameTooLong", Put<uint8_t>(6, 129), "a container name of 129 bytes"},
        Refusal{"NameBeyondTheFrame", [](std::string& payload) { payload.resize(18); },
                "a container name of 3 bytes"},
        Refusal{"Reserved", Put<uint8_t>(7, 1), "reserved bits"},
        Refusal{"TooManyRuns", Put<uint32_t>(8, 4097), "4097 entries in a frame of pages"},
        Refusal{"RunsBeyondTheFrame", Cut(kRunsAt + 30), "ends within its runs"},
        Refusal{"MoreThanAMebibyte", Put<uint32_t>(12, (1 << 20) + 4096), "more than 1 MiB"},
        Refusal{"ContentIsNotTheRuns", Put<uint32_t>(12, 4096), "bytes of content"},
        Refusal{"ContentMissing", [](std::string& payload) { payload.pop_back(); }, "bytes follow"},
        Refusal{"ContentTooLong", [](std::string& payload) { payload.push_back('x'); }, "bytes follow"},
        Refusal{"AddressOfNoPage", Put<uint64_t>(kRunsAt, 16 * 65536 + 2), "which is no page's"},
        Refusal{"AddressBeyondAll", Put<uint64_t>(kRunsAt + 24, uint64_t{1} << 57), "which are not between"},
        Refusal{"AddressThatWraps", Put<uint64_t>(kRunsAt + 24, ~uint64_t{0} << 16), "which are not between"},
        Refusal{"RunOfNoPages", Put<uint32_t>(kRunsAt + 8, 0), "a run of no pages"},
        Refusal{"RunBeyondTheEnd", Put<uint64_t>(kRunsAt + 12, ((uint64_t{1} << 57) - 65536) | 1),
                "which are not between"},
        Refusal{"RunsOverlap", Put<uint32_t>(kRunsAt + 8, 3), "which are not between"}),
    [](const auto& info) { return info.param.name; });

TEST(PageFrameTest, RunsThatAreTooLongForTheAddressSpaceAreRefused) {
  std::string payload = SoundPages();
  Store<uint64_t>(&payload[kRunsAt + 24], (memory::kAddressEnd - kPage) | 1);
  Store<uint32_t>(&payload[kRunsAt + 24 + 8], 2);
  EXPECT_EQ(DecodePages(payload).status().code(), absl::StatusCode::kInvalidArgument);
}

class RefusedKeepTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusedKeepTest, SaysWhichRuleWasBroken) {
  std::string payload = EncodeKeepPages({.container = "app",
                                         .container_pid = 7,
                                         .window = {0, 64 * kPage},
                                         .ranges = {{16 * kPage, 18 * kPage}, {32 * kPage, 33 * kPage}}});
  ASSERT_TRUE(DecodeKeepPages(payload).ok());
  GetParam().change(payload);
  const absl::Status status = DecodeKeepPages(payload).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

constexpr size_t kWindowAt = 16 + 3;
INSTANTIATE_TEST_SUITE_P(
    All, RefusedKeepTest,
    testing::Values(
        Refusal{"Encoded", Put<uint8_t>(4, 1), "with content"},
        Refusal{"Content", Put<uint32_t>(12, 1), "with content"},
        Refusal{"Cut", Cut(kWindowAt + 20), "of the wrong length"},
        Refusal{"More", [](std::string& payload) { payload.push_back('x'); }, "of the wrong length"},
        Refusal{"Count", Put<uint32_t>(8, 100'001), "100001 entries"},
        Refusal{"WindowOfNoPage", Put<uint64_t>(kWindowAt, 1), "a window from"},
        Refusal{"EmptyWindow", Put<uint64_t>(kWindowAt + 8, 0), "a window from"},
        Refusal{"WindowBeyondAll", Put<uint64_t>(kWindowAt + 8, uint64_t{1} << 58), "a window from"},
        Refusal{"RangeBeforeTheWindow", Put<uint64_t>(kWindowAt, uint64_t{1} << 21), ""},
        Refusal{"FlaggedRange", Put<uint8_t>(kWindowAt + 16, 1), "which is no page's"},
        Refusal{"TasksWithRanges", Put<uint32_t>(0, 0), "a list of tasks of the wrong length"}),
    [](const auto& info) { return info.param.name; });

TEST(PageFrameTest, TaskZeroIsNotInAListOfTasks) {
  std::string payload = EncodeKeepPages({.container = "app", .tasks = {5}});
  Store<uint32_t>(&payload[kWindowAt], 0);
  EXPECT_THAT(DecodeKeepPages(payload).status().message(), HasSubstr("task 0"));
  Store<uint32_t>(&payload[kWindowAt], 0x80000000);
  EXPECT_THAT(DecodeKeepPages(payload).status().message(), HasSubstr("task 2147483648"));
}

TEST(PageFrameTest, MissingPagesGoAndComeBack) {
  const TaskRanges task{
      .container = "app", .container_pid = 7, .ranges = {{16 * kPage, 18 * kPage}, {32 * kPage, 33 * kPage}}};
  const auto read = DecodeTaskRanges(EncodeTaskRanges(task));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->container, "app");
  EXPECT_EQ(read->container_pid, 7);
  EXPECT_EQ(read->ranges, task.ranges);
}

TEST(PageFrameTest, AListOfMissingPagesTakesAsManyFramesAsItNeeds) {
  TaskRanges task{.container = "app", .container_pid = 7};
  EXPECT_TRUE(EncodeMissing(task).empty());
  for (uint64_t page = 0; page < 2 * kMaxKeptRanges + 2; page += 2)
    task.ranges.push_back({page * kPage, (page + 1) * kPage});
  task.ranges.push_back({uint64_t{1} << 40, (uint64_t{1} << 40) + kMaxRunBytes + kPage});
  const std::vector<std::string> payloads = EncodeMissing(task);
  EXPECT_EQ(payloads.size(), 2u);
  memory::Ranges all;
  for (const std::string& payload : payloads) {
    EXPECT_LE(payload.size(), kMaxPagesPayloadBytes);
    const auto read = DecodeTaskRanges(payload);
    ASSERT_TRUE(read.ok()) << read.status();
    for (const memory::Range& range : read->ranges) memory::Append(all, range);
  }
  EXPECT_EQ(all, task.ranges);
}

class RefusedMissingTest : public testing::TestWithParam<Refusal> {};

TEST_P(RefusedMissingTest, SaysWhichRuleWasBroken) {
  std::string payload = EncodeTaskRanges({.container = "app",
                                          .container_pid = 7,
                                          .ranges = {{16 * kPage, 18 * kPage}, {32 * kPage, 33 * kPage}}});
  ASSERT_TRUE(DecodeTaskRanges(payload).ok());
  GetParam().change(payload);
  const absl::Status status = DecodeTaskRanges(payload).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedMissingTest,
    testing::Values(
        Refusal{"TaskZero", Put<uint32_t>(0, 0), "missing pages of task 0"},
        Refusal{"SharedMemory", Put<uint32_t>(0, 0x80000001), "missing pages of task 2147483649"},
        Refusal{"Encoded", Put<uint8_t>(4, 1), "with content"},
        Refusal{"Content", Put<uint32_t>(12, 1), "with content"},
        Refusal{"Cut", Cut(kWindowAt + 20), "of the wrong length"},
        Refusal{"More", [](std::string& payload) { payload.push_back('x'); }, "of the wrong length"},
        Refusal{"Count", Put<uint32_t>(8, 65537), "65537 entries"},
        Refusal{"NoPage", Put<uint64_t>(kWindowAt, 1), "which is no page's"},
        Refusal{"Empty", Put<uint32_t>(kWindowAt + 8, 0), "a run of no pages"},
        Refusal{"BeyondAll", Put<uint64_t>(kWindowAt + 12, uint64_t{1} << 58), "which are not between"},
        Refusal{"OutOfOrder", Put<uint64_t>(kWindowAt + 12, 0), "which are not between"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace godwit::transfer
