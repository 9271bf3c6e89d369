# SPDX-License-Identifier: Apache-2.0
"""The chart in the real cluster: who may write the custom resources, and upgrades."""

import json
import pathlib
import shutil
import tempfile

from cluster import REPO, SYSTEM, ClusterTest, kubectl, run, wait

HELM = REPO / "build/cluster/bin/helm"


def helm(*argv, **kwargs):
    return run("env", f"KUBECONFIG={REPO}/build/cluster/kubeconfig", HELM, *argv, timeout=600, **kwargs)


class AuthorsTest(ClusterTest):
    """The ValidatingAdmissionPolicy: authors need the rights to do by hand what Godwit does for them."""

    OWN = {"apiGroups": ["godwit.io"], "resources": ["migrations", "checkpoints", "restores"], "verbs": ["create", "get", "patch"]}

    def author(self, name, *rules):
        """A service account with these rights; the name to impersonate."""
        self.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
                   {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name},
                    "rules": [self.OWN, *rules]},
                   {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}]})
        return f"system:serviceaccount:{self.namespace}:{name}"

    def create(self, author, obj):
        return kubectl("-n", self.namespace, "--as", author, "create", "-f", "-", stdin=json.dumps(obj), check=False)

    def assertRefused(self, author, obj, sentence):
        done = self.create(author, obj)
        self.assertNotEqual(done.returncode, 0, f"{author} created {obj}")
        self.assertIn(sentence, done.stderr)
        self.assertIn(author, done.stderr)

    def pods(self, resource, *verbs):
        return {"apiGroups": [""], "resources": [resource], "verbs": list(verbs)}

    def test_a_migration_needs_the_rights_to_delete_create_and_evict_pods(self):
        obj = self.migration("m", "no-such-pod", self.nodes[1])
        almost = self.author("almost", self.pods("pods", "create", "delete"))
        self.assertRefused(self.author("nobody"), obj, "lacks the right to create pods in namespace")
        self.assertRefused(almost, obj, "lacks the right to create pods/eviction")
        may = self.author("may", self.pods("pods", "create", "delete"), self.pods("pods/eviction", "create"))
        done = self.create(may, obj)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_rights_in_another_namespace_do_not_count(self):
        elsewhere = self.author("elsewhere")
        kubectl("create", "clusterrole", f"{self.namespace}-pods", "--verb=create,delete", "--resource=pods,pods/eviction")
        self.addCleanup(kubectl, "delete", "clusterrole", f"{self.namespace}-pods")
        kubectl("-n", "default", "create", "rolebinding", self.namespace, f"--clusterrole={self.namespace}-pods",
                f"--serviceaccount={self.namespace}:elsewhere")
        self.addCleanup(kubectl, "-n", "default", "delete", "rolebinding", self.namespace)
        self.assertRefused(elsewhere, self.migration("m2", "no-such-pod", self.nodes[1]), "lacks the right")

    def test_a_checkpoint_needs_the_right_to_enter_pods(self):
        obj = self.checkpoint("c", "no-such-pod")
        self.assertRefused(self.author("viewer", self.pods("pods", "create", "delete")), obj, "create pods/exec")
        done = self.create(self.author("enterer", self.pods("pods/exec", "create")), obj)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_restore_needs_the_rights_to_create_and_enter_pods(self):
        obj = self.restore("r", "no-such-checkpoint")
        self.assertRefused(self.author("creator", self.pods("pods", "create")), obj, "lacks the right to create pods/exec")
        both = self.author("both", self.pods("pods", "create"), self.pods("pods/exec", "create"))
        done = self.create(both, obj)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_status_is_written_by_the_controller_alone(self):
        everything = self.author("everything", {"apiGroups": ["godwit.io"], "resources": ["*"], "verbs": ["*"]})
        self.apply(self.migration("told", "no-such-pod", self.nodes[1]))
        told = self.finished("migration", "told")
        refused = kubectl("-n", self.namespace, "--as", everything, "patch", "migration", "told", "--subresource=status",
                          "--type=merge", "-p", '{"status":{"phase":"Succeeded"}}', check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(f"is written by the controller of Godwit, not by {everything}", refused.stderr)
        self.assertEqual(self.get("migration", "told")["status"], told["status"])

    def test_nobody_marks_a_pod_of_their_own_as_a_target(self):
        tenant = self.author("tenant", self.pods("pods", "create", "get"))
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "false-target", "labels": {"godwit.io/migration": "some-uid"}},
               "spec": {"containers": [{"name": "c", "image": "i"}]}}
        self.assertRefused(tenant, pod, "are written on pods by the controller of Godwit")

    def test_the_policies_compile_without_a_warning(self):
        for name in ("godwit-authors", "godwit-status", "godwit-pods", "godwit-sizes", "godwit-finalizers"):
            status = lambda: json.loads(kubectl("get", "validatingadmissionpolicy", name, "-o", "json")).get("status", {})
            wait("the type checker", lambda: "typeChecking" in status(), 30)
            self.assertFalse(status()["typeChecking"].get("expressionWarnings"))


