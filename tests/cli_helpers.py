"""The command line as it is typed, within the test's own process."""

from torchstone.cli.main import main


def run_cli(capsys, *words):
    """Exit code, standard output, standard error."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    print(f"$ torchstone {' '.join(map(str, words))}\n{out}{err}[{code}]")
    return code, out, err


def assert_rejected(capsys, *words):
    """The one line of a refusal."""
    code, out, err = run_cli(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("torchstone: "), err
    assert len(err.strip().splitlines()) == 1
    return err
