# SPDX-License-Identifier: Apache-2.0
"""What happens when things die, or take too long, in the middle."""

import json
import os
import random
import time

from cluster import COUNTER, SYSTEM, ClusterTest, counts, kubectl, on_node, wait

# A counter with 256 MiB that nothing compresses: at 40 MiB/s some six seconds of copying.
NOISY = "import os; noise = os.urandom(256 << 20)\n" + COUNTER


def cut(node):
    """Lets nothing of the agents' streams through on a node, silently; what it returns mends the link."""
    on_node(node, "nft", "table ip cut { chain in { type filter hook input priority 0; tcp dport 9552 drop; tcp sport 9552 drop; }; "
                         "chain out { type filter hook output priority 0; tcp dport 9552 drop; tcp sport 9552 drop; }; }")
    return lambda: on_node(node, "nft", "delete", "table", "ip", "cut")


class FaultTest(ClusterTest):
    def switching(self, name):
        wait(f"{name} to be under way", lambda: self.get("migration", name).get("status", {}).get("phase") in ("Copying", "Preparing", "Switching"), 60, 0.02)

    def goes_on(self, pod):
        now = counts(self.log(pod))[-1][0]
        wait(f"{pod} to count on", lambda: counts(self.log(pod))[-1][0] > now + 10)

    def test_the_controller_dies_at_random_moments(self):
        a, b = self.nodes[:2]
        rounds = int(os.environ.get("GODWIT_CONTROLLER_KILLS", "3"))
        self.start(self.pod("steady", a, self.container(env={"MIB": 64})))
        outcomes = []
        for i in range(rounds):
            pod = self.assertRunsOnce("steady")
            name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
            self.apply(self.migration(f"kill-{i}", name, b if node == a else a))
            time.sleep(random.uniform(0, 4))
            victims = kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=controller", "-o", "name").split()
            kubectl("-n", SYSTEM, "delete", "--grace-period=0", "--force", *victims)
            phase = self.finished("migration", f"kill-{i}", 240)["status"]["phase"]
            outcomes.append(phase)
            wait("one copy", lambda: len(self.copies("steady")) == 1, 60)
            survivor = self.assertRunsOnce("steady")
            self.assertEqual(survivor["status"]["containerStatuses"][0]["restartCount"], 0)
            self.goes_on(survivor["metadata"]["name"])
        print("   ", outcomes)

    def test_a_migration_deleted_halfway_leaves_one_pod(self):
        a, b = self.nodes[:2]
        self.start(self.pod("undecided", a, self.container(env={"MIB": 256})))
        self.apply(self.migration("halfway", "undecided", b))
        self.switching("halfway")
        kubectl("-n", self.namespace, "delete", "migration", "halfway", "--timeout=120s")
        wait("one pod to be left", lambda: len([p for p in self.list("pods") if p["metadata"]["name"].startswith("undecided")]) == 1, 60)
        self.goes_on(self.assertRunsOnce("undecided")["metadata"]["name"])

    def test_a_cancelled_migration_leaves_the_pod_and_stays_to_be_read(self):
        """Held in Copying by a narrow link; and at any moment, when it may be too late."""
        a, b = self.nodes[:2]
        # What compresses would be over before it is cancelled.
        self.start(self.pod("wavering", a, self.container(program="import os; noise = os.urandom(64 << 20)\n" + COUNTER)))
        for i, (limit, delay) in enumerate([({"bandwidthLimit": "1Mi"}, 5)] + [({}, random.uniform(0, 4)) for _ in range(3)]):
            pod = self.assertRunsOnce("wavering")
            name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
            self.apply(self.migration(f"regretted-{i}", name, b if node == a else a, **limit))
            time.sleep(delay)
            kubectl("-n", self.namespace, "patch", "migration", f"regretted-{i}", "--type=merge", "-p", '{"spec":{"cancel":true}}')
            asked = time.monotonic()
            done = self.finished("migration", f"regretted-{i}", 90)
            took = time.monotonic() - asked
            conditions = {c["type"]: c for c in done["status"]["conditions"]}
            print("   ", done["status"]["phase"], conditions["Complete"]["reason"], f"{took:.1f} s")
            if limit or done["status"]["phase"] == "Failed":
                self.assertEqual(conditions["Complete"]["reason"], "Cancelled")
                self.assertLess(took, 30)
            elif "Cancelled" in conditions:
                self.assertEqual(conditions["Cancelled"]["reason"], "TooLate")
            wait("one copy", lambda: len(self.copies("wavering")) == 1, 60)
            self.goes_on(self.assertRunsOnce("wavering")["metadata"]["name"])
        self.assertIn("cancel cannot be taken back", self.refused(self.migration("regretted-0", "wavering", b, bandwidthLimit="1Mi", cancel=False)))

    def test_the_target_pod_deleted_while_it_waits_goes_away(self):
        a, b = self.nodes[:2]
        # Far longer than a kubectl takes on a busy machine.
        self.start(self.pod("patient", a, self.container(program=NOISY)))
        self.apply(self.migration("interrupted", "patient", b, bandwidthLimit="40Mi"))
        target = wait("its name", lambda: (self.get("migration", "interrupted").get("status") or {}).get("targetPodName"), 60, 0.05)
        wait("the target pod", lambda: self.get("pod", target), 60, 0.05)
        kubectl("-n", self.namespace, "delete", "pod", target, "--wait=false")
        reason, message = self.failed("migration", "interrupted")
        print("   ", reason, message)
        self.assertEqual(reason, "TargetPodDeleted")
        wait("the target pod to go", lambda: self.get("pod", target) is None, 60)
        self.goes_on("patient")

    def test_the_source_pod_deleted_in_the_middle(self):
        a, b = self.nodes[:2]
        self.start(self.pod("leaving", a, self.container(env={"MIB": 512})))
        self.apply(self.migration("too-late", "leaving", b))
        self.switching("too-late")
        kubectl("-n", self.namespace, "delete", "pod", "leaving", "--wait=false")
        done = self.finished("migration", "too-late")
        print("   ", done["status"]["phase"], self.told(done))
        self.assertLessEqual(len(self.copies("leaving")), 1)

    def test_a_link_cut_in_pre_copy(self):
        """For two seconds: the migration goes on where it was. For good: it fails, and the pod has not noticed."""
        runs = int(os.environ.get("GODWIT_LINK_CUTS", "1"))
        a, b = self.nodes[:2]
        self.start(self.pod("linked", a, self.container(program=NOISY)))
        for i in range(2 * runs):
            for_good = i % 2 == 1
            pod = self.assertRunsOnce("linked")
            name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
            with self.subTest(run=i, for_good=for_good):
                self.apply(self.migration(f"cut-{i}", name, b if node == a else a, bandwidthLimit="40Mi"))
                wait("the copy", lambda: self.get("migration", f"cut-{i}").get("status", {}).get("phase") == "Copying", 60, 0.02)
                time.sleep(random.uniform(0.3, 4))
                mend = cut(a)
                try:
                    if not for_good:
                        time.sleep(2)
                    else:
                        reason, message = self.failed("migration", f"cut-{i}", 180)
                        print("   ", reason, message)
                finally:
                    mend()
                if not for_good:
                    done = self.succeeded("migration", f"cut-{i}", 180)
                    print("   ", done["status"]["strategy"], done["status"]["preCopy"].get("rounds"), "rounds, stood still for", done["status"]["freeze"]["duration"])
                survivor = self.assertRunsOnce("linked")
                self.assertEqual(survivor["spec"]["nodeName"] == node, for_good)
                self.goes_on(survivor["metadata"]["name"])
                self.left_nothing(self.get("migration", f"cut-{i}"))

    def agents(self, node):
        pods = json.loads(kubectl("-n", SYSTEM, "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "json"))["items"]
        return [p for p in pods if p["spec"]["nodeName"] == node]

    def test_an_agent_that_dies_in_the_middle_leaves_one_copy(self):
        a, b = self.nodes[:2]
        for victim in (a, b):
            with self.subTest(agent=victim):
                name = f"shaken-{victim}"
                self.start(self.pod(name, a, self.container(env={"MIB": 512})))
                self.apply(self.migration(f"move-{name}", name, b))
                wait("the switch", lambda: self.get("migration", f"move-{name}").get("status", {}).get("phase") == "Switching", 60, 0.02)
                on_node(victim, "kill", "-9", *self.agent_pids(victim))
                done = self.finished("migration", f"move-{name}", 240)
                print("   ", victim, done["status"]["phase"], self.told(done))
                wait("one copy", lambda: len(self.copies(name)) == 1, 90)
                self.goes_on(self.assertRunsOnce(name)["metadata"]["name"])
                wait("the agent to be back", lambda: all(p["status"].get("containerStatuses") and p["status"]["containerStatuses"][0]["ready"] for p in self.agents(victim)), 120)

    def agent_pids(self, node):
        return on_node(node, "sh", "-c", "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = godwit-agent ] && echo ${p#/proc/}; done; true").split()

    def test_the_time_limit_of_create_is_a_clear_failure(self):
        """The source's agent stands still while the target waits in `create`: the wait ends below kubelet's two minutes."""
        a, b = self.nodes[:2]
        self.start(self.pod("slow", a))
        self.apply(self.migration("stuck", "slow", b))
        wait("the target pod", lambda: (self.get("migration", "stuck").get("status") or {}).get("targetPodName"), 60, 0.02)
        pids = self.agent_pids(a)
        on_node(a, "kill", "-STOP", *pids)
        try:
            wait("the limit", lambda: "Aborted" in on_node(b, "sh", "-c", "cat /var/lib/godwit/permits/*/* 2>/dev/null; true"), 130, 1)
        finally:
            on_node(a, "kill", "-CONT", *pids)
        reason, message = self.failed("migration", "stuck", 240)
        print("   ", reason, message)
        self.goes_on("slow")

    def test_a_timeout_is_told(self):
        """The target's agent stands still: the Migration ends after spec.timeout."""
        a, b = self.nodes[:2]
        self.start(self.pod("hasty", a))
        pids = self.agent_pids(b)
        on_node(b, "kill", "-STOP", *pids)
        try:
            self.apply(self.migration("ten-seconds", "hasty", b, timeout="10s"))
            reason, message = self.failed("migration", "ten-seconds", 60)
            print("   ", reason, message)
        finally:
            on_node(b, "kill", "-CONT", *pids)
        self.goes_on("hasty")
