#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""oci-layout.py DEST SETTINGS.json ARCH=STAGE...: writes an OCI image layout (image-spec 1.1) with one image for each ARCH
under one image index. Each sub-folder of STAGE becomes a layer, in the order of the names.

SETTINGS: {"created": seconds since 1970, "user": "0:0", "entrypoint": [...], "labels": {...}}. The same input gives the
same bytes: owner, times and order are fixed, file names and modes are taken as they are.
"""
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import tarfile

MEDIA = "application/vnd.oci.image."


class Layout:
    def __init__(self, folder):
        self.folder = folder
        self.blobs = folder / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)

    def add(self, content, media_type, **more):
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def add_json(self, value, media_type, **more):
        return self.add(json.dumps(value, separators=(",", ":"), sort_keys=True).encode(), media_type, **more)


def layer_tar(folder, created):
    """The folder's content as a tar archive that does not depend on when and by whom it was made."""
    names = sorted(os.path.relpath(os.path.join(parent, name), folder)
                   for parent, folders, files in os.walk(folder) for name in folders + files)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            entry = tar.gettarinfo(os.path.join(folder, name), name)
            if entry.islnk():  # two names of one file: store it twice rather than depend on the build's file system
                entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", os.path.getsize(os.path.join(folder, name))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = created
            if entry.isreg():
                with open(os.path.join(folder, name), "rb") as file:
                    tar.addfile(entry, file)
            else:
                tar.addfile(entry)
    return buffer.getvalue()


def add_image(layout, arch, stage, settings):
    created = datetime.datetime.fromtimestamp(settings["created"], datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    layers, diff_ids, history, unpacked = [], [], [], 0
    for folder in sorted(path for path in stage.iterdir() if path.is_dir()):
        content = layer_tar(folder, settings["created"])
        unpacked += len(content)
        diff_ids.append("sha256:" + hashlib.sha256(content).hexdigest())
        layers.append(layout.add(gzip.compress(content, 9, mtime=0), MEDIA + "layer.v1.tar+gzip"))
        history.append({"created": created, "created_by": folder.name})
    config = layout.add_json({
        "created": created, "architecture": arch, "os": "linux",
        "config": {"User": settings["user"], "Entrypoint": settings["entrypoint"], "Labels": settings["labels"],
                   "Env": ["PATH=/usr/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
    }, MEDIA + "config.v1+json")
    print(f"{layout.folder.name.removesuffix('.new')} {arch}: {sum(layer['size'] for layer in layers) / 2**20:.1f} MiB compressed, "
          f"{unpacked / 2**20:.1f} MiB unpacked")
    return layout.add_json({"schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json", "config": config,
                            "layers": layers, "annotations": settings["labels"]},
                           MEDIA + "manifest.v1+json", platform={"architecture": arch, "os": "linux"})


def main():
    dest, settings = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
    made = dest.with_name(dest.name + ".new")
    shutil.rmtree(made, ignore_errors=True)
    layout = Layout(made)
    manifests = []
    for pair in sys.argv[3:]:
        arch, stage = pair.split("=", 1)
        manifests.append(add_image(layout, arch, pathlib.Path(stage), settings))
    index = layout.add_json({"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": manifests,
                             "annotations": settings["labels"]}, MEDIA + "index.v1+json",
                            annotations={"org.opencontainers.image.ref.name": settings["labels"]["org.opencontainers.image.version"]})
    (made / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": MEDIA + "index.v1+json", "manifests": [index]}))
    (made / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    shutil.rmtree(dest, ignore_errors=True)
    made.rename(dest)


main()
