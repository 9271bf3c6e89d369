// SPDX-License-Identifier: Apache-2.0
// Objects of this very process, which may be followed like any other.
#include "agent/memory/shared_objects.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"
#include "agent/memory/shared_key.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::memory {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Mappings = std::vector<std::pair<pid_t, SharedMapping>>;

const uint64_t kPage = PageBytes();
constexpr SharedBounds kRoom{.objects = 1000, .bytes = uint64_t{1} << 40};

class Object {
 public:
  explicit Object(uint64_t pages) : bytes_(pages * kPage) {
    memory_ = static_cast<char*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    EXPECT_NE(memory_, MAP_FAILED);
  }
  ~Object() { munmap(memory_, bytes_); }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  char* memory() { return memory_; }
  std::pair<pid_t, SharedMapping> mapping() const {
    const auto start = reinterpret_cast<uint64_t>(memory_);
    const absl::StatusOr<AddressSpace> space = ReadAddressSpace("/proc", getpid(), MapsFile::kMaps);
    EXPECT_TRUE(space.ok()) << space.status();
    if (space.ok()) {
      for (const SharedMapping& mapping : space->shared_anonymous) {
        if (mapping.range == Range{start, start + bytes_}) return {getpid(), mapping};
      }
    }
    ADD_FAILURE() << "the kernel does not show it";
    return {};
  }
  uint64_t inode() const { return mapping().second.inode; }
  pid_t key() const { return SharedKey(static_cast<uint32_t>(inode())); }
  // The object's, not the mapping's.
  void SetSize(uint64_t bytes) {
    const auto start = reinterpret_cast<uint64_t>(memory_);
    const absl::StatusOr<UniqueFd> file =
        OpenFile(absl::StrFormat("/proc/self/map_files/%x-%x", start, start + bytes_), O_RDWR);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_EQ(ftruncate(file->get(), static_cast<off_t>(bytes)), 0) << strerror(errno);
  }

 private:
  const uint64_t bytes_;
  char* memory_;
};

