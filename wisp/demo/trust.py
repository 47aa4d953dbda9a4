"""Certificates and a key of the demo's own, so that it runs as a deployment does."""

from __future__ import annotations

from pathlib import Path

from wisp.access.keys import KeyRecord, add
from wisp.certs import Authority


class Trust:
    """Lies in a folder that ends with the demo."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "certs")
        cert, key = authority.issue("server", ["127.0.0.1"])
        keys, key_file = folder / "keys.yaml", folder / "key"
        self.key = add(keys, KeyRecord(name="demo"))
        key_file.write_text(self.key)
        self.server_flags = [
            f"--tls.cert={cert}",
            f"--tls.key={key}",
            "--no-tls.http",  # applications on this machine need no authority of ours
            f"--keys={keys}",
            "--admin.port=0",
        ]
        self.edge_flags = [f"--tls.ca={authority.cert_path}", f"--key_file={key_file}"]
