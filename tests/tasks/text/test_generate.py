"""Generation: as transformers does it, with the cache as without, and what is refused."""

import random

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.transformer.attention import KVCache
from torchstone.references import gpts
from torchstone.systems.transformer.gpt import GPT, from_config, published
from torchstone.tasks.text.generate import generate


def shaken(seed: int = 0, **arguments) -> GPT:
    """A small network in float64 that says different things at different places."""
    torch.manual_seed(seed)
    settings = {"vocabulary": 23, "context": 16, **arguments}
    model = GPT(12, 2, 3, **settings).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model


def test_greedy_is_transformers_token_for_token():
    draw, seen = random.Random(1), []
    for number, theirs in enumerate(gpts(6, seed=6)):
        config = theirs.config.to_dict() | {"n_positions": 128}
        theirs = type(theirs)(type(theirs.config)(**config)).double().eval()
        torch.manual_seed(number)
        with torch.no_grad():
            for name, weight in theirs.named_parameters():
                # places that differ much and small biases: else one token would come over and over
                place, bias = "wpe" in name or "positions" in name, name.endswith("bias")
                weight.normal_(std=2.0 if place else 0.05 if bias else 0.4)
        ours = GPT(**from_config(config)[1]).double().eval()
        ours.load_state_dict(published("", theirs.state_dict()))
        rows, length = draw.choice([1, 3]), draw.randint(1, 20)
        prompt = torch.randint(ours.vocab_size, (rows, length))
        # there, an unset mask or end would be guessed from the tokens
        wanted = theirs.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=100,
            pad_token_id=0,
            eos_token_id=None,
        )
        said = generate(ours, prompt, 100, greedy=True)
        different = len(set(said[0, length:].tolist()))
        print(f"{config['model_type']}, {rows} rows: {different} different tokens in 100")
        assert wanted.shape == (rows, length + 100)
        assert torch.equal(said, wanted)
        seen.append(different)
    assert min(seen) > 1  # not one token over and over
    assert max(seen) > 8


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("slide", [None, 1, 5])
def test_the_cache_changes_nothing(post_norm, slide):
    model = shaken(post_norm=post_norm)
    prompt = torch.randint(23, (3, 7))
    for how in ({"greedy": True}, {"temperature": 0.9, "top_k": 9, "top_p": 0.95}):
        texts = [
            generate(
                model, prompt, 60, use_cache=cached, slide=slide,
                generator=torch.Generator().manual_seed(4), **how,
            )
            for cached in (True, False)
        ]  # fmt: skip
        assert torch.equal(*texts)
        assert torch.equal(texts[0][:, :7], prompt)
        assert texts[0].shape == (3, 67)


def test_each_token_follows_on_the_window_that_is_stated():
    model = shaken()
    text = generate(model, torch.randint(23, (1, 5)), 40, greedy=True)[0]
    first = 0
    for place in range(5, 45):
        if place - first > 16:
            first += 8  # the older half goes
        assert 8 <= place - first <= 16 or place <= 8
        logits = model(text[None, first:place])
        assert int(logits[0, -1].argmax()) == int(text[place]), place
    text = generate(model, text[None, :5], 40, greedy=True, slide=1)[0]
    for place in range(5, 45):
        logits = model(text[None, max(0, place - 16) : place])
        assert int(logits[0, -1].argmax()) == int(text[place]), place


def test_a_prompt_may_fill_the_context_and_no_more():
    model = shaken()
    full = torch.randint(23, (2, 16))
    assert generate(model, full, 3, greedy=True).shape == (2, 19)
    assert torch.equal(generate(model, full, 0), full)
    with pytest.raises(BadInput, match="the prompt has 17 tokens, the model's context 16"):
        generate(model, torch.randint(23, (2, 17)), 3)


@pytest.mark.parametrize(
    ("prompt", "how", "said"),
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
def test_what_cannot_be_is_refused_before_anything_is_computed(prompt, how, said):
    model = shaken()
    model.register_forward_pre_hook(lambda *_: pytest.fail("computed"))
    with pytest.raises(BadInput, match=said):
        generate(model, torch.tensor(prompt, dtype=torch.int64), 3, **how)


def test_draws_follow_the_chances():
    model = shaken()
    with torch.no_grad():
        chances = model(torch.tensor([[3, 4]]))[0, -1].softmax(-1)
    prompt = torch.tensor([[3, 4]]).expand(4000, -1)
    drawn = generate(model, prompt, 1, generator=torch.Generator().manual_seed(0))[:, 2]
    shares = torch.bincount(drawn, minlength=23) / 4000
    print((shares - chances).abs().max())
    assert (shares - chances).abs().max() < 0.03
    best = chances.topk(3).indices
    drawn = generate(model, prompt, 1, top_k=3)[:, 2]
    assert set(drawn.tolist()) == set(best.tolist())


def test_the_generator_decides():
    model, prompt = shaken(), torch.tensor([[1, 2, 3]])
    texts = [generate(model, prompt, 30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_a_text_that_has_ended_stays_so():
    model = shaken()
    prompt = torch.tensor([[1], [2], [5]])
    free = generate(model, prompt, 30, greedy=True)
    end = int(free[0, 3])
    text = generate(model, prompt, 30, greedy=True, eos=end)
    for row, before in zip(text.tolist(), free.tolist(), strict=True):
        place = before.index(end, 1) if end in before[1:] else 31
        assert row[: place + 1] == before[: place + 1]
        assert set(row[place:]) <= {end}


def test_the_model_comes_back_as_it_was_and_the_tokens_can_be_learnt_from():
    model = shaken().train()
    text = generate(model, torch.tensor([[1, 2]]), 5)
    assert model.training
    model(text).sum().backward()
    assert model.tokens.weight.grad is not None


def test_a_cache_that_forgets_is_seen(monkeypatch):
    """The test of the cache can fail: one that mixes up places gives another text."""
    model, prompt = shaken(), torch.randint(23, (2, 5))
    right = generate(model, prompt, 20, greedy=True)
    plain = KVCache.append

    def shifted(self, k, v):
        keys, values = plain(self, k, v)
        return keys, values.roll(1, 2)

    monkeypatch.setattr(KVCache, "extend", shifted)
    assert not torch.equal(generate(model, prompt, 20, greedy=True), right)
