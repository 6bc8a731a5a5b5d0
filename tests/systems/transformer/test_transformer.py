"""Transformer: the paper's learning rate, caches and beam search against plain code, and planted faults."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.systems.transformer import transformer
from torchstone.systems.transformer.transformer import (
    RECIPES,
    VARIANTS,
    DecoderLayer,
    EncoderLayer,
    Transformer,
)
from torchstone.tasks.optimization import make_lr_scheduler, make_optimizer
from torchstone.verify import relative_error

BOS, EOS = 1, 2


def network(seed: int = 0, **sizes) -> Transformer:
    """A small network whose outputs vary."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 12, "width": 16, "heads": 2, "d_ff": 24, "layers": 2, "dropout": 0.0}
    model = Transformer.from_kwargs(**settings | sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def sources(model: Transformer, rows: int = 5, max_length: int = 9):
    size = model.embedding.num_embeddings
    source = torch.randint(3, size, (rows, max_length))
    for row in range(1, rows):
        source[row, max_length - row :] = 0
    return source


def test_lr_schedule_equals_equation_3():
    recipe = RECIPES["paper"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.optim.lr)
    scheduler = make_lr_scheduler(optimizer, recipe.optim, recipe.steps)
    d, w, worst = 512, 4000, 0.0
    for t in range(1, 9001):
        expected = d**-0.5 * min(t**-0.5, t * w**-1.5)
        worst = max(worst, abs(optimizer.param_groups[0]["lr"] / expected - 1))
        optimizer.step()
        scheduler.step()
    print("largest relative error:", worst)
    assert worst < 1e-12


def test_optimizer_of_paper_recipe_is_the_papers_adam():
    adam = make_optimizer([nn.Parameter(torch.zeros(1))], RECIPES["paper"].optim)
    assert adam.defaults["betas"] == (0.9, 0.98)
    assert adam.defaults["eps"] == 1e-9


def first_pair():
    return next(transformer.reference())


def difference(ours, theirs, inputs) -> float:
    return relative_error(ours(*inputs), theirs(*inputs))


def test_parity_detects_planted_faults(monkeypatch):
    """Every term of the reference, left out once, must show in the output."""
    ours, theirs, inputs, *_ = first_pair()
    (model,) = ours.children()
    sound = difference(ours, theirs, inputs)
    wrong = {}

    def planted(name: str, target, attribute: str, value) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(target, attribute, value)
            wrong[name] = difference(ours, theirs, inputs)

    planted("no √d", model, "width", 1)
    positions = model.positions.clone()
    model.positions.zero_()
    wrong["no positions"] = difference(ours, theirs, inputs)
    model.positions.copy_(positions)
    planted("padding attended to", model, "padding_mask", lambda source: None)
    causal = transformer.MultiHeadAttention.forward
    planted(
        "future attended to",
        transformer.MultiHeadAttention,
        "forward",
        lambda self, *a, causal_=causal, **k: causal_(self, *a, **{**k, "causal": False}),
    )
    layer = model.decoder[0]
    planted("norms swapped", layer, "forward", _pre_norm(layer))
    print("without fault", sound, "|", wrong)
    assert sound < 1e-12
    assert min(wrong.values()) > 1e-4


def _pre_norm(layer: DecoderLayer):
    """The layer with pre-norms, as in later networks."""

    def forward(x, memory, mask=None, self_cache=None, cross_cache=None):
        x = x + layer.attention(layer.norm1(x), causal=True)
        x = x + layer.cross(layer.norm2(x), memory, mask=mask)
        return x + layer.feed_forward(layer.norm3(x))

    return forward


def test_dropout_on_residual_branches_and_embeddings_only():
    """With dropout 1 a layer is its norms; feed-forward layers and attention weights have no dropout."""
    torch.manual_seed(0)
    layer = EncoderLayer(8, 2, 12, dropout=1.0).train()
    x = torch.randn(2, 3, 8)
    expected = layer.norm2(layer.norm1(x))
    assert torch.equal(layer(x), expected)
    model = network(dropout=1.0).train()
    assert not model.embed(torch.ones(1, 3, dtype=torch.int64)).any()
    big = VARIANTS["transformer_big"].make(vocab_size=9)
    rates = {module.p for module in big.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.3}


def test_padding_does_not_change_logits():
    model, worst = network(), 0.0
    source = sources(model)
    target = torch.randint(3, 12, (5, 6))
    batched = model(source, target)
    for row in range(5):
        alone = model(source[row : row + 1, : 9 - row], target[row : row + 1])
        worst = max(worst, relative_error(alone, batched[row : row + 1]))
    print("largest error", worst)
    assert worst < 1e-5


@pytest.mark.parametrize("beam_size", [1, 3])
def test_generate_with_cache_equals_without(beam_size):
    """Over 30 networks with padding, most of whose translations end before the limit."""
    lengths = []
    for seed in range(30):
        model = network(seed)
        source = sources(model)
        settings = {"bos": BOS, "eos": EOS, "beam_size": beam_size, "length_penalty": 0.6}
        cached = model.generate(source, 20, **settings)
        plain = model.generate(source, 20, use_cache=False, **settings)
        assert torch.equal(cached, plain), f"seed {seed}"
        lengths += [(row != EOS).sum().item() for row in cached]
    print(f"{beam_size} beams: {len(lengths)} translations of {min(lengths)} to {max(lengths)} tokens")
    assert min(lengths) < 5 < 15 < max(lengths)


def test_generate_greedy_takes_most_likely_token():
    """One sentence at a time, until its end, over rows that end at different lengths."""
    lengths = set()
    for seed in range(6):
        model = network(seed)
        source = sources(model)
        generated = model.generate(source, 12, bos=BOS, eos=EOS)
        for row in range(len(source)):
            tokens = [BOS]
            while len(tokens) <= 12 and tokens[-1] != EOS:
                logits = model(source[row : row + 1], torch.tensor([tokens]))
                tokens.append(int(logits[0, -1].argmax()))
            expected = tokens[1:]
            lengths.add(len(expected))
            assert generated[row].tolist() == expected + [EOS] * (generated.shape[1] - len(expected))
    print("translations of", sorted(lengths), "tokens")
    assert {1, 12} <= lengths


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_generate_beam_search_equals_brute_force(length_penalty):
    """A vocabulary of 5 and at most four tokens: all 341 translations are scored by the network."""
    size, most, differs = 5, 4, 0
    for seed in range(6):
        model = network(seed, vocab_size=size, width=8, layers=1).double()
        source = sources(model, rows=2, max_length=4)
        beams = model.generate(
            source, most, bos=BOS, eos=EOS, beam_size=size ** (most - 1), length_penalty=length_penalty
        )
        greedy = model.generate(source, most, bos=BOS, eos=EOS)
        for row in range(2):
            best, expected = -torch.inf, None
            for length in range(1, most + 1):
                candidates = [
                    [BOS, *tokens]
                    for tokens in itertools.product(range(size), repeat=length)
                    if EOS not in tokens[:-1] and (length == most or tokens[-1] == EOS)
                ]
                target = torch.tensor(candidates)
                logits = model(source[row : row + 1].expand(len(target), -1), target[:, :-1])
                totals = logits.log_softmax(-1).gather(2, target[:, 1:, None]).sum((1, 2))
                score, index = (totals / ((5 + length) / 6) ** length_penalty).max(0)
                if score > best:
                    best, expected = score, candidates[index][1:] + [EOS] * (most - length)
            assert beams[row].tolist() + [EOS] * (most - beams.shape[1]) == expected
            differs += greedy[row].tolist() + [EOS] * (most - greedy.shape[1]) != expected
    print(f"length penalty {length_penalty}: 12 translations equal, {differs} of them not greedy search's")
    assert differs


def test_attention_weights_equal_those_of_last_layer():
    model = network(1, layers=2)
    source, target = sources(model), torch.randint(3, 12, (5, 6))
    weights = model.attention_weights(source, target)
    recorded = []
    cross = model.decoder[-1].cross
    cross.register_forward_pre_hook(lambda module, inputs: recorded.append(inputs))
    model(source, target)
    x, memory = (each.transpose(0, 1) for each in recorded[0])
    _, expected = F.multi_head_attention_forward(
        x,
        memory,
        memory,
        16,
        2,
        cross.qkv.weight,
        cross.qkv.bias,
        None,
        None,
        False,
        0.0,
        cross.out.weight,
        cross.out.bias,
        key_padding_mask=source == 0,
        average_attn_weights=False,
    )
    print("error", relative_error(weights, expected))
    assert relative_error(weights, expected) < 1e-5
    assert not weights[(source == 0)[:, None, None].expand_as(weights)].any()


def test_transformer_rejects_more_tokens_than_positions():
    model = network(max_length=6)
    tokens = torch.ones(1, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match="7 tokens, but positions for 6"):
        model(tokens, tokens)


def test_transformer_ties_embedding_and_output_matrix():
    model = network()
    shapes = [p.shape for p in model.parameters() if 12 in p.shape]
    assert shapes == [(12, 16)]
    before = model(torch.tensor([[3, 4]]), torch.tensor([[1]]))
    with torch.no_grad():
        model.embedding.weight[11] += 1  # not among the inputs: only its own logit changes
    after = model(torch.tensor([[3, 4]]), torch.tensor([[1]]))
    changed = (before != after).flatten().nonzero().flatten().tolist()
    assert changed == [11]


@pytest.mark.slow
def test_copy_recipe_is_learned_exactly():
    """The copy task: 100 %, on sequences that were not trained on."""
    from torchstone.engine.run import fit

    run = next(transformer.build(RECIPES["copy"]))
    results = fit(run, quiet=True)
    print(results)
    assert results["test/bleu"] > 99.9
