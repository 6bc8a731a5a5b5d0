"""Two processes give the gradients of one; only the first writes; a run moves between layouts."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from torchstone.engine import checkpoint, parallel
from torchstone.engine.run import Intervals, Run, fit
from torchstone.engine.update import GradientUpdate
from torchstone.errors import Interrupted

STEPS, STOP = 12, 7
CLOCK = Intervals(log=2, evaluate=6, save=5, seconds=1e9)
# rows of the joint batch that the first process takes, of 14
SHARES = {"even": 7, "uneven": 9}
CASES = [
    (share, weighted, accumulate, clip)
    for share in SHARES
    for weighted in (False, True)
    for accumulate in (1, 3)
    for clip in (None, 0.05)
]


class Shares:
    """A stream of joint batches, of which each process keeps its rows."""

    def __init__(self, share: str, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        rows = slice(None), slice(None)
        if parallel.world_size() == 2:
            rows = slice(SHARES[share]), slice(SHARES[share], None)
        self.rows = rows[parallel.rank()]

    def __iter__(self):
        return self

    def __next__(self):
        def draw(*shape):
            return torch.randn(14, *shape, generator=self.generator, dtype=torch.float64)

        x, y, mask = draw(5), draw(3), draw(3)
        return x[self.rows], y[self.rows], (mask > -0.8).double()[self.rows]

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


def toy(share="even", weighted=False, accumulate=1, clip=None, steps=STEPS, tap=lambda: None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    net = parallel.replicate(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def loss(batch):
        x, y, mask = batch
        apart = (net(x) - y).square()
        if not weighted:
            return apart.mean()
        # a mean over the unmasked only, so each process's counts differently
        return {"loss": (apart * mask).sum() / mask.sum(), "weight": mask.sum()}

    step = GradientUpdate(loss, optimizer, grad_accum_steps=accumulate, max_grad_norm=clip, replica=net)
    stream = Shares(share)

    def update(batch):
        tap()
        return step(batch)

    def evaluate():
        return {"weight": float(sum(p.detach().abs().sum() for p in model.parameters()))}

    state = {"model": model, "optimizer": optimizer, "stream": stream}
    return Run(stream, update, evaluate, state, steps)


def outcome(case) -> dict:
    """Gradients of the first step and weights after five."""
    run, gradients = toy(*case, steps=5), []
    for _ in range(5):
        run.update(next(run.stream))
        gradients.append([p.grad.clone() for p in run.state["model"].parameters()])
    return {"gradients": gradients[0], "weights": list(run.state["model"].state_dict().values())}


def gathered(counts=(2, 3)) -> dict:
    """Rows of both processes, and the gradient of this one's rows in a sum that weights every row."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(sum(counts), 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, sum(counts), 4, generator=generator, dtype=torch.float64)
    rank, found = parallel.rank(), {}
    for name, first in (("uneven", counts[0]), ("even", 2)):
        own = (
            (rows[:first], rows[first : sum(counts) if name == "uneven" else 4])[rank]
            .clone()
            .requires_grad_()
        )
        everyone = parallel.gather_rows(own)
        (everyone * weights[rank, : len(everyone)]).sum().backward()
        found[name] = (everyone.detach(), own.grad)
    return found


def two_processes(out: Path) -> None:
    """What runs under torchrun, first time and second time."""
    rank = parallel.rank()
    if not (out / "cut").exists():
        torch.save([outcome(case) for case in CASES], out / f"outcomes-{rank}.pt")
        torch.save(gathered(), out / f"outcomes-gathered-{rank}.pt")
        parallel.barrier()
        run = toy("uneven", True, 3, 0.05)
        fit(run, out / "whole", intervals=CLOCK, quiet=True)
        torch.save(run.state["model"].state_dict(), out / f"whole-{rank}.pt")
        seen = []

        def tap():
            seen.append(None)
            if rank == 1 and len(seen) == STOP:  # only one of them is told to stop
                signal.raise_signal(signal.SIGTERM)

        try:
            fit(toy("uneven", True, 3, 0.05, tap=tap), out / "cut", intervals=CLOCK, quiet=True)
        except Interrupted as stopped:
            (out / f"stopped-{rank}").write_text(f"{stopped.signal} {stopped}")
    else:
        run = toy("uneven", True, 3, 0.05)
        fit(run, out / "cut", intervals=CLOCK, quiet=True)
        torch.save(run.state["model"].state_dict(), out / f"resumed-{rank}.pt")


