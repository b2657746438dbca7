"""Writes a container image of 60 MiB that nothing compresses: image.py FILE."""

import hashlib
import io
import json
import os
import sys
import tarfile


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as archive:
    add(archive, "random", os.urandom(60 << 20))
layer = layer.getvalue()
diff = "sha256:" + hashlib.sha256(layer).hexdigest()
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}})
manifest = [{"Config": "config.json", "RepoTags": ["example.test/unused:1"], "Layers": ["layer.tar"]}]
with tarfile.open(sys.argv[1], "w") as archive:
    add(archive, "config.json", config.encode())
    add(archive, "layer.tar", layer)
    add(archive, "manifest.json", json.dumps(manifest).encode())
