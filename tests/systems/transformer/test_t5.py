"""T5: generation, beams, folders and configs compared with transformers', and planted faults."""

import itertools
import json

import pytest
import torch

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.t5 import (
    VARIANTS,
    T5Config,
    from_config,
    make_t5,
    match_weights,
    published,
    to_config,
)
from torchstone.verify import relative_error

CONFIG = {
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 32,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
}


def matching_networks(own_head: bool = False):
    """transformers' network with random weights, and ours with the same."""
    torch.manual_seed(1)
    theirs = import_transformers().T5ForConditionalGeneration(
        import_transformers().T5Config(**CONFIG, tie_word_embeddings=not own_head)
    )
    if own_head:
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty_like(theirs.lm_head.weight))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
    model_config = match_weights(from_config(theirs.config.to_dict())[1], theirs.state_dict())
    ours = make_t5(**model_config).eval()
    ours.load_state_dict(published("", theirs.state_dict()))
    return ours, theirs.eval()


@pytest.mark.parametrize("own_head", [False, True])
def test_generate_equals_transformers_token_for_token(own_head):
    ours, theirs = matching_networks(own_head)
    ours.end_id = -1  # neither ends before 100 tokens
    theirs.generation_config.eos_token_id = None
    source = torch.randint(2, 49, (3, 11))
    source[1, 6:], source[2, 3:] = 0, 0
    options = {"max_new_tokens": 100, "do_sample": False, "attention_mask": source != 0}
    expected = theirs.generate(source, **options)[:, 1:]
    answers = ours.generate(source, 100)
    uncached = ours.generate(source, 100, use_cache=False)
    print(answers[0].tolist(), len(answers[0].unique()))
    assert answers.shape == (3, 100)
    assert torch.equal(answers, uncached)
    assert torch.equal(answers, expected)
    assert len({tuple(row) for row in answers.tolist()}) > 1, "the sources change nothing"


def test_generate_with_all_beams_finds_the_best_of_all_answers():
    torch.manual_seed(0)
    ours = make_t5(width=8, layers=1, heads=2, head_dim=4, d_ff=8, vocab_size=4, dropout=0.0, end_id=1).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.7)
    source, max_new_tokens = torch.tensor([[2, 3, 3, 1]]), 3

    def score(answer: tuple[int, ...]) -> float:
        target = torch.tensor([[0, *answer]])
        logs = ours(source, target[:, :-1]).log_softmax(-1)
        return float(logs.gather(2, target[:, 1:, None]).sum())

    ended = [
        (*body, 1) for n in range(max_new_tokens) for body in itertools.product((0, 2, 3), repeat=n)
    ] + list(itertools.product((0, 2, 3), repeat=max_new_tokens))
    best = max(ended, key=score)
    answer = ours.generate(source, max_new_tokens, beam_size=16)[0].tolist()
    print(best, answer)
    assert answer[: len(best)] == list(best)


@pytest.mark.parametrize("own_head", [False, True])
def test_hf_folder_gives_transformers_logits_and_config(own_head, tmp_path):
    _, theirs = matching_networks(own_head)
    theirs.save_pretrained(tmp_path)
    loaded = ts.load(tmp_path)
    source, target = torch.randint(2, 49, (2, 9)), torch.randint(2, 49, (2, 5))
    with torch.no_grad():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
        error = relative_error(loaded(source, target), expected)
    print(f"own head {own_head}: {error:.1e}")
    assert error < 1e-5
    config = json.loads((tmp_path / "config.json").read_text())
    back = to_config(match_weights(from_config(config)[1], theirs.state_dict()))
    assert back["tie_word_embeddings"] is not own_head
    differing = [k for k in CONFIG if back[k] != CONFIG[k]]
    assert not differing, differing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj = 'gated-mish'"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder = False"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ({"dense_act_fn": "relu"}, "dense_act_fn = 'relu'"),
        ({"rope_theta": 10}, "rope_theta = 10"),
    ],
)
def test_from_config_rejects_unsupported_setting_by_name(change, message):
    with pytest.raises(BadInput, match=message):
        from_config({"model_type": "t5", **CONFIG, **change})


def test_generate_rejects_unknown_tokens_and_empty_sources():
    ours, _ = matching_networks()
    with pytest.raises(BadInput, match="token id 50 is outside of the vocabulary, 0 to 49"):
        ours.generate(torch.tensor([[3, 50]]), 5)
    with pytest.raises(BadInput, match="empty source"):
        ours.generate(torch.zeros(1, 0, dtype=torch.int64), 5)


def test_t5_ignores_padding_of_the_source():
    ours, _ = matching_networks()
    source, target = torch.randint(2, 49, (1, 6)), torch.randint(2, 49, (1, 4))
    padded = torch.cat([source, torch.zeros(1, 5, dtype=torch.int64)], 1)
    error = relative_error(ours(padded, target), ours(source, target))
    print(error)
    assert error < 1e-5


