#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes an OCI image layout out of files of Debian root file systems, without docker and without running anything.

usage: mkimage.py OUT ARCH=ROOT... [--file PATH[=FILE]]... [--tree FOLDER]... [--link PATH=TARGET]... [--cmd JSON]

For each ARCH (amd64, arm64) one image; the layout's index holds them all. --file takes PATH from ROOT with all
libraries that it is linked to (or takes FILE from here, with %ARCH% replaced); --tree takes a whole folder. The same
input gives the same bytes, hence the same digest.
"""
import argparse, gzip, hashlib, io, json, os, re, subprocess, tarfile

FOLDERS = "usr usr/bin usr/sbin usr/lib usr/lib64 data dev etc proc root run sys tmp var var/log var/tmp".split()
MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
ETC = {"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
       "etc/group": "root:x:0:\nnogroup:x:65534:\n"}
MACHINE = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


class Root:
    """A Debian root file system: follows its links and finds the libraries of its programs."""

    def __init__(self, path, arch):
        self.path, self.arch, self.found = path, arch, {}

    def real(self, path):
        """Path of the file that `path` leads to, inside the root; every folder on the way may be a link."""
        done = ""
        todo = [part for part in path.split("/") if part]
        for _ in range(200):
            if not todo:
                return done
            done, link = done + "/" + todo.pop(0), None
            if os.path.islink(self.path + done):
                link = os.readlink(self.path + done)
                done = "" if link.startswith("/") else os.path.dirname(done)
                todo = [part for part in link.split("/") if part and part != "."] + todo
            while todo and todo[0] == "..":
                done, todo = os.path.dirname(done), todo[1:]
        raise SystemExit(f"mkimage: too many links: {path} in {self.path}")

    def libraries(self, path):
        """Paths of all libraries, and the loader, that the program or library `path` needs."""
        path = self.real(path)
        if path not in self.found:
            self.found[path] = needed = set()
            text = subprocess.run(["readelf", "-dl", self.path + path], capture_output=True, text=True).stdout
            loader = re.search(r"interpreter: (\S+)\]", text)
            if loader:
                needed.add(loader.group(1))
            for name in re.findall(r"NEEDED.*\[(.*)\]", text):
                library = f"/usr/lib/{MACHINE[self.arch]}/{name}"
                if not os.path.exists(self.path + self.real(library)):
                    raise SystemExit(f"mkimage: {path} needs {name}, which is not in {self.path}")
                needed |= {library} | self.libraries(library)
        return self.found[path]


class Layer:
    """A tar archive in memory; every name once, no times, all owned by root."""

    def __init__(self):
        self.buffer, self.names = io.BytesIO(), set()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w")

    def _add(self, name, mode, data=None, type=tarfile.REGTYPE, target=""):
        if name not in self.names:
            self.names.add(name)
            entry = tarfile.TarInfo(name)
            entry.mode, entry.type, entry.linkname, entry.size = mode, type, target, len(data or b"")
            self.tar.addfile(entry, io.BytesIO(data or b""))

    def file(self, name, data, mode):
        self.folder(os.path.dirname(name))
        self._add(name, mode, data)

    def link(self, name, target):
        self.folder(os.path.dirname(name))
        self._add(name, 0o777, type=tarfile.SYMTYPE, target=target)

    def folder(self, name):
        if name and name not in self.names:
            self.folder(os.path.dirname(name))
            self._add(name, 0o1777 if name in ("tmp", "var/tmp") else 0o755, type=tarfile.DIRTYPE)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


def add_file(layer, root, path):
    """Adds a file of the root under the name that programs know it by (in the merged /usr)."""
    real = root.real(path)
    with open(root.path + real, "rb") as file:
        first = path.strip("/").split("/")[0]
        name = path.strip("/") if first not in MERGED else "usr/" + path.strip("/")
        layer.file(name, file.read(), os.stat(root.path + real).st_mode & 0o777)


def fill(layer, root, options):
    for name in FOLDERS:
        layer.folder(name)
    for name, target in MERGED.items():
        layer.link(name, target)
    for name, text in ETC.items():
        layer.file(name, text.encode(), 0o644)
    for spec in options.file:
        path, _, source = spec.partition("=")
        if source:
            with open(source.replace("%ARCH%", root.arch), "rb") as file:
                layer.file(path.strip("/"), file.read(), 0o755)
        else:
            for each in [path, *sorted(root.libraries(path))]:
                add_file(layer, root, each)
    for folder in options.tree:
        for base, folders, names in os.walk(root.path + folder):
            folders[:] = sorted(set(folders) - {"__pycache__", "test", "idlelib", "ensurepip", "pydoc_data"})
            for path in (os.path.join(base, name)[len(root.path):] for name in sorted(names)):
                if os.path.exists(root.path + root.real(path)):
                    for each in [path, *(sorted(root.libraries(path)) if path.endswith(".so") else [])]:
                        add_file(layer, root, each)
    for spec in options.link:
        path, _, target = spec.partition("=")
        layer.link(path.strip("/"), target)


def blob(out, data, media_type):
    digest = hashlib.sha256(data).hexdigest()
    with open(f"{out}/blobs/sha256/{digest}", "wb") as file:
        file.write(data)
    return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("out")
    parser.add_argument("root", nargs="+")
    for name in ("file", "tree", "link"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("--cmd", type=json.loads, required=True)
    options = parser.parse_args()
    os.makedirs(options.out + "/blobs/sha256", exist_ok=True)
    kind = "application/vnd.oci.image."
    manifests = []
    for arch, path in (spec.split("=", 1) for spec in options.root):
        layer = Layer()
        fill(layer, Root(path.rstrip("/"), arch), options)
        data = layer.bytes()
        config = {"architecture": arch, "os": "linux", "created": "1970-01-01T00:00:00Z",
                  "config": {"Cmd": options.cmd, "Env": ["PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8"], "WorkingDir": "/"},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest()]}}
        manifest = {"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                    "config": blob(options.out, json.dumps(config).encode(), kind + "config.v1+json"),
                    "layers": [blob(options.out, gzip.compress(data, 1, mtime=0), kind + "layer.v1.tar+gzip")]}
        entry = blob(options.out, json.dumps(manifest).encode(), manifest["mediaType"])
        manifests.append({**entry, "platform": {"architecture": arch, "os": "linux"}})
    # The layout's index names one index over all architectures, so that one tag serves every node.
    index = {"schemaVersion": 2, "mediaType": kind + "index.v1+json", "manifests": manifests}
    top = {**index, "manifests": [blob(options.out, json.dumps(index).encode(), index["mediaType"])]}
    with open(options.out + "/index.json", "w") as file:
        json.dump(top, file)
    with open(options.out + "/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)


main()
