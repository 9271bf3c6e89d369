# SPDX-License-Identifier: Apache-2.0
"""As much of the Kubernetes API as the chaos tests need, over one connection: a kubectl for each question would be the slowest
part of a round."""

import base64
import http.client
import json
import re
import ssl
import tempfile
import time

from nodes import STATE

GODWIT = "/apis/godwit.io/v1alpha1"


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class Api:
    def __init__(self, namespace):
        self.namespace = namespace
        text = (STATE / "kubeconfig").read_text()
        self.host, self.port = re.search(r"https://([\d.]+):(\d+)", text).groups()
        self.tls = ssl.create_default_context(cadata=self._part(text, "certificate-authority-data"))
        with tempfile.NamedTemporaryFile("w") as pair:
            pair.write(self._part(text, "client-certificate-data") + self._part(text, "client-key-data"))
            pair.flush()
            self.tls.load_cert_chain(pair.name)
        self.connection = None

    @staticmethod
    def _part(text, name):
        return base64.b64decode(re.search(rf"{name}: ([\w+/=]+)", text).group(1)).decode()

    def call(self, method, path, body=None, kind="application/json", patience=60):
        """The answer; None for 404. Whatever ends the connection, or an API server that is not ready, is tried again."""
        deadline = time.monotonic() + patience
        while True:
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection(self.host, int(self.port), timeout=10, context=self.tls)
                self.connection.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": kind})
                answer = self.connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException):
                self.connection = None
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
                continue
            if answer.status < 300:
                return json.loads(text)
            if answer.status == 404 and method != "POST":
                return None
            # While an API server starts: not its last word.
            again = answer.status in (429, 500, 503, 504) or (answer.status in (401, 403) and patience > 0 and "not yet" in text)
            if not again or time.monotonic() > deadline:
                raise Refused(answer.status, text)
            time.sleep(0.2)

    # --- paths

    def pods(self, name=""):
        return f"/api/v1/namespaces/{self.namespace}/pods" + (f"/{name}" if name else "")

    def migrations(self, name=""):
        return f"{GODWIT}/namespaces/{self.namespace}/migrations" + (f"/{name}" if name else "")

    # --- what is done with them

    def get(self, path):
        return self.call("GET", path)

    def list(self, path):
        return self.call("GET", path)["items"]

    def create(self, path, obj):
        try:
            return self.call("POST", path, obj)
        except Refused as refused:
            if refused.status != 409:
                raise
            return self.get(f"{path}/{obj['metadata']['name']}")  # a repeated call's first had gone through

    def delete(self, path, grace=None):
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **({} if grace is None else {"gracePeriodSeconds": grace})}
        return self.call("DELETE", path, options)
