// SPDX-License-Identifier: Apache-2.0
#include "agent/transfer/page_receiver.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "agent/transfer/compression.h"
#include "agent/transfer/page_frame.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::transfer {
namespace {

using memory::Range;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const uint64_t kPage = memory::PageBytes();

Range PageRange(uint64_t first, uint64_t end) { return {first * kPage, end * kPage}; }

class PageReceiverTest : public testing::Test {
 protected:
  Frame PagesFrame(Pages pages, Encoding encoding = Encoding::kRaw) {
    const absl::string_view encoded = compressor_.Encode(encoding, pages.encoded);
    if (!encoded.empty()) {
      pages.encoding = encoding;
      pages.encoded = encoded;
    }
    return {FrameType::kPages, absl::StrCat(EncodePagesHead(pages), pages.encoded)};
  }
  Frame DataFrame(const std::string& container, pid_t task, uint64_t first, absl::string_view content,
                  Encoding encoding = Encoding::kRaw) {
    return PagesFrame({.container = container,
                       .container_pid = task,
                       .runs = {{{first * kPage, first * kPage + content.size()}, false}},
                       .content_bytes = content.size(),
                       .encoded = content},
                      encoding);
  }
  static Frame KeepFrame(const KeepPages& keep) { return {FrameType::kKeepPages, EncodeKeepPages(keep)}; }
  static std::string Content(char mark, uint64_t pages) { return std::string(pages * kPage, mark); }
  static char ByteAt(const memory::PageStore& store, pid_t task, uint64_t page) {
    char byte = '?';
    EXPECT_EQ(pread(store.FileOf(task)->get(), &byte, 1, static_cast<off_t>(page * kPage + 17)), 1);
    return byte;
  }

