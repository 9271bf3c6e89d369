# SPDX-License-Identifier: Apache-2.0
"""What users get has none of what chaos tests need."""

import pathlib
import sys

from cluster import ClusterTest, REPO

sys.path.insert(0, str(REPO / "tests/cluster/chaos"))

from nodes import Machine, has_failpoints  # noqa: E402


class ReleaseTest(ClusterTest):
    def test_what_is_deployed_has_no_failpoints(self):
        for node in self.nodes:
            machine = Machine(node)
            self.assertTrue(machine.find("godwit-agent"), f"no agent runs on {node}")
            self.assertTrue(pathlib.Path(machine.root / "opt/godwit/bin/godwit-guard").exists())
            self.assertEqual(has_failpoints(machine), [])
