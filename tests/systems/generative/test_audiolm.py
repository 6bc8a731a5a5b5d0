"""AudioLM: token sequences and back, stages that leave each other alone, the tokenizer, and its use as a new user would."""

import dataclasses
import json

import pytest
import torch
from cli_helpers import assert_rejected, run_cli

import torchstone as ts
from torchstone.data.audio.codec_batches import IGNORED
from torchstone.data.audio.files import read_audio, write_wave
from torchstone.data.audio.speech import read_speech
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.systems.generative import audiolm
from torchstone.tasks.audio.codec import update_codebooks
from torchstone.tasks.audio.token_model import TokenLayout, continue_tokens, deinterleave, nats, unigram_nats
from torchstone.tasks.optimization import train_only


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    ts.train("audiolm/smoke", out=folder, device="cpu", quiet=True)
    return folder


@pytest.fixture(scope="module")
def loaded(run):
    model = ts.load(run)
    return model, model.metadata


def make(**changes):
    torch.manual_seed(0)
    return audiolm.VARIANTS["audiolm_tiny"].make(num_classes=4, **changes)


def items(model, lengths=(3, 2)):
    """Random tokens of recordings with the labels 1 and None."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            label,
            torch.randint(16, (n,), generator=generator),
            torch.randint(16, (4, 4 * n), generator=generator),
        )
        for label, n in zip((1, None), lengths, strict=True)
    ]


def test_offsets_of_the_three_stages_invert_exactly():
    for sizes in (audiolm.Sizes(10, 64, 128), audiolm.Sizes(0, 5, 3, coarse=1, fine=3), make().sizes):
        for layout in sizes.layouts():
            tokens = torch.arange(layout.size)
            back = torch.cat([layout.ids(name, tokens[slice(*layout.span(name))]) for name in layout.sizes])
            again = [layout.tokens(name, torch.arange(size)) for name, size in layout.sizes.items()]
            assert torch.equal(torch.cat(again), tokens)
            assert back.tolist() == [i for size in layout.sizes.values() for i in range(size)]


def test_rows_hold_the_tokens_that_they_are_made_of():
    model = make()
    (_, s1, c1), (_, s2, c2) = both = items(model)
    semantic, coarse, fine = model.layouts
    tokens, targets = model.semantic_row(both)
    row = torch.cat([tokens, targets[-1:]])
    assert semantic.ids("label", row[[0, 5]]).tolist() == [1, 4], "the label 1, and the unknown one"
    assert torch.equal(semantic.ids("semantic", torch.cat([row[1:4], row[6:8]])), torch.cat([s1, s2]))
    assert row[[4, 8]].tolist() == [semantic.token("end")] * 2
    assert (targets == IGNORED).nonzero().flatten().tolist() == [4], "only the second label has no loss"

    # start, s₀, then s₁ and the frames of s₀, and so on: a code is given its semantic token and the next one
    tokens, targets = model.coarse_row(both)
    row = torch.cat([tokens, targets[-1:]])
    first, second = row[: 2 + 3 * 9], row[2 + 3 * 9 :]
    assert first[0] == second[0] == coarse.token("start")
    for part, s, c in ((first, s1, c1), (second, s2, c2)):
        assert torch.equal(coarse.ids("semantic", part[[1, *range(2, len(part) - 9, 9)]]), s)
        assert part[-9] == coarse.token("pad")
        codes = torch.cat([part[k + 1 : k + 9] for k in range(2, len(part), 9)])
        assert torch.equal(deinterleave(coarse, "coarse", codes, 2), c[:2])
    is_code = row[1:] < 32
    assert torch.equal(targets, torch.where(is_code, row[1:], IGNORED))

    tokens, targets = model.fine_row(c2)
    row = torch.cat([tokens, targets[-1:]])
    assert row[0] == fine.token("start")
    groups = row[3:].view(8, 4)
    given = torch.cat([row[1:3], groups[:-1, :2].flatten()])
    assert torch.equal(deinterleave(fine, "coarse", given, 2), c2[:2])
    assert (groups[-1, :2] == fine.token("pad")).all()
    assert torch.equal(deinterleave(fine, "fine", groups[:, 2:].flatten(), 2), c2[2:])
    assert torch.equal(targets[targets != IGNORED], groups[:, 2:].flatten())


def test_rows_without_a_semantic_stage():
    model = make(has_semantic=False)
    (_, _, c1), (_, _, c2) = both = items(model)
    layout = model.layouts[1]
    tokens, targets = model.coarse_row(both)
    row = torch.cat([tokens, targets[-1:]])
    assert layout.ids("label", row[[0, 26]]).tolist() == [1, 4]
    assert row[[25, 43]].tolist() == [layout.token("end")] * 2
    assert torch.equal(deinterleave(layout, "coarse", row[1:25], 2), c1[:2])
    assert torch.equal(deinterleave(layout, "coarse", row[27:43], 2), c2[:2])
    assert (targets == IGNORED).sum() == 1


def test_the_longest_rows_fit_into_the_contexts():
    for has_semantic in (True, False):
        model = make(has_semantic=has_semantic)
        n = model.sizes.max_tokens
        both = items(model, (n, n))
        for row, context in zip(
            (
                model.semantic_row(both),
                model.coarse_row(both),
                model.fine_row(both[0][2][:, : model.sizes.chunk]),
            ),
            model.sizes.contexts(),
            strict=True,
        ):
            assert len(row[0]) <= context


def test_a_recording_has_four_frames_a_semantic_token():
    model = make()
    for samples in (320, 321, 1000, 99_999):
        semantic, codes = model.tokenize(torch.randn(samples))
        assert len(semantic) == min(10, -(-samples // 320))
        assert codes.shape == (4, 4 * len(semantic))


def test_semantic_tokens_are_the_nearest_clusters_of_log_mels_and_slopes():
    model, generator = make(), torch.Generator().manual_seed(0)
    waveforms = [torch.randn(3200, generator=generator) * (i + 1) / 9 for i in range(8)]
    model.semantic.fit(waveforms, generator)
    x = (model.semantic.features(waveforms[0]) - model.semantic.mean) / model.semantic.std
    expected = [(model.semantic.centers - row).square().sum(1).argmin().item() for row in x]
    assert model.semantic(waveforms[0]).tolist() == expected
    silent = model.semantic.features(torch.zeros(1600))
    assert not silent[:, 40:].any(), "silence has no slope"


def test_unigrams_are_told_apart_by_book():
    """Half of one book's tokens are equally likely, and the other's are all the same: ln 2 / 2 a token."""
    layout = TokenLayout(a=2, b=2)
    train = [(torch.zeros(4000), torch.tensor([0, 2, 1, 2] * 1000))]
    found = unigram_nats(layout, train, train, layout.sections().tolist())
    assert found == pytest.approx(0.3466, abs=2e-3)


def test_known_tokens_stay_and_others_are_allowed_ones():
    lm = make().semantic_lm
    known = torch.tensor([[-1, 3, -1, -1]]).expand(64, -1)
    spans = [(0, 2), (0, 9), (5, 6), (7, 9)]
    found = continue_tokens(
        lm,
        torch.zeros(64, 2, dtype=torch.long),
        known,
        lambda t: [spans[t]],
        generator=torch.Generator().manual_seed(0),
    )
    assert {*found[:, 0].tolist()} == {0, 1}
    assert (found[:, 1:3] == torch.tensor([3, 5])).all()
    assert {*found[:, 3].tolist()} == {7, 8}


def test_tokens_are_sampled_by_their_probability():
    lm = make().semantic_lm
    prefix = torch.tensor([[3, 1]])
    p = lm(prefix)[0, -1, :4].softmax(0)
    found = continue_tokens(
        lm,
        prefix.expand(4000, -1),
        torch.full((4000, 1), -1),
        lambda t: [(0, 4)],
        generator=torch.Generator().manual_seed(0),
    )
    frequencies = torch.bincount(found[:, 0], minlength=4) / 4000
    print(frequencies, p)
    assert (frequencies - p.detach()).abs().max() < 0.03


def test_groups_are_sampled_as_they_are_trained():
    """The chosen tokens' probabilities, one step at a time with a cache, are those of the training row."""
    model = make()
    torch.nn.init.normal_(model.coarse_lm.distances.weight)
    _, short = both = items(model)
    options = {"generator": torch.Generator().manual_seed(0), "top_k": 1}
    found = audiolm.sample_coarse(model, [short], [both[0][1], short[1]], options)
    assert [each.shape for each in found] == [(2, 12), (2, 8)]
    for (_, semantic, _), codes in zip(both, found, strict=True):
        tokens, targets = model.coarse_row([short, (None, semantic, codes)])
        logits = model.coarse_lm(tokens[None])[0]
        own = torch.arange(len(targets)) > 2 + 9 * 2  # of the new recording
        for t in (own & (targets != IGNORED)).nonzero().flatten().tolist():
            span = slice(*model.layouts[1].span(f"coarse{int(targets[t] >= 16)}"))
            assert targets[t] == span.start + logits[t, span].argmax()
    fine = audiolm.sample_fine(model, found, {"generator": torch.Generator(), "top_k": 1})
    for given, codes in zip(found, fine, strict=True):
        assert torch.equal(codes[:2], given)
        for first in range(0, given.shape[1], model.sizes.chunk):
            tokens, targets = model.fine_row(codes[:, first : first + model.sizes.chunk])
            logits = model.fine_lm(tokens[None])[0]
            for t in (targets != IGNORED).nonzero().flatten().tolist():
                span = slice(*model.layouts[2].span(f"fine{int(targets[t] >= 16)}"))
                assert targets[t] == span.start + logits[t, span].argmax()


