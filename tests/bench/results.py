# SPDX-License-Identifier: Apache-2.0
"""What the parts of `make bench` share: a file of results that is whole after every measurement, facts of the machine, tables."""

import datetime
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]


def percentile(values, p):
    """The nearest-rank percentile: the smallest value that p percent of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * p / 100) - 1)]


def median(values):
    return statistics.median(values) if values else math.nan


def _said(*argv):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine_facts():
    cpus = pathlib.Path("/proc/cpuinfo").read_text()
    memory = pathlib.Path("/proc/meminfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpus)
    return {"kernel": os.uname().release, "architecture": os.uname().machine, "processor": model.group(1) if model else "",
            "cores": os.cpu_count(), "memory_mib": int(re.search(r"MemTotal:\s*(\d+)", memory).group(1)) >> 10,
            "source": _said("git", "-C", REPO, "describe", "--always", "--dirty")}


def run_part(main):
    """Ends the process with what `main` returns."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("broken off: what was measured is kept, and the same command goes on there")


class Results:
    """Rows of figures in a JSON file: each row has a key and a list of runs. Written anew after each run, so whoever breaks a
    measurement off loses one run; the next one with the same facts and options goes on where it was. A file that is finished, or of
    other facts, becomes FILE.previous.json."""

    def __init__(self, path, facts, fresh=False):
        self.path = pathlib.Path(path)
        self.data = {"facts": facts, "begun": self._now(), "finished": None, "rows": []}
        try:
            old = json.loads(self.path.read_text())
        except (OSError, ValueError):
            old = None
        if old and not fresh and not old["finished"] and old["facts"] == facts:
            self.data = old
        elif old:
            self.path.rename(self.path.with_suffix(".previous.json"))

    @staticmethod
    def _now():
        return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    def runs(self, **key):
        """The row's runs so far; the row is made where it is not there."""
        row = next((row for row in self.data["rows"] if row["key"] == key), None)
        if row is None:
            row = {"key": key, "runs": []}
            self.data["rows"].append(row)
        return row["runs"]

    def add(self, figures, **key):
        self.runs(**key).append(figures)
        self.write()

    def finish(self):
        self.data["finished"] = self._now()
        self.write()

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.data, indent=1) + "\n")
        new.replace(self.path)


class Table:
    """Rows printed as they come: columns are (heading, width), text with a negative width stands left."""

    def __init__(self, title, *columns):
        self.widths = [width for _, width in columns]
        print(f"\n{title}")
        self.row(*(heading for heading, _ in columns))

    def row(self, *values):
        cells = [f"{value:<{-width}}" if width < 0 else f"{value:>{width}}" for value, width in
                 zip(values, self.widths, strict=True)]
        print("  ".join(cells).rstrip(), flush=True)
