#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check-includes.py [REPO]: fails on an #include that runs against the direction in which the parts depend on each other:

    base <- k8s <- crds <- controller
    base <- agent/api (the messages' headers) <- agent, controller, runtime
"""
import pathlib
import re
import sys

MESSAGES = ("agent/api/messages.h", "agent/api/host_protocol.h", "agent/api/findings.h")
# Folder: what its files may include. A file belongs to the longest prefix that fits.
ALLOWED = {
    "base/": ("base/",),
    "metrics/": ("base/", "metrics/"),
    "k8s/": ("base/", "k8s/"),
    "crds/": ("base/", "k8s/", "crds/"),
    "controller/": ("base/", "k8s/", "crds/", "metrics/", "controller/", *MESSAGES),
    "agent/": ("base/", "metrics/", "agent/"),
    **{header: ("base/", *MESSAGES) for header in MESSAGES},
    # What a frozen pod's guard and its agent both need is the agent's libraries; the agent itself is not among them.
    "runtime/": ("base/", "runtime/", "agent/criu/", "agent/journal/", "agent/memory/", "agent/permits/", "agent/runtime/", "agent/files/", *MESSAGES),
    "cli/": ("base/", "k8s/", "crds/", "cli/", *MESSAGES),
}
# Within the agent: libraries that know nothing of the parts that use them.
ALLOWED["agent/criu/"] = ALLOWED["agent/journal/"] = ALLOWED["agent/runtime/"] = (
    "base/", "agent/criu/", "agent/journal/", "agent/memory/range.h", "agent/runtime/", "agent/files/", *MESSAGES)


def main():
    repo = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[1])
    folders = tuple(sorted({prefix.split("/")[0] for prefix in ALLOWED}))
    bad = checked = 0
    for folder in folders:
        for file in sorted([*(repo / folder).rglob("*.h"), *(repo / folder).rglob("*.cc")]):
            name = file.relative_to(repo).as_posix()
            allowed = ALLOWED[max((prefix for prefix in ALLOWED if name.startswith(prefix)), key=len)]
            checked += 1
            for number, line in enumerate(file.read_text().splitlines(), 1):
                include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not include or include.group(1).split("/")[0] not in folders:
                    continue
                if not include.group(1).startswith(allowed):
                    print(f'{name}:{number}: "{include.group(1)}" may not be included here (only {", ".join(allowed)})')
                    bad += 1
    print(f"{checked} files checked, {bad} includes in the wrong direction")
    return 1 if bad or not checked else 0


sys.exit(main())
