"""T5: generation beside transformers', beams, folders and configs, gaps, and faults that must be seen."""

import itertools
import json

import pytest
import torch

import torchstone as ts
from torchstone import references
from torchstone.data.text.span_corruption import SpanCorruptionBatches, corrupt, span_counts, random_spans
from torchstone.errors import BadInput
from torchstone.systems.transformer.t5 import T5, from_config, published, match_weights, to_config
from torchstone.tasks.text.text_to_text_data import grammar_sentences
from torchstone.verify import relative_error

CONFIG = {
    "vocab_size": 50, "d_model": 24, "d_kv": 6, "d_ff": 32, "num_layers": 3, "num_decoder_layers": 2,
    "num_heads": 3, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def both(own_head: bool = False):
    """transformers' network with random weights, and ours with the same."""
    torch.manual_seed(1)
    theirs = references.transformers().T5ForConditionalGeneration(
        references.transformers().T5Config(**CONFIG, tie_word_embeddings=not own_head)
    )
    if own_head:
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    arguments = match_weights(from_config(theirs.config.to_dict())[1], theirs.state_dict())
    ours = T5(**arguments).eval()
    ours.load_state_dict(published("", theirs.state_dict()))
    return ours, theirs.eval()


@pytest.mark.parametrize("own_head", [False, True])
def test_greedy_generation_is_transformers_token_for_token(own_head):
    ours, theirs = both(own_head)
    ours.end = -1  # neither ends before 100 tokens
    theirs.generation_config.eos_token_id = None
    source = torch.randint(2, 49, (3, 11))
    source[1, 6:], source[2, 3:] = 0, 0
    asked = {"max_new_tokens": 100, "do_sample": False, "attention_mask": source != 0}
    wanted = theirs.generate(source, **asked)[:, 1:]
    said = ours.generate(source, 100)
    uncached = ours.generate(source, 100, use_cache=False)
    print(said[0].tolist(), len(said[0].unique()))
    assert said.shape == (3, 100)
    assert torch.equal(said, uncached)
    assert torch.equal(said, wanted)
    assert len({tuple(row) for row in said.tolist()}) > 1, "the sources change nothing"


def test_beams_as_many_as_prefixes_find_the_best_of_all_answers():
    torch.manual_seed(0)
    ours = T5(8, 1, 2, head_width=4, inner=8, vocabulary=4, dropout=0.0, end=1).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.7)
    source, most = torch.tensor([[2, 3, 3, 1]]), 3

    def score(answer: tuple[int, ...]) -> float:
        target = torch.tensor([[0, *answer]])
        logs = ours(source, target[:, :-1]).log_softmax(-1)
        return float(logs.gather(2, target[:, 1:, None]).sum())

    ended = [(*body, 1) for n in range(most) for body in itertools.product((0, 2, 3), repeat=n)] + list(
        itertools.product((0, 2, 3), repeat=most)
    )
    best = max(ended, key=score)
    said = ours.generate(source, most, beam_size=16)[0].tolist()
    print(best, said)
    assert said[: len(best)] == list(best)


@pytest.mark.parametrize("own_head", [False, True])
def test_a_folder_of_transformers_gives_its_logits_and_goes_back(own_head, tmp_path):
    _, theirs = both(own_head)
    theirs.save_pretrained(tmp_path)
    loaded = ts.load(tmp_path)
    source, target = torch.randint(2, 49, (2, 9)), torch.randint(2, 49, (2, 5))
    with torch.no_grad():
        wanted = theirs(input_ids=source, decoder_input_ids=target).logits
        wrong = relative_error(loaded(source, target), wanted)
    print(f"own head {own_head}: {wrong:.1e}")
    assert wrong < 1e-5
    config = json.loads((tmp_path / "config.json").read_text())
    back = to_config(match_weights(from_config(config)[1], theirs.state_dict()))
    assert back["tie_word_embeddings"] is not own_head
    same = [k for k in CONFIG if back[k] != CONFIG[k]]
    assert not same, same


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj = 'gated-mish'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder = False"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ({"dense_act_fn": "relu"}, "dense_act_fn = 'relu'"),
        ({"rope_theta": 10}, "rope_theta = 10"),
    ],
)
def test_a_setting_that_is_not_implemented_is_refused_by_name(change, said):
    with pytest.raises(BadInput, match=said):
        from_config({"model_type": "t5", **CONFIG, **change})


