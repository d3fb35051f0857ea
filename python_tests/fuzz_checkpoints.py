"""Damages checkpoints as an attacker would, and samples, evaluates and resumes them.

    python -m fuzz_checkpoints [--checkpoints COUNT] [--seed SEED]     from python_tests/

Whatever a checkpoint says, the outcome is a right result or one sentence with exit code 2, within seconds and a bound
on memory; nothing that it names is run, and nothing that it says commands the terminal. What crashes or hangs ends the
program, and is left in a folder fuzz_checkpoints_* among the temporary files.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from visgen_fast import cli

SECONDS = 60
BYTES = 8 << 30  # more than there is by then

FLOW = [
    *("train", "rectified-flow", "--device=cpu", "--width=8", "--depth=1", "--heads=1", "--batch-size=4", "--steps=1"),
    *("--sampling-steps=1", "--learning-rate=0.02", "--warmup-steps=0"),
]
TOKENIZER = [
    *("train", "rq-vae", "--device=cpu", "--dataset=digits", "--widths", "4", "--blocks=0", "--dimensions=2"),
    *("--codes=4", "--depth=2", "--batch-size=8", "--steps=1"),
]
STRANGE: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 10**5, 10**9, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "x" * 10**6, "\x1b[2J\x07\n\u202e", "/dev/zero", "/", "rq-vae", "classifier", "folder", "\0", "\udcff"),
    *([], {}, [0], [10**9, 10**9], ["\x1b[31m"] * 10, [[]] * 1000, {"a": {}}),
]


def train(folder: Path) -> dict[str, list[str]]:
    """Two small runs, and the command line that made each, by their names."""
    commands = {"flow": FLOW, "tokenizer": TOKENIZER}
    for name, command in commands.items():
        assert quiet([*command, f"--out={folder / name}"])[0] == 0
    return commands


def quiet(arguments: list[str]) -> tuple[int, str]:
    """The exit code of the command line, and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = cli.main(arguments)
    return code, printed.getvalue()


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all values inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inside for place in ((*path, key), *places(item, (*path, key)))]


def damage_state(checkpoint: Path, chance: random.Random) -> None:
    """Changes, removes or adds something that state.json says."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text("utf-8"))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        *way, last = chance.choice([place for place in places(state) if place[0] not in ("format", "sha256")])
        parent = state
        with contextlib.suppress(KeyError, IndexError, TypeError):  # where an earlier change has taken it away
            for key in way:
                parent = parent[key]
            if chance.randrange(6) == 0:
                del parent[last]
            else:
                parent[last] = chance.choice([*STRANGE, str(checkpoint.parents[2] / "evil.py")])
    path.write_text(json.dumps(state), "utf-8")


def damage_text(checkpoint: Path, chance: random.Random) -> None:
    """Leaves state.json no JSON, or no text, or endless."""
    path = checkpoint / "state.json"
    content = path.read_bytes()
    at = chance.randrange(len(content))
    path.write_bytes(
        chance.choice(
            [
                content[:at],
                content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b"\xff\xfe" + content,
                b"",
                b"1" * 10_000,
                b" " * (1 << 25) + content,
            ]
        )
    )


def damage_tensors(checkpoint: Path, chance: random.Random) -> None:
    """Changes a safetensors file, mostly its header, and mostly with the right checksum."""
    path = chance.choice(sorted(checkpoint.glob("*.safetensors")))
    content = bytearray(path.read_bytes())
    header = int.from_bytes(content[:8], "little")
    for _ in range(chance.choice((1, 2, 8))):
        at = chance.randrange(8 + header)
        match chance.randrange(5):
            case 0:
                content[at] = chance.randrange(256)
            case 1:
                content[:8] = chance.choice((0, 2**63, header + 1, len(content))).to_bytes(8, "little")
            case 2:
                content[8 : 8 + header] = content[8 : 8 + header].replace(
                    b"F32", chance.choice((b"F64", b"I32", b"U8 "))
                )
            case 3:
                digit = chance.choice([place for place in range(8, 8 + header) if 48 <= content[place] < 58] or [8])
                content[digit] = 48 + chance.randrange(10)
            case _:
                del content[max(at, 8) :]
                content += bytes(8)
        header = min(header, len(content) - 8)
    path.write_bytes(content)
    if chance.randrange(4):
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        state["sha256"][path.stem] = hashlib.sha256(content).hexdigest()
        (checkpoint / "state.json").write_text(json.dumps(state), "utf-8")


def replace_file(checkpoint: Path, chance: random.Random) -> None:
    """Puts something that is no file into a file's place."""
    path = chance.choice(sorted(checkpoint.iterdir()))
    path.unlink()
    make: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        lambda: path.symlink_to("/dev/full"),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to("nowhere"),
        lambda: path.symlink_to("/proc/self/mem"),
        path.mkdir,
        lambda: path.touch(0),
        lambda: None,
    ]
    chance.choice(make)()


DAMAGES = [damage_state] * 6 + [damage_text, damage_tensors, damage_tensors, replace_file]


def check(folder: Path, run: str, made_by: list[str], chance: random.Random) -> int:
    """Uses the damaged checkpoint of a run; the exit code. AssertionError for an outcome that must not be."""
    use = {
        "flow": ["sample", "--count-per-class=1", "--device=cpu", f"--out={folder / 'x.png'}"],
        "tokenizer": ["evaluate", "--pictures=2", "--device=cpu", f"--out={folder / 'evaluated'}"],
    }[run]
    command, *options = use if chance.randrange(4) else [*made_by, "--resume", "--steps=2"]
    target = [f"--out={folder / run}"] if command == "train" else [str(folder / run)]
    code, printed = quiet([command, *options, *target])
    said = printed.splitlines()[-1] if printed else ""
    assert code == 0 or (code == 2 and said.startswith("visgen-fast: ")), (code, printed)
    assert len(printed) < 20_000 and all(sign.isprintable() or sign == "\n" for sign in printed), repr(printed[:3000])
    assert not (folder / "was_run").exists(), "what the checkpoint names was run"
    return code


def fuzz(count: int, seed: int = 0) -> int:
    """Checks `count` damaged checkpoints; how many of them still could be used."""
    chance, used = random.Random(seed), 0
    with tempfile.TemporaryDirectory(prefix="fuzz_checkpoints_") as name:
        folder = Path(name)
        made = train(folder / "whole")
        for number in range(count):
            run, damage = chance.choice(sorted(made)), chance.choice(DAMAGES)
            copied = folder / "damaged"
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(folder / "whole" / run, copied / run)
            (copied / "evil.py").write_text(f"open({str(copied / 'was_run')!r}, 'w')\n")
            damage(copied / run / "checkpoints" / "step-00000001", chance)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                used += check(copied, run, made[run], chance) == 0
            except BaseException:
                kept = tempfile.mkdtemp(prefix="fuzz_checkpoints_")
                shutil.copytree(copied, kept, symlinks=True, dirs_exist_ok=True, copy_function=_copy)
                print(f"number {number} of seed {seed}, {damage.__name__}, in {kept}", file=sys.stderr)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
    return used


def _copy(source: str, target: str) -> None:
    if os.path.isfile(source) and not os.path.islink(source):
        shutil.copy2(source, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    good = fuzz(options.checkpoints, options.seed)
    print(f"{good} of {options.checkpoints} damaged checkpoints can be used, and the others are refused")


if __name__ == "__main__":
    main()
