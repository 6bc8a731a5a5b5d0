"""Performer: all pairs written out, its limit GPT, generation with a recurrent state, redrawn features, use."""

import json
import math
from itertools import pairwise

import pytest
import torch

import torchstone as ts
from torchstone.api import recipe_of
from torchstone.errors import BadInput
from torchstone.parts.transformer.kernel_attention import RandomFeatures
from torchstone.references.performer import AllPairs
from torchstone.systems.transformer import performer
from torchstone.systems.transformer.gpt import GPT
from torchstone.systems.transformer.performer import Performer
from torchstone.tasks.text.generate import generate
from torchstone.verify import relative_error

CONFIG = {"width": 12, "depth": 2, "heads": 3, "vocab_size": 19, "context": 90, "features": 8}


def small(std=0.3, **config) -> Performer:
    torch.manual_seed(0)
    model = Performer.from_kwargs(**CONFIG | config).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=std)
    return model


def tokens(batch=2, length=75, seed=0):
    return torch.randint(19, (batch, length), generator=torch.Generator().manual_seed(seed))


def draws(model) -> list[int]:
    return [int(module.draws) for module in model.modules() if isinstance(module, RandomFeatures)]


def matrices(model) -> list[torch.Tensor]:
    return [module().clone() for module in model.modules() if isinstance(module, RandomFeatures)]


def test_performer_equals_all_pairs_and_not_with_other_features():
    """Every configuration, gradient and optimizer step: law 4, by `reference`."""
    model = small(bias=True)
    written_out = AllPairs(model, {**CONFIG, "eps": 1e-5, "causal": True})
    with torch.no_grad():
        expected = written_out(tokens())
        difference = relative_error(model(tokens()), expected)
        print(f"{difference:.1e} apart")
        assert difference < 1e-12
        blocks = [block.attention.features for block in model.blocks]
        blocks[0].matrix.copy_(blocks[1].matrix)
        assert relative_error(model(tokens()), expected) > 1e-3


def test_performer_with_many_features_is_gpt_of_its_weights():
    ids = tokens(2, 24)
    exact = GPT.from_kwargs(
        **{name: size for name, size in CONFIG.items() if name != "features"}, bias=False, activation="gelu"
    )
    exact = exact.double().eval()
    errors, slopes = [], []
    for count in (64, 1024, 16_384):
        model = small(std=0.2, features=count)
        assert exact.load_state_dict(model.state_dict(), strict=False).missing_keys == []
        outputs = [net(ids) for net in (model, exact)]
        for net, output in zip((model, exact), outputs, strict=True):
            net.zero_grad()
            output.square().mean().backward()
        theirs = dict(exact.named_parameters())
        slopes.append(
            max(
                float((p.grad - theirs[n].grad).norm() / theirs[n].grad.norm())
                for n, p in model.named_parameters()
            )
        )
        errors.append(relative_error(*outputs))
    print(f"logits {errors}, gradients {slopes} apart")
    assert errors[2] < 0.05
    assert slopes[2] < 0.05
    # as the root of the number of features: a quarter, give or take the luck of one draw
    assert all(2 < a / b < 8 for each in (errors, slopes) for a, b in pairwise(each))