def test_what_cannot_be_read_is_said():
    ours, _ = both()
    with pytest.raises(BadInput, match="token id 50 is outside of the vocabulary, 0 to 49"):
        ours.generate(torch.tensor([[3, 50]]), 5)
    with pytest.raises(BadInput, match="nothing to read"):
        ours.generate(torch.zeros(1, 0, dtype=torch.int64), 5)


def test_padding_changes_nothing():
    ours, _ = both()
    source, target = torch.randint(2, 49, (1, 6)), torch.randint(2, 49, (1, 4))
    padded = torch.cat([source, torch.zeros(1, 5, dtype=torch.int64)], 1)
    wrong = relative_error(ours(padded, target), ours(source, target))
    print(wrong)
    assert wrong < 1e-5


@pytest.mark.parametrize("fault", ["scaled products", "one way in the encoder", "unscaled output"])
def test_a_wrong_network_is_seen(fault):
    ours, theirs = both()
    source, target = torch.randint(2, 49, (2, 30)), torch.randint(2, 49, (2, 9))
    wanted = theirs(input_ids=source, decoder_input_ids=target).logits
    assert relative_error(ours(source, target), wanted) < 1e-5
    if fault == "scaled products":
        for layer in ours.encoder:
            layer.attention.scale = None
    elif fault == "unscaled output":
        ours.scale = 1.0
    else:
        inner = ours.places
        ours.places = lambda table, length, both_ways: inner(table, length, both_ways=False)
    wrong = relative_error(ours(source, target), wanted)
    print(fault, wrong)
    assert wrong > 1e-3


def test_every_token_is_in_exactly_one_of_source_and_target():
    sentinels, end = torch.arange(100, 120), 99
    for length, density, span in (
        (40, 0.15, 3.0),
        (64, 0.5, 2.0),
        (20, 0.15, 3.0),
        (512, 0.15, 3.0),
    ):
        hidden, spans = span_counts(length, density, span)
        if spans >= 20:
            sentinels = torch.arange(1000, 1100)
        texts = torch.arange(1, 1 + length).expand(8, length).contiguous() + 2000
        noise, number = random_spans(8, length, hidden, spans, torch.Generator().manual_seed(0))
        source, target = corrupt(texts, noise, number, sentinels, end)
        for row in range(8):
            a, b = source[row].tolist(), target[row].tolist()
            words = [x for x in a + b if x > 2000]
            assert sorted(words) == texts[row].tolist()
            asked = [x for x in a if x in sentinels]
            assert asked == sentinels[:spans].tolist()
            assert [x for x in b if x in sentinels] == sentinels[: spans + 1].tolist()
            assert a[-1] == b[-1] == end
            assert len([x for x in b if x > 2000]) == hidden
            # put back where its sentinel stands, each gap makes the text whole again
            told = {}
            for x in b[:-1]:
                if x in sentinels:
                    told[x] = []
                else:
                    told[list(told)[-1]].append(x)
            whole = [y for x in a[:-1] for y in told.get(x, [x])]
            assert whole == texts[row].tolist()
        print(length, hidden, spans)


def test_gaps_have_the_asked_share_and_lengths_and_are_anywhere():
    noise, number = random_spans(4000, 40, 6, 2, torch.Generator().manual_seed(0))
    assert noise.sum(1).eq(6).all()
    assert not noise[:, 0].any(), "text comes first"
    assert noise[:, -1].all()
    first = torch.stack([(noise[i] & (number[i] == 1)).sum() for i in range(4000)])
    shares = torch.bincount(first, minlength=6)[1:6] / 4000
    print(shares)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.03), "all cuts are equally likely"
    starts = (noise & (number == 1)).float().argmax(1)
    shares = torch.bincount(starts, minlength=34)[1:34] / 4000
    assert torch.allclose(shares, torch.full((33,), 1 / 33), atol=0.012)