def torchrun(out: Path) -> None:
    script = out / "script.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.append({str(Path(__file__).parent)!r})
from torchstone.engine import parallel
import test_parallel
made = []
def watch(event, arguments):  # whatever the second process writes is a fault
    if event == "open" and "w" in str(arguments[1]) or event in ("os.mkdir", "os.rename"):
        if {str(out)!r} in str(arguments[0]):
            made.append(str(arguments[0]))
with parallel.process_group(torch.device("cpu")):
    if parallel.rank():
        sys.addaudithook(watch)
    test_parallel.two_processes(Path({str(out)!r}))
    parallel.barrier()
    ours = ("outcomes", "whole-", "stopped", "resumed")
    made = [name for name in made if not Path(name).name.startswith(ours)]
    Path({str(out)!r}, f"made-{{parallel.rank()}}").write_text(" ".join(made))
"""
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), str(script)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert child.returncode == 0, child.stderr[-3000:]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder in which two processes have worked, been stopped, and, started anew, gone on."""
    out = tmp_path_factory.mktemp("two")
    torchrun(out)
    shutil.copytree(out / "cut", out / "cut-for-one")  # before two go on from it
    assert (out / "made-1").read_text() == ""
    torchrun(out)
    return out


def farthest(a, b) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_parallel_gradients_equal_one_process(case, both):
    one = outcome(case)
    for rank in (0, 1):
        two = torch.load(both / f"outcomes-{rank}.pt")[CASES.index(case)]
        apart = {name: farthest(one[name], two[name]) for name in one}
        print(f"{case}, process {rank} against one alone: {apart}")
        assert max(apart.values()) < 1e-12


def test_parallel_gather_rows_has_the_gradients_of_all_processes(both):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    for rank in (0, 1):
        found = torch.load(both / f"outcomes-gathered-{rank}.pt")
        for name, first, count in (("uneven", 2, 5), ("even", 2, 4)):
            own = slice(first, count) if rank else slice(0, first)
            everyone, gradient = found[name]
            assert torch.equal(everyone, rows[:count])
            assert torch.allclose(gradient, weights.sum(0)[:count][own], rtol=0, atol=1e-15)


def test_parallel_gather_rows_of_one_process_is_nothing_new():
    rows = torch.randn(3, 2, requires_grad=True)
    assert parallel.gather_rows(rows) is rows


def test_parallel_plain_averaging_would_be_wrong(both):
    """The gradients of DDP alone, each process's mean counted alike."""
    x, y, _ = next(Shares("uneven"))
    right = toy("uneven")
    right.update((x, y, None))
    model, parts = toy("uneven").state["model"], []
    for rows in (slice(SHARES["uneven"]), slice(SHARES["uneven"], None)):
        loss = (model(x[rows]) - y[rows]).square().mean()
        parts.append(torch.autograd.grad(loss, list(model.parameters())))
    plain = [(a + b) / 2 for a, b in zip(*parts, strict=True)]
    apart = farthest(plain, [p.grad for p in right.state["model"].parameters()])
    print(f"plain averaging: {apart:.1e} from the joint batch")
    assert apart > 1e-3


def test_parallel_signal_stops_all_processes(both):
    said = [(both / f"stopped-{rank}").read_text() for rank in (0, 1)]
    print(said)
    assert said[0] == said[1] == f"15 stopped at step 8 of {STEPS}, state saved"
    _, meta, complaints = checkpoint.find(both / "cut-for-one" / "checkpoint")
    assert (meta["step"], complaints) == (8, [])


def test_parallel_only_rank_zero_writes(both):
    print("second process wrote:", (both / "made-1").read_text() or "nothing")
    assert (both / "made-1").read_text() == ""


def test_parallel_resume_bit_exact(both):
    for rank in (0, 1):
        whole, resumed = (torch.load(both / f"{name}-{rank}.pt") for name in ("whole", "resumed"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        assert all(torch.equal(whole[k], v) for k, v in torch.load(both / "whole-0.pt").items())


def test_parallel_resume_on_one_process(both):
    run = toy("uneven", True, 3, 0.05)
    fit(run, both / "cut-for-one", intervals=CLOCK, quiet=True)
    whole = torch.load(both / "whole-0.pt")
    apart = farthest(run.state["model"].state_dict().values(), whole.values())
    print(f"stopped on two processes, resumed on one: {apart:.1e} apart")
    assert apart < 1e-10
