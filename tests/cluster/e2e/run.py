#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the end-to-end tests on the running cluster: run.py [--in FOLDER] [PATTERN]. Ends with "N passed, N failed"."""

import argparse
import pathlib
import sys
import time
import unittest


class Result(unittest.TextTestResult):
    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def stopTest(self, test):
        self.stream.writeln(f"    {time.monotonic() - self.began:.1f} s")
        super().stopTest(test)


def main():
    here = pathlib.Path(__file__).parent
    sys.path.insert(0, str(here))
    parser = argparse.ArgumentParser()
    parser.add_argument("--in", dest="folder", default=str(here))
    parser.add_argument("pattern", nargs="?", default="")
    options = parser.parse_args()
    loader = unittest.TestLoader()
    if options.pattern:
        loader.testNamePatterns = [f"*{options.pattern}*"]
    result = unittest.TextTestRunner(verbosity=2, resultclass=Result, stream=sys.stdout).run(loader.discover(options.folder, "*_test.py"))
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed")
    sys.exit(1 if failed or result.testsRun == 0 else 0)


main()