class UpgradeTest(ClusterTest):
    def changed_chart(self):
        """The chart of a next version, whose Migration has one field more."""
        folder = pathlib.Path(tempfile.mkdtemp()) / "godwit"
        self.addCleanup(shutil.rmtree, folder.parent)
        shutil.copytree(REPO / "charts/godwit", folder)
        definition = folder / "files/crds/migrations.yaml"
        text = definition.read_text()
        self.assertEqual(text.count("                podRef:\n"), 1)
        definition.write_text(text.replace("                podRef:\n", "                note: {type: string}\n                podRef:\n"))
        return folder

    def upgrade(self, chart):
        return helm("upgrade", "godwit", chart, "-n", SYSTEM, "--reuse-values", "--wait", "--timeout", "4m")

    def test_helm_upgrades_a_definition_and_keeps_the_objects(self):
        self.apply(self.migration("before", "no-such-pod", self.nodes[1]))
        before = self.finished("migration", "before")
        with_note = self.migration("after", "no-such-pod", self.nodes[1], note="moved for the new disks")
        self.assertIn("note", self.refused_strictly(with_note))
        self.addCleanup(self.upgrade, REPO / "charts/godwit")
        self.upgrade(self.changed_chart())
        self.assertEqual(self.get("migration", "before")["metadata"]["uid"], before["metadata"]["uid"])
        self.assertEqual(self.get("migration", "before")["status"], before["status"])
        wait("the new field to be served", lambda: "note" in kubectl("explain", "migration.spec", check=False).stdout, 30)
        self.apply(with_note)
        self.assertEqual(self.get("migration", "after")["spec"]["note"], "moved for the new disks")

    def refused_strictly(self, obj):
        done = kubectl("-n", self.namespace, "apply", "--validate=strict", "-f", "-", stdin=json.dumps(obj), check=False)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def test_without_memory_tracking_pods_move_by_stop_and_copy_and_say_why(self):
        """As on a node whose kernel is older than 6.7."""
        switch = lambda value: helm("upgrade", "godwit", REPO / "charts/godwit", "-n", SYSTEM, "--reuse-values",
                                    "--set", f"agent.memoryTracking={value}", "--wait", "--timeout", "4m")
        self.addCleanup(switch, "true")
        switch("false")
        self.start(self.pod("untracked", self.nodes[0]))
        self.apply(self.migration("plain", "untracked", self.nodes[1]))
        status = self.succeeded("migration", "plain", 240)["status"]
        self.assertEqual(status["strategy"], "StopAndCopy")
        said = next(c for c in status["conditions"] if c["reason"] == "NodeCannotPreCopy")
        print("   ", said["type"], said["status"], said["message"])
        self.assertIn("memory tracking is switched off", said["message"])
        insists = self.migration("insists", status["targetPodName"], self.nodes[0], strategy="PreCopy")
        self.apply(insists)
        print("   ", *self.failed("migration", "insists", 240))
        self.assertRunsOnce(status["targetPodName"])

    def test_an_upgrade_with_nothing_new_touches_no_pod(self):
        pods = lambda: {p["metadata"]["uid"] for p in json.loads(
            kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/name=godwit", "-o", "json"))["items"]}
        before = pods()
        self.upgrade(REPO / "charts/godwit")
        self.assertEqual(pods(), before)
