"""DIAL: games in plain loops, whose gradient goes through the channel, and what it learns."""

import dataclasses

import pytest
import torch

from torchstone.envs.switch_riddle import read_riddle
from torchstone.errors import BadInput
from torchstone.parts.rl.target_network import make_target
from torchstone.systems.multiagent import dial

TINY = dataclasses.replace(dial.RECIPES["smoke"], hidden=8, batch_size=5, device="cpu")


def networks(prisoners=3, seed=0):
    torch.manual_seed(seed)
    model = dial.DIAL(prisoners, 8).double()
    target = make_target(dial.DIAL(prisoners, 8).double())
    games = next(dial.GameStream(read_riddle(f"switch_riddle:{prisoners}"), 5, seed))
    return model, target, games._replace(noise=games.noise.double())


def plain_game(model, target, games, game, recipe):
    """Squared errors of one game, prisoner by prisoner."""
    n, days = model.prisoners, games.room.shape[1]
    memory, target_memory = [None] * n, [None] * n
    bulb, last, visited, steps = torch.zeros((), dtype=torch.double), [0] * n, set(), []
    for day in range(days):
        inside = int(games.room[game, day])
        visited.add(inside)
        q, message, next_q, next_message = [], [], [], []
        for who in range(n):
            row = torch.zeros(5 + n, dtype=torch.double)
            row[0] = float(who == inside)
            row[2 + last[who]] = 1.0
            row[5 + who] = 1.0
            if who == inside:
                row = torch.cat([row[:1], bulb[None], row[2:]])
            a, b, memory[who] = model.advance(row[None, None], memory[who])
            c, d, target_memory[who] = target.advance(row[None, None].detach(), target_memory[who])
            q.append(a[0, 0]), message.append(b[0, 0]), next_q.append(c[0, 0]), next_message.append(d[0, 0])
        told = int(q[inside].argmax())
        if games.explores[game, day, 0] < recipe.epsilon:
            told = int(games.random[game, day, 0])
        sent = torch.zeros((), dtype=torch.double)
        said = int(message[inside].argmax())
        if games.explores[game, day, 1] < recipe.epsilon:
            said = int(games.random[game, day, 1])
        if recipe.channel == "dial":
            sent = 1 / (1 + torch.exp(-(message[inside][0] + recipe.sigma * games.noise[game, day])))
        elif recipe.channel == "rial":
            sent = torch.tensor(float(said), dtype=torch.double)
        reward = told * (1.0 if len(visited) == n else -1.0)
        steps.append((inside, q, message, next_q, next_message, told, said, reward))
        bulb, last = sent, [1 + told * (who == inside) for who in range(n)]
        if told:
            break
    errors = []
    for day, (inside, q, message, _, _, told, said, reward) in enumerate(steps):
        after = steps[day + 1] if day + 1 < len(steps) else None
        total = 0.0
        for who in range(n):
            y = torch.tensor(float(reward), dtype=torch.double)
            if after is not None:
                other = after[3][who].detach()
                y = y + (other.max() if who == after[0] else other[0])
            total = total + (y - q[who][told if who == inside else 0]) ** 2
        if recipe.channel == "rial":
            y = reward + (after[4][after[0]].detach().max() if after is not None else 0.0)
            total = total + (y - message[inside][said]) ** 2
        errors.append(total)
    return errors, sum(step[-1] for step in steps)


@pytest.mark.parametrize(
    ("channel", "prisoners", "seed"),
    [
        ("dial", 3, 0),
        ("rial", 3, 1),
        *(
            pytest.param(c, n, 2 + n, marks=pytest.mark.sweep)
            for c in ("dial", "rial", "silence")
            for n in (3, 4)
        ),
    ],
)
def test_loss_and_gradient_equal_plain_games(channel, prisoners, seed):
    model, target, games = networks(prisoners, seed)
    recipe = dataclasses.replace(TINY, channel=channel, epsilon=0.3, data=f"switch_riddle:{prisoners}")
    ours = dial.loss(model, target, games, recipe)
    both = [plain_game(model, target, games, game, recipe) for game in range(5)]
    errors = [error for each, _ in both for error in each]
    theirs = torch.stack(errors).sum() / len(errors)
    assert ours["loss"].item() == pytest.approx(theirs.item(), rel=1e-10)
    assert ours["episodic_return"].item() == pytest.approx(sum(total for _, total in both) / 5, abs=1e-12)
    parameters = list(model.parameters())
    pairs = [torch.autograd.grad(x, parameters, allow_unused=True) for x in (ours["loss"], theirs)]
    for a, b in zip(*pairs, strict=True):
        assert (a is None) == (b is None) or not (a if b is None else b).any()
        if a is not None and b is not None:
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_only_dial_s_gradient_reaches_the_one_who_speaks():
    """By the loss of the one who listens: the message's own part of the output layer has no other."""
    slopes = {}
    for channel in ("dial", "silence"):
        model, target, games = networks(seed=4)
        recipe = dataclasses.replace(TINY, channel=channel, epsilon=0.0)
        with torch.no_grad():
            model.output[2].bias[:2] = torch.tensor([5.0, -5.0])  # nobody tells: games go on
        dial.loss(model, target, games, recipe)["loss"].backward()
        slopes[channel] = model.output[2].weight.grad[2].abs().sum().item()
    print(slopes)
    assert slopes["dial"] > 0
    assert slopes["silence"] == 0


def test_in_use_messages_are_bits_and_nothing_is_random():
    model, _, games = networks()
    for channel in ("dial", "rial", "silence"):
        recipe = dataclasses.replace(TINY, channel=channel)
        first, again = (dial.use(model, games.room, recipe) for _ in range(2))
        assert set(first.left.flatten().tolist()) <= ({0.0} if channel == "silence" else {0.0, 1.0})
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_a_prisoner_may_know():
    """Outside of the room the bulb is dark, whatever it was; inside it is as the one before left it."""
    model, _, games = networks()
    trace = dial.use(model, games.room, TINY)
    assert torch.equal(trace.bulb[:, 1:], trace.left[:, :-1])
    assert not trace.bulb[:, 0].any()


def test_uses_and_refusals(tmp_path):
    run = next(dial.build(dataclasses.replace(TINY, steps=2)))
    model, metadata = run.state["model"], run.metadata
    assert set(dial.play(model, metadata, episodes=20)) <= {-1.0, 0.0, 1.0}
    run.report(tmp_path)
    assert (tmp_path / "protocol.png").stat().st_size > 5000
    with pytest.raises(BadInput, match="trained as 3 prisoners, not 4"):
        dial.evaluate(model, metadata, "switch_riddle:4", held_out=False)
    with pytest.raises(BadInput, match="switch_riddle:3"):
        next(dial.build(dataclasses.replace(TINY, data="switch_riddle:2")))
