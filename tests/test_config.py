from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from pydantic import BaseModel

from wisp import __version__, cli
from wisp.config import EdgeConfig, ServerConfig, load
from wisp.demo.main import DemoConfig
from wisp.engine.process import Pipe, _load_and_serve
from wisp.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
FREE = {"slo_classes"}  # keys whose own keys the operator chooses
KINDS: dict[str, Any] = {"server": ServerConfig, "edge": EdgeConfig, "demo": DemoConfig}


def test_a_flag_wins_over_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("http: {port: 1}\ngrpc: {port: 1}\ndrain_s: 1\n")
    monkeypatch.setenv("WISP_SERVER_HTTP__PORT", "2")
    monkeypatch.setenv("WISP_SERVER_GRPC__PORT", "2")
    config = load(ServerConfig, [f"--config={path}", "--grpc.port", "3"], "wisp-server")
    assert (config.drain_s, config.http.port, config.grpc.port) == (1, 2, 3)
    assert type(config) is ServerConfig


def test_an_address_given_alone_leaves_the_port_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is given: `--grpc.host 0.0.0.0` is how a server listens to edges."""
    path = tmp_path / "server.yaml"
    path.write_text("grpc: {host: 0.0.0.0}\n")
    for arguments in (["--grpc.host=0.0.0.0"], [f"--config={path}"]):
        assert load(ServerConfig, arguments, "wisp-server").grpc.port == 8001
    monkeypatch.setenv("WISP_EDGE_HTTP__HOST", "0.0.0.0")
    assert load(EdgeConfig, [], "wisp-edge").http.port == 8010


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_file_is_the_default(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WISP_SERVER_ESTIMATOR__STATE_DIR")  # set for the servers of other tests
    shipped = load(KINDS[name], [f"--config={CONFIGS / name}.yaml"], "wisp")
    assert shipped == load(KINDS[name], [], "wisp")


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_file_has_every_key(name: str) -> None:
    text = (CONFIGS / f"{name}.yaml").read_text().replace("# target: DIR", "target: x")
    content = yaml.safe_load(text.replace("# draft: DIR", "draft: x"))
    assert _keys(content) == _fields(KINDS[name])


def _keys(content: dict[str, Any]) -> set[str]:
    nested = {k: v for k, v in content.items() if isinstance(v, dict) and v and k not in FREE}
    below = {f"{name}.{key}" for name, value in nested.items() for key in _keys(value)}
    return below | (content.keys() - nested.keys())


def _fields(kind: type[BaseModel]) -> set[str]:
    found: set[str] = set()
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= {f"{name}.{key}" for key in _fields(field.annotation)}
        else:
            found.add(str(field.validation_alias or name))
    return found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("prot: 1", "unknown key 'prot'"),
        ("http: {port: many}", "'http.port' is 'many'"),
        ("[1, 2]", "must hold keys and values"),
        ("a: [", "is not YAML"),
        ("speculation: {window: 65}", "window 65 exceeds max_window 64"),
        ("slo_classes: {gold: {rate: 1}}", "unknown key 'slo_classes.gold.rate'"),
        ("slo_classes: {gold: {tokens_per_s: 0}}", "'slo_classes.gold.tokens_per_s' is 0"),
        ("slo_classes: {default: {}}", "the class name 'default' is taken"),
        ("slo_classes: {a=b: {}}", "'slo_classes.a=b.[key]' is 'a=b'"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence.replace(".", r"\.").replace("[", r"\[")):
        load(ServerConfig, ["--config", str(path)], "wisp-server")


def test_a_file_may_speak_of_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    path = tmp_path / "edge.yaml"
    path.write_text("draft: ~/qwen\nstate_dir: ~/learned\nlog_rounds: ~/rounds\n")
    edge = load(EdgeConfig, [f"--config={path}"], "wisp-edge")
    found = edge.draft, edge.state_dir, edge.log_rounds
    assert found == tuple(Path("/home/ada") / name for name in ("qwen", "learned", "rounds"))


def test_a_missing_file_gets_a_sentence() -> None:
    with pytest.raises(ConfigError, match="cannot read nowhere"):
        load(ServerConfig, ["--config", "nowhere"], "wisp-server")


def test_help_explains_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load(EdgeConfig, ["--help"], "wisp-edge")
    assert caught.value.code == 0
    said = capsys.readouterr().out
    assert "--drafter.block_tokens" in said
    assert "draft tokens gathered in one message" in said


def test_a_variable_that_is_no_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WISP_EDGE_DRAFTR__DEVICE", "cpu")
    with pytest.raises(ConfigError, match="did you mean WISP_EDGE_DRAFT"):
        load(EdgeConfig, [], "wisp-edge")


def test_a_misspelt_program_in_a_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WISP_EDGE_HTTP__PORT", "1")  # another program's
    monkeypatch.setenv("WISP_FUZZ", "1")  # nobody's, and like none
    load(ServerConfig, [], "wisp-server")
    monkeypatch.setenv("WISP_SEVER_HTTP__PORT", "1")
    with pytest.raises(ConfigError, match="did you mean WISP_SERVER_HTTP"):
        load(ServerConfig, [], "wisp-server")


def test_what_kubernetes_tells_of_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one named `wisp-server`, as a release of the chart may be: the server did not start."""
    monkeypatch.setenv("WISP_SERVER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("WISP_SERVER_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("WISP_SERVER_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("WISP_SERVER_PORT_8000_TCP_ADDR", "10.0.0.1")
    load(ServerConfig, [], "wisp-server")
    monkeypatch.setenv("WISP_SERVER_HTTP_PORT", "8000")  # one underscore too few
    with pytest.raises(ConfigError, match="did you mean WISP_SERVER_HTTP"):
        load(ServerConfig, [], "wisp-server")


def test_a_file_that_is_not_utf_8_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    path.write_bytes("device_name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load(EdgeConfig, ["--config", str(path)], "wisp-edge")


def test_null_means_null_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "server.yaml"
    path.write_text("model: null\n")
    assert load(ServerConfig, [f"--config={path}"], "wisp-server").model is None
    for arguments in (["--estimator.state_dir", "null"], ["--estimator.state_dir=null"]):
        assert load(ServerConfig, arguments, "wisp-server").estimator.state_dir is None
    monkeypatch.setenv("WISP_SERVER_ESTIMATOR__STATE_DIR", "null")
    monkeypatch.setenv("WISP_SERVER_MODEL", "null")
    config = load(ServerConfig, [], "wisp-server")
    assert (config.estimator.state_dir, config.model) == (None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--engine.options", "tensor_parallel_size=4", "--engine.options", "enforce_eager=true"],
        ["--engine.options=tensor_parallel_size=4,enforce_eager=true"],
        ["--engine.options", "{tensor_parallel_size: 4, enforce_eager: true}"],
        ["--engine.options", '{"tensor_parallel_size": 4, "enforce_eager": true}'],
    ],
)
def test_values_of_dictionaries_keep_their_types(arguments: list[str]) -> None:
    options = load(ServerConfig, arguments, "wisp-server").engine.options
    assert options == {"tensor_parallel_size": 4, "enforce_eager": True}
    assert type(options["tensor_parallel_size"]) is int


def test_classes_may_be_given_as_a_flag() -> None:
    flag = "--slo-classes={fast: {tokens_per_s: 30, priority: 2}}"
    classes = load(ServerConfig, [flag], "wisp-server").slo_classes
    assert (classes["fast"].tokens_per_s, classes["fast"].priority) == (30.0, 2)


@pytest.mark.parametrize("value", ["four", "[1, 2]", "{a: "])
def test_what_is_no_dictionary_gets_a_sentence(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--engine\.options is "):
        load(ServerConfig, ["--engine.options", value], "wisp-server")


def test_hyphens_and_underscores_are_alike() -> None:
    arguments = ["--drain-s=5", "--engine.max-sessions", "3", "--no-engine.overlap"]
    config = load(ServerConfig, arguments, "wisp-server")
    assert (config.drain_s, config.engine.max_sessions, config.engine.overlap) == (5, 3, False)
    assert load(EdgeConfig, ["--device-name", "my-pi_4"], "wisp-edge").device_name == "my-pi_4"


def test_the_file_is_a_flag_of_the_help_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(ServerConfig, ["--help"], "wisp-server")
    assert "--config" in capsys.readouterr().out
    path = tmp_path / "server.yaml"
    path.write_text("config: other.yaml\n")
    with pytest.raises(ConfigError, match="unknown key 'config'"):
        load(ServerConfig, ["--config", str(path)], "wisp-server")


@pytest.mark.parametrize("command", ["server", "edge", "top", "keys", "certs", "models"])
def test_every_command_tells_its_version(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["wisp", command, "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"wisp {command} {__version__}\n"


def completed(words: list[str], script: str) -> set[str]:
    """What bash offers for the last of the words, once it has read the script."""
    function = f"_shtab_{words[0].replace('-', '_')}"
    asked = f"""{script}
COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; {function}; echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_shell_completes_commands_and_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["wisp", "completion", "bash"])
    assert cli.main() == 0
    script = capsys.readouterr().out
    assert completed(["wisp", "se"], script) == {"server"}
    assert completed(["wisp", "keys", "re"], script) == {"revoke"}
    flags = {"--engine.max_sessions", "--engine.max_model_len"}
    assert flags <= completed(["wisp", "server", "--engine.max"], script)
    assert "--grpc.port" in completed(["wisp-server", "--grpc"], script)
    assert "--drafter.device" in completed(["wisp-edge", "--drafter.d"], script)


def test_the_engine_process_tells_the_extra_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def without_torch() -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    said: list[Any] = []
    pipe = SimpleNamespace(send=said.extend)
    _load_and_serve(cast(Pipe, pipe), without_torch)
    assert [message.message for message in said] == [
        "'torch' is not installed: pip install 'wisp-serving[torch]'"
    ]
    assert not caplog.records


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--http.prot", "1"], "unrecognized arguments: --http.prot 1"),
        (["--http.port"], "argument --http.port: expected one argument"),
    ],
)
def test_a_flag_that_is_none_gets_one_sentence(
    flags: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["wisp-server", *flags])
    assert cli.server() == 2
    assert capsys.readouterr().err == f"wisp server: {sentence}\n"


def test_a_setting_that_is_none_gets_the_likeliest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WISP_SERVER_ENGINE__MAX_SESSION", "3")
    told = "unknown key 'engine.max_session': did you mean 'engine.max_sessions'"
    with pytest.raises(ConfigError, match=told):
        load(ServerConfig, [], "wisp-server")


def test_whoever_stops_reading_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "wisp.cli", "completion", "zsh"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("command", ["server", "edge"])
def test_who_has_no_torch_is_told_the_extra(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without_torch(arguments: object) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, f"_{command}", without_torch)
    monkeypatch.setattr("sys.argv", ["wisp", command])
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert "pip install 'wisp-serving[torch]'" in said
    assert ("a device without a GPU" in said) == (command == "edge")
    assert said.count("\n") == 1
