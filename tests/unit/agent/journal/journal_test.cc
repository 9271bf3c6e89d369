// SPDX-License-Identifier: Apache-2.0
#include "agent/journal/journal.h"

#include <unistd.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::journal {
namespace {

using agent_api::SourceState;
using agent_api::TargetState;
using ::testing::HasSubstr;

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = absl::StrCat(::testing::TempDir(), "/journal-XXXXXX");
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    path_ = absl::StrCat(folder, "/source");
  }
  // Without the room behind the last record, which ends with a brace.
  std::string Bytes() const {
    const std::string bytes = BytesAndRoom();
    return bytes.substr(0, bytes.find_last_not_of('\0') + 1);
  }
  std::string BytesAndRoom() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void SetBytes(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }
  void WriteStates(const std::vector<SourceState>& states) const {
    auto journal = SourceJournal::Open(path_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    for (SourceState state : states) ASSERT_TRUE(journal->Append({.state = state}).ok());
  }

  std::string path_;
};

TEST_F(JournalTest, ReplaysWhatWasAppendedInOrderWithItsReason) {
  {
    auto journal = SourceJournal::Open(path_);
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_EQ(journal->state(), SourceState::kNone);
    ASSERT_TRUE(journal->Append({.state = SourceState::kFrozen}).ok());
    ASSERT_TRUE(
        journal->Append({.state = SourceState::kAborted, .reason = "FreezeLimit", .message = "10 s"}).ok());
  }
  auto records = ReplayJournal<SourceState>(path_);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ((*records)[0].state, SourceState::kFrozen);
  EXPECT_EQ((*records)[1].state, SourceState::kAborted);
  EXPECT_EQ((*records)[1].reason, "FreezeLimit");
  EXPECT_NE((*records)[1].time, absl::Time());
}

TEST_F(JournalTest, GoesOnInAFileThatExists) {
  WriteStates({SourceState::kOpen, SourceState::kFrozen});
  WriteStates({SourceState::kCeded});
  auto journal = SourceJournal::Open(path_);
  ASSERT_TRUE(journal.ok());
  EXPECT_EQ(journal->state(), SourceState::kCeded);
  EXPECT_EQ(journal->records().size(), 3u);
}

TEST_F(JournalTest, EveryCutOfTheLastRecordIsATornTailThatTheNextWriterDrops) {
  WriteStates({SourceState::kFrozen});
  const size_t whole = Bytes().size();
  WriteStates({SourceState::kCeded});
  const std::string bytes = Bytes();
  // In the room, and where there was none left.
  for (const std::string& room : {std::string(kRoom, '\0'), std::string()}) {
    for (size_t length = whole; length < bytes.size(); ++length) {
      SetBytes(bytes.substr(0, length) + room);
      auto records = ReplayJournal<SourceState>(path_);
      ASSERT_TRUE(records.ok()) << "at " << length << ": " << records.status();
      ASSERT_EQ(records->size(), 1u) << "at " << length;
      WriteStates({SourceState::kAborted});
      auto after = ReplayJournal<SourceState>(path_);
      ASSERT_TRUE(after.ok()) << "at " << length << ": " << after.status();
      ASSERT_EQ(after->back().state, SourceState::kAborted) << "at " << length;
    }
  }
}

TEST_F(JournalTest, EveryCutOfTheFirstBytesIsAnEmptyJournal) {
  WriteStates({SourceState::kFrozen});
  const std::string bytes = Bytes();
  for (size_t length = 0; length < bytes.size(); ++length) {
    SetBytes(bytes.substr(0, length));
    auto journal = SourceJournal::Open(path_);
    ASSERT_TRUE(journal.ok()) << "at " << length << ": " << journal.status();
    EXPECT_EQ(journal->state(), SourceState::kNone);
  }
}

TEST_F(JournalTest, AFileOfZerosIsAnEmptyJournal) {
  SetBytes(std::string(60, '\0'));
  auto journal = SourceJournal::Open(path_);
  ASSERT_TRUE(journal.ok()) << journal.status();
  EXPECT_EQ(journal->state(), SourceState::kNone);
}

TEST_F(JournalTest, RecordsGoIntoRoomThatIsThereAlready) {
  auto journal = SourceJournal::Open(path_);
  ASSERT_TRUE(journal.ok()) << journal.status();
  const size_t size = BytesAndRoom().size();
  EXPECT_GE(size, kRoom);
  for (const SourceState state : {SourceState::kOpen, SourceState::kFrozen, SourceState::kCeded})
    ASSERT_TRUE(journal->Append({.state = state}).ok());
  EXPECT_EQ(BytesAndRoom().size(), size);
  ASSERT_TRUE(journal->Append({.state = SourceState::kAborted, .message = std::string(2 * kRoom, 'x')}).ok());
  EXPECT_EQ(ReplayJournal<SourceState>(path_)->size(), 4u);
}

TEST_F(JournalTest, ANewWriterMakesRoomAnew) {
  {
    Contents contents;
    auto file = LogFile::Open(path_, &contents);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(std::string(kRoom - 100, 'x')).ok());
    EXPECT_LT(BytesAndRoom().size() - Bytes().size(), kRoom / 2);
  }
  Contents contents;
  ASSERT_TRUE(LogFile::Open(path_, &contents).ok());
  EXPECT_EQ(contents.records.size(), 1u);
  EXPECT_EQ(BytesAndRoom().size() - Bytes().size(), kRoom);
}

