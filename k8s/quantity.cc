// SPDX-License-Identifier: Apache-2.0
#include "k8s/quantity.h"

#include <limits>
#include <string>

#include "absl/numeric/int128.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace godwit::k8s {
namespace {

// value = digits * multiplier / divisor, exactly.
struct Fraction {
  bool negative = false;
  absl::int128 numerator = 0;
  absl::int128 denominator = 1;
};

absl::Status Bad(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a quantity such as 512Mi, 1.5G or 100m"));
}
absl::Status TooBig(absl::string_view text) {
  return absl::OutOfRangeError(absl::StrCat("quantity \"", text, "\" is out of range"));
}

constexpr int kMaxDigits = 19;

// "12.5" into numerator and denominator; what follows the number stays in `rest`.
bool TakeNumber(absl::string_view& rest, Fraction& out) {
  int digits = 0;
  bool point = false;
  while (!rest.empty() &&
         (absl::ascii_isdigit(static_cast<unsigned char>(rest[0])) || (rest[0] == '.' && !point))) {
    if (rest[0] == '.') {
      point = true;
    } else {
      if (++digits > kMaxDigits) return false;
      out.numerator = out.numerator * 10 + (rest[0] - '0');
      if (point) out.denominator *= 10;
    }
    rest.remove_prefix(1);
  }
  return digits > 0;
}

// The suffix as a power: base^exponent; false when there is no such suffix.
bool Suffix(absl::string_view suffix, int& base, int& exponent) {
  static constexpr struct {
    absl::string_view name;
    int base;
    int exponent;
  } kSuffixes[] = {{"", 10, 0},   {"n", 10, -9}, {"u", 10, -6}, {"m", 10, -3}, {"k", 10, 3},  {"M", 10, 6},
                   {"G", 10, 9},  {"T", 10, 12}, {"P", 10, 15}, {"E", 10, 18}, {"Ki", 2, 10}, {"Mi", 2, 20},
                   {"Gi", 2, 30}, {"Ti", 2, 40}, {"Pi", 2, 50}, {"Ei", 2, 60}};
  for (const auto& known : kSuffixes) {
    if (known.name == suffix) {
      base = known.base;
      exponent = known.exponent;
      return true;
    }
  }
  base = 10;
  return (suffix[0] == 'e' || suffix[0] == 'E') && absl::SimpleAtoi(suffix.substr(1), &exponent) &&
         exponent >= -18 && exponent <= 18;
}

absl::StatusOr<int64_t> Parse(absl::string_view text, int thousandths) {
  absl::string_view rest = text;
  Fraction value;
  if (!rest.empty() && (rest[0] == '-' || rest[0] == '+')) {
    value.negative = rest[0] == '-';
    rest.remove_prefix(1);
  }
  int base = 10, exponent = 0;
  if (!TakeNumber(rest, value) || !Suffix(rest, base, exponent)) return Bad(text);
  value.numerator *= thousandths;
  for (; exponent > 0; --exponent) {
    if (value.numerator > absl::Int128Max() / base) return TooBig(text);
    value.numerator *= base;
  }
  for (; exponent < 0; ++exponent) value.denominator *= base;
  const absl::int128 whole = value.numerator / value.denominator;
  const bool exact = whole * value.denominator == value.numerator;
  const absl::int128 rounded = exact ? whole : whole + 1;
  if (rounded > std::numeric_limits<int64_t>::max()) return TooBig(text);
  return static_cast<int64_t>(value.negative ? -rounded : rounded);
}

}  // namespace

absl::StatusOr<int64_t> ParseQuantity(absl::string_view text) { return Parse(text, 1); }
absl::StatusOr<int64_t> ParseMilliQuantity(absl::string_view text) { return Parse(text, 1000); }

}  // namespace godwit::k8s
