"""Fresh processes without the seconds that importing torch takes: forked from one that has imported, and no more.

A run and its resumption are forked from two such interpreters, so that what depends on an interpreter (the
order of a set of words, an address) differs between them as it does between two starts of the command line.
"""

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ENTRY = Path(__file__).with_name("subprocess_entry.py")

# what takes long to import and is used by several systems
PRELOADED = (
    *("torch._dynamo", "torch.nn.parallel", "torch.utils.data", "numpy", "scipy.stats", "scipy.linalg"),
    *("sklearn.linear_model", "sklearn.feature_extraction.text", "PIL.Image", "gymnasium", "pandas"),
    *("tokenizers", "safetensors.torch", "rich.progress", "torchstone.api", "torchstone.cli.commands.train"),
)


@functools.cache
def _server(role: str) -> subprocess.Popen:
    """The interpreter from which processes of this role are forked; it ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, str(ENTRY), "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(process.kill)
    return process


def run_forked(role: str, words: list[str]) -> subprocess.CompletedProcess:
    """Run `subprocess_entry.py` with those words in a process forked from the interpreter of that role."""
    server = _server(role)
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        server.stdin.write(json.dumps({"words": words, "streams": streams}) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, f"the interpreter that forks ended with {server.wait()}"
        out, err = (Path(stream).read_text() for stream in streams)
    return subprocess.CompletedProcess(words, json.loads(answer)["returncode"], out, err)


def serve(run: Callable[[list[str]], int]) -> int:
    """Fork a process for each line that is read, one after the other."""
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")  # nothing that is imported writes into the answers
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            _be_child(job, run)
        _, status = os.waitpid(child, 0)
        answers.write(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}) + "\n")
        answers.flush()
    return 0


def _be_child(job: dict, run: Callable[[list[str]], int]) -> None:
    for stream, name in ((1, job["streams"][0]), (2, job["streams"][1])):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
    code = 1
    try:
        code = run(job["words"])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001  as the interpreter would end
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