  Compressor compressor_;
  memory::PageStore app_{64 * kPage, /*max_tasks=*/3};
  memory::PageStore side_{64 * kPage};
  PageReceiver receiver_{{{"app", &app_}, {"side", &side_}}};
};

TEST_F(PageReceiverTest, PagesOfEveryEncodingLandAtTheirAddresses) {
  char mark = 'a';
  for (const Encoding encoding : {Encoding::kRaw, Encoding::kLz4, Encoding::kZstd}) {
    const std::string content = Content(mark, 2) + Content('z', 1);
    const absl::Status status = receiver_.Take(PagesFrame(
        {.container = "app",
         .container_pid = 7,
         .runs = {{PageRange(10, 12), false}, {PageRange(12, 14), true}, {PageRange(20, 21), false}},
         .content_bytes = content.size(),
         .encoded = content},
        encoding));
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(ByteAt(app_, 7, 11), mark++);
    EXPECT_EQ(ByteAt(app_, 7, 12), 0);
    EXPECT_EQ(ByteAt(app_, 7, 20), 'z');
  }
  EXPECT_THAT(app_.Held(7), ElementsAre(PageRange(10, 12), PageRange(20, 21)));
  EXPECT_EQ(receiver_.page_bytes(), static_cast<int64_t>(9 * kPage));
  EXPECT_THAT(side_.Tasks(), IsEmpty());
}

TEST_F(PageReceiverTest, ZeroRunsDropWhatWasThere) {
  ASSERT_TRUE(receiver_.Take(DataFrame("app", 7, 10, Content('a', 4))).ok());
  ASSERT_TRUE(receiver_
                  .Take(PagesFrame({.container = "app",
                                    .container_pid = 7,
                                    .runs = {{PageRange(0, 11), true}, {PageRange(13, 1 << 20), true}}}))
                  .ok());
  EXPECT_THAT(app_.Held(7), ElementsAre(PageRange(11, 13)));
}

TEST_F(PageReceiverTest, KeptPagesAndTasksAreAllThatIsLeft) {
  for (const pid_t task : {7, 8})
    ASSERT_TRUE(receiver_.Take(DataFrame("app", task, 10, Content('a', 8))).ok());
  ASSERT_TRUE(receiver_
                  .Take(KeepFrame({.container = "app",
                                   .container_pid = 7,
                                   .window = PageRange(0, 14),
                                   .ranges = {PageRange(11, 12)}}))
                  .ok());
  EXPECT_THAT(app_.Held(7), ElementsAre(PageRange(11, 12), PageRange(14, 18)));
  ASSERT_TRUE(receiver_.Take(KeepFrame({.container = "app", .tasks = {7}})).ok());
  EXPECT_THAT(app_.Tasks(), ElementsAre(7));
}

TEST_F(PageReceiverTest, WhatWasNotAnnouncedIsRefused) {
  const absl::Status pages = receiver_.Take(DataFrame("other", 7, 1, Content('a', 1)));
  EXPECT_EQ(pages.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(pages.message(), HasSubstr("pages of container \"other\", which was not announced"));
  EXPECT_FALSE(receiver_.Take(KeepFrame({.container = "../app", .tasks = {7}})).ok());
  const absl::Status commit = receiver_.Take({FrameType::kCommit, ""});
  EXPECT_EQ(commit.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(commit.message(), HasSubstr("a COMMIT frame among pages"));
}

TEST_F(PageReceiverTest, ADecompressedSizeThatLiesIsDataLossAndChangesNothing) {
  for (const Encoding encoding : {Encoding::kLz4, Encoding::kZstd}) {
    const absl::string_view encoded = compressor_.Encode(encoding, Content('a', 4));
    for (const uint64_t pages : {3, 5}) {
      const Pages lie{.container = "app",
                      .container_pid = 7,
                      .encoding = encoding,
                      .runs = {{PageRange(1, 1 + pages), false}},
                      .content_bytes = pages * kPage};
      const Frame frame{FrameType::kPages, absl::StrCat(EncodePagesHead(lie), encoded)};
      EXPECT_EQ(receiver_.Take(frame).code(), absl::StatusCode::kDataLoss);
    }
  }
  EXPECT_THAT(app_.Tasks(), IsEmpty());
}

TEST_F(PageReceiverTest, TooManyPagesAndTooManyTasksAreResourceExhausted) {
  ASSERT_TRUE(receiver_.Take(DataFrame("app", 1, 0, Content('a', 60))).ok());
  EXPECT_EQ(receiver_.Take(DataFrame("app", 1, 100, Content('a', 5))).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(receiver_.Take(DataFrame("side", 1, 100, Content('a', 5))).ok())
      << "each container has its own room";
  ASSERT_TRUE(receiver_.Take(DataFrame("app", 2, 0, Content('a', 1))).ok());
  ASSERT_TRUE(receiver_.Take(DataFrame("app", 3, 0, Content('a', 1))).ok());
  const absl::Status many = receiver_.Take(DataFrame("app", 4, 0, Content('a', 1)));
  EXPECT_EQ(many.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(many.message(), HasSubstr("more than 3 tasks"));
}

TEST_F(PageReceiverTest, MissingPagesAreNotedAndOnlyTheyAreTakenWhenTheyArrive) {
  ASSERT_TRUE(receiver_.Take(DataFrame("app", 7, 10, Content('o', 4))).ok());
  const TaskRanges missing{.container = "app", .container_pid = 7, .ranges = {PageRange(11, 13)}};
  ASSERT_TRUE(receiver_.Take({FrameType::kMissing, EncodeTaskRanges(missing)}).ok());
  EXPECT_THAT(app_.Missing(7), ElementsAre(PageRange(11, 13)));
  const std::string content = Content('n', 2);
  const absl::StatusOr<TaskRanges> arrived =
      receiver_.TakeArriving(PagesFrame({.container = "app",
                                         .container_pid = 7,
                                         .runs = {{PageRange(10, 12), false}, {PageRange(12, 14), true}},
                                         .content_bytes = content.size(),
                                         .encoded = content}));
  ASSERT_TRUE(arrived.ok()) << arrived.status();
  EXPECT_THAT(arrived->ranges, ElementsAre(PageRange(11, 13)));
  EXPECT_EQ(ByteAt(app_, 7, 10), 'o');
  EXPECT_EQ(ByteAt(app_, 7, 11), 'n');
  EXPECT_EQ(ByteAt(app_, 7, 12), 0);
  EXPECT_EQ(ByteAt(app_, 7, 13), 'o');
  EXPECT_THAT(app_.Missing(7), IsEmpty());
  EXPECT_FALSE(receiver_.TakeArriving(DataFrame("other", 7, 1, Content('a', 1))).ok());
}

}  // namespace
}  // namespace godwit::transfer
