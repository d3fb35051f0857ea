"""What the command line prints, on terminals of every kind: one readable sentence, nothing that a file smuggles in."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import visgen_fast
from visgen_fast import cli
from visgen_fast.commands import recipes
from visgen_fast.errors import UserError
from visgen_fast.untrusted import MOST_CHARACTERS, escaped

LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii output": {"PYTHONIOENCODING": "ascii"},
    "latin": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C"},
}


def run(*arguments: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`visgen-fast` in a process of its own, whose output goes through the end of a shell's command line."""
    environment = {**os.environ, "PYTHONPATH": str(Path(visgen_fast.__file__).parents[1]), **variables}
    command = ["bash", "-c", f'set -o pipefail; "$0" -m visgen_fast "$@" {shell}', sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True)


@pytest.mark.parametrize("locale", LOCALES)
def test_every_listing_is_readable_in_every_encoding(locale):
    for command in (["recipes"], ["train", "rq-vae", "--help"]) if locale == "ascii" else (["recipes"],):
        finished = run(*command, **LOCALES[locale])
        assert finished.returncode == 0 and finished.stderr == b"", command
        assert len(finished.stdout.splitlines()) > 8
        if locale.startswith("ascii"):
            finished.stdout.decode("ascii")


@pytest.mark.parametrize("locale", ["ascii", "ascii output"])
def test_a_mistake_is_one_sentence_in_every_encoding(locale):
    for arguments, said in (
        (
            ["train", "rq-vae", "--stepz", "3"],
            b"Unrecognized options: --stepz, 3 (see visgen-fast train rq-vae --help)",
        ),
        (["train", "nowhere×"], b"there is no recipe 'nowhere"),
    ):
        finished = run(*arguments, **LOCALES[locale])
        assert finished.returncode == 2 and finished.stdout == b""
        assert finished.stderr.startswith(b"visgen-fast: " + said) and finished.stderr.count(b"\n") == 1
        assert b"---" not in finished.stderr


@pytest.mark.parametrize("command", ["info", "recipes", "train rq-vae --help"])
def test_a_reader_that_reads_no_further_ends_a_command_quietly(command):
    finished = run(*command.split(), shell="| true")
    assert finished.stderr == b""
    assert finished.returncode in (1, 141)  # 1 is rich's answer


@pytest.mark.parametrize("command", ["info", "train rq-vae --stepz=3", "train rq-vae --help"])
def test_closed_streams_change_nothing_but_what_is_seen(command):
    finished = run(*command.split(), shell=">&-")
    mistake = "--stepz" in command
    assert finished.returncode == 2 * mistake and finished.stderr.count(b"\n") == mistake


def test_a_mistake_that_nobody_can_be_told_of_still_has_its_exit_code():
    assert run("frobnicate", shell=">&- 2>&-").returncode == 2


def test_a_full_disk_is_one_sentence():
    finished = run("info", shell="> /dev/full")
    assert finished.returncode == 2
    assert finished.stderr == b"visgen-fast: No space left on device\n"


def test_the_version_is_shown_alone(capsys):
    assert cli.main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("visgen-fast ") and printed.count("\n") == 1
    assert "--version" in cli._HELP


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x07b\nc\rd\te", r"a\x1b[2J\x07b\nc\rd\te"),
        ("c1\x9b31m, bidi\u202e, hidden\u200b", r"c1\x9b31m, bidi\u202e, hidden\u200b"),
        ("lone \udcff", r"lone \udcff"),
        ("Ærø, 日本, 28×28, 👩\u200d🚀", "Ærø, 日本, 28×28, 👩\u200d🚀"),
        ("x" * 10**6, "x" * MOST_CHARACTERS + "…"),
    ],
)
def test_what_a_file_says_is_escaped_and_cut(text, shown, capsys, monkeypatch):
    assert escaped(text) == shown

    def refuse(arguments):
        raise UserError(text)

    monkeypatch.setattr(recipes, "recipes", refuse)
    assert cli.main(["recipes"]) == 2
    assert capsys.readouterr().err == f"visgen-fast: {shown}\n"


def test_the_log_is_escaped_too(capsys, monkeypatch):
    def warn(arguments):
        logging.getLogger("visgen_fast.data").warning("skipped %s", "a\x1b[2J\n.png")
        return 0

    monkeypatch.setattr(recipes, "recipes", warn)
    assert cli.main(["recipes"]) == 0
    assert capsys.readouterr().err == "skipped a\\x1b[2J\\n.png\n"


def test_a_name_that_is_no_text_is_printed_escaped(tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"\xff\x1b[2J")
    os.mkdir(name)
    for number in range(2):
        with open(os.path.join(name, b"%d\xfe.png" % number), "wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")
    command = ("train", "rectified-flow", "--size=9", f"--out={tmp_path / 'out'}")
    finished = run(*command, os.fsdecode(b"--dataset=" + name))
    assert finished.returncode == 2 and finished.stderr.count(b"\n") == 1 and b"Traceback" not in finished.stderr
    finished = run(*command, os.fsdecode(b"--dataset=" + name + b"/0\xfe.png"))
    assert finished.returncode == 2 and b"\\udcff\\x1b[2J/0\\udcfe.png is not a folder" in finished.stderr


@pytest.mark.parametrize("option", ["--" + "x" * 300, "--out=" + "y" * 100_000])
def test_a_long_line_is_not_broken_up(option, capsys):
    assert cli.main(["train", "rq-vae", option, "--stepz"]) == 2
    said = capsys.readouterr().err
    assert len(said) < MOST_CHARACTERS + 100 and said.count("\n") == 1
    if option.startswith("--x"):
        assert option in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps=many"], "--steps must be a whole number, got 'many'"),
        (["--learning-rate=much"], "--learning-rate must be a number, got 'much'"),
        (["--lr-schedule=linear"], "--lr-schedule must be one of 'constant', 'cosine', got 'linear'"),
        (["--out"], "--out needs a value"),
        (["--decay", "cosine"], "--decay is called --lr-schedule now"),
        (["--adversary_rate=2"], "--adversary-rate is called --adversary-lr-scale now"),
        (["--no-mirror"], "--no-mirror is called --no-horizontal-flip now"),
    ],
)
def test_wrong_values_are_answered_in_plain_english(arguments, said, capsys):
    assert cli.main(["train", "rq-vae", *arguments]) == 2
    assert capsys.readouterr().err == f"visgen-fast: {said} (see visgen-fast train rq-vae --help)\n"
