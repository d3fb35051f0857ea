"""What the command line says of a mistake."""

from visgen_fast import cli


def mistake(capsys, *arguments: object) -> str:
    """The one sentence with which the command line refuses `arguments`."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("visgen-fast: ") and printed.count("\n") == 1
    return printed
