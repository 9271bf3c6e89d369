// SPDX-License-Identifier: Apache-2.0
// The schemas that the API server enforces and the C++ types tell of the same fields.
#include <yaml-cpp/yaml.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "crds/checkpoint.h"
#include "crds/migration.h"
#include "crds/restore.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace godwit::crds {
namespace {

// Paths of all fields, lists by their items: "status.findings.id".
void SchemaPaths(const YAML::Node& schema, const std::string& path, std::set<std::string>& out) {
  if (schema["items"]) return SchemaPaths(schema["items"], path, out);
  if (!schema["properties"]) {
    out.insert(path);
    return;
  }
  for (const auto& property : schema["properties"]) {
    const std::string name = property.first.as<std::string>();
    SchemaPaths(property.second, path.empty() ? name : absl::StrCat(path, ".", name), out);
  }
}

void JsonPaths(const rapidjson::Value& value, const std::string& path, std::set<std::string>& out) {
  if (value.IsArray()) {
    for (const auto& element : value.GetArray()) JsonPaths(element, path, out);
  } else if (value.IsObject() && path != "spec.target.nodeSelector") {
    for (const auto& member : value.GetObject())
      JsonPaths(member.value,
                path.empty() ? member.name.GetString() : absl::StrCat(path, ".", member.name.GetString()),
                out);
  } else {
    out.insert(path);
  }
}

YAML::Node Load(const std::string& plural) {
  return YAML::LoadFile(absl::StrCat(CRDS_FOLDER, "/", plural, ".yaml"));
}

template <class T>
void ExpectSameFields(const T& full) {
  const YAML::Node crd = Load(std::string(T::kResource.plural));
  std::set<std::string> schema, type;
  const YAML::Node root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
  for (const char* part : {"spec", "status"}) SchemaPaths(root[part], part, schema);
  rapidjson::Document document = json::ToDocument(full);
  for (const char* part : {"spec", "status"}) JsonPaths(document[part], part, type);
  EXPECT_EQ(schema, type);
  EXPECT_EQ(crd["spec"]["names"]["kind"].as<std::string>(), std::string(T::kResource.kind));
}

const k8s::Condition kCondition{.type = "Complete",
                                .status = "True",
                                .observed_generation = 1,
                                .last_transition_time = absl::FromUnixSeconds(1),
                                .reason = "R",
                                .message = "m"};
const Finding kFinding{.id = "I",
                       .severity = Severity::kWarning,
                       .container = "c",
                       .message = "m",
                       .remedy = "r",
                       .evidence = "e"};
const absl::Time kTime = absl::FromUnixSeconds(1'700'000'000);

Migration FullMigration() {
  Migration m;
  m.spec = {.pod_ref = {"p"},
            .target = {.node_name = "n", .node_selector = {{"a", "b"}}},
            .when_not_converging = WhenNotConverging::kFail,
            .bandwidth_limit = "100Mi",
            .dry_run = true,
            .cancel = true,
            .resolve_uncertain = ResolveUncertain::kKeepSource};
  m.status = {.observed_generation = 1,
              .conditions = {kCondition},
              .strategy = Strategy::kPreCopy,
              .source_node = "a",
              .target_node = "b",
              .source_pod_uid = "u",
              .target_pod_name = "t",
              .target_pod_uid = "v",
              .start_time = kTime,
              .waiting_since = kTime,
              .completion_time = kTime,
              .total_duration = absl::Seconds(1),
              .preflight = {1, 2},
              .dry_run = {Verdict::kWouldSucceed, true, absl::Milliseconds(1), absl::Milliseconds(2),
                          absl::Seconds(3), 4, 5, 6, absl::Seconds(7), absl::Microseconds(8), 9, 10, 11, 12},
              .pre_copy = {1, 2, 3, 4, 5, 6, 7, 8, absl::Milliseconds(43), kTime},
              .post_copy = {1, 2, 3, absl::Milliseconds(1), absl::Milliseconds(2), kTime},
              .freeze = {absl::Seconds(1), kTime, {{"dump", "c", absl::Seconds(1), absl::Seconds(1)}}},
              .transfer = {1, 2, 3},
              .findings = {kFinding}};
  return m;
}

TEST(SchemaTest, MigrationsFieldsAreThoseOfItsSchema) { ExpectSameFields(FullMigration()); }

TEST(SchemaTest, CheckpointsFieldsAreThoseOfItsSchema) {
  Checkpoint c;
  c.spec = {.pod_ref = {"p"}};
  c.status = {.observed_generation = 1,
              .conditions = {kCondition},
              .node_name = "n",
              .pod_uid = "u",
              .start_time = kTime,
              .completion_time = kTime,
              .total_duration = absl::Seconds(1),
              .criu_version = "4",
              .memory_bytes = 1,
              .freeze = {absl::Seconds(1), kTime, {{"dump", "c", absl::Seconds(1), absl::Seconds(1)}}},
              .archives = {{"c", "/p", 1, "sha256:0"}},
              .manifest_digest = "sha256:1",
              .findings = {kFinding}};
  ExpectSameFields(c);
}

TEST(SchemaTest, RestoresFieldsAreThoseOfItsSchema) {
  Restore r;
  r.spec = {
      .checkpoint_ref = {"c"}, .pod_name = "p", .target = {.node_name = "n", .node_selector = {{"a", "b"}}}};
  r.status = {.observed_generation = 1,
              .conditions = {kCondition},
              .checkpoint_uid = "u",
              .pod_name = "p",
              .pod_uid = "v",
              .node_name = "n",
              .start_time = kTime,
              .completion_time = kTime,
              .total_duration = absl::Seconds(1)};
  ExpectSameFields(r);
}

// What `type` knows, and what the schema of Migrations allows at `path`.
template <class E>
void ExpectSameNames(E, std::initializer_list<const char*> path) {
  YAML::Node at = Load("migrations")["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
  for (const char* name : path) at.reset(at["properties"][name]);
  std::vector<std::string> type;
  for (const auto& [value, name] : JsonNames(E{})) type.emplace_back(name);
  EXPECT_EQ(at["enum"].as<std::vector<std::string>>(), type);
}

TEST(SchemaTest, EveryNameOfATypeIsInItsSchema) {
  ExpectSameNames(MigrationPhase{}, {"status", "phase"});
  ExpectSameNames(Strategy{}, {"spec", "strategy"});
  ExpectSameNames(WhenNotConverging{}, {"spec", "whenNotConverging"});
}

TEST(SchemaTest, ASpecsDefaultsAreThoseOfItsSchema) {
  const YAML::Node spec = Load(
      "migrations")["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
  const MigrationSpec made;
  EXPECT_EQ(spec["strategy"]["default"].as<std::string>(), json::Name(made.strategy));
  EXPECT_EQ(spec["whenNotConverging"]["default"].as<std::string>(), json::Name(made.when_not_converging));
  const std::vector<std::pair<const char*, absl::Duration>> durations = {
      {"timeout", made.timeout},
      {"freezeBudget", made.freeze_budget},
      {"preCopyTimeout", made.pre_copy_timeout}};
  for (const auto& [field, value] : durations) {
    absl::Duration schema;
    ASSERT_TRUE(absl::ParseDuration(spec[field]["default"].as<std::string>(), &schema)) << field;
    EXPECT_EQ(schema, value) << field;
  }
}

TEST(TypesTest, AMigrationComesBackAsItWas) {
  const Migration migration = FullMigration();
  auto back = json::Decode<Migration>(json::Encode(migration));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, migration);
}

TEST(TypesTest, ReadableDurationsKeepThreePlaces) {
  EXPECT_EQ(absl::FormatDuration(Readable(absl::Microseconds(87'654))), "87.6ms");
  EXPECT_EQ(absl::FormatDuration(Readable(absl::Microseconds(412'345))), "412ms");
  EXPECT_EQ(absl::FormatDuration(Readable(absl::Milliseconds(1'547))), "1.54s");
  EXPECT_EQ(absl::FormatDuration(Readable(absl::Milliseconds(83'900))), "1m23s");
}

}  // namespace
}  // namespace godwit::crds
