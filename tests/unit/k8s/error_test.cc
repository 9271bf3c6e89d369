// SPDX-License-Identifier: Apache-2.0
#include "k8s/error.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::k8s {
namespace {

using ::testing::HasSubstr;

std::string Body(int code, absl::string_view reason, absl::string_view message) {
  return absl::StrCat(R"({"kind":"Status","apiVersion":"v1","status":"Failure","message":")", message,
                      R"(","reason":")", reason, R"(","code":)", code, "}");
}

struct Case {
  int code;
  const char* reason;
  bool (*is)(const absl::Status&);
  absl::StatusCode expected;
};

class ReasonTest : public ::testing::TestWithParam<Case> {};

TEST_P(ReasonTest, ReasonIsToldApartAndGivesTheStatusCode) {
  const absl::Status status =
      StatusFromResponse(GetParam().code, Body(GetParam().code, GetParam().reason, "no"));
  EXPECT_TRUE(GetParam().is(status)) << status;
  EXPECT_EQ(status.code(), GetParam().expected);
  int true_of = 0;
  for (bool (*is)(const absl::Status&) :
       {k8s::IsNotFound, k8s::IsAlreadyExists, k8s::IsConflict, k8s::IsInvalid, k8s::IsBadRequest,
        k8s::IsGone, k8s::IsForbidden, k8s::IsUnauthorized, k8s::IsTooManyRequests}) {
    true_of += is(status) ? 1 : 0;
  }
  EXPECT_EQ(true_of, 1) << "one question alone is answered yes";
}

INSTANTIATE_TEST_SUITE_P(
    All, ReasonTest,
    ::testing::Values(Case{404, "NotFound", k8s::IsNotFound, absl::StatusCode::kNotFound},
                      Case{409, "AlreadyExists", k8s::IsAlreadyExists, absl::StatusCode::kAlreadyExists},
                      Case{409, "Conflict", k8s::IsConflict, absl::StatusCode::kAborted},
                      Case{422, "Invalid", k8s::IsInvalid, absl::StatusCode::kInvalidArgument},
                      Case{400, "BadRequest", k8s::IsBadRequest, absl::StatusCode::kInvalidArgument},
                      Case{410, "Expired", k8s::IsGone, absl::StatusCode::kOutOfRange},
                      Case{410, "Gone", k8s::IsGone, absl::StatusCode::kOutOfRange},
                      Case{403, "Forbidden", k8s::IsForbidden, absl::StatusCode::kPermissionDenied},
                      Case{401, "Unauthorized", k8s::IsUnauthorized, absl::StatusCode::kUnauthenticated},
                      Case{429, "TooManyRequests", k8s::IsTooManyRequests,
                           absl::StatusCode::kResourceExhausted}),
    [](const auto& info) { return std::string(info.param.reason); });

TEST(ErrorTest, DetailsAreKept) {
  const absl::Status status = StatusFromResponse(
      422,
      R"({"kind":"Status","message":"Pod \"a\" is invalid","reason":"Invalid","code":422,"details":{"causes":
        [{"reason":"FieldValueRequired","message":"Required value","field":"spec.containers"}],"retryAfterSeconds":7}})");
  const std::optional<Error> error = ErrorOf(status);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->http_code, 422);
  EXPECT_EQ(error->message, "Pod \"a\" is invalid");
  ASSERT_EQ(error->causes.size(), 1u);
  EXPECT_EQ(error->causes[0].field, "spec.containers");
  EXPECT_EQ(error->retry_after, absl::Seconds(7));
}

TEST(ErrorTest, HeaderWinsOverTheBodysRetryAfter) {
  EXPECT_EQ(ErrorOf(StatusFromResponse(429, Body(429, "TooManyRequests", ""), "3"))->retry_after,
            absl::Seconds(3));
}

TEST(ErrorTest, AnAnswerThatIsNoStatusTakesItsReasonFromTheCodeAndIsQuoted) {
  const absl::Status status = StatusFromResponse(404, "404 page not found");
  EXPECT_TRUE(k8s::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("404 page not found"));
  EXPECT_EQ(ReasonOf(StatusFromResponse(503, "<html>")), "ServiceUnavailable");
  EXPECT_EQ(ReasonOf(StatusFromResponse(599, "")), "InternalError");
  EXPECT_LT(StatusFromResponse(500, std::string(100'000, 'x')).message().size(), 1000u);
}

TEST(ErrorTest, AReasonNobodyKnowsIsKept) {
  const absl::Status status = StatusFromResponse(418, Body(418, "Teapot", "short and stout"));
  EXPECT_EQ(ReasonOf(status), "Teapot");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnknown);
}

TEST(ErrorTest, AnnotationKeepsTheReason) {
  const absl::Status status =
      Annotate(StatusFromResponse(409, Body(409, "Conflict", "no")), "patch pods shop/a");
  EXPECT_TRUE(k8s::IsConflict(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("patch pods shop/a: no"));
}

TEST(ErrorTest, ErrorsOfOthersAreNoServersErrors) {
  EXPECT_FALSE(k8s::IsNotFound(absl::NotFoundError("a file")));
  EXPECT_FALSE(ErrorOf(absl::OkStatus()).has_value());
  absl::Status forged = absl::NotFoundError("x");
  forged.SetPayload("k8s.io/metav1.Status", absl::Cord("nonsense"));
  EXPECT_FALSE(ErrorOf(forged).has_value());
}

TEST(ErrorTest, TransientIsWhatAnotherTryMayMend) {
  EXPECT_TRUE(IsTransient(StatusFromResponse(500, Body(500, "InternalError", ""))));
  EXPECT_TRUE(IsTransient(StatusFromResponse(429, "")));
  EXPECT_TRUE(IsTransient(absl::UnavailableError("connection refused")));
  EXPECT_FALSE(IsTransient(StatusFromResponse(409, Body(409, "Conflict", ""))));
  EXPECT_FALSE(IsTransient(absl::OkStatus()));
}

}  // namespace
}  // namespace godwit::k8s
