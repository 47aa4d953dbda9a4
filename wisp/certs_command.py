"""The command line of `wisp certs`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wisp.certs import Authority

_DESCRIPTION = """\
Makes a certificate authority in DIR, or uses the one that is there, and certificates of it. Keep
ca-key.pem to yourself: who has it can make anybody's identity."""
# Chosen: what a first trial on one machine needs.
_HOSTS = ["localhost", "127.0.0.1", "::1"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("wisp certs", description=_DESCRIPTION)
    made.add_argument("dir", metavar="DIR", type=Path, help="where the files lie")
    made.add_argument(
        "--host",
        action="append",
        default=[],
        help="name or address that edges reach the server by; may be repeated",
    )
    made.add_argument(
        "--edge", action="append", default=[], help="name of an edge; may be repeated"
    )
    return made


def run(arguments: Sequence[str]) -> int:
    asked = parser().parse_args(arguments)
    authority = Authority(asked.dir)
    server = authority.issue("server", [*asked.host, *_HOSTS])
    print(f"the authority that edges trust:  {authority.cert_path}")
    print(f"wisp-server --tls.cert {server[0]} --tls.key {server[1]}")
    for name in asked.edge:
        cert, key = authority.issue(name)
        print(f"wisp-edge --tls.ca {authority.cert_path} --tls.cert {cert} --tls.key {key}")
    if asked.edge:
        print(f"(with --tls.client_ca {authority.cert_path} the server asks edges for theirs)")
    return 0
