# SPDX-License-Identifier: Apache-2.0
"""What the chart renders, and what dashboard and alert rules ask for. tests/chart/run runs it."""

import json
import os
import pathlib
import re
import subprocess
import sys
import unittest

import promql
import yaml

REPO = pathlib.Path(__file__).resolve().parents[2]
CHART = REPO / "charts/godwit"
ALL_OPTIONS = REPO / "tests/chart/all-options.yaml"


def helm(*argv):
    return subprocess.run([os.environ["HELM"], *map(str, argv)], capture_output=True, text=True)


def render(*argv):
    done = helm("template", "godwit", CHART, "--namespace", "godwit-system", *argv)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return [o for o in yaml.safe_load_all(done.stdout) if o]


def one(objects, kind, name):
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def pods(objects):
    return [(o["metadata"]["name"], pod_of(o)) for o in objects if o["kind"] in ("Deployment", "DaemonSet", "Job")]


class ChartTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.default = render("--set", "image.registry=registry.example.com")
        cls.all = render("-f", ALL_OPTIONS)

    def test_definitions_are_templates_that_stay(self):
        crds = [o for o in self.default if o["kind"] == "CustomResourceDefinition"]
        self.assertEqual(len(crds), 3)
        for crd in crds:
            self.assertEqual(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")
            source = yaml.safe_load((REPO / "crds" / (crd["spec"]["names"]["plural"] + ".yaml")).read_text())
            self.assertEqual(crd["spec"], source["spec"])
        self.assertFalse([o for o in self.all if o["kind"] == "CustomResourceDefinition"])

    def test_the_runtime_class_is_left_to_the_hook(self):
        self.assertEqual(one(self.default, "RuntimeClass", "godwit")["metadata"]["annotations"]["helm.sh/resource-policy"], "keep")

    def test_namespaced_objects_say_their_namespace(self):
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "RuntimeClass",
                        "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
        for o in self.default + self.all:
            if o["kind"] not in cluster_wide:
                self.assertIn(o["metadata"].get("namespace"), ("godwit-system", "grafana"), o["metadata"]["name"])

    def test_pods_run_where_images_exist(self):
        for name, pod in pods(self.default) + pods(self.all):
            terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            self.assertIn({"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64", "arm64"]},
                          terms[0]["matchExpressions"], name)

    def test_what_needs_nothing_of_the_node_gets_nothing(self):
        privileged = {"agent", "install", "uninstall"}
        for name, pod in pods(self.default) + pods(self.all):
            for container in pod["containers"] + pod.get("initContainers", []):
                context = container["securityContext"]
                if container["name"] in privileged:
                    self.assertEqual(context, {"privileged": True, "readOnlyRootFilesystem": True,
                                               "seccompProfile": {"type": "Unconfined"}})
                    continue
                with self.subTest(pod=name, container=container["name"]):
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
        for workload in [one(self.default, "Deployment", "godwit-controller"), one(self.default, "Job", "godwit-cleanup")]:
            context = pod_of(workload)["securityContext"]
            self.assertTrue(context["runAsNonRoot"])
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})

    def test_every_privilege_is_justified_in_the_threat_model(self):
        text = (REPO / "docs/security.md").read_text()
        for name, pod in pods(self.default):
            for privilege in ("hostNetwork", "hostPID", "hostIPC"):
                if pod.get(privilege):
                    self.assertIn(f"`{privilege}`", text, name)
            for volume in pod.get("volumes", []):
                if "hostPath" in volume:
                    self.assertIn(f"`{volume['hostPath']['path']}`", text, name)
            self.assertFalse(pod.get("hostIPC"), name)
            if name not in ("godwit-agent", "godwit-uninstall"):
                self.assertFalse(pod.get("hostNetwork") or pod.get("hostPID"), name)
        for role in (o for o in self.default if o["kind"] in ("Role", "ClusterRole") and o["metadata"]["name"] == "godwit-controller"):
            for rule in role["rules"]:
                for resource in rule["resources"]:
                    self.assertIn(f"`{resource.split('/')[0]}`", text, resource)

    def test_the_threat_model_names_tests_that_are_there(self):
        text = (REPO / "docs/security.md").read_text()
        named = set(re.findall(r"`(test_\w+|[A-Z][a-z]*(?:[A-Z][a-z]*){4,})`", text)) - {"GodwitInvariantViolated"}
        self.assertGreater(len(named), 40)
        tests = "\n".join(p.read_text() for p in (REPO / "tests").rglob("*") if p.suffix in (".cc", ".py"))
        for name in sorted(named):
            self.assertRegex(tests, rf"(, |def ){name}\b", "docs/security.md names a test that is not there")

    def test_the_policies_are_there_and_refuse(self):
        policies = {o["metadata"]["name"]: o["spec"] for o in self.default if o["kind"] == "ValidatingAdmissionPolicy"}
        bindings = {o["spec"]["policyName"]: o["spec"] for o in self.default if o["kind"] == "ValidatingAdmissionPolicyBinding"}
        self.assertEqual(set(policies), {"godwit-authors", "godwit-status", "godwit-pods", "godwit-sizes", "godwit-finalizers"})
        self.assertEqual(set(policies), set(bindings))
        for name, spec in policies.items():
            self.assertEqual(spec["failurePolicy"], "Fail", name)
            self.assertEqual(bindings[name]["validationActions"], ["Deny"], name)
        rules = policies["godwit-authors"]["matchConstraints"]["resourceRules"][0]
        self.assertEqual(set(rules["operations"]), {"CREATE", "UPDATE"})
        self.assertEqual(set(rules["resources"]), {"migrations", "checkpoints", "restores"})

    def test_rights_have_no_wildcards_and_agents_have_none(self):
        roles = [o for o in self.default if o["kind"] in ("Role", "ClusterRole")]
        self.assertTrue(roles)
        for role in roles:
            for rule in role["rules"]:
                for field in ("apiGroups", "resources", "verbs"):
                    self.assertNotIn("*", rule[field], role["metadata"]["name"])
            cluster_wide = role["kind"] == "ClusterRole"
            for rule in role["rules"]:
                if cluster_wide:
                    self.assertFalse({"secrets", "configmaps", "leases"} & set(rule["resources"]), role["metadata"]["name"])
                elif {"secrets", "configmaps", "leases"} & set(rule["resources"]) and rule["verbs"] != ["create"]:
                    self.assertTrue(rule.get("resourceNames"), rule)
        subjects = {s["name"] for o in self.default if o["kind"].endswith("Binding") for s in o.get("subjects", [])}
        self.assertEqual(subjects, {"godwit-controller", "godwit-cleanup"})

    def test_uninstall_rights_exist_only_while_it_runs(self):
        for o in self.default:
            if "cleanup" in o["metadata"]["name"]:
                annotations = o["metadata"]["annotations"]
                self.assertEqual(annotations["helm.sh/hook"], "pre-delete", o["kind"])
                self.assertIn("hook-succeeded", annotations["helm.sh/hook-delete-policy"])

    def test_uninstall_runs_in_order(self):
        weight = {o["metadata"]["name"]: int(o["metadata"]["annotations"]["helm.sh/hook-weight"])
                  for o in self.default if o["kind"] in ("Job", "DaemonSet") and "helm.sh/hook" in o["metadata"].get("annotations", {})}
        self.assertEqual(sorted(weight, key=weight.get), ["godwit-cleanup", "godwit-uninstall", "godwit-cleanup-nodes"])
        rights = [int(o["metadata"]["annotations"]["helm.sh/hook-weight"]) for o in self.default
                  if o["kind"] == "ServiceAccount" and o["metadata"]["name"] == "godwit-cleanup"]
        self.assertLess(rights[0], min(weight.values()))

    def test_uninstall_undoes_with_the_flags_of_install_on_the_same_nodes(self):
        agent, uninstall = (pod_of(one(self.all, "DaemonSet", n)) for n in ("godwit-agent", "godwit-uninstall"))
        self.assertEqual(agent["initContainers"][0]["args"], uninstall["initContainers"][0]["args"])
        for field in ("nodeSelector", "affinity", "hostPID"):
            self.assertEqual(agent[field], uninstall[field])
        self.assertEqual(agent.get("tolerations"), uninstall.get("tolerations"))

    def test_the_agents_token_is_good_for_the_controller_alone(self):
        pod = pod_of(one(self.default, "DaemonSet", "godwit-agent"))
        self.assertFalse(pod["automountServiceAccountToken"])
        tokens = [s["serviceAccountToken"] for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [])]
        self.assertEqual([t["audience"] for t in tokens], ["godwit-controller"])

    def test_values_reach_the_objects(self):
        controller, agent = one(self.all, "Deployment", "godwit-controller"), one(self.all, "DaemonSet", "godwit-agent")
        self.assertEqual(pod_of(controller)["containers"][0]["image"], "registry.example.com/mirror/godwit-controller:v9")
        self.assertRegex(pod_of(agent)["containers"][0]["image"], r"^registry.example.com/mirror/godwit-agent@sha256:")
        self.assertIn("--agent_api_port=19551", pod_of(controller)["containers"][0]["args"])
        self.assertEqual({p["name"]: p["containerPort"] for p in pod_of(agent)["containers"][0]["ports"]},
                         {"api": 19551, "stream": 19552, "metrics": 19553})
        self.assertIn("--containerd_restart=never", pod_of(agent)["initContainers"][0]["args"])
        self.assertEqual(pod_of(controller)["nodeSelector"], {"pool": "system"})
        self.assertIn("podAntiAffinity", pod_of(controller)["affinity"])
        self.assertEqual(agent["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], "10%")
        self.assertEqual(agent["spec"]["template"]["metadata"]["labels"]["team"], "b")
        self.assertFalse([o for o in self.all if o["kind"] in ("ValidatingAdmissionPolicy", "PodDisruptionBudget")])

    def test_selectors_match_their_pods(self):
        for o in self.default:
            if o["kind"] in ("Deployment", "DaemonSet"):
                wanted, has = o["spec"]["selector"]["matchLabels"], o["spec"]["template"]["metadata"]["labels"]
                self.assertLessEqual(wanted.items(), has.items())
        agents = {"app.kubernetes.io/name": "godwit", "app.kubernetes.io/component": "agent"}
        self.assertLessEqual(agents.items(), one(self.default, "DaemonSet", "godwit-agent")["spec"]["template"]["metadata"]["labels"].items())

    def test_monitoring_objects_hold_the_originals(self):
        self.assertFalse([o for o in self.default if o["apiVersion"].startswith("monitoring.coreos.com")])
        rule = one(self.all, "PrometheusRule", "godwit")
        self.assertEqual(rule["spec"], yaml.safe_load(promql.RULES.read_text()))
        dashboard = one(self.all, "ConfigMap", "godwit-dashboard")
        self.assertEqual(json.loads(dashboard["data"]["godwit.json"]), json.loads(promql.DASHBOARD.read_text()))
        for name, service in (("godwit-agent", "godwit-agent"), ("godwit-controller", "godwit-controller")):
            wanted = one(self.all, "ServiceMonitor", name)["spec"]["selector"]["matchLabels"]
            target = one(self.all, "Service", service)
            self.assertLessEqual(wanted.items(), target["metadata"]["labels"].items())
            self.assertIn("metrics", [p["name"] for p in target["spec"]["ports"]])

    def test_nonsense_values_are_refused_with_their_name(self):
        for flag, told in (("containerd.restart=sometimes", "containerd/restart"), ("agnet.x=1", "agnet"),
                           ("controller.replicas=0", "controller/replicas"), ("agent.ports.api=0", "agent/ports/api"),
                           ("image.agentDigest=latest", "image/agentDigest"), ("containerd.dropInFolder=etc", "dropInFolder"),
                           ("monitoring.serviceMonitor.interval=often", "interval")):
            done = helm("template", "godwit", CHART, "--set", "image.registry=registry.example.com", "--set", flag)
            self.assertNotEqual(done.returncode, 0, flag)
            self.assertIn(told, done.stderr)

    def test_a_registry_must_be_given(self):
        done = helm("template", "godwit", CHART)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("--set image.registry=", done.stderr)

    def test_schema_knows_every_value(self):
        def walk(values, schema, path):
            for key, value in values.items():
                self.assertIn(key, schema["properties"], f"{path}.{key}")
                sub = schema["properties"][key]
                if isinstance(value, dict) and "properties" in sub:
                    walk(value, sub, f"{path}.{key}")
        walk(yaml.safe_load((CHART / "values.yaml").read_text()), json.loads((CHART / "values.schema.json").read_text()), "")


    def test_lint_is_clean(self):
        for options in ([], ["-f", ALL_OPTIONS]):
            done = helm("lint", "--strict", CHART, *options)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertNotRegex(done.stdout + done.stderr, "WARNING|ERROR")

    def test_copies_are_their_originals(self):
        done = subprocess.run([REPO / "charts/sync", "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class QueriesTest(unittest.TestCase):
    def promtool(self, *argv):
        done = subprocess.run([os.environ["PROMTOOL"], *map(str, argv)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_rules_are_rules(self):
        self.promtool("check", "rules", "--lint=all", "--lint-fatal", promql.RULES)

    def test_alerts_fire_when_they_must_and_only_then(self):
        self.promtool("test", "rules", REPO / "metrics/rules/godwit_test.yaml")

    def test_only_metrics_and_labels_that_exist_are_asked_for(self):
        table = promql.table()
        self.assertGreater(len(table), 40)
        for where, expression in promql.dashboard_queries() + promql.rule_queries():
            with self.subTest(where=where, expression=expression):
                named = promql.selectors(expression)
                self.assertTrue(named)
                known = {"instance", "job", "le"}
                for metric, matchers in named:
                    self.assertIn(metric, table)
                    known |= table[metric]
                    for label in promql.labels(metric + matchers):
                        self.assertIn(label, table[metric] | {"instance", "job"})
                self.assertLessEqual(promql.labels(expression), known)

    def test_every_metric_of_migrations_is_shown(self):
        """The dashboard leaves no counter, gauge or histogram of Godwit unseen, but for these."""
        unseen = {"godwit_agent_preflight_findings_total", "godwit_agent_operations_finished_total",
                  "godwit_agent_operation_failures_total", "godwit_agent_archives", "godwit_agent_runtime_ready",
                  "godwit_controller_build_info", "godwit_agent_api_request_duration_seconds",
                  "godwit_agent_certificate_renewals_total"}
        shown = {re.sub("_(bucket|sum|count)$", "", metric) for _, expression in promql.dashboard_queries()
                 for metric, _ in promql.selectors(expression)}
        metrics = {re.sub("_(bucket|sum|count)$", "", metric) for metric in promql.table() if metric.startswith("godwit_")}
        self.assertEqual(metrics - shown, unseen)


if __name__ == "__main__":
    outcome = unittest.main(exit=False, verbosity=2).result
    broken = len(outcome.failures) + len(outcome.errors)
    print(f"{outcome.testsRun - broken} passed, {broken} failed")
    sys.exit(1 if broken or not outcome.testsRun else 0)
