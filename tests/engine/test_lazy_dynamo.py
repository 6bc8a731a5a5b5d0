"""Optimizers without torch's compiler, until it is used: in processes of their own."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, torch
from torchstone.engine import lazy_dynamo
if {deferred}:
    lazy_dynamo.defer()
torch.manual_seed(0)
model, said = torch.nn.Linear(3, 2), {{}}
for make in (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
    optimizer = make(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
said["weights"] = model.weight.flatten().tolist()
said["compiler"] = "torch._dynamo.utils" in sys.modules
said["compiled"] = torch.compile(lambda x: x.sin() + 1, backend="eager")(torch.ones(2)).tolist()
said["file"] = sys.modules["torch._dynamo"].__file__ == torch._dynamo.__file__
import torch._dynamo.utils
said["real"] = callable(torch._dynamo.reset) and "torch._dynamo.utils" in sys.modules
print(json.dumps(said))
"""


def run(deferred: bool) -> dict:
    code = SCRIPT.format(deferred=deferred)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.sweep
def test_defer_imports_the_compiler_only_when_it_is_used():
    with_it, without = run(False), run(True)
    print(with_it, without)
    assert with_it.pop("compiler")
    assert not without.pop("compiler")
    assert with_it == without
    assert without["file"]
    assert without["real"]


def test_train_imports_no_compiler_and_no_tensorboard(tmp_path):
    code = (
        "import sys; from torchstone.cli.main import main; main(sys.argv[1:]); "
        "print([m for m in ('torch._dynamo.utils', 'sympy', 'tensorboard') if m in sys.modules])"
    )
    words = ["train", "lenet5/smoke", "--steps", "1", "--out", str(tmp_path / "run")]
    child = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    print(child.stdout)
    assert child.stdout.splitlines()[-1] == "[]"
