"""Generation: equal to transformers, with and without the cache, and refused arguments."""

import random

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.transformer.attention import KVCache
from torchstone.references.transformers import random_gpts
from torchstone.systems.transformer.gpt import GPT, from_config, published
from torchstone.tasks.text.generate import generate


def random_gpt(seed: int = 0, **config) -> GPT:
    """A small network in float64 whose outputs differ between positions."""
    torch.manual_seed(seed)
    settings = {"width": 12, "depth": 2, "heads": 3, "vocab_size": 23, "context": 16, **config}
    model = GPT.from_kwargs(**settings).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


def test_generate_greedy_equals_transformers():
    draw, counts = random.Random(1), []
    for number, theirs in enumerate(random_gpts(6, seed=6)):
        config = theirs.config.to_dict() | {"n_positions": 128}
        theirs = type(theirs)(type(theirs.config)(**config)).double().eval()
        torch.manual_seed(number)
        with torch.no_grad():
            for name, weight in theirs.named_parameters():
                # positions that differ much and small biases: otherwise one token would repeat
                is_position, is_bias = "wpe" in name or "positions" in name, name.endswith("bias")
                weight.normal_(std=2.0 if is_position else 0.05 if is_bias else 0.4)
        ours = GPT.from_kwargs(**from_config(config)[1]).double().eval()
        ours.load_state_dict(published("", theirs.state_dict()))
        rows, length = draw.choice([1, 3]), draw.randint(1, 20)
        prompt = torch.randint(ours.vocab_size, (rows, length))
        # there, an unset mask or end would be guessed from the tokens
        expected = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=100,
            pad_token_id=0,
            eos_token_id=None,
        )
        text = generate(ours, prompt, 100, greedy=True)
        different = len(set(text[0, length:].tolist()))
        print(f"{config['model_type']}, {rows} rows: {different} different tokens in 100")
        assert expected.shape == (rows, length + 100)
        assert torch.equal(text, expected)
        counts.append(different)
    assert min(counts) > 1  # not one token over and over
    assert max(counts) > 8


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("slide", [None, 1, 5])
def test_generate_cache_does_not_change_text(post_norm, slide):
    model = random_gpt(post_norm=post_norm)
    prompt = torch.randint(23, (3, 7))
    for sampling in ({"greedy": True}, {"temperature": 0.9, "top_k": 9, "top_p": 0.95}):
        texts = [
            generate(
                model,
                prompt,
                60,
                use_cache=cached,
                slide=slide,
                generator=torch.Generator().manual_seed(4),
                **sampling,
            )
            for cached in (True, False)
        ]
        assert torch.equal(*texts)
        assert torch.equal(texts[0][:, :7], prompt)
        assert texts[0].shape == (3, 67)


def test_generate_slides_window_by_half_or_one():
    model = random_gpt()
    text = generate(model, torch.randint(23, (1, 5)), 40, greedy=True)[0]
    first = 0
    for position in range(5, 45):
        if position - first > 16:
            first += 8  # the older half is dropped
        assert 8 <= position - first <= 16 or position <= 8
        logits = model(text[None, first:position])
        assert int(logits[0, -1].argmax()) == int(text[position]), position
    text = generate(model, text[None, :5], 40, greedy=True, slide=1)[0]
    for position in range(5, 45):
        logits = model(text[None, max(0, position - 16) : position])
        assert int(logits[0, -1].argmax()) == int(text[position]), position


def test_generate_accepts_prompt_up_to_context():
    model = random_gpt()
    full = torch.randint(23, (2, 16))
    assert generate(model, full, 3, greedy=True).shape == (2, 19)
    assert torch.equal(generate(model, full, 0), full)
    with pytest.raises(BadInput, match="the prompt has 17 tokens, the model's context 16"):
        generate(model, torch.randint(23, (2, 17)), 3)


@pytest.mark.parametrize(
    ("prompt", "sampling", "message"),
    [
        ([[1, 23]], {}, "token id 23 is outside of the vocabulary, 0 to 22"),
        ([[1, -1]], {}, "token id -1 is outside"),
        ([[]], {}, "the prompt is empty"),
        ([[1]], {"temperature": 0.0}, "temperature must be above 0"),
        ([[1]], {"top_k": 0}, "top_k must be at least 1"),
        ([[1]], {"top_p": 1.5}, "top_p is a probability"),
        ([[1]], {"slide": 17}, "slide must be 1 to the context, 16"),
        ([[1]], {"slide": 0}, "slide must be"),
    ],
)
def test_generate_rejects_bad_arguments_before_computing(prompt, sampling, message):
    model = random_gpt()
    model.register_forward_pre_hook(lambda *_: pytest.fail("computed"))
    with pytest.raises(BadInput, match=message):
        generate(model, torch.tensor(prompt, dtype=torch.int64), 3, **sampling)


def test_generate_frequencies_equal_probabilities():
    model = random_gpt()
    with torch.no_grad():
        probs = model(torch.tensor([[3, 4]]))[0, -1].softmax(-1)
    prompt = torch.tensor([[3, 4]]).expand(4000, -1)
    tokens = generate(model, prompt, 1, generator=torch.Generator().manual_seed(0))[:, 2]
    frequencies = torch.bincount(tokens, minlength=23) / 4000
    print((frequencies - probs).abs().max())
    assert (frequencies - probs).abs().max() < 0.03
    best = probs.topk(3).indices
    tokens = generate(model, prompt, 1, top_k=3)[:, 2]
    assert set(tokens.tolist()) == set(best.tolist())


def test_generate_depends_on_generator_alone():
    model, prompt = random_gpt(), torch.tensor([[1, 2, 3]])
    texts = [generate(model, prompt, 30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_generate_repeats_eos_after_the_end():
    model = random_gpt()
    prompt = torch.tensor([[1], [2], [5]])
    free = generate(model, prompt, 30, greedy=True)
    eos = int(free[0, 3])
    text = generate(model, prompt, 30, greedy=True, eos=eos)
    for row, before in zip(text.tolist(), free.tolist(), strict=True):
        position = before.index(eos, 1) if eos in before[1:] else 31
        assert row[: position + 1] == before[: position + 1]
        assert set(row[position:]) <= {eos}


def test_generate_restores_training_mode_and_returns_trainable_tokens():
    model = random_gpt().train()
    text = generate(model, torch.tensor([[1, 2]]), 5)
    assert model.training
    model(text).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_generate_detects_faulty_cache(monkeypatch):
    """The test of the cache can fail: one that shifts positions gives another text."""
    model, prompt = random_gpt(), torch.randint(23, (2, 5))
    right = generate(model, prompt, 20, greedy=True)
    plain = KVCache.append

    def shifted(self, k, v):
        keys, values = plain(self, k, v)
        return keys, values.roll(1, 2)

    monkeypatch.setattr(KVCache, "append", shifted)
    assert not torch.equal(generate(model, prompt, 20, greedy=True), right)
