"""Certificates: who is let in, who is found out, and what a renewal costs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from wisp.certs import Authority
from wisp.certs_command import run
from wisp.config import EdgeConfig, EdgeTls, Listen, ServerTls
from wisp.core.request import Request, Sampling
from wisp.edge.link import Link
from wisp.edge.security import Security
from wisp.errors import ConfigError, Unavailable
from wisp.openai.http_front import HttpFront
from wisp.server.grpc_front import GrpcFront
from wisp.testing.local import LocalEdge, LocalServer, expected_text
from wisp.tls import HttpsFiles, WatchedFiles, check_plain_text, is_loopback, system_roots

HERE = ["localhost", "127.0.0.1"]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


def server_tls(authority: Authority, *hosts: str, asks: bool = False, days: float = 1) -> ServerTls:
    cert, key = authority.issue("server", hosts or HERE, days=days)
    return ServerTls(cert=cert, key=key, client_ca=authority.cert_path if asks else None)


@asynccontextmanager
async def serving(tls: ServerTls | None) -> AsyncIterator[GrpcFront]:
    server = LocalServer()
    front = GrpcFront(server.service, server.telemetry, Listen(port=0), tls)
    await front.start()
    yield front
    await front.stop(0)
    await server.stop()


def link_to(front: GrpcFront, **tls: Path | None) -> Link:
    config = EdgeConfig(tls=EdgeTls(**tls))
    return Link(f"localhost:{front.port}", security=Security(config))


async def served(link: Link) -> str:
    try:
        card, _ = await link.model(timeout_s=2.0)
        return card.id
    finally:
        await link.close()


async def test_an_edge_writes_over_tls(authority: Authority) -> None:
    async with serving(server_tls(authority)) as front:
        edge = LocalEdge(link_to(front, ca=authority.cert_path))
        sampling = Sampling(max_tokens=40, seed=edge.seed)
        generation = await edge.backend.generate(Request(prompt=[1, 2], sampling=sampling))
        tokens = [token async for verdict in generation for token in verdict.tokens]
        assert tokens == expected_text([1, 2], sampling)
        await edge.stop()


async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    async with serving(server_tls(authority)) as front:
        with pytest.raises(Unavailable):
            await served(link_to(front, ca=other.cert_path))
        assert await served(link_to(front, ca=authority.cert_path)) == "scripted"


async def test_a_server_with_the_certificate_of_another_host_is_not_trusted(
    authority: Authority,
) -> None:
    async with serving(server_tls(authority, "elsewhere.example")) as front:
        with pytest.raises(Unavailable):
            await served(link_to(front, ca=authority.cert_path))


async def test_plain_text_does_not_reach_a_server_with_tls(authority: Authority) -> None:
    async with serving(server_tls(authority)) as front:
        with pytest.raises(Unavailable):
            await served(link_to(front))


async def test_an_edge_must_show_its_certificate_where_it_is_asked_for(
    authority: Authority, tmp_path: Path
) -> None:
    mine, my_key = authority.issue("my-edge")
    theirs, their_key = Authority(tmp_path / "other").issue("their-edge")
    async with serving(server_tls(authority, asks=True)) as front:
        for cert, key in ((None, None), (theirs, their_key)):
            with pytest.raises(Unavailable):
                await served(link_to(front, ca=authority.cert_path, cert=cert, key=key))
        link = link_to(front, ca=authority.cert_path, cert=mine, key=my_key)
        assert await served(link) == "scripted"


async def test_an_expired_certificate_is_renewed_without_a_restart(authority: Authority) -> None:
    tls = server_tls(authority, days=-1)
    async with serving(tls) as front:
        with pytest.raises(Unavailable):
            await served(link_to(front, ca=authority.cert_path))
        server_tls(authority)  # into the same files
        assert await served(link_to(front, ca=authority.cert_path)) == "scripted"


async def test_an_edge_with_a_new_certificate_goes_on_with_its_texts(authority: Authority) -> None:
    cert, key = authority.issue("edge")
    async with serving(server_tls(authority, asks=True)) as front:
        link = link_to(front, ca=authority.cert_path, cert=cert, key=key)
        told: list[bool] = []
        watching = asyncio.create_task(link.watch(told.append))
        edge = LocalEdge(link)
        sampling = Sampling(max_tokens=400, seed=edge.seed)
        generation = await edge.backend.generate(Request(prompt=[1, 2], sampling=sampling))
        verdicts = aiter(generation)
        tokens = (await anext(verdicts)).tokens
        authority.issue("edge")
        await link.renew_if_changed()
        tokens += [token async for verdict in verdicts for token in verdict.tokens]
        assert tokens == expected_text([1, 2], sampling)
        assert (await link.model())[0].id == "scripted"
        watching.cancel()
        await edge.stop()


async def test_https_takes_a_new_certificate_for_new_connections(authority: Authority) -> None:
    tls = server_tls(authority, days=-1)
    assert tls.cert
    assert tls.key
    https = HttpsFiles(tls.cert, tls.key)
    front = HttpFront(Starlette(), Listen(port=0), https)
    front.start()
    url = f"https://localhost:{front.port}/"
    import ssl

    trusting = ssl.create_default_context(cafile=str(authority.cert_path))
    async with httpx.AsyncClient(verify=trusting) as client:
        with pytest.raises(httpx.ConnectError, match="expired"):
            await client.get(url)
        server_tls(authority)
        https.reload()
        assert (await client.get(url)).status_code == 404
    await front.stop()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("gpu-node", False),
    ],
)
def test_plain_text_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if not loopback:
        with pytest.raises(ConfigError, match="--insecure"):
            check_plain_text([host], False, False, "HTTP on")
    check_plain_text([host], True, False, "HTTP on")


def test_plain_text_beyond_it_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_plain_text(["0.0.0.0"], False, True, "HTTP on")
    assert "everybody on the way can read" in caplog.text


def test_an_edge_asks_for_a_certificate_beyond_this_machine() -> None:
    assert Security().credentials("127.0.0.1:8001") is None
    assert Security().credentials("gpu-node:8001") is not None
    assert Security(EdgeConfig(insecure=True)).credentials("gpu-node:8001") is None
    assert b"BEGIN CERTIFICATE" in system_roots()


def test_the_key_of_an_edge_goes_with_every_call(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret-1\n")
    security = Security(EdgeConfig(key_file=path))
    assert security.metadata() == (("authorization", "Bearer secret-1"),)
    path.write_text("secret-22\n")
    assert not security.changed()  # the connection stays
    assert security.metadata() == (("authorization", "Bearer secret-22"),)
    path.write_text("")  # as a full disk leaves it
    assert not security.changed()
    assert security.metadata() == (("authorization", "Bearer secret-22"),)
    path.write_text("two words")
    with pytest.raises(ConfigError, match="must hold one key"):
        Security(EdgeConfig(key_file=path))


def test_a_file_that_is_being_replaced_counts_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "cert"
    path.write_text("old")
    files = WatchedFiles(path, None)
    path.unlink()
    assert not files.changed()
    path.write_text("new one")
    assert files.changed()
    assert files.contents == (b"new one", None)
    assert not files.changed()


def test_the_command_makes_what_the_flags_ask_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([str(tmp_path), "--host", "gpu-node", "--edge", "phone"]) == 0
    said = capsys.readouterr().out
    assert f"--tls.ca {tmp_path / 'ca.pem'} --tls.cert {tmp_path / 'phone.pem'}" in said
    keys = [path for path in tmp_path.iterdir() if path.name.endswith("-key.pem")]
    assert len(keys) == 3
    assert {os.stat(path).st_mode & 0o077 for path in keys} == {0}
    before = (tmp_path / "ca.pem").read_bytes()
    assert run([str(tmp_path), "--edge", "tablet"]) == 0
    assert (tmp_path / "ca.pem").read_bytes() == before