def test_positions_are_relative():
    """What is before a token alone matters, not how far it is from the start; and nothing after it."""
    lm = make().coarse_lm.double()
    torch.nn.init.normal_(lm.distances.weight)
    torch.nn.init.normal_(lm.embedding.weight)
    tokens = torch.randint(lm.vocab_size, (1, 12))
    later = tokens.clone()
    later[0, 8:] = 0
    with torch.no_grad():
        logits, other = lm(tokens), lm(later)
        cache = lm.make_cache()
        steps = torch.cat([lm(tokens[:, :5], cache=cache), lm(tokens[:, 5:], cache=cache)], 1)
        swapped = lm(tokens[:, [1, 0, *range(2, 12)]])
    assert torch.allclose(logits[:, :8], other[:, :8], atol=1e-12)
    assert (logits[:, 8:] - other[:, 8:]).abs().max() > 1e-3
    assert torch.allclose(logits, steps, atol=1e-12)
    assert (logits[:, 4:] - swapped[:, 4:]).abs().max() > 1e-4, "order matters"


def test_nats_are_of_the_targets_alone():
    model = make()
    row = model.semantic_row(items(model))
    tokens, targets = row
    log_prob = model.semantic_lm(tokens[None])[0].log_softmax(1)
    by_hand = -sum(float(log_prob[t, k].detach()) for t, k in enumerate(targets.tolist()) if k != IGNORED)
    short = (tokens[:2], targets[:2])
    found = nats(model.semantic_lm, [row, short])
    assert found[0].item() == pytest.approx(by_hand, rel=1e-5)


