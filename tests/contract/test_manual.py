"""Man pages, completion and help: each option of either program is there, and they can be used."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from aggregator.cli import make_parser, variable
from tests.live import LOADER, ROOT

MAN = ROOT / "docs/man"
COMPLETION = ROOT / "deploy/completion/kpod.bash"

pytestmark = pytest.mark.skipif(not LOADER.exists(), reason="no build/kpod-loader: make")


def loader_options() -> dict[str, str]:
    """Option and variable, as `kpod-loader options` has them."""
    page = subprocess.check_output([LOADER, "options"], text=True)
    return dict(re.findall(r"(?m)^\| `--([a-z-]+)[^`]*` \| `(\w+)`", page))


def aggregator_options() -> dict[str, str]:
    return {
        action.option_strings[-1].removeprefix("--"): variable(action)
        for action in make_parser()._actions
        if action.dest not in ("help", "version")
    }


PROGRAMS = {"kpod-loader": loader_options, "kpod-aggregator": aggregator_options}


@pytest.mark.parametrize("program", PROGRAMS)
def test_man_page_has_each_option(program: str) -> None:
    page = (MAN / f"{program}.8").read_text().replace(r"\-", "-")
    options = PROGRAMS[program]()
    assert len(options) > 15
    for name, variable_ in options.items():
        assert re.search(rf"(?m)^\\fB--{re.escape(name)}\\fR.*, \${variable_}$", page), name
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f".SH {section}\n" in page


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.skipif(not shutil.which("groff"), reason="no groff on this machine")
def test_man_page_is_well_formed(program: str) -> None:
    command = ["groff", "-man", "-ww", "-z", "-Tutf8", str(MAN / f"{program}.8")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Words that fit no line of 65 columns are no fault of ours.
    said = [
        line for line in done.stderr.splitlines() if "adjust" not in line and "break" not in line
    ]
    assert (done.returncode, said) == (0, [])


def complete(*words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {COMPLETION}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        f'_{words[0].replace("-", "_")}; printf "%s\n" "${{COMPREPLY[@]}}"'
    )
    return subprocess.check_output(["bash", "-c", script], text=True).split()


def test_completion(tmp_path: Path) -> None:
    for program, options in PROGRAMS.items():
        offered = complete(program, "--")
        assert set(offered) == {f"--{name}" for name in options()} | {"--help", "--version"}
    assert complete("kpod-loader", "do") == ["doctor"]
    assert complete("kpod-loader", "run", "--profile", "m") == ["minimal"]
    assert complete("kpod-loader", "events", "") == ["exec", "oom", "drop"]
    assert complete("kpod-loader", "events", "oom", "--c") == ["--container"]
    assert complete("kpod-aggregator", "--log-format", "") == ["text", "json"]
    assert complete("kpod-aggregator", "b") == ["bundle"]
    (tmp_path / "segment").touch()
    assert complete("kpod-loader", "dump", f"{tmp_path}/s") == [f"{tmp_path}/segment"]
    assert complete("kpod-aggregator", "--segment", f"{tmp_path}/s") == [f"{tmp_path}/segment"]


@pytest.mark.parametrize("command", ["dump", "check", "events", "doctor", "top", "run", "schema"])
def test_every_command_has_help(command: str) -> None:
    for option in ("-h", "--help"):
        done = subprocess.run(
            [LOADER, command, option], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"kpod-loader {command}" in done.stdout


@pytest.mark.parametrize(
    "wrong", [["dump"], ["check", "a", "b"], ["events"], ["nonsense"], ["run", "--nonsense"]]
)
def test_a_wrong_command_line_ends_with_2(wrong: list[str]) -> None:
    done = subprocess.run([LOADER, *wrong], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert 1 <= done.stderr.count("\n") <= 2  # getopt has a line of its own


def test_make_help_lists_what_there_is() -> None:
    listed = subprocess.check_output(["make", "-s", "-C", str(ROOT), "help"], text=True)
    rules = re.findall(r"(?m)^([a-z-]+):[^#\n]* ## \S", (ROOT / "Makefile").read_text())
    assert re.findall(r"(?m)^make ([a-z-]+) +\S", listed) == rules
    assert {"run", "test", "check", "setup", "install", "help"} <= set(rules)
