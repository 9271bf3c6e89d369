// SPDX-License-Identifier: Apache-2.0
// Conditions of one object, written in one look at it.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "k8s/meta.h"

namespace godwit::controller {

class Conditions {
 public:
  Conditions(std::vector<k8s::Condition>* list, int64_t generation, absl::Time now)
      : list_(list), generation_(generation), now_(now) {}

  void Set(absl::string_view type, absl::string_view status, absl::string_view reason,
           absl::string_view message) {
    k8s::SetCondition(*list_,
                      {.type = std::string(type),
                       .status = std::string(status),
                       .observed_generation = generation_,
                       .reason = std::string(reason),
                       .message = std::string(message)},
                      now_);
  }
  bool Has(absl::string_view type) const { return k8s::FindCondition(*list_, type) != nullptr; }
  bool IsTrue(absl::string_view type) const { return k8s::IsConditionTrue(*list_, type); }
  bool IsFalse(absl::string_view type) const {
    const k8s::Condition* condition = k8s::FindCondition(*list_, type);
    return condition != nullptr && condition->status == "False";
  }
  // Since when the condition has its status; `now` when there is none.
  absl::Time Since(absl::string_view type) const {
    const k8s::Condition* condition = k8s::FindCondition(*list_, type);
    return condition == nullptr ? now_ : condition->last_transition_time;
  }

 private:
  std::vector<k8s::Condition>* const list_;
  const int64_t generation_;
  const absl::Time now_;
};

}  // namespace godwit::controller