class SharedObjectsTest : public testing::Test {
 protected:
  SharedObjects Start(const SharedBounds& own) {
    absl::StatusOr<SharedObjects> started = SharedObjects::Start("/proc", own, all_);
    EXPECT_TRUE(started.ok()) << started.status();
    return *std::move(started);
  }
  // By their inodes.
  static std::vector<uint64_t> Followed(const SharedObjects& objects) {
    std::vector<uint64_t> ids;
    for (const SharedObjects::Object& object : objects.objects()) ids.push_back(SharedId(object.key));
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  SharedBudget all_{kRoom};
};

TEST_F(SharedObjectsTest, AnObjectIsReadOnceItIsMappedAndForgottenWithItsLastMapping) {
  Object object(4);
  memcpy(object.memory() + 2 * kPage, "content", 7);
  SharedObjects objects = Start(kRoom);
  objects.Follow({object.mapping(), object.mapping()});
  ASSERT_THAT(Followed(objects), ElementsAre(object.inode()));
  const SharedObjects::Object followed = objects.objects().front();
  EXPECT_EQ(followed.bytes, 4 * kPage);
  EXPECT_EQ(objects.MemoryOf(followed.key), followed.memory);
  EXPECT_EQ(memcmp(followed.memory + 2 * kPage, "content", 7), 0);
  const absl::StatusOr<Ranges> populated = objects.Populated(followed.key);
  ASSERT_TRUE(populated.ok()) << populated.status();
  EXPECT_THAT(*populated, ElementsAre(Range{2 * kPage, 3 * kPage}));
  EXPECT_EQ(all_.objects(), 1u);
  EXPECT_EQ(all_.bytes(), 4 * kPage);

  objects.Follow({});
  EXPECT_THAT(objects.objects(), IsEmpty());
  EXPECT_EQ(objects.MemoryOf(followed.key), nullptr);
  EXPECT_TRUE(absl::IsNotFound(objects.Populated(followed.key).status()));
  EXPECT_EQ(all_.objects(), 0u);
  EXPECT_EQ(all_.bytes(), 0u);
}

TEST_F(SharedObjectsTest, WhatIsFollowedStaysFollowedAndWhatIsLeftStaysLeft) {
  auto first = std::make_unique<Object>(1);
  Object second(1), third(1);
  SharedObjects objects = Start({.objects = 2, .bytes = kRoom.bytes});
  objects.Follow({first->mapping(), second.mapping(), third.mapping()});
  EXPECT_EQ(Followed(objects).size(), 2u);
  EXPECT_EQ(objects.MemoryOf(third.key()), nullptr);
  // Whatever comes first now.
  objects.Follow({third.mapping(), second.mapping(), first->mapping()});
  EXPECT_EQ(objects.MemoryOf(third.key()), nullptr);
  EXPECT_EQ(Followed(objects).size(), 2u);
  // There would be room for it.
  first.reset();
  objects.Follow({third.mapping(), second.mapping()});
  EXPECT_THAT(Followed(objects), ElementsAre(second.inode()));
  // A new one takes the place of one that has gone, in one look.
  Object fourth(1), fifth(1);
  objects.Follow({third.mapping(), second.mapping(), fourth.mapping()});
  EXPECT_EQ(Followed(objects).size(), 2u);
  objects.Follow({fifth.mapping(), third.mapping(), fourth.mapping()});
  EXPECT_EQ(Followed(objects), (std::vector<uint64_t>{std::min(fourth.inode(), fifth.inode()),
                                                      std::max(fourth.inode(), fifth.inode())}));
  EXPECT_EQ(all_.objects(), 2u);
}

TEST_F(SharedObjectsTest, ThousandsOfObjectsTakeFewDescriptors) {
  std::vector<std::unique_ptr<Object>> many;
  for (int i = 0; i < 2000; ++i) many.push_back(std::make_unique<Object>(1));
  const absl::StatusOr<AddressSpace> space = ReadAddressSpace("/proc", getpid(), MapsFile::kMaps);
  ASSERT_TRUE(space.ok()) << space.status();
  ASSERT_GE(space->shared_anonymous.size(), many.size());
  Mappings mappings;
  for (const SharedMapping& mapping : space->shared_anonymous) mappings.emplace_back(getpid(), mapping);
  SharedObjects objects = Start({});
  objects.Follow(mappings);
  EXPECT_EQ(objects.objects().size(), SharedBounds().objects);
  EXPECT_EQ(all_.objects(), SharedBounds().objects);
}

TEST_F(SharedObjectsTest, ObjectsAreFollowedUpToTheirSum) {
  Object first(2), second(2), third(1);
  SharedObjects objects = Start({.objects = 10, .bytes = 3 * kPage});
  objects.Follow({first.mapping(), second.mapping(), third.mapping()});
  EXPECT_EQ(objects.MemoryOf(second.key()), nullptr);
  EXPECT_EQ(Followed(objects).size(), 2u);
  EXPECT_EQ(all_.bytes(), 3 * kPage);
}

TEST_F(SharedObjectsTest, AnObjectAsLargeAsTheAddressSpaceIsLeft) {
  Object huge(1), other(1);
  huge.SetSize(uint64_t{64} << 40);
  SharedObjects objects = Start({});
  objects.Follow({huge.mapping(), other.mapping()});
  EXPECT_THAT(Followed(objects), ElementsAre(other.inode()));
  EXPECT_EQ(all_.bytes(), kPage);
}

TEST_F(SharedObjectsTest, AnObjectThatGrowsIsFollowedInItsNewSizeOrLeft) {
  Object object(1);
  SharedObjects objects = Start({.objects = 1, .bytes = 2 * kPage});
  objects.Follow({object.mapping()});
  object.SetSize(2 * kPage);
  objects.Follow({object.mapping()});
  ASSERT_EQ(objects.objects().size(), 1u);
  EXPECT_EQ(objects.objects().front().bytes, 2 * kPage);
  EXPECT_EQ(all_.bytes(), 2 * kPage);
  object.SetSize(3 * kPage);
  objects.Follow({object.mapping()});
  EXPECT_THAT(objects.objects(), IsEmpty());
  EXPECT_EQ(all_.objects(), 0u);
  object.SetSize(kPage);
  objects.Follow({object.mapping()});
  EXPECT_THAT(objects.objects(), IsEmpty()) << "it was left";
}

TEST_F(SharedObjectsTest, OneBudgetIsForAllThatAreFollowedAtATime) {
  SharedBudget two({.objects = 2, .bytes = kRoom.bytes});
  SharedBudget pages({.objects = 10, .bytes = 2 * kPage});
  for (SharedBudget* budget : {&two, &pages}) {
    Object first(1), second(1), third(1), fourth(1);
    absl::StatusOr<SharedObjects> one = SharedObjects::Start("/proc", kRoom, *budget);
    ASSERT_TRUE(one.ok()) << one.status();
    {
      absl::StatusOr<SharedObjects> other = SharedObjects::Start("/proc", kRoom, *budget);
      ASSERT_TRUE(other.ok()) << other.status();
      other->Follow({first.mapping()});
      one->Follow({second.mapping(), third.mapping()});
      EXPECT_EQ(Followed(*other).size(), 1u);
      EXPECT_THAT(Followed(*one), ElementsAre(second.inode()));
      EXPECT_EQ(budget->objects(), 2u);
    }
    EXPECT_EQ(budget->objects(), 1u);
    EXPECT_EQ(budget->bytes(), kPage);
    one->Follow({second.mapping(), third.mapping()});
    EXPECT_THAT(Followed(*one), ElementsAre(second.inode())) << "what is left stays left";
    one->Follow({second.mapping(), third.mapping(), fourth.mapping()});
    EXPECT_EQ(Followed(*one).size(), 2u);
  }
}

TEST_F(SharedObjectsTest, WithoutADescriptorItIsLeft) {
  Object object(1);
  const Mappings mappings = {object.mapping()};
  SharedObjects objects = Start(kRoom);
  const UniqueFd lowest(dup(0));
  ASSERT_TRUE(lowest.ok());
  struct rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const struct rlimit none{.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  objects.Follow(mappings);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(objects.objects(), IsEmpty());
  EXPECT_EQ(all_.objects(), 0u);
  objects.Follow(mappings);
  EXPECT_THAT(objects.objects(), IsEmpty()) << "it was left";
}

TEST_F(SharedObjectsTest, AMappingThatHasJustGoneDoesNotLeaveItsObject) {
  Object object(1);
  std::pair<pid_t, SharedMapping> gone = object.mapping();
  {
    const Object other(1);
    gone.second.range = other.mapping().second.range;
  }
  SharedObjects objects = Start(kRoom);
  objects.Follow({gone});
  EXPECT_THAT(objects.objects(), IsEmpty());
  objects.Follow({gone, object.mapping()});
  EXPECT_THAT(Followed(objects), ElementsAre(object.inode()));
}

TEST(SharedBudgetTest, AShareIsGivenBackOnceAndByWhoeverHasItLast) {
  SharedBudget budget({.objects = 2, .bytes = 100});
  {
    std::unique_ptr<SharedBudget::Share> kept;
    {
      absl::StatusOr<SharedBudget::Share> share = budget.Take(60);
      ASSERT_TRUE(share.ok()) << share.status();
      kept = std::make_unique<SharedBudget::Share>(*std::move(share));
    }
    EXPECT_EQ(budget.objects(), 1u);
    EXPECT_EQ(budget.bytes(), 60u);
    for (const uint64_t bytes : {uint64_t{41}, ~uint64_t{0}}) {
      const absl::Status refused = budget.Take(bytes).status();
      EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
      EXPECT_THAT(std::string(refused.message()), HasSubstr("more than 100"));
    }
    EXPECT_EQ(budget.objects(), 1u);
    const absl::StatusOr<SharedBudget::Share> other = budget.Take(40);
    ASSERT_TRUE(other.ok()) << other.status();
    const absl::Status refused = budget.Take(0).status();
    EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("has 2 objects"));
  }
  EXPECT_EQ(budget.objects(), 0u);
  EXPECT_EQ(budget.bytes(), 0u);
}

TEST(SharedBudgetTest, TheProcessKeepsMostOfItsDescriptors) {
  struct rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  SharedBudget& budget = SharedBudget::OfProcess();
  std::vector<SharedBudget::Share> shares;
  while (true) {
    absl::StatusOr<SharedBudget::Share> share = budget.Take(1);
    if (!share.ok()) break;
    shares.push_back(*std::move(share));
  }
  EXPECT_EQ(shares.size(), std::min<uint64_t>(2048, limit.rlim_cur / 4));
}

}  // namespace
}  // namespace godwit::memory
