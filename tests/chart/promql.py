# SPDX-License-Identifier: Apache-2.0
"""The queries of dashboard and alert rules, and what they name: enough of PromQL's grammar to find it out."""

import json
import pathlib
import re

REPO = pathlib.Path(__file__).resolve().parents[2]
DASHBOARD = REPO / "metrics/dashboard/godwit.json"
RULES = REPO / "metrics/rules/godwit.yaml"
SELECTOR = re.compile(r"\b((?:godwit|process)_[a-z_]+)\b(\{[^}]*\})?")


def dashboard_queries():
    """[(title of the panel, expression)]"""
    return [(panel["title"], target["expr"]) for panel in json.loads(DASHBOARD.read_text())["panels"]
            for target in panel.get("targets", [])]


def rule_queries():
    """[(name of the alert, expression)]"""
    import yaml  # here, as the end-to-end tests run where it may be missing
    return [(rule["alert"], rule["expr"]) for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def selectors(expression):
    """[(metric, '{label matchers}' or '')]"""
    return SELECTOR.findall(expression)


def labels(expression):
    """Names of labels in matchers and in by, on and group_left clauses."""
    found = {name for _, matchers in selectors(expression) for name in re.findall(r"([a-z_]+)\s*[=!]", matchers)}
    for clause in re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression):
        found |= {name.strip() for name in clause.split(",")}
    return found


def table():
    """{metric: its labels} from docs/metrics.md, which a test holds equal to metrics/metrics.h."""
    metrics = {}
    for line in (REPO / "docs/metrics.md").read_text().splitlines():
        row = re.match(r"\| `([a-z_]+)` \| (\w+) \| (.*?) \|", line)
        if row:
            suffixes = ["_bucket", "_sum", "_count"] if row[2] == "histogram" else [""]
            for suffix in suffixes:
                metrics[row[1] + suffix] = set(re.findall(r"`(\w+)`", row[3]))
    return metrics
