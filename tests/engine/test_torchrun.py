"""The command line under torchrun, as the README has it."""

import json
import os
import subprocess
import sys

import pytest
import torch

import torchstone as ts
from torchstone.engine import checkpoint


@pytest.mark.sweep
def test_torchrun_trains_as_one_process(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "torchstone", "train", "lenet5/smoke", "--steps", "12"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(run.stdout, run.stderr[-2000:])
    assert run.returncode == 0
    assert run.stdout.count("test/accuracy") == 1  # one of the two speaks
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    ts.train("lenet5/smoke", steps=12, out=tmp_path / "one", quiet=True)
    one, two = (checkpoint.tensors(tmp_path / n / "checkpoint", "model") for n in ("one", "two"))
    apart = max(float((one[key] - two[key]).abs().max()) for key in one)
    print(f"weights of two processes and of one: {apart:.1e} apart after 12 steps")
    assert apart < 1e-4
    assert all(torch.isfinite(value).all() for value in two.values())
