"""Makes the man pages and the bash completion of both programs, of their own tables of options.

    python -m docs.manual build/kpod-loader [--check]

writes docs/man/*.8 and deploy/completion/kpod.bash, or says which of them are out of date.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aggregator import __version__, cli

ROOT = Path(__file__).parent.parent

LOADER_DESCRIPTION = """\
Attaches eBPF programs that count for every container, Kubernetes pod and systemd unit of this
machine, and writes their totals into a file that other processes can map: the segment. It needs
root, or CAP_BPF and CAP_PERFMON, and a kernel with BTF; it opens no socket.
"""
AGGREGATOR_DESCRIPTION = """\
Maps the segment that kpod-loader(8) writes, names the containers in it, and serves all of it to
Prometheus at /metrics, to people at /, and to scripts below /api/v1/. It needs no privileges.
"""
STATUS = {
    "kpod-loader": """\
0 if all is well, and after SIGTERM, SIGINT or SIGHUP; 1 if it cannot do its work, if doctor found
something that does not work, or if check, dump or top found no live segment; 2 if the command line
or a variable is wrong.
""",
    "kpod-aggregator": """\
0 after SIGTERM or SIGINT; 1 if it cannot do its work, such as an address that is in use; 2 if an
option or a variable is wrong.
""",
}


@dataclass(frozen=True)
class Option:
    name: str
    value: str  # what its argument is called; empty for a flag
    variable: str
    help: str
    choices: tuple[str, ...] = ()


def loader_options(program: Path) -> Iterator[Option]:
    page = subprocess.check_output([program, "options"], text=True)
    row = r"(?m)^\| `--([a-z-]+)(?: ([A-Z]+))?` \| `(\w+)` \| ([^|]*) \| ([^|]*) \| (.*) \|$"
    for name, value, variable, default, bounds, text in re.findall(row, page):
        notes = [f"default {default}"] * bool(default) + [bounds] * bool(bounds)
        about = f"{text} ({'; '.join(notes)})" if notes else text
        profiles = ("minimal", "standard", "comprehensive") if name == "profile" else ()
        yield Option(name, value, variable, about, profiles)


def loader_commands(program: Path) -> list[tuple[str, str]]:
    """What --help begins with: a command with its arguments, and what it does."""
    usage = subprocess.check_output([program, "--help"], text=True)
    row = r"(?m)^  kpod-loader (\S.*?)(?:  +|\n {20,})(\S.*(?:\n {20,}\S.*)*)$"
    return [(command, " ".join(text.split())) for command, text in re.findall(row, usage)]


def aggregator_options() -> Iterator[Option]:
    formatter = argparse.HelpFormatter("")
    for action in cli.make_parser()._actions:
        if action.dest in ("help", "version"):
            continue
        name = action.option_strings[-1].removeprefix("--")
        value = "" if action.nargs == 0 else formatter._format_args(action, name.upper())
        text = formatter._expand_help(action) if action.help else ""
        choices = tuple(map(str, action.choices or ()))
        yield Option(name, value, cli.variable(action), text, choices)


def roff(text: str) -> str:
    """As text, not as requests: a line of roff must not begin with a dot or an apostrophe."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", safe)


def man(
    program: str,
    summary: str,
    synopsis: list[str],
    description: str,
    commands: list[tuple[str, str]],
    options: list[Option],
    see: str,
) -> str:
    out = [
        f'.TH {program.upper()} 8 "" "kpod-metrics {__version__}" "System administration"',
        f".SH NAME\n{program} \\- {roff(summary)}",
        ".SH SYNOPSIS\n" + "\n.br\n".join(roff(line) for line in synopsis),
        f".SH DESCRIPTION\n{roff(description).strip()}",
    ]
    if commands:
        out.append(".SH COMMANDS")
        out += [f".TP\n.B {roff(command)}\n{roff(text)}" for command, text in commands]
    out.append(
        ".SH OPTIONS\nEach can also be set by the environment variable beside it; the command line "
        "wins.\nOf a flag, the variable is true or false."
    )
    for option in options:
        value = f" \\fI{roff(option.value)}\\fR" if option.value else ""
        head = f"\\fB\\-\\-{roff(option.name)}\\fR{value}, ${option.variable}"
        out.append(f".TP\n{head}\n{roff(option.help)}")
    out.append(".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nprint all options, and end")
    out.append(".TP\n\\fB\\-\\-version\\fR\nprint the version, and end")
    out.append(f".SH EXIT STATUS\n{roff(STATUS[program]).strip()}")
    out.append(f".SH SEE ALSO\n{see}")
    return "\n".join(out) + "\n"


