"""The aggregator's command line as people and their scripts meet it."""

import json
import logging
import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from aggregator import __version__
from aggregator.cli import arguments, make_parser, variable
from aggregator.log import FORMATS

# What each option is given in the environment, and what comes of it.
GIVEN = {
    "KPOD_LISTEN": ("[::1]:80", ("::1", 80)),
    "KPOD_HISTOGRAM": ("a*=native b=classic:1,2", 2),
    "KPOD_MAX_SERIES": ("7", 7),
    "KPOD_KUBELET_INSECURE": ("true", True),
    "KPOD_WEB_CONFIG_FILE": ("/x", "/x"),
    "KPOD_NAMESPACES": ("a,b", ("a", "b")),
    "KPOD_LOG_FORMAT": ("json", "json"),
    "KPOD_OTLP_INTERVAL": ("2.5", 2.5),
}


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aggregator", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )


def test_every_option_has_a_variable() -> None:
    names = [variable(action) for action in make_parser()._actions]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("KPOD_[A-Z_]+", name) for name in names)
    assert set(GIVEN) <= set(names)


def test_variables_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (value, _) in GIVEN.items():
        monkeypatch.setenv(name, value)
    options = arguments(["--pods=api", "--node=n"])
    for name, (_, wanted) in GIVEN.items():
        got = getattr(options, {"KPOD_WEB_CONFIG_FILE": "web_config"}.get(name, name[5:].lower()))
        if name == "KPOD_HISTOGRAM":
            assert [p.pattern for p in got] == ["a*", "b"]
        elif name == "KPOD_WEB_CONFIG_FILE":
            assert str(got) == wanted
        else:
            assert got == wanted, name
    assert arguments(["--pods=api", "--node=n", "--max-series=8"]).max_series == 8
    monkeypatch.setenv("KPOD_KUBELET_INSECURE", "0")
    assert arguments(["--pods=api", "--node=n"]).kubelet_insecure is False
    monkeypatch.setenv("KPOD_MAX_SERIES", "")  # as good as not there
    assert arguments(["--pods=api", "--node=n"]).max_series == 100_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KPOD_LISTEN", "nowhere"),
        ("KPOD_LOG_LEVEL", "loud"),
        ("KPOD_KUBELET_INSECURE", "perhaps"),
        ("KPOD_MAX_SERIES", "-1"),
        ("KPOD_HISTOGRAM", "a=native b"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        arguments([])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith(f"kpod-aggregator: {name}: ")
    assert value.split()[-1] in line


@pytest.mark.parametrize("option", ["--listen=x", "--nonsense", "--max-ser=1", "--log-format=xml"])
def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments([option])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("kpod-aggregator: ")
    assert option.partition("=")[0] in line
    assert line.endswith("see kpod-aggregator --help")


@pytest.mark.parametrize("option", ["namespaces=a", "exclude-namespaces=a", "pod-selector=a=b"])
def test_a_filter_without_a_source_of_pods_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """It could not filter, and everything would be shown."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for pods in ([], ["--pods=none"]):
        with pytest.raises(SystemExit) as ended:
            arguments([*pods, f"--{option}"])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"kpod-aggregator: --{option.partition('=')[0]}: nobody knows")
    arguments(["--pods=api", "--node=n", f"--{option}"])


def test_help_and_version() -> None:
    for option in ("-h", "--help"):
        helped = run(option)
        assert (helped.returncode, helped.stderr) == (0, "")
        assert all(action.option_strings[-1] in helped.stdout for action in make_parser()._actions)
        assert "Exit status: 0" in helped.stdout
    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"kpod-aggregator {__version__}\n")


@pytest.mark.parametrize("kind", FORMATS)
def test_log_lines_have_time_and_level(kind: str) -> None:
    record = logging.LogRecord("kpod", logging.WARNING, "f", 1, 'it is "%s"\n', ("é",), None)
    line = FORMATS[kind]().format(record)
    if kind == "json":
        found = json.loads(line)
        assert "\n" not in line
        assert found.pop("message") == 'it is "é"\n'
        assert (found.pop("level"), found.pop("program")) == ("warning", "kpod-aggregator")
        time = found.pop("time")
        assert not found
    else:
        time, level, program, message = line.split(" ", 3)
        assert (level, program, message) == ("warning", "kpod-aggregator:", 'it is "é"\n')
    at = datetime.fromisoformat(time)
    assert at.tzinfo == UTC
    assert at.timestamp() == pytest.approx(record.created, abs=0.001)


def test_log_of_the_program() -> None:
    """Each line of a run that cannot go on; what ends it is the last, and without ornaments."""
    ended = run("--listen=192.0.2.1:1", "--log-format=json", "--segment=/nowhere")
    *lines, last = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert last.startswith("kpod-aggregator: cannot listen on 192.0.2.1:1: ")
    assert all(set(json.loads(line)) == {"time", "level", "program", "message"} for line in lines)