TEST_F(JournalTest, AFlippedBitBeforeASoundRecordIsDataLoss) {
  WriteStates({SourceState::kOpen, SourceState::kFrozen, SourceState::kCeded});
  const std::string bytes = Bytes();
  const size_t last = bytes.rfind("{\"state\"") - 8;
  for (size_t at = 8; at < last; ++at) {
    std::string damaged = bytes;
    damaged[at] ^= 0x10;
    SetBytes(damaged);
    EXPECT_EQ(ReplayJournal<SourceState>(path_).status().code(), absl::StatusCode::kDataLoss)
        << "byte " << at;
    EXPECT_FALSE(SourceJournal::Open(path_).ok()) << "byte " << at;
  }
}

TEST_F(JournalTest, RefusesAnotherVersionAndForeignFilesAndNamesTheFile) {
  SetBytes("gdwtjnl\x02 and more");
  EXPECT_EQ(ReplayJournal<SourceState>(path_).status().code(), absl::StatusCode::kFailedPrecondition);
  SetBytes("#!/bin/sh\necho no journal");
  const absl::Status status = ReplayJournal<SourceState>(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path_));
}

TEST_F(JournalTest, RefusesASecondWriter) {
  auto first = SourceJournal::Open(path_);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(SourceJournal::Open(path_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(ReplayJournal<SourceState>(path_).ok()) << "reading is free";
}

TEST_F(JournalTest, WhatAnotherProcessWritesCanBeReadAndMadeDurable) {
  auto writer = SourceJournal::Open(path_);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->Append({.state = SourceState::kFrozen}).ok());
  const auto records = ReplayDurably<SourceState>(path_);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->size(), 1u);
  EXPECT_EQ(records->back().state, SourceState::kFrozen);
  EXPECT_EQ(ReplayDurably<SourceState>(path_ + "-none").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JournalTest, AbsentIsNotFound) {
  EXPECT_EQ(ReplayJournal<TargetState>(path_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(JournalTest, RefusesWhatCannotFollowAndWritesNothing) {
  auto journal = SourceJournal::Open(path_);
  ASSERT_TRUE(journal.ok());
  EXPECT_EQ(journal->Append({.state = SourceState::kCeded}).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(journal->Append({.state = SourceState::kFrozen}).ok());
  ASSERT_TRUE(journal->Append({.state = SourceState::kAborted}).ok());
  EXPECT_EQ(journal->Append({.state = SourceState::kCeded}).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(journal->state(), SourceState::kAborted);
  EXPECT_EQ(ReplayJournal<SourceState>(path_)->size(), 2u);
}

TEST_F(JournalTest, TheSameStateTwiceIsOneRecord) {
  WriteStates({SourceState::kFrozen, SourceState::kFrozen});
  EXPECT_EQ(ReplayJournal<SourceState>(path_)->size(), 1u);
}

TEST_F(JournalTest, AnImpossibleStoryInTheFileIsDataLoss) {
  {
    Contents contents;
    auto file = LogFile::Open(path_, &contents);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append(R"({"state":"Done","time":"2026-01-01T00:00:00Z"})").ok());
  }
  EXPECT_EQ(ReplayJournal<SourceState>(path_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(JournalTest, AnyBytesInAMessageCanBeReplayed) {
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every.push_back(static_cast<char>(byte));
  const std::vector<std::string> messages = {every,
                                             "\xed\xa0\x80",
                                             "\xc0\xaf",
                                             "\xf4\x90\x80\x80",
                                             "grüße",
                                             std::string(100000, 'x'),
                                             std::string(100000, '\x01')};
  for (const std::string& message : messages) {
    unlink(path_.c_str());
    {
      auto journal = TargetJournal::Open(path_);
      ASSERT_TRUE(journal.ok());
      ASSERT_TRUE(journal->Append({.state = TargetState::kAborted, .reason = "X", .message = message}).ok());
    }
    auto records = ReplayJournal<TargetState>(path_);
    ASSERT_TRUE(records.ok()) << records.status();
    EXPECT_EQ((*records)[0].message == message, message == "grüße");
  }
}

TEST(MayFollowTest, TargetNeverLeavesRunningOrAborted) {
  for (const auto& [state, name] : JsonNames(TargetState{})) {
    EXPECT_FALSE(MayFollow(TargetState::kRunning, state)) << name;
    EXPECT_FALSE(MayFollow(TargetState::kAborted, state)) << name;
  }
  EXPECT_FALSE(MayFollow(TargetState::kOpen, TargetState::kRunning));
}

TEST(MayFollowTest, SourceIsDoneOnlyAfterCeded) {
  for (const auto& [state, name] : JsonNames(SourceState{})) {
    EXPECT_EQ(MayFollow(state, SourceState::kDone), state == SourceState::kCeded) << name;
    EXPECT_EQ(MayFollow(state, SourceState::kCeded), state == SourceState::kFrozen) << name;
  }
}

}  // namespace
}  // namespace godwit::journal