@pytest.mark.parametrize("prompt", [1, 7, 70])
def test_performer_step_by_step_equals_forward(prompt):
    """Within 1e-12 of the largest logit in float64, 1e-5 in float32."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model, ids = small().to(dtype), tokens()
        with torch.no_grad():
            expected, cache = model(ids), model.make_cache()
            parts = [model(ids[:, :prompt], cache=cache)]
            parts += [model(ids[:, t : t + 1], cache=cache) for t in range(prompt, 72)]
            parts.append(model(ids[:, 72:], cache=cache))  # several tokens that continue others
        difference = relative_error(torch.cat(parts, 1), expected)
        print(f"{dtype}: {difference:.1e} apart")
        assert difference < tolerance
        assert [state.length for state in cache] == [75, 75]


def test_performer_generates_the_same_with_and_without_its_state():
    """Beyond the context too, where the older half is dropped."""
    model = small(context=20)
    texts = [generate(model, tokens(2, 5), 40, greedy=True, use_cache=use) for use in (True, False)]
    assert torch.equal(*texts)
    assert len(texts[0].unique()) > 3
    sampled = [
        generate(model, tokens(2, 5), 40, generator=torch.Generator().manual_seed(1), use_cache=use)
        for use in (True, False)
    ]
    assert torch.equal(*sampled)


def test_performer_state_has_the_same_size_after_any_length():
    model, sizes = small(), []
    for length in (1, 4, 80):
        cache = model.make_cache()
        with torch.no_grad():
            model(tokens(2, length), cache=cache)
            model(tokens(2, 1), cache=cache)
        # what is kept alive, not what is looked at
        sizes.append(sum(x.untyped_storage().nbytes() for state in cache for x in state.kernel))
    print(f"{sizes} bytes")
    assert sizes[0] == sizes[1] == sizes[2] == 2 * 2 * 3 * 8 * (4 + 2) * 8


def test_performer_is_causal_and_its_encoder_is_not():
    other = tokens()
    other[:, 50:] = (other[:, 50:] + 1) % 19
    for causal in (True, False):
        model = small(causal=causal)
        a, b = model(tokens()), model(other)
        difference = relative_error(
            b[:, :50], a[:, :50]
        )  # the stabilizer of a chunk is rounded with all of it
        print(f"causal {causal}: {difference:.1e} apart")
        assert (difference < 1e-14) == causal
        assert relative_error(b[:, 50:], a[:, 50:]) > 1e-3
        assert relative_error(model(tokens(), last_only=True), a[:, -1:]) < 1e-12


@pytest.mark.parametrize("causal", [True, False])
def test_performer_padding_changes_no_text(causal):
    model = small(causal=causal)
    mask = torch.arange(75) < torch.tensor([[75], [20]])
    padded = model(tokens(), mask)
    alone = model(tokens()[1:, :20])
    difference = relative_error(padded[1:, :20], alone)
    print(f"{difference:.1e} apart")
    assert difference < 1e-12
    other = tokens().masked_fill(~mask, 3)
    assert torch.equal(model(other, mask)[mask], padded[mask])
    if not causal:  # seen to matter
        assert relative_error(model(tokens())[1:, :20], alone) > 1e-3


def test_performer_prompt_with_padding_before_it_is_continued():
    """Padding in front moves the positions of a text, and nothing else."""
    model, ids = small(), tokens(2, 12)
    mask = torch.arange(12) >= torch.tensor([[0], [5]])
    with torch.no_grad():
        cache = model.make_cache()
        first = model(ids[:, :10], mask[:, :10], cache)
        rest = [model(ids[:, t : t + 1], cache=cache) for t in (10, 11)]
        expected = model(ids, mask)
    assert relative_error(torch.cat([first, *rest], 1)[mask], expected[mask]) < 1e-12
    with pytest.raises(BadInput, match="leave out the mask"):
        model(ids[:, :1], mask[:, :1], cache)


def test_performer_blocks_have_features_of_their_own():
    first, second = matrices(small())
    assert not torch.equal(first, second)
    again = matrices(small())
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    others = matrices(small(features_seed=1))
    assert not any(torch.equal(x, y) for x in (first, second) for y in others)


def built(**fields):
    _, _, recipe = recipe_of("performer/smoke", {"device": "cpu", "data": "python/json", **fields})
    (run,) = performer.build(recipe)
    return run


@pytest.mark.parametrize(("interval", "expected"), [(3, [1, 1, 1, 2, 2, 2, 3, 3]), (0, [1] * 8)])
def test_performer_redraws_features_between_training_steps_only(interval, expected):
    run = built(redraw_interval=interval, batch_size=2)
    model, found = run.state["model"], []
    for _ in range(8):
        before = matrices(model)
        run.update(next(run.stream))
        found.append(draws(model))
        is_same = all(torch.equal(a, b) for a, b in zip(before, matrices(model), strict=True))
        assert is_same == (len(found) < 2 or found[-1] == found[-2])
        after = matrices(model)
        model.train()(torch.zeros(1, 4, dtype=torch.int64))
        generate(model, torch.zeros(1, 4, dtype=torch.int64), 3)
        assert all(torch.equal(a, b) for a, b in zip(after, matrices(model), strict=True))
    print(found)
    assert found == [[n, n] for n in expected]


def test_performer_resumed_draws_what_it_would_have_drawn():
    """To the bit, across two draws; a counter that is not restored draws at other steps. Whole: law 2."""
    whole, first = (built(redraw_interval=3, batch_size=2) for _ in range(2))
    for _ in range(8):
        whole.update(next(whole.stream))
    for _ in range(4):
        first.update(next(first.stream))
    rest = built(redraw_interval=3, batch_size=2)
    for name, item in rest.state.items():
        item.load_state_dict(first.state[name].state_dict())
    for _ in range(4):
        rest.update(next(rest.stream))
    a, b = (run.state["model"].state_dict() for run in (whole, rest))
    assert any(name.endswith("features.draws") for name in a)
    assert draws(rest.state["model"]) == [3, 3]
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_performer_bfloat16_generates_what_it_computes_at_once():
    model = small().float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected, cache = model(tokens()), model.make_cache()
        found = torch.cat([model(token[:, None], cache=cache) for token in tokens().T], 1)
    difference = relative_error(found.float(), expected.float())
    print(f"{difference:.1e} apart")
    assert torch.isfinite(found).all()
    assert difference < 0.05


def test_performer_init_and_names_equal_those_of_gpt():
    torch.manual_seed(0)
    ours = Performer.from_kwargs(**CONFIG)
    torch.manual_seed(0)
    sizes = {name: size for name, size in CONFIG.items() if name != "features"}
    theirs = GPT.from_kwargs(**sizes, bias=False, activation="gelu")
    names = {name for name in ours.state_dict() if ".features." not in name}
    assert names == set(theirs.state_dict())
    assert all(torch.equal(ours.state_dict()[name], theirs.state_dict()[name]) for name in names)
    assert ours.head.weight is ours.token_embedding.weight


def test_performer_rejects_what_is_impossible():
    model = small()
    with pytest.raises(BadInput, match="91 tokens, but the context holds 90"):
        model(tokens(1, 91))
    cache = model.make_cache()
    model(tokens(1, 90), cache=cache)
    with pytest.raises(BadInput, match="91 tokens"):
        model(tokens(1, 1), cache=cache)
    with pytest.raises(BadInput, match="encoder: it reads whole texts"):
        small(causal=False).make_cache()
    with pytest.raises(ValueError, match="0 random features; at least 1 is needed"):
        small(features=0)
    for fields, message in (
        ({"redraw_interval": -1}, "redraw_interval must be at least 0, not -1"),
        ({"features": 0}, "features must be at least 1, not 0"),
        ({"heads": 5}, "a width of 32 cannot be divided among 5 heads"),
    ):
        with pytest.raises(BadInput, match=message):
            built(**fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "performer"
    run = ts.train("performer/smoke", out=folder, quiet=True, device="cpu", steps=200)
    return folder, run


@pytest.mark.sweep
def test_performer_smoke_beats_unigram_and_keeps_its_features(trained):
    folder, run = trained
    print(f"unigram {run.results['test/unigram']:.3f}, performer/smoke {run.results['test/loss']:.3f}")
    assert run.results["test/loss"] < run.results["test/unigram"] - 0.3
    model = ts.load(folder)
    assert draws(model) == [8, 8]  # the first, and seven in 200 steps
    # those of the checkpoint, not those that the seed draws first
    first = Performer.from_kwargs(**run.metadata["model_config"])
    assert not torch.equal(matrices(first)[0], matrices(model)[0])
    assert torch.equal(matrices(run.state["model"])[0], matrices(model)[0])


def test_performer_show_sample_eval_predict_commands(trained, tmp_path, capsys):
    from torchstone.cli.main import main

    folder = str(trained[0])
    assert main(["show", "performer"]) == 0
    assert "804,096" in capsys.readouterr().out
    assert main(["sample", folder, "--prompt", "def ", "-n", "2", "--length", "60", "--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert first.count("def ") >= 2
    main(["sample", folder, "--prompt", "def ", "-n", "2", "--length", "60", "--seed", "3"])
    assert capsys.readouterr().out == first
    assert main(["sample", folder, "--prompt", "a" * 33]) == 2
    assert "the prompt has 33 tokens, the model's context 32" in capsys.readouterr().err
    file = tmp_path / "own.txt"
    file.write_text("import json\n" * 20)
    assert main(["eval", folder, "--data", str(file), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["tokens"] == metrics["characters"] == 240
    assert abs(metrics["perplexity"] - math.exp(metrics["loss"])) < 1e-6
    assert main(["predict", folder, "import "]) == 0
    assert capsys.readouterr().out.startswith("import ")


# ---- as an encoder


def encoder(head="sentence", **config):
    torch.manual_seed(0)
    model = (
        performer.PerformerEncoder.from_kwargs(**CONFIG | config, head=head, num_classes=3).double().eval()
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3)
    return model


def test_performer_encoder_reads_both_ways_and_no_padding():
    """Its body is the encoder that law 4 compares with all pairs."""
    for head in ("masked", "sentence", "tokens"):
        model, ids = encoder(head, causal=True), tokens(2, 30)
        assert not model.body.causal
        mask = torch.arange(30) < torch.tensor([[30], [11]])
        padded, alone = model.logits(ids, mask), model.logits(ids[1:, :11])
        own = padded[1:, :11] if padded.dim() == 3 else padded[1:]
        print(f"{head}: {relative_error(own, alone):.1e} apart")
        assert relative_error(own, alone) < 1e-12
        later = ids.clone()
        later[:, 25] = (later[:, 25] + 1) % 19
        assert relative_error(model(later, mask)[0, :5], model(ids, mask)[0, :5]) > 1e-4
        model.logits(ids, mask).square().mean().backward()
        unused = {name for name, weight in model.named_parameters() if weight.grad is None}
        print(unused)
        assert unused == set()
    picked = torch.tensor([[3, 4], [0, 9]])
    model = encoder("masked")
    expected = torch.stack([model.logits(ids, mask)[i, picked[i]] for i in range(2)])
    assert relative_error(model.logits(ids, mask, None, picked), expected) < 1e-12


@pytest.fixture(scope="module")
def labels_run(tmp_path_factory):
    """Documents whose label stands in their last words, and the masked language model that it begins with."""
    folder, lines = tmp_path_factory.mktemp("encoder"), ["text,label"]
    lines += ["horse " * 12 + ("cow hay hen barn,farm", "sea sail deck wave,ship")[i % 2] for i in range(60)]
    (folder / "documents.csv").write_text("\n".join(lines))
    fields = {
        "data": str(folder / "documents.csv"),
        "vocab_size": 300,
        "context": 40,
        "features": 16,
        "lr": 3e-3,
    }
    fields |= {"pretrain_steps": 4, "pretrain_batch_size": 8, "steps": 40, "batch_size": 8, "ema_decay": 0.0}
    fields |= {"width": 32, "redraw_interval": 15, "device": "cpu"}
    ts.train("performer/sentiment", out=folder / "run", quiet=True, **fields)
    return folder / "run"


def test_performer_encoder_labels_documents_after_redraws(labels_run, capsys):
    from torchstone.cli.main import main

    model = ts.load(labels_run)
    assert draws(model) == [3, 3]
    assert main(["predict", str(labels_run), "horse " * 12 + "sea sail deck wave"]) == 0
    assert "ship" in capsys.readouterr().out
    assert ts.evaluate(labels_run)["accuracy"] == 1
    for command, message in (
        (["sample", str(labels_run)], "this Performer is an encoder: it reads whole texts"),
        (
            ["predict", str(labels_run), "--fill", "a [MASK]"],
            "to fill in words train one with --task masked_lm",
        ),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err


@pytest.mark.sweep
def test_performer_encoder_starts_from_an_encoder_only(labels_run, trained, tmp_path):
    words = tmp_path / "words"
    fields = {
        "task": "masked_lm",
        "data": "python/json",
        "context": 40,
        "steps": 2,
        "batch_size": 4,
        "max_examples": 40,
    }
    ts.train("performer/sentiment", weights=str(labels_run), out=words, quiet=True, device="cpu", **fields)
    (answer,) = ts.predict(words, ["import [MASK]"], fill=True)
    assert len(answer["candidates"]) == 1
    for weights, more, message in (
        (words, {"context": 41}, "context is 41, but .* has 40 positions"),
        (trained[0], {}, "is a causal language model; an encoder starts from an encoder"),
    ):
        with pytest.raises(BadInput, match=message):
            ts.train("performer/sentiment", weights=str(weights), quiet=True, **{"context": 40, **more})
    for variant, task, other in (
        ("performer_char", "classify", "performer_tiny or performer_mini"),
        ("performer_tiny", "language", "performer_char_cpu or performer_char"),
    ):
        with pytest.raises(BadInput, match=f"{variant} is not for task {task}: take {other}"):
            built(variant=variant, task=task)
    with pytest.raises(BadInput, match="this Performer of task masked predicts without 'max_new_tokens'"):
        ts.predict(words, ["import [MASK]"], max_new_tokens=3)
