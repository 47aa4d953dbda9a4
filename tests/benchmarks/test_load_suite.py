"""What the suite compares: regimes, peers, and the lines that it tells; no server."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.load.campaign import PLAIN, PUBLISHED_SLED, TUNINGS, Campaign, Load, Times
from benchmarks.load.edges import Edge
from benchmarks.load.own import drafter_flags, drawn
from benchmarks.load.peers import DRAFT_PEERS, NGRAM_PEERS, is_predictable, speculation
from benchmarks.load.regimes import NAMES, REGIMES, chosen, in_turn
from benchmarks.load.servers import as_flags, free_port, vllm_options
from benchmarks.load.steps import ANSWER_TOKENS, PROMPT_TOKENS, between, prompt_of
from benchmarks.load.suite import summary
from benchmarks.load.target import config, drafter_of, write_config
from benchmarks.load.texts import (
    NUM_SESSIONS,
    SESSION_SPREAD,
    SessionTexts,
    acceptance_rates,
    session_acceptance,
)
from benchmarks.load.users import Ask, chain
from benchmarks.sim.profiles import DEVICES
from wisp.config import TINY
from wisp.core.slo import Slo
from wisp.models.tokenizer import Tokenizer


@pytest.mark.parametrize("num_drafts", [1, 4, 6])
def test_a_drafter_on_the_gpu_commits_in_a_round_what_the_sessions_of_the_edges_would(
    num_drafts: int,
) -> None:
    """Each of them to the end of its answer, so that whoever is slow takes more rounds."""
    texts, answer = SessionTexts(0.7), 300
    rounds = 0
    for number in range(1000):
        right = texts.make(answer, (1, number)).right
        place = 0
        while place < answer:
            ahead = np.append(right[place : place + num_drafts], False)
            place += int(ahead.argmin()) + 1
            rounds += 1
    expected = 1.0 + sum(acceptance_rates(0.7, num_drafts))
    assert 1000 * answer / rounds == pytest.approx(expected, rel=0.01)


def test_own_drafts_are_as_right_for_edges_as_they_are_meant_to_be() -> None:
    """How right is drawn by the seed of a request: they must differ, and be the same next time."""
    nothing = cast(Any, None)
    card = cast(Any, SimpleNamespace(id="target"))
    link = cast(Any, SimpleNamespace(address="127.0.0.1:1"))

    def seeds() -> list[int]:
        edges = [
            Edge(
                number,
                link,
                card,
                nothing,
                profile=DEVICES[0],
                lines=(nothing, nothing),
                texts=SessionTexts(0.7),
                predictor=nothing,
                metrics=nothing,
                seed=1,
            )
            for number in range(20)
        ]
        asks = [Ask([1], 100, 0, number, 0) for number in range(20)]
        slo = Slo(tokens_per_s=8.0, first_token_s=1.0)
        return [edge.request(ask, slo).sampling.seed for edge in edges for ask in asks]

    found = [session_acceptance(0.7, seed % NUM_SESSIONS) for seed in seeds()]
    assert fmean(found) == pytest.approx(0.7, abs=0.02)
    assert pstdev(found) == pytest.approx(SESSION_SPREAD, abs=0.02)
    assert seeds() == seeds()


def test_whoever_is_slow_counts_in_more_rounds() -> None:
    assert 1.0 + sum(acceptance_rates(0.7, 4)) == pytest.approx(2.735, abs=0.005)
    assert acceptance_rates(0.7, 4)[0] < 0.7


def test_without_a_spread_the_curve_is_a_power() -> None:
    assert acceptance_rates(0.5, 3, session_spread=0.0) == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("acceptance", [0.02, 0.5, 0.85, 0.99, 1.0])
def test_rates_never_rise_whatever_the_mean(acceptance: float) -> None:
    rates = acceptance_rates(acceptance, 8)
    assert rates[0] == pytest.approx(acceptance, abs=0.05)
    assert rates == sorted(rates, reverse=True)
    assert all(0.0 <= rate <= 1.0 for rate in rates)


def test_sessions_differ_by_the_published_spread() -> None:
    texts = SessionTexts(0.7)
    shares = [np.mean(texts.make(500, (2, number)).right) for number in range(400)]
    assert np.mean(shares) == pytest.approx(0.7, abs=0.02)
    assert np.std(shares) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("peer", DRAFT_PEERS)
def test_a_draft_model_is_written_for_vllm(peer: str, tmp_path: Path) -> None:
    found = speculation(peer, "32b", 0.7, tmp_path)
    assert found is not None
    count = found["num_speculative_tokens"]
    assert peer == f"vllm-draft-{count}"
    assert len(found["synthetic_acceptance_rates"]) == count
    written = json.loads((Path(found["model"]) / "config.json").read_text())
    assert written["vocab_size"] == config("32b")["vocab_size"]
    assert written["hidden_size"] == 1024


def test_only_lookups_need_a_text_in_which_nothing_repeats(tmp_path: Path) -> None:
    assert speculation(PLAIN, "32b", 0.7, tmp_path) is None
    assert [peer for peer in (PLAIN, *DRAFT_PEERS, *NGRAM_PEERS) if is_predictable(peer)] == [
        "vllm-ngram-4"
    ]
    found = speculation("vllm-ngram-4", "32b", 0.7, tmp_path)
    assert found
    assert (found["method"], found["num_speculative_tokens"]) == ("ngram", 4)


@pytest.mark.parametrize("shape", ["small", "medium", "8b", "32b", "70b"])
def test_a_drafter_has_the_vocabulary_of_its_target(shape: str, tmp_path: Path) -> None:
    peers = (speculation(DRAFT_PEERS[0], shape, 0.7, tmp_path / "peers") or {})["model"]
    own, head = (
        drafter_flags(tmp_path / str(is_head), shape, 0.7, is_head=is_head)[1].partition("=")[2]
        for is_head in (False, True)
    )
    for drafter in (peers, own, head):
        written = json.loads((Path(drafter) / "config.json").read_text())
        assert written["vocab_size"] == config(shape)["vocab_size"]


def test_engine_arguments_on_a_command_line() -> None:
    options = {"a_size": 2, "b_c": True, "d": False, "e_f": {"g": [1]}}
    assert as_flags(options) == ["--a-size=2", "--b-c", "--no-d", '--e-f={"g": [1]}']


def test_a_large_target_is_spread_and_leaves_room() -> None:
    options = vllm_options(24_000, shape="70b", tensor_parallel=2)
    assert options["tensor_parallel_size"] == 2
    assert options["gpu_memory_utilization"] == 0.95
    assert options["num_gpu_blocks_override"] * options["block_size"] == 24_000
    assert not {"tensor_parallel_size", "gpu_memory_utilization"} & vllm_options(None).keys()


def test_ports_are_none_that_connections_are_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        ports = {free_port() for _ in range(20)}
        assert len(ports) > 10
        assert max(ports) < given.getsockname()[1]


def test_each_token_of_a_timed_answer_has_a_text() -> None:
    tokenizer = Tokenizer(TINY / "target")
    for seed in range(20):
        prompt = prompt_of(Random(seed), 128_256)
        assert len(prompt) == PROMPT_TOKENS
        for token in chain(prompt[-1] + 1, ANSWER_TOKENS, 128_256):
            text = tokenizer.decode([token])
            assert text
            assert "\ufffd" not in text


def test_each_token_of_a_large_shape_has_a_text_that_its_reader_is_sent(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_config(tmp_path, "8b"))
    ids = range(len(Tokenizer(TINY / "target").token_ids()), config("8b")["vocab_size"])
    assert len(ids) > 100_000
    texts = [tokenizer.bytes.in_text(token) for token in ids]
    assert all(text.decode().isprintable() and text.strip() for text in texts)


def test_a_step_is_timed_while_it_has_everybody() -> None:
    early = [0.1 * n for n in range(20)]
    late = [0.95, *(1.0 + 0.2 * n for n in range(8))]
    assert between([early, late]) == {
        "between_mean_ms": 135.0,  # of one 100 from 1.0 s on, of the other 170 to 1.8 s
        "between_p50_ms": 100.0,
        "between_p90_ms": 200.0,
        "counted": 14,
    }
    never = between([[0.0, 0.1], [0.5, 0.6]])
    assert (never["between_p50_ms"], never["counted"]) == (None, 0)


def test_a_published_batch_waits_for_its_slowest_member() -> None:
    (published,) = TUNINGS[PUBLISHED_SLED]
    assert published["batch_wait_s"] > 10 * max(t["batch_wait_s"] for t in TUNINGS["sled"])


def test_regimes_are_asked_for_by_name_and_devices() -> None:
    assert [each.name for each in chosen(["all"])] == list(NAMES)
    first, second = chosen(["wan-mix-8", "lan-fast-60:24,8"])
    assert (first.name, first.loads) == ("lan-fast-60", (24, 8))
    assert (second.name, second.loads) == ("wan-mix-8", (48, 96, 144))
    everything = {each.name: each.loads for each in chosen(["all", "wan-mix-8:12"])}
    assert everything["wan-mix-8"] == (12,)
    assert len(everything) == len(REGIMES)
    with pytest.raises(ValueError, match="there is no regime 'lan'"):
        chosen(["lan"])


def test_each_regime_has_its_first_load_before_any_has_its_second() -> None:
    loads = in_turn(chosen(["lan-fast-60:24,8", "wan-mix-8:48"]), 0.5)
    assert [(load.regime, load.devices) for load in loads] == [
        ("lan-fast-60", 24),
        ("wan-mix-8", 48),
        ("lan-fast-60", 8),
    ]
    assert {load.acceptance for load in loads} == {0.5}


def test_a_gain_is_over_plain_vllm_under_the_same_load() -> None:
    (load,) = in_turn(chosen(["lan-fast-60:24"]), 0.7)
    shared: dict[Load, float] = {}
    nobody: Any = None
    plain, ours = (
        Campaign(nobody, nobody, Times(), part=part, baseline=shared) for part in ("vllm", "wisp")
    )
    assert ours.gain("wisp", load, 90.0) is None
    assert plain.gain(PLAIN, load, 100.0) == 1.0
    assert ours.gain("wisp", load, 160.0) == 1.6


def row(part: str, policy: str, goodput: float, devices: int = 24) -> dict[str, Any]:
    about = {"regime": "lan-fast-60", "devices": devices, "acceptance": 0.7, "attainment": 1.0}
    return about | {"part": part, "policy": policy, "goodput": goodput, "gain": goodput / 100}


def test_the_summary_tells_the_best_drafter() -> None:
    rows = [
        row("vllm", "vllm", 100.0),
        row("vllm-draft-2", "vllm-draft-2", 140.0),
        row("vllm-draft-4", "vllm-draft-4", 160.0),
        row("wisp", "wisp", 110.0),
        row("wisp-one-by-one", "wisp", 130.0),
        row("wisp-one-by-one", "sled", 120.0),
        row("wisp-one-by-one", "sled", 115.0),
        row("vllm", "vllm", 90.0, devices=8),
    ]
    first, second = summary(rows)
    assert first["best drafter"] == "vllm-draft-4"
    assert first["vllm-draft gain"] == 1.6
    assert first["wisp goodput"] == 110.0
    assert first["wisp-one-by-one goodput"] == 130.0
    assert first["wisp-one-by-one: sled goodput"] == 120.0
    assert "wisp: sled goodput" not in first
    assert second["wisp-one-by-one: sled goodput"] is None
    assert (second["devices"], second["best drafter"]) == (8, None)
    assert list(first) == list(second)


def test_the_own_drafter_is_the_peers_but_for_its_head(tmp_path: Path) -> None:
    flags = dict(flag.split("=", 1) for flag in drafter_flags(tmp_path, "32b", 0.7, is_head=False))
    written = json.loads((Path(flags["--engine.drafter.model"]) / "config.json").read_text())
    peers = config(drafter_of("32b"))
    assert written == json.loads(json.dumps(peers | {"tie_word_embeddings": False}))
    assert flags["--own-acceptance"] == "0.7"


def test_whether_an_own_draft_is_right_is_drawn_from_seed_and_position() -> None:
    seeds = torch.arange(-200, 200).repeat_interleave(50)
    positions = torch.arange(50).repeat(400)
    found = drawn(seeds, positions)
    assert 0.0 <= float(found.min()) <= float(found.max()) < 1.0
    assert float((found < 0.7).float().mean()) == pytest.approx(0.7, abs=0.01)
    of_each = (found < 0.7).view(400, 50).float().mean(dim=1)
    assert float(of_each.std()) == pytest.approx(math.sqrt(0.21 / 50), rel=0.15)
    assert torch.equal(found, drawn(seeds, positions))


def test_both_servers_have_the_same_head(tmp_path: Path) -> None:
    """As wide as its target, of one layer, and with fewer tokens."""
    flags = drafter_flags(tmp_path / "ours", "32b", 0.7, is_head=True)
    assert flags[0] == "--engine.drafter.method=eagle3"
    peers = speculation("vllm-eagle-4", "32b", 0.7, tmp_path / "peers")
    assert peers
    assert peers["method"] == "eagle3"
    ours, theirs = (
        json.loads((Path(directory) / "config.json").read_text())
        for directory in (flags[1].partition("=")[2], peers["model"])
    )
    assert ours == theirs
    assert (ours["num_hidden_layers"], ours["hidden_size"]) == (1, config("32b")["hidden_size"])
    assert ours["draft_vocab_size"] == 32_000


def test_a_sessions_own_drafts_are_as_right_as_its_edges_would_be() -> None:
    drawn = [session_acceptance(0.7, seed) for seed in range(400)]
    assert fmean(drawn) == pytest.approx(0.7, abs=0.02)
    assert pstdev(drawn) == pytest.approx(SESSION_SPREAD, abs=0.02)