def completion(
    loader: list[Option], commands: list[str], events: list[str], aggregator: list[Option]
) -> str:
    def words(options: list[Option]) -> str:
        return " ".join(f"--{option.name}" for option in options) + " --help --version"

    def words_of(choices: Iterable[str]) -> str:
        return f'-W "{" ".join(choices)}"'

    def reply(what: str) -> str:
        return f'mapfile -t COMPREPLY < <(compgen {what} -- "$word")'

    def cases(options: list[Option]) -> str:
        found = [
            f"\t\t--{o.name}) {reply(words_of(o.choices))}; return ;;" for o in options if o.choices
        ]
        files = [o for o in options if o.value in ("PATH", "FILE") or o.name == "segment"]
        names = "|".join(f"--{o.name}" for o in files)
        return "\n".join([*found, f"\t\t{names}) {reply('-f')}; return ;;"])

    return f"""# Completion of both programs for bash. Made by `make docs`: do not edit.

_kpod_loader() {{
	local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
	case $previous in
{cases(loader)}
		dump|check) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
		events) {reply(words_of(events))}; return ;;
	esac
	if [ "${{COMP_WORDS[1]}}" = events ]; then
		{reply(words_of(["--container", "--json"]))}
		return
	fi
	if [ "$COMP_CWORD" = 1 ] && [[ $word != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "{" ".join(commands)}" -- "$word")
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "{words(loader)}" -- "$word")
}}

_kpod_aggregator() {{
	local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
	case $previous in
{cases(aggregator)}
	esac
	if [ "$COMP_CWORD" = 1 ] && [[ $word != -* ]]; then
		{reply(words_of(["bundle"]))}
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "{words(aggregator)}" -- "$word")
}}

complete -o filenames -F _kpod_loader kpod-loader
complete -o filenames -F _kpod_aggregator kpod-aggregator
"""


def pages(program: Path) -> dict[Path, str]:
    loader, aggregator = list(loader_options(program)), list(aggregator_options())
    commands = loader_commands(program)
    return {
        ROOT / "docs/man/kpod-loader.8": man(
            "kpod-loader",
            "eBPF metrics of every container, into a shared-memory segment",
            [f"kpod-loader {command}" for command, _ in commands],
            LOADER_DESCRIPTION,
            commands,
            loader,
            ".BR kpod-aggregator (8)",
        ),
        ROOT / "docs/man/kpod-aggregator.8": man(
            "kpod-aggregator",
            "serves the segment of a loader to Prometheus, and a page to people",
            ["kpod-aggregator [options]", "kpod-aggregator bundle [options]"],
            AGGREGATOR_DESCRIPTION,
            [
                (
                    "bundle [options]",
                    "print versions, options, the segment's state and what the aggregator that is "
                    "at work (at --listen) says of itself, with what comes in on stdin, for a bug "
                    "report: without secrets",
                )
            ],
            aggregator,
            ".BR kpod-loader (8)",
        ),
        ROOT / "deploy/completion/kpod.bash": completion(
            loader,
            list(dict.fromkeys(c.split()[0] for c, _ in commands)),
            [
                name
                for c, _ in commands
                if c.startswith("events ")
                for name in c.split()[1].split("|")
            ],
            aggregator,
        ),
    }


def main() -> None:
    program, *check = sys.argv[1:]
    wrong = []
    for path, text in pages(Path(program)).items():
        if check:
            if not path.exists() or path.read_text() != text:
                wrong.append(str(path.relative_to(ROOT)))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if wrong:
        sys.exit(f"out of date: {', '.join(wrong)}: make docs")


if __name__ == "__main__":
    main()