@pytest.mark.parametrize("fault", ["scaled products", "one way in the encoder", "unscaled output"])
def test_t5_parity_detects_planted_faults(fault):
    ours, theirs = matching_networks()
    source, target = torch.randint(2, 49, (2, 30)), torch.randint(2, 49, (2, 9))
    expected = theirs(input_ids=source, decoder_input_ids=target).logits
    assert relative_error(ours(source, target), expected) < 1e-5
    if fault == "scaled products":
        for layer in ours.encoder:
            layer.attention.scale = None
    elif fault == "unscaled output":
        ours.scale = 1.0
    else:
        inner = ours.position_bias
        ours.position_bias = lambda table, length, bidirectional: inner(table, length, bidirectional=False)
    error = relative_error(ours(source, target), expected)
    print(fault, error)
    assert error > 1e-3


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory):
    """A run of six steps on a file of (words, words in reverse order)."""
    root = tmp_path_factory.mktemp("t5")
    words = [f"{a}{b}" for a in "abcdefgh" for b in "mnopqrst"]
    lines = [f"{a} {b}\t{b} {a}" for a, b in itertools.permutations(words[:24], 2)]
    (root / "pairs.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    few = {"variant": "t5_tiny", "steps": 6, "batch_size": 4, "eval_samples": 4, "tokenizer": "characters"}
    ts.train("t5/texts", data=str(root / "pairs.tsv"), out=root / "run", quiet=True, **few)
    return root


def test_evaluate_equals_test_metrics_and_reads_other_files(pairs_run):
    run = pairs_run / "run"
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    again = ts.evaluate(run, device="cpu")
    print(metrics, again)
    assert again["loss"] == pytest.approx(metrics["test/loss"], rel=1e-5)
    assert again["accuracy"] == pytest.approx(metrics["test/accuracy"], rel=1e-5)
    (pairs_run / "two.tsv").write_text("am an\tan am\nbm bn\tbn bm\ncm cn\tcn cm\n", encoding="utf-8")
    other = ts.evaluate(run, data=str(pairs_run / "two.tsv"), device="cpu")
    assert other["texts"] == 3
    assert other["loss"] != again["loss"]


def test_evaluate_loss_equals_definition(pairs_run):
    model, tokenizer = ts.load(pairs_run / "run"), ts.load_tokenizer(pairs_run / "run")
    pairs = [("am an", "an am"), ("cmdn", "a"), ("b", "ho ho ho")]
    lines = "".join(f"{a}\t{b}\n" for a, b in pairs)
    (pairs_run / "three.tsv").write_text(lines, encoding="utf-8")
    metrics = ts.evaluate(pairs_run / "run", data=str(pairs_run / "three.tsv"), device="cpu")
    losses, correct = [], []
    for source, target in pairs:  # alone, so that no padding is in it
        x, y = ([*tokenizer.encode(text).ids, 1] for text in (source, target))
        with torch.no_grad():
            log_probs = model(torch.tensor([x]), torch.tensor([[0, *y[:-1]]])).log_softmax(2)[0]
        losses += [-float(log_probs[i, token]) for i, token in enumerate(y)]
        correct += [int(log_probs[i].argmax()) == token for i, token in enumerate(y)]
    print(metrics, sum(losses) / len(losses))
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(sum(correct) / len(correct))


def test_predict_equals_generate(pairs_run):
    model, tokenizer = ts.load(pairs_run / "run"), ts.load_tokenizer(pairs_run / "run")
    (answer,) = ts.predict(pairs_run / "run", ["am an"], device="cpu")
    source = torch.tensor([[*tokenizer.encode("am an").ids, 1]])
    row = [*model.generate(source, 96)[0].tolist(), 1]
    assert answer["text"] == tokenizer.decode(row[: row.index(1)], skip_special_tokens=False)
    assert answer["input"] == "am an"
    for row in (True, False):  # two answers at once are those of each alone, padded or not
        texts = ["am an bm bn"[:: 1 if row else 2], "a"]
        together = ts.predict(pairs_run / "run", texts, device="cpu")
        assert together == [ts.predict(pairs_run / "run", [t], device="cpu")[0] for t in texts]
    with pytest.raises(BadInput, match="empty input"):
        ts.predict(pairs_run / "run", ["  "])


def old_key(key: str) -> str:
    """A name of today as earlier versions saved it."""
    key = key.replace("token_embedding.", "tokens.").replace("coder_position_bias.", "coder_places.")
    return key.replace(".feed_forward.", ".feed.").replace(".feed_forward_norm.", ".feed_norm.")


def test_t5_loads_state_dict_of_earlier_versions():
    model, _ = matching_networks(own_head=True)
    other, _ = matching_networks(own_head=True)
    torch.nn.init.normal_(other.encoder_position_bias.weight)
    old = {old_key(key): value for key, value in model.state_dict().items()}
    assert {"tokens.weight", "encoder_places.weight", "decoder.1.feed.gate.weight"} < set(old)
    other.load_state_dict(old)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_make_t5_accepts_flat_arguments_of_any_variant():
    model = VARIANTS["t5_tiny"].make(vocab_size=11, end_id=3)
    assert model.config == T5Config(**{**VARIANTS["t5_tiny"].make.keywords, "vocab_size": 11, "end_id": 3})
    assert model.token_embedding.weight.shape == (11, 64)
