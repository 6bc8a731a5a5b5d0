"""Transformer: the paper's rate, caches and beams against the plain way, and faults that must be seen."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.references import transformer as oracle
from torchstone.systems.transformer import transformer
from torchstone.systems.transformer.transformer import (
    RECIPES,
    VARIANTS,
    DecoderLayer,
    EncoderLayer,
    Transformer,
    published,
)
from torchstone.tasks import optimizers
from torchstone.verify import relative_error

START, END = 1, 2


def network(seed: int = 0, **sizes) -> Transformer:
    """A small network whose answers are spread out."""
    torch.manual_seed(seed)
    settings = {"vocabulary": 12, "width": 16, "heads": 2, "inner": 24, "layers": 2, "dropout": 0.0}
    model = Transformer(**settings | sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def sources(model: Transformer, rows: int = 5, longest: int = 9):
    size = model.embedding.num_embeddings
    source = torch.randint(3, size, (rows, longest))
    for row in range(1, rows):
        source[row, longest - row :] = 0
    return source


def test_rate_is_equation_3():
    recipe = RECIPES["paper"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = optimizers.schedule(optimizer, recipe)
    d, w, worst = 512, 4000, 0.0
    for t in range(1, 9001):
        wanted = d**-0.5 * min(t**-0.5, t * w**-1.5)
        worst = max(worst, abs(optimizer.param_groups[0]["lr"] / wanted - 1))
        optimizer.step()
        schedule.step()
    print("furthest from the equation, relative:", worst)
    assert worst < 1e-12


def test_adam_is_the_papers():
    adam = optimizers.optimizer([nn.Parameter(torch.zeros(1))], RECIPES["paper"])
    assert adam.defaults["betas"] == (0.9, 0.98)
    assert adam.defaults["eps"] == 1e-9


def first_pair():
    return next(
        oracle.transformer_cases(
            transformer.Transformer, EncoderLayer, DecoderLayer, lambda t: published("", t)
        )
    )


def difference(ours, theirs, inputs) -> float:
    return relative_error(ours(*inputs), theirs(*inputs))


def test_parity_sees_each_detail(monkeypatch):
    """Planted faults: every term that the reference has and a slip would leave out."""
    ours, theirs, inputs, *_ = first_pair()
    model = ours.model
    sound = difference(ours, theirs, inputs)
    wrong = {}

    def planted(name: str, target, attribute: str, value) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, value)
            wrong[name] = difference(ours, theirs, inputs)

    planted("no √d", model, "width", 1)
    kept = model.positions.clone()
    model.positions.zero_()
    wrong["no positions"] = difference(ours, theirs, inputs)
    model.positions.copy_(kept)
    planted("padding seen", model, "visible", lambda source: None)
    causal = transformer.MultiHead.forward
    planted(
        "future seen",
        transformer.MultiHead,
        "forward",
        lambda self, *a, causal_=causal, **k: causal_(self, *a, **{**k, "causal": False}),
    )
    layer = model.decoder[0]
    planted("norms swapped", layer, "forward", _before(layer))
    print("as published", sound, "|", wrong)
    assert sound < 1e-12
    assert min(wrong.values()) > 1e-4


def _before(layer: DecoderLayer):
    """The layer with its norms before each part, as later networks have them."""

    def forward(x, memory, mask=None, own=None, across=None):
        x = x + layer.attention(layer.norm1(x), causal=True)
        x = x + layer.cross(layer.norm2(x), memory, mask=mask)
        return x + layer.feed_forward(layer.norm3(x))

    return forward


def test_dropout_is_on_sums_and_embeddings_only():
    """With all of it dropped a layer is its norms; the feed-forward and the weights know no dropout."""
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 12, dropout=1.0).train()
    x = torch.randn(2, 3, 8)
    expected = layer.norm2(layer.norm1(x))
    assert torch.equal(layer(x), expected)
    model = network(dropout=1.0).train()
    assert not model.embed(torch.ones(1, 3, dtype=torch.int64)).any()
    rates = {m.p for m in VARIANTS["transformer_big"].make(vocabulary=9).modules() if isinstance(m, nn.Dropout)}  # fmt: skip
    assert rates == {0.3}


def test_a_sentence_is_read_alike_alone_and_beside_longer_ones():
    model, worst = network(), 0.0
    source = sources(model)
    target = torch.randint(3, 12, (5, 6))
    together = model(source, target)
    for row in range(5):
        alone = model(source[row : row + 1, : 9 - row], target[row : row + 1])
        worst = max(worst, relative_error(alone, together[row : row + 1]))
    print("furthest apart", worst)
    assert worst < 1e-5


@pytest.mark.parametrize("beams", [1, 3])
def test_cached_is_uncached(beams):
    """Over 30 networks with padding, most of whose answers end before the limit."""
    lengths = []
    for seed in range(30):
        model = network(seed)
        source = sources(model)
        settings = {"start": START, "end": END, "beams": beams, "penalty": 0.6}
        cached = model.generate(source, 20, **settings)
        plain = model.generate(source, 20, use_cache=False, **settings)
        assert torch.equal(cached, plain), f"seed {seed}"
        lengths += [(row != END).sum().item() for row in cached]
    print(f"{beams} beams: {len(lengths)} answers of {min(lengths)} to {max(lengths)} tokens")
    assert min(lengths) < 5 < 15 < max(lengths)


def test_greedy_is_the_likeliest_token_each_time():
    """A sentence at a time, until its end, over rows that end at different lengths."""
    lengths = set()
    for seed in range(6):
        model = network(seed)
        source = sources(model)
        found = model.generate(source, 12, bos=START, eos=END)
        for row in range(len(source)):
            tokens = [START]
            while len(tokens) <= 12 and tokens[-1] != END:
                logits = model(source[row : row + 1], torch.tensor([tokens]))
                tokens.append(int(logits[0, -1].argmax()))
            answer = tokens[1:]
            lengths.add(len(answer))
            assert found[row].tolist() == answer + [END] * (found.shape[1] - len(answer))
    print("answers of", sorted(lengths), "tokens")
    assert {1, 12} <= lengths


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_beams_find_what_trying_everything_finds(penalty):
    """Vocabulary of 5, four tokens at most: all 341 answers scored through the whole network."""
    size, most, differs = 5, 4, 0
    for seed in range(6):
        model = network(seed, vocabulary=size, width=8, layers=1).double()
        source = sources(model, rows=2, longest=4)
        found = model.generate(
            source, most, bos=START, eos=END, beam_size=size ** (most - 1), length_penalty=penalty
        )
        greedy = model.generate(source, most, bos=START, eos=END)
        for row in range(2):
            best, answer = -torch.inf, None
            for length in range(1, most + 1):
                everything = [
                    [START, *tokens]
                    for tokens in itertools.product(range(size), repeat=length)
                    if END not in tokens[:-1] and (length == most or tokens[-1] == END)
                ]
                target = torch.tensor(everything)
                logits = model(source[row : row + 1].expand(len(target), -1), target[:, :-1])
                totals = logits.log_softmax(-1).gather(2, target[:, 1:, None]).sum((1, 2))
                score, place = (totals / ((5 + length) / 6) ** penalty).max(0)
                if score > best:
                    best, answer = score, everything[place][1:] + [END] * (most - length)
            assert found[row].tolist() + [END] * (most - found.shape[1]) == answer
            differs += greedy[row].tolist() + [END] * (most - greedy.shape[1]) != answer
    print(f"penalty {penalty}: 12 answers equal, {differs} of them not what greedy search finds")
    assert differs


def test_looks_are_the_last_layers_weights():
    model = network(1, layers=2)
    source, target = sources(model), torch.randint(3, 12, (5, 6))
    shares = model.attention_weights(source, target)
    seen = []
    cross = model.decoder[-1].cross
    cross.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model(source, target)
    x, memory = (each.transpose(0, 1) for each in seen[0])
    _, expected = F.multi_head_attention_forward(
        x, memory, memory, 16, 2, cross.qkv.weight, cross.qkv.bias, None, None, False, 0.0,
        cross.out.weight, cross.out.bias, key_padding_mask=source == 0, average_attn_weights=False,
    )  # fmt: skip
    print("apart", relative_error(shares, expected))
    assert relative_error(shares, expected) < 1e-5
    assert not shares[(source == 0)[:, None, None].expand_as(shares)].any()


def test_no_more_places_than_there_are_positions():
    model = network(longest=6)
    tokens = torch.ones(1, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match="7 tokens, but positions for 6"):
        model(tokens, tokens)


def test_one_matrix_embeds_and_answers():
    model = network()
    shapes = [p.shape for p in model.parameters() if 12 in p.shape]
    assert shapes == [(12, 16)]
    before = model(torch.tensor([[3, 4]]), torch.tensor([[1]]))
    with torch.no_grad():
        model.embedding.weight[11] += 1  # neither read nor given here: only its own logit moves
    after = model(torch.tensor([[3, 4]]), torch.tensor([[1]]))
    moved = (before != after).flatten().nonzero().flatten().tolist()
    assert moved == [11]


@pytest.mark.slow
def test_it_copies_without_a_fault():
    """The copy task: 100 %, on sequences that were not trained on."""
    from torchstone.engine.run import fit

    run = next(transformer.build(RECIPES["copy"]))
    results = fit(run, quiet=True)
    print(results)
    assert results["test/bleu"] > 99.9
