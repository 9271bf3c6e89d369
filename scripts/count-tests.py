#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""count-tests.py RESULTS: counts what ctest ran: RESULTS/junit.xml (one entry a program) and RESULTS/cases/*.xml (GoogleTest's
own, one entry a case). A program that failed counts as one failure at least, also when it died before it could report."""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def cases(file):
    """(passed, failed, skipped) of one GoogleTest program."""
    try:
        suite = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, FileNotFoundError):
        return None
    entries = list(suite.iter("testcase"))
    failed = sum(1 for entry in entries if entry.find("failure") is not None)
    skipped = sum(1 for entry in entries if entry.get("status") == "notrun" or entry.find("skipped") is not None)
    return len(entries) - failed - skipped, failed, skipped


def main():
    results = pathlib.Path(sys.argv[1])
    junit = results / "junit.xml"
    programs = list(ElementTree.parse(junit).getroot().iter("testcase")) if junit.exists() else []
    passed = failed = skipped = 0
    for program in programs:
        ok = program.get("status") == "run" and program.find("failure") is None
        counted = cases(results / "cases" / f"{program.get('name')}.xml")
        if counted is None:
            counted = (1, 0, 0) if ok else (0, 1, 0)
        elif not ok and counted[1] == 0:
            counted = (counted[0], 1, counted[2])
        if not ok:
            print(f"failed: {program.get('name')}")
        passed, failed, skipped = (a + b for a, b in zip((passed, failed, skipped), counted))
    if skipped:
        print(f"{skipped} skipped, counted as failed: what a test needs must be there")
        failed += skipped
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
