# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus (Debian's) in the cluster's control plane, which finds and scrapes Godwit as docs/install.md says."""

import json
import re
import subprocess
import time

from cluster import NODE, REPO, SYSTEM, on_node, wait

FOLDER = "/tmp/godwit-prometheus"
URL = "http://127.0.0.1:9090"


def documented_job():
    """The scrape job that docs/install.md tells people to use, with the ways into this cluster."""
    job = re.search(r"```yaml\n(- job_name: godwit\n.*?)```", (REPO / "docs/install.md").read_text(), re.S).group(1)
    job, found = re.subn(r"( +)- role: pod\n", rf"\g<0>\1  kubeconfig_file: {FOLDER}/kubeconfig\n", job)
    assert found == 1 and "names: [godwit-system]" in job, job
    return job.replace("names: [godwit-system]", f"names: [{SYSTEM}]")


class Prometheus:
    """Scrapes every second. Use it in a with statement."""

    def __enter__(self):
        kubeconfig, found = re.subn(r"server: [^\s,}]+", "server: https://10.89.0.1:6443",
                                    (REPO / "build/cluster/kubeconfig").read_text())
        assert found == 1, "no server in build/cluster/kubeconfig"
        config = (f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{FOLDER}/rules.yaml]\n"
                  f"scrape_configs:\n{documented_job()}")
        on_node("cp", "sh", "-c", f"rm -rf {FOLDER} && mkdir -p {FOLDER}")
        self.write("kubeconfig", kubeconfig)
        self.write("prometheus.yaml", config)
        self.write("rules.yaml", (REPO / "metrics/rules/godwit.yaml").read_text())
        self.log = open(REPO / "build/cluster/prometheus.log", "w+")
        self.process = subprocess.Popen(
            [str(NODE), "cp", "prometheus", f"--config.file={FOLDER}/prometheus.yaml", f"--storage.tsdb.path={FOLDER}/data",
             "--web.listen-address=127.0.0.1:9090", "--log.level=warn"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            wait("Prometheus to be ready", self.ready, 30)
        except AssertionError as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{(REPO / 'build/cluster/prometheus.log').read_text()[-2000:]}") from None
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()
        on_node("cp", "rm", "-rf", FOLDER)

    def write(self, name, text):
        on_node("cp", "sh", "-c", f"cat >{FOLDER}/{name}", stdin=text)

    def ready(self):
        if self.process.poll() is not None:
            raise AssertionError("Prometheus ended")
        return on_node("cp", "curl", "-sf", f"{URL}/-/ready", check=False).returncode == 0

    def ask(self, path, **parameters):
        flags = [flag for key, value in parameters.items() for flag in ("--data-urlencode", f"{key}={value}")]
        answer = json.loads(on_node("cp", "curl", "-sG", f"{URL}/api/v1/{path}", *flags))
        if answer["status"] != "success":
            raise AssertionError(f"{path} {parameters}: {answer.get('error')}")
        return answer["data"]

    def query(self, expression):
        """[(labels, value)], without values that are no numbers."""
        return [(s["metric"], float(s["value"][1])) for s in self.ask("query", query=expression)["result"]
                if s["value"][1] != "NaN"]

    def query_range(self, expression, seconds, step):
        """[(labels, [(time, value)])]"""
        end = time.time()
        series = self.ask("query_range", query=expression, start=end - seconds, end=end, step=step)["result"]
        return [(s["metric"], [(at, float(value)) for at, value in s["values"]]) for s in series]

    def targets(self):
        """{instance: health}"""
        return {t["labels"]["instance"]: t["health"] for t in self.ask("targets", state="active")["activeTargets"]}

    def wait_for_scrapes(self, count=2):
        """Until every target has been scraped `count` more times."""
        scrapes = lambda: {m["instance"]: v for m, v in self.query("count_over_time(up[1h])")}
        before = scrapes()

        def enough():
            now = scrapes()
            return now and all(v >= before.get(instance, 0) + count for instance, v in now.items())
        wait("scrapes", enough, 60)


def windows(expression, seconds):
    """The expression with Grafana's variables put in."""
    return expression.replace("$__rate_interval", "30s").replace("$__range", f"{seconds}s")