def test_stages_leave_each_other_alone():
    fields = {"steps": 3, "semantic_steps": 3, "coarse_steps": 3, "fine_steps": 3, "device": "cpu"}
    stages = audiolm.build(replace_fields(audiolm.RECIPES["smoke"], fields))
    changed = []
    before = None
    for run in stages:
        model = run.state["model"]
        before = {name: each.clone() for name, each in model.state_dict().items()}
        for _ in range(3):
            run.update(next(run.stream))
        names = {
            n.split(".")[0] for n, each in model.state_dict().items() if not torch.equal(each, before[n])
        }
        changed.append(names)
    assert changed == [{"codec"}, {"semantic_lm"}, {"coarse_lm"}, {"fine_lm"}]


def test_the_codebooks_are_started_by_the_first_batch_and_followed():
    run = next(audiolm.build(replace_fields(audiolm.RECIPES["smoke"], {"device": "cpu"})))
    codec = run.state["model"].codec
    metrics = run.update(next(run.stream))
    for q in range(1, 5):
        assert metrics[f"code_perplexity/{q}"] > 2, "k-means uses many entries at once"
    errors = [float(metrics[f"residual_error/{q}"]) for q in range(1, 5)]
    print(errors)
    assert sorted(errors, reverse=True) == errors
    assert errors[-1] < 0.3
    # all books move by the residuals that they were chosen by
    z, before = torch.randn(2, 8, 30), [book.codebook.clone() for book in codec.quantizer.books]
    second = codec.quantizer.books[1]
    second.counts[3], second.sums[3], second.codebook[3] = 0.0, 0.0, 1e3  # dead, and far from all residuals
    codes = codec.quantizer.encode(z)
    left = [each.clone() for each in codec.quantizer.residuals(z, codes)]
    update_codebooks(codec, z, codes, torch.zeros(4, 16))
    assert torch.equal(second.codebook[3], left[1][0, :, 0]), "revived at what another book quantizes"
    k = int(codes[:, 1].flatten().mode().values)
    mean = left[1].movedim(1, -1)[codes[:, 1] == k].mean(0)
    moved, away = second.codebook[k] - before[1][k], mean - before[1][k]
    assert torch.cosine_similarity(moved, away, dim=0) > 0.999


def test_only_one_part_is_trained():
    model = make()
    train_only(model, model.coarse_lm)
    names = {name.split(".")[0] for name, each in model.named_parameters() if each.requires_grad}
    assert names == {"coarse_lm"}