def test_the_stream_goes_on_where_it_was_and_two_processes_share_it():
    texts = torch.arange(30 * 40).view(30, 40) + 50
    settings = {"sentinels": torch.arange(3, 9), "end": 1, "seed": 5}
    one = SpanCorruptionBatches(texts, 8, **settings)
    seen = [next(one) for _ in range(6)]
    again = SpanCorruptionBatches(texts, 8, **settings)
    again.load_state_dict({"position": 3 * 8})
    assert all(torch.equal(a, b) for a, b in zip(next(again), seen[3], strict=True))
    halves = [next(SpanCorruptionBatches(texts, 8, **settings, rank=r, world_size=2)) for r in (0, 1)]
    whole = [torch.cat(sides) for sides in zip(*halves, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(whole, seen[0], strict=True))
    other = next(SpanCorruptionBatches(texts, 8, **{**settings, "seed": 6}))
    assert not torch.equal(other[0], seen[0][0])
    with pytest.raises(BadInput, match="need 3 sentinels, there are 2"):
        SpanCorruptionBatches(texts, 8, **{**settings, "sentinels": torch.arange(3, 5)})


def test_held_out_sentences_of_the_grammar_were_not_trained_on():
    parts, _ = grammar_sentences(40)
    print([len(part) for part in parts])
    assert not set(parts[0]) & (set(parts[1]) | set(parts[2]))
    assert all(len(line) == 40 for part in parts for line in part)


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A run on pairs that say the same twice: a file of (input, output), three steps short of nothing."""
    root = tmp_path_factory.mktemp("t5")
    words = [f"{a}{b}" for a in "abcdefgh" for b in "mnopqrst"]
    lines = [f"{a} {b}\t{b} {a}" for a, b in itertools.permutations(words[:24], 2)]
    (root / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    few = {"variant": "t5_tiny", "steps": 6, "batch": 4, "judged": 4, "tokenizer": "characters"}
    ts.train("t5/texts", data=str(root / "pairs.tsv"), out=root / "run", quiet=True, **few)
    return root


def test_evaluate_measures_what_the_run_measured_and_any_other_file(copies):
    run = copies / "run"
    told = json.loads((run / "result.json").read_text())["metrics"]
    again = ts.evaluate(run, device="cpu")
    print(told, again)
    assert again["loss"] == pytest.approx(told["test/loss"], rel=1e-5)
    assert again["accuracy"] == pytest.approx(told["test/accuracy"], rel=1e-5)
    (copies / "two.tsv").write_text("am an\tan am\nbm bn\tbn bm\ncm cn\tcn cm\n", encoding="utf-8")
    other = ts.evaluate(run, data=str(copies / "two.tsv"), device="cpu")
    assert other["texts"] == 3
    assert other["loss"] != again["loss"]


def test_the_loss_of_evaluate_is_the_definition(copies):
    model, tokenizer = ts.load(copies / "run"), ts.load_tokenizer(copies / "run")
    pairs = [("am an", "an am"), ("cmdn", "a"), ("b", "ho ho ho")]
    lines = "".join(f"{a}\t{b}\n" for a, b in pairs)
    (copies / "three.tsv").write_text(lines, encoding="utf-8")
    found = ts.evaluate(copies / "run", data=str(copies / "three.tsv"), device="cpu")
    losses, right = [], []
    for source, target in pairs:  # alone, so that no padding is in it
        x, y = ([*tokenizer.encode(text).ids, 1] for text in (source, target))
        with torch.no_grad():
            chances = model(torch.tensor([x]), torch.tensor([[0, *y[:-1]]])).log_softmax(2)[0]
        losses += [-float(chances[i, token]) for i, token in enumerate(y)]
        right += [int(chances[i].argmax()) == token for i, token in enumerate(y)]
    print(found, sum(losses) / len(losses))
    assert found["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))


def test_predict_writes_what_generate_does(copies):
    model, tokenizer = ts.load(copies / "run"), ts.load_tokenizer(copies / "run")
    (answer,) = ts.predict(copies / "run", ["am an"], device="cpu")
    source = torch.tensor([[*tokenizer.encode("am an").ids, 1]])
    row = [*model.generate(source, 96)[0].tolist(), 1]
    assert answer["text"] == tokenizer.decode(row[: row.index(1)], skip_special_tokens=False)
    assert answer["input"] == "am an"
    for row in (True, False):  # two answers at once are those of each alone, padded or not
        texts = ["am an bm bn"[:: 1 if row else 2], "a"]
        together = ts.predict(copies / "run", texts, device="cpu")
        assert together == [ts.predict(copies / "run", [t], device="cpu")[0] for t in texts]
    with pytest.raises(BadInput, match="nothing to read"):
        ts.predict(copies / "run", ["  "])
