"""seq2seq: counts, what a slip would change, decoding against the plain way, forcing, and bad input."""

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn

from torchstone import api
from torchstone.cli.main import main
from torchstone.errors import BadInput
from torchstone.parts.facts import count_parameters
from torchstone.references import seq2seq as oracle
from torchstone.references.seq2seq import TorchSeq2Seq, convert_names
from torchstone.systems.recurrent import seq2seq
from torchstone.systems.recurrent.seq2seq import RECIPES, VARIANTS, published
from torchstone.verify import relative_error

START, END = 1, 2
KINDS = {
    "plain": {"layers": 2},
    "plain, both ways": {"layers": 2, "bidirectional": True},
    "cho": {},
    "bahdanau": {},
    "bahdanau, maxout": {"maxout": 6},
    "luong": {"layers": 2, "input_feeding": True},
    "luong, concat": {"input_feeding": True, "score": "concat", "bidirectional": True},
    "luong, no feeding": {"layers": 2, "input_feeding": False},
}
every = pytest.mark.parametrize("kind", KINDS)


def network(kind: str, seed: int = 0, **settings):
    """A small network whose answers are spread out."""
    torch.manual_seed(seed)
    sizes = {"source_vocab_size": 12, "target_vocab_size": 12, "embedding": 6, "hidden": 10, "dropout": 0.0}
    make = VARIANTS[f"seq2seq_{kind.partition(',')[0]}"].make
    model = make(**sizes | KINDS[kind] | settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
        # so that it ends now and then
        logits = model(sources(20), torch.randint(3, 12, (20, 12)))
        model.out.bias[END] += (logits.amax(2) - logits[..., END]).quantile(0.3)
    return model


def sources(rows: int = 5, longest: int = 9):
    source = torch.randint(3, 12, (rows, longest))
    for row in range(1, rows):
        source[row, longest - row :] = 0
    return source


def test_parameter_counts_determine_vocabularies():
    """Three published counts, two sizes: the first two give them, the third agrees."""
    wanted = {"plain": 13_898_501, "cho": 14_219_781, "bahdanau": 20_518_405}

    def count(kind: str, source: int, target: int) -> int:
        with torch.device("meta"):
            return count_parameters(
                VARIANTS[f"seq2seq_{kind}"].make(source_vocab_size=source, target_vocab_size=target)
            )

    least = {kind: count(kind, 1, 1) for kind in wanted}
    words = {kind: count(kind, 1, 2) - least[kind] for kind in wanted}
    assert {count(kind, 2, 1) - least[kind] for kind in wanted} == {256}  # each has one embedding
    apart_by = (wanted["cho"] - least["cho"]) - (wanted["plain"] - least["plain"])
    target, left = divmod(apart_by, words["cho"] - words["plain"])
    assert left == 0
    target += 1
    source, left = divmod(wanted["plain"] - least["plain"] - words["plain"] * (target - 1), 256)
    assert left == 0
    source += 1
    print(f"{source} German and {target} English words")
    assert (source, target) == (7853, 5893)
    assert count("bahdanau", source, target) == wanted["bahdanau"]


def first_pair(number: int):
    return next(itertools.islice(oracle.seq2seq_cases(seq2seq.seq2seq), number, None))


PLANTED = {
    "padding attended to": (3, lambda model: _wrapped(model.encoder, lambda s: s._replace(mask=s.mask | True))),
    "source not reversed": (0, lambda model: setattr(model.encoder, "reverse_source", False)),
    "zero initial state": (0, lambda model: _begin(model, lambda s: tuple(x * 0 for x in s))),
    "directions swapped": (1, lambda model: _begin(model, lambda s: tuple(x.roll(model.decoder.recurrent.hidden // 2, 2) for x in s))),
    "layers swapped": (0, lambda model: _begin(model, lambda s: tuple(x.flip(0) for x in s))),
    "no context": (2, lambda model: setattr(model.decoder, "init_state", lambda s, state: (s._replace(memory=state[0].transpose(0, 1) * 0), state))),
    "nothing fed back": (6, lambda model: setattr(model.decoder, "attentional_state", _fed_nothing(model.decoder))),
    "no tanh at the start": (3, lambda model: setattr(model.decoder, "init_state", _linear_start(model.decoder))),
}  # fmt: skip


def _wrapped(encoder, change):
    plain = encoder.forward
    encoder.forward = lambda tokens, pad: (change((both := plain(tokens, pad))[0]), both[1])


def _begin(model, change):
    plain = model.decoder.init_state
    model.decoder.init_state = lambda source, state: plain(source, change(state))


def _fed_nothing(decoder):
    plain, calls = decoder.attentional_state, []

    def attentional_state(s, source):
        features, shares = plain(s, source)
        calls.append(1)
        return features * (len(calls) == 1), shares

    return attentional_state


def _linear_start(decoder):
    return lambda source, state: (
        source._replace(keys=decoder.score.keys(source.memory)),
        (decoder.start(state[0]),),
    )


@pytest.mark.parametrize("fault", PLANTED)
def test_parity_detects_planted_faults(fault):
    """Planted faults: what a slip would leave out or turn round."""
    number, plant = PLANTED[fault]
    ours, theirs, inputs, *_ = first_pair(number)
    sound = relative_error(ours(*inputs), theirs(*inputs))
    plant(ours.model)
    wrong = relative_error(ours(*inputs), theirs(*inputs))
    print(f"as published {sound:.2g}, {fault} {wrong:.2g}")
    assert sound < 1e-10
    assert wrong > 1e-4


@every
def test_logits_ignore_padding(kind):
    model, worst = network(kind), 0.0
    source, target = sources(), torch.randint(3, 12, (5, 6))
    together = model(source, target)
    for row in range(5):
        alone = model(source[row : row + 1, : 9 - row], target[row : row + 1])
        worst = max(worst, relative_error(alone, together[row : row + 1]))
    print(f"{kind}: largest difference {worst:.2g}")
    assert worst < 1e-5


@every
def test_implementations_agree(kind):
    """Both paths: logits and every gradient."""
    source, target = sources(), torch.randint(3, 12, (5, 6))
    results, weights = [], network(kind).state_dict()
    for implementation in ("fused", "reference"):
        model = network(kind, implementation=implementation)
        model.load_state_dict(weights)
        model = model.double()
        logits = model(source, target)
        (logits * torch.linspace(-1, 1, 12)).square().sum().backward()
        results.append([logits, *(p.grad for p in model.parameters())])
    worst = max(relative_error(a, b) for a, b in zip(*results, strict=True))
    print(f"{kind}: largest difference {worst:.2g} of {len(results[0])}")
    assert worst < 1e-10


@every
def test_every_parameter_has_gradient(kind):
    model = network(kind).train()
    model(sources(), torch.randint(3, 12, (5, 6))).square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@every
def test_greedy_search_takes_argmax(kind):
    """Each sentence alone and read anew for every word, over answers that end at different lengths."""
    lengths = set()
    for seed in range(3):
        model, source = network(kind, seed), sources()
        found = model.generate(source, 12, bos=START, eos=END)
        for row in range(len(source)):
            tokens = [START]
            while len(tokens) <= 12 and tokens[-1] != END:
                logits = model(source[row : row + 1], torch.tensor([tokens]))
                tokens.append(int(logits[0, -1].argmax()))
            answer = tokens[1:]
            lengths.add(len(answer))
            assert found[row].tolist() == answer + [END] * (found.shape[1] - len(answer))
    print(f"{kind}: answers of {sorted(lengths)} tokens")
    assert len(lengths) > 1


@every
def test_beam_search_states_follow_beams(kind):
    """The states follow their beams: the same search over a step that keeps nothing."""
    from torchstone.parts.decoding.beam_search import beam_search

    differs = 0
    for seed in range(3):
        model, source = network(kind, seed).double(), sources()
        for penalty in (0.0, 1.0):
            found = model.generate(source, 10, bos=START, eos=END, beam_size=3, length_penalty=penalty)
            repeated = source.repeat_interleave(3, 0)

            def step(tokens, rows, model=model, repeated=repeated):
                return model(repeated, tokens)[:, -1].log_softmax(-1)

            begin = torch.full((len(source), 1), START)
            settings = {"beam_size": 3, "eos": END, "max_new_tokens": 10, "length_penalty": penalty}
            with torch.no_grad():
                plain, _ = beam_search(step, begin, **settings)
            assert torch.equal(found, plain[:, 1:]), f"seed {seed}"
            greedy = model.generate(source, 10, bos=START, eos=END)
            differs += int(found.shape != greedy.shape or not torch.equal(found, greedy))
    print(f"{kind}: {differs} of 6 searches differ from the greedy one")
    assert differs


@every
def test_attention_weights_sum_to_one(kind):
    model, source = network(kind), sources()
    target = torch.randint(3, 12, (5, 6))
    if not model.attends:
        with pytest.raises(BadInput, match="looks at no word"):
            model.attention_weights(source, target)
        return
    shares = model.attention_weights(source, target)
    assert shares.shape == (5, 1, 6, 9)
    assert torch.allclose(shares.sum(3), torch.ones(5, 1, 6))
    assert not shares[(source == 0)[:, None, None].expand_as(shares)].any()
    # what is looked at is what goes on: with one word to look at all its weight is there
    assert torch.equal(model.attention_weights(source[:, :1], target), torch.ones(5, 1, 6, 1))
    assert not torch.allclose(shares[:, :, 0], shares[:, :, 1], atol=1e-3)


def test_attention_weights_match_reference():
    """The word that each α belongs to, by moving the encoder's states one at a time."""
    torch.manual_seed(0)
    theirs = TorchSeq2Seq(12, 12, "bahdanau", 6, 10).double()
    model = network("bahdanau").double()
    model.load_state_dict(convert_names(theirs.state_dict()))
    source, target = torch.randint(3, 12, (1, 5)), torch.tensor([[START]])
    memory, last = theirs.encoder.rnn(theirs.encoder.embedding(source[0]))
    s = theirs.encoder.fc(torch.cat([last[0], last[1]])).tanh()
    terms = torch.stack([theirs.alignment_score(s, h).exp() for h in memory])
    found = model.attention_weights(source, target)[0, 0, 0]
    print(found, terms / terms.sum())
    assert torch.allclose(found, terms / terms.sum(), atol=1e-12)


@every
def test_teacher_forcing_off_feeds_predictions(kind):
    model, source = network(kind, teacher_forcing_ratio=0.0), sources()
    target = torch.randint(3, 12, (5, 6))
    forced = model(source, target)  # judged, it is always given what is right
    model.train()
    free = model(source, target)
    tokens = target[:, :1]
    for _ in range(5):
        model.eval()
        own = model(source, tokens)[:, -1:].argmax(2)
        tokens = torch.cat([tokens, own], 1)
    assert relative_error(free, model(source, tokens)) < 1e-5
    assert relative_error(free, forced) > 1e-3
    assert relative_error(free[:, :1], forced[:, :1]) < 1e-5


def test_teacher_forcing_ratio_is_share_of_words():
    """Half of them: which were given shows in what a lookup decoder makes of each."""
    model = network("plain", teacher_forcing_ratio=0.5, layers=1).train()
    given = []
    model.embedding.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    source, target = sources().repeat(60, 1), torch.full((300, 20), 11)
    with torch.no_grad():
        model.out.bias[11] = -1e4  # it never writes that itself
        model(source, target)
    words = torch.cat(given, 1)
    assert bool((words[:, 0] == 11).all())
    share = float((words[:, 1:] == 11).double().mean())
    print(f"given the right one {share:.3f} of {words[:, 1:].numel()} times")
    assert abs(share - 0.5) < 0.03


@every
def test_dropout_positions(kind):
    """With all of it dropped the softmax reads nothing; the recurrence itself drops nothing."""
    model = network(kind, dropout=1.0).train()
    logits = model(sources(), torch.randint(3, 12, (5, 6)))
    assert torch.equal(logits, model.out.bias.expand_as(logits))
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)}
    assert rates == {1.0}
    for recurrent in (model.encoder.recurrent, model.decoder.recurrent):
        assert recurrent.dropout == (1.0 if recurrent.layers > 1 else 0.0)


def test_reverse_source_keeps_end_token():
    model = network("plain", reverse_source=True)
    straight = network("plain", reverse_source=False)
    straight.load_state_dict(model.state_dict())
    source = torch.tensor([[5, 6, 7, END], [8, 9, END, 0]])
    turned = torch.tensor([[7, 6, 5, END], [9, 8, END, 0]])
    target = torch.tensor([[START, 5]] * 2)
    assert relative_error(model(source, target), straight(turned, target)) < 1e-6
    assert relative_error(model(source, target), straight(source, target)) > 1e-3


def test_published_weights_load_from_file(tmp_path):
    """A state dict with the published names, by `create`."""
    torch.manual_seed(0)
    for kind, sizes in {"plain": {"layers": 2}, "cho": {}, "bahdanau": {}}.items():
        theirs = TorchSeq2Seq(12, 14, kind, 6, 10, reverse_source=kind == "plain", **sizes)
        torch.save(theirs.state_dict(), tmp_path / "published.pt")
        settings = {"source_vocab_size": 12, "target_vocab_size": 14, "embedding": 6, "hidden": 10, **sizes}
        model = api.create(f"seq2seq_{kind}", weights=tmp_path / "published.pt", **settings).eval()
        source, target = torch.randint(3, 12, (2, 5)), torch.randint(3, 14, (2, 4))
        worst = relative_error(model(source, target), theirs(source, target))
        print(f"{kind}: {len(theirs.state_dict())} tensors, {worst:.2g} apart")
        assert worst < 1e-5
        assert published(f"seq2seq_{kind}", model.state_dict()).keys() == model.state_dict().keys()


def test_seq2seq_rejects_invalid_options():
    for settings, line in (
        ({"decoder": "bahdanau", "layers": 2}, "seq2seq_bahdanau has 1 layer, not 2"),
        ({"decoder": "luong", "hidden": 7, "bidirectional": True}, "7 is odd"),
        ({"decoder": "luong", "teacher_forcing_ratio": 1.5}, "teacher_forcing_ratio must be 0 to 1, not 1.5"),
        ({"decoder": "bahdanau", "hidden": 8, "score": "dot"}, "one width, not of 8 and 16"),
        ({"decoder": "luong", "hidden": 8, "score": "best"}, "unknown score 'best'"),
        ({"decoder": "plain", "hidden": 0}, "at least 1"),
    ):
        with pytest.raises(BadInput, match=line):
            seq2seq.seq2seq(9, 9, **{"embedding": 4, "hidden": 8} | settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke recipe, through the command line."""
    folder = tmp_path_factory.mktemp("seq2seq") / "run"
    assert main(["train", "seq2seq/smoke", "--out", str(folder)]) == 0
    return folder


def test_predict_and_evaluate_a_run(run, capsys):
    results = json.loads((run / "result.json").read_text())["metrics"]
    print(results)
    assert results["test/accuracy"] > 0.9
    assert 0 < results["test/exact_match"] <= 1
    capsys.readouterr()
    assert main(["predict", str(run), "a b c d", "h g f"]) == 0
    said = capsys.readouterr().out
    print(said)
    assert said.count("\n") == 2
    capsys.readouterr()
    assert main(["predict", str(run), "a b c d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["text"]
    greedy = api.predict(run, ["a b c"], device="cpu", beams=1)
    assert greedy == api.predict(run, ["a b c"], device="cpu")
    measured = api.evaluate(run, device="cpu")
    assert abs(measured["accuracy"] - results["test/accuracy"]) < 1e-6


def test_report_plots_attention(run):
    from PIL import Image

    with Image.open(run / "pictures" / "attention.png") as picture:
        assert min(picture.size) > 300
    assert not (run / "pictures" / "attention_heads.png").exists()  # there is but one
    assert (run / "pictures" / "translations.txt").read_text().count("translation") == 20


def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, capsys):
    for words, line in (
        (["predict", str(run), "  "], "nothing to translate: give a sentence"),
        (["predict", str(run), "a " * 1500], "the model takes 1000: cut it up"),
        (["train", "seq2seq/smoke", "--hidden", "0"], "at least 1"),
        (["train", "seq2seq_bahdanau/smoke", "--layers", "2"], "has 1 layer, not 2"),
        (["train", "seq2seq_luong/smoke", "--hidden", "7"], "7 is odd"),
        (["train", "seq2seq/smoke", "--teacher_forcing_ratio", "2"], "teacher_forcing_ratio must be 0 to 1"),
        (["train", "seq2seq/bible", "--source", "de"], "read from grc to en or back, not de to en"),
        (["train", "seq2seq/smoke", "--max_length", "1"], "raise max_length"),
    ):
        out = ["--out", str(tmp_path / "new")] if words[0] == "train" else []
        assert main([*words, *out]) == 2, words
        said = capsys.readouterr().err.strip()
        print(said)
        assert line in said
        assert "\n" not in said
        assert not (tmp_path / "new").exists()


def test_report_without_attention_plots_none(tmp_path):
    from torchstone.engine.run import fit

    recipe = dataclasses.replace(RECIPES["smoke"], variant="seq2seq_plain", steps=2, device="cpu")
    (made,) = seq2seq.build(recipe)
    fit(made, quiet=True)
    (tmp_path / "pictures").mkdir()
    made.report(tmp_path / "pictures")
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["translations.txt"]


@pytest.mark.slow
def test_reverse_recipe_is_exact():
    """With attention 100 % of sequences of length 20 that were not trained on."""
    from torchstone.engine.run import fit
    from torchstone.tasks.text.translation_inference import bleu

    run = next(seq2seq.build(RECIPES["reverse"]))
    results = fit(run, quiet=True)
    generator = torch.Generator().manual_seed(0)
    letters = ["".join(f"{'abcdefgh'[i]} " for i in torch.randint(8, (20,), generator=generator)).strip() for _ in range(200)]  # fmt: skip
    from torchstone.data.text import tokenizers

    tokenizer = tokenizers.from_metadata(run.metadata["tokenizer"])
    found = bleu(run.state["model"], tokenizer, [(text, text[::-1]) for text in letters])
    print(results, found)
    assert results["test/exact_match"] == 1
    assert found["exact_match"] == 1