def test_commands(capsys, run, tmp_path, loaded):
    result = json.loads((run / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", run, "--json")[1])
    for name in ("loss", "snr", "coarse_gain", "semantic_loss", "code_perplexity/3", "residual_error/2"):
        assert metrics[name] == pytest.approx(result[f"test/{name}"], rel=1e-4), name
    code, out, _ = run_cli(capsys, "sample", run, "--label", 3, "-n", 2, "--out", tmp_path / "threes.wav")
    assert code == 0
    assert out.strip() == str(tmp_path / "threes.wav")
    both = read_audio(tmp_path / "threes.wav", 8000)
    threes = ts.sample(run, label="3", num_samples=2)
    assert len(both) == sum(map(len, threes)) + 3200
    assert all(len(wave) % 320 == 0 for wave in threes)
    again, other = ts.sample(run, label="3", num_samples=2), ts.sample(run, label="3", num_samples=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(threes, again, strict=True))
    assert any(
        not torch.equal(a, b) if len(a) == len(b) else True for a, b in zip(threes, other, strict=True)
    )
    prompt = tmp_path / "voice.wav"
    write_wave(threes[0] / threes[0].abs().max(), prompt, 8000)
    code, out, _ = run_cli(capsys, "sample", run, "--prompt", prompt, "--out", tmp_path / "on.wav")
    assert code == 0
    on, own = read_audio(tmp_path / "on.wav", 8000), read_audio(prompt, 8000)
    assert len(on) > len(own)
    scale = on[: len(own)] @ own / (own @ own)
    assert (on[: len(own)] - scale * own).abs().max() < 1e-3, "the prompt comes first"
    answer = json.loads(run_cli(capsys, "predict", run, prompt, "--json")[1])[0]
    assert answer["label"] in "0123"
    assert 0.25 <= answer["probability"] <= 1
    assert answer["log_prob"] < 0
    pictures = {each.name for each in (run / "pictures").iterdir()}
    assert {"spectrograms.png", "recorded.wav", "coded.wav", "sampled.wav"} <= pictures


def test_bad_requests_are_refused(capsys, run, tmp_path):
    out = ("--out", tmp_path / "x.wav")
    assert "no label 'Q'" in assert_rejected(capsys, "sample", run, "--label", "Q", *out)
    assert "no sound file" in assert_rejected(capsys, "sample", run, "--prompt", tmp_path / "none.wav", *out)
    assert "--out FILE.wav" in assert_rejected(capsys, "sample", run)
    assert "give FILE.wav" in assert_rejected(capsys, "sample", run, "--out", tmp_path / "x.png")
    assert "temperature must be a positive number" in assert_rejected(
        capsys, "sample", run, "--temperature", -1, *out
    )
    assert not list(tmp_path.glob("x*"))
    with pytest.raises(BadInput, match="is a codec alone"):
        next(audiolm.build(replace_fields(audiolm.RECIPES["smoke"], {"variant": "encodec_24khz"})))
    with pytest.raises(BadInput, match="no run in nowhere"):
        next(
            audiolm.build(
                replace_fields(audiolm.RECIPES["smoke"], {"tokenizers": "nowhere", "device": "cpu"})
            )
        )


def test_the_ablation_takes_the_tokenizers_of_a_run(run):
    fields = {"tokenizers": str(run), "semantic": False, "coarse_steps": 2, "device": "cpu"}
    (stage,) = audiolm.build(replace_fields(audiolm.RECIPES["smoke"], fields))
    fit(stage, intervals=Intervals(log=2, evaluate=2), quiet=True)
    model = stage.state["model"]
    own, other = model.state_dict(), ts.load(run).state_dict()
    for name in own:
        if name.startswith(("codec.", "semantic.", "fine_lm.")):
            assert torch.equal(own[name], other[name]), name
    assert {"test/loss", "test/coarse_gain", "test/fine_gain"} <= set(stage.results)
    assert "test/semantic_loss" not in stage.results
    waveforms = audiolm.sample_sounds(model, [0, None, 0])
    assert all(len(wave) % 80 == 0 and len(wave) >= 12 * 80 for wave in waveforms)


def test_without_labels_and_semantic_tokens_nothing_tells_what_is_spoken(monkeypatch):
    data = dataclasses.replace(read_speech("captcha/0123", 8000), is_isolated=False)
    monkeypatch.setattr(audiolm, "read_speech", lambda *_: data)
    recipe = replace_fields(audiolm.RECIPES["smoke"], {"semantic": False, "device": "cpu"})
    with pytest.raises(BadInput, match="something else has to tell"):
        next(audiolm.build(recipe))
