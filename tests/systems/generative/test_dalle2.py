"""DALL-E 2: what the prior predicts and keeps, what the decoder is given, the three stages, and its use."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from cli_helpers import assert_rejected, run_cli
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.data.vision.unclip_batches import UnclipBatch
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Intervals, fit
from torchstone.errors import BadInput
from torchstone.references import randomize_weights
from torchstone.systems.generative import dalle2
from torchstone.tasks.diffusion import unclip
from torchstone.tasks.diffusion.sampler import SamplingConfig
from torchstone.tasks.diffusion.unclip import TextStates


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    ts.train("dalle2/smoke", out=folder, device="cpu", quiet=True)
    return folder


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    model = dalle2.VARIANTS["dalle2_tiny"].make().eval()
    randomize_weights(model.decoder)  # as created, branches are closed
    randomize_weights(nn.ModuleList([model.prior.layers, model.prior.out]))
    return model


def texts(count, dim=32, width=32, time=8):
    generator = torch.Generator().manual_seed(count)
    embedding = F.normalize(torch.randn(count, dim, generator=generator), dim=1)
    hidden = torch.randn(count, time, width, generator=generator)
    return TextStates(embedding, hidden, torch.ones(count, time, dtype=torch.bool))


def batch(count, shape):
    t = torch.randint(1000, (count,))
    tokens = torch.zeros(count, 8, dtype=torch.int64)
    return UnclipBatch(torch.rand(count, 3, 32, 32) * 2 - 1, tokens, t, torch.randn(count, *shape), t >= 0)


# ------------------------------------------------------------------------------------------- prior


def test_the_prior_learns_the_embedding_at_the_scale_of_noise(tiny):
    """Who knows x₀ = √d z has no loss; who knows ε has."""
    prior, own = tiny.prior, batch(64, (32,))
    schedule, text = prior.process.noise_schedule(), texts(64)
    embedding = texts(64, time=1).embedding
    x0 = 32**0.5 * embedding

    def loss(answer):
        return dalle2.prior_loss(lambda *_: answer, prior, schedule, embedding, text, own)

    right, wrong = loss(x0), loss(own.epsilon)
    print({name: (float(right[name]), float(wrong[name])) for name in right})
    assert float(right["loss"]) < 1e-10
    assert float(right["cosine"]) == pytest.approx(1)
    assert float(wrong["loss"]) > 0.5
    torch.testing.assert_close(prior.normalize(embedding).square().mean(1), torch.ones(64))
    torch.testing.assert_close(prior.denormalize(prior.normalize(embedding)), embedding)


def test_the_prior_is_given_noise_of_the_timestep(tiny):
    own, seen = batch(8, (32,)), []
    schedule, text = tiny.prior.process.noise_schedule(), texts(8)

    def net(x, t, *rest):
        seen.append((x, t, rest))
        return x

    dalle2.prior_loss(net, tiny.prior, schedule, text.embedding, text, own)
    ((x, t, rest),) = seen
    a = schedule.alphas_cumprod[own.t][:, None]
    torch.testing.assert_close(x, a.sqrt() * 32**0.5 * text.embedding + (1 - a).sqrt() * own.epsilon)
    assert t is own.t
    assert all(a is b for a, b in zip(rest, text, strict=True))


def test_the_prior_is_not_clamped_and_the_decoder_is(tiny):
    """A network that always says 7 is believed by the prior, and not by the decoder."""
    text, generator = texts(3), torch.Generator().manual_seed(0)

    config, prior = SamplingConfig(steps=6), copy.deepcopy(tiny.prior)
    nn.init.zeros_(prior.out.weight)
    nn.init.constant_(prior.out.bias, 7.0)
    found = dalle2.sample_embeddings(prior, text, texts(1), config, generator)
    torch.testing.assert_close(found, torch.full((3, 32), 7 / 32**0.5))
    process = dalle2.DECODER_PROCESS
    assert process.clip_sample_range == 1
    schedule = process.noise_schedule()
    x, _ = process.predict_x0(schedule, torch.full((2, 3), -9.0), torch.zeros(2, 3), torch.tensor([500, 900]))
    assert x.abs().max() == 1


def test_of_two_embeddings_the_one_with_the_larger_dot_product_is_kept():
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # of the first text the second is shorter along it, and has the larger cosine
    candidates = torch.tensor([[[0.9, 0.9], [0.3, 0.2]], [[0.5, 0.0], [0.0, 0.6]]])
    kept = dalle2.keep_nearest(candidates, text)
    assert torch.equal(kept, torch.tensor([[0.9, 0.9], [0.0, 0.6]]))


def test_the_prior_reads_no_padding(tiny):
    text = texts(2)
    mask = text.mask.clone()
    mask[1, 3:] = False
    other = text.hidden.clone()
    other[1, 3:] += 5
    x, t = torch.randn(2, 32), torch.tensor([10, 700])
    with torch.no_grad():
        a, b = (tiny.prior(x, t, text.embedding, hidden, mask) for hidden in (text.hidden, other))
        c = tiny.prior(x, t, text.embedding, other, text.mask)
    torch.testing.assert_close(a, b)
    assert not torch.allclose(b[1], c[1])


def test_guidance_goes_from_the_prediction_without_text_to_the_one_with():
    net = lambda x, t, a: a * 1.0  # noqa: E731
    x, t = torch.zeros(2, 3), torch.zeros(2)
    condition, null = (torch.full((2, 3), 5.0),), (torch.full((2, 3), 2.0),)
    for scale, wanted in ((0.0, 2.0), (1.0, 5.0), (3.0, 11.0)):
        assert torch.equal(dalle2.guided(net, condition, null, scale)(x, t), torch.full((2, 3), wanted))


# ----------------------------------------------------------------------------------------- decoder


def test_an_embedding_that_is_dropped_is_not_seen(tiny):
    own = batch(6, (3, 32, 32))
    kept = torch.tensor([True, False] * 3)
    own = own._replace(keeps_embedding=kept)
    schedule, text = tiny.decoder.process.noise_schedule(), texts(6)
    outputs = []

    def net(*inputs):
        outputs.append(tiny.decoder(*inputs))
        return outputs[-1]

    with torch.no_grad():
        for embedding in (text.embedding, text.embedding.roll(1, 0)):
            dalle2.decoder_loss(net, tiny.decoder.process, schedule, embedding, text, own)
    changed = (outputs[0] - outputs[1]).abs().flatten(1).amax(1)
    print(changed)
    assert (changed[~kept] == 0).all()
    assert (changed[kept] > 1e-4).all()


@pytest.mark.parametrize("path", ["image_projection", "extra_tokens"])
def test_the_embedding_enters_by_the_timestep_and_by_tokens(tiny, path):
    """With either closed, the other one is left."""
    x, t, text = torch.randn(2, 3, 32, 32), torch.tensor([100, 900]), texts(2)
    layer = getattr(tiny.decoder, path)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        a, b = (tiny.decoder(x, t, z, *text) for z in (text.embedding, text.embedding.flip(0)))
        layer.load_state_dict(before)
    assert (a - b).abs().max() > 1e-4


def test_the_loss_of_the_decoder_is_of_its_own_target(tiny):
    own, process = batch(5, (3, 32, 32)), tiny.decoder.process
    schedule = process.noise_schedule()
    v = schedule.training_target("v", own.images, own.epsilon, own.t)
    arguments = (process, schedule, texts(5).embedding, texts(5), own)
    assert float(dalle2.decoder_loss(lambda *_: v, *arguments)) == 0
    assert float(dalle2.decoder_loss(lambda *_: own.epsilon, *arguments)) > 0.01


# ------------------------------------------------------------------------------------------ stages


def tensors(model, part):
    return {k: v.clone() for k, v in model.state_dict().items() if k.startswith(f"{part}.")}


def test_each_stage_trains_its_part_alone():
    fields = {"device": "cpu", "clip_steps": 3, "prior_steps": 3, "steps": 3, "eval_samples": 0}
    stages = dalle2.build(replace_fields(dalle2.RECIPES["smoke"], fields))
    quick = Intervals(log=3, evaluate=3)
    first = next(stages)
    fit(first, intervals=quick, quiet=True)
    averaged = first.state.get("ema", SimpleNamespace(module=first.state["model"])).module
    second = next(stages)
    model = second.state["model"]
    assert all(torch.equal(v, averaged.state_dict()[k]) for k, v in model.clip.state_dict().items())
    before = {part: tensors(model, part) for part in ("clip", "prior", "decoder")}
    fit(second, intervals=quick, quiet=True)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k.split(".")[0]][k])}
    scale = {"prior.mean", "prior.std"}
    assert changed == before["prior"].keys() - scale
    third = next(stages)
    ema = second.state["ema"].module.prior.state_dict()
    assert all(torch.equal(v, ema[k]) for k, v in model.prior.state_dict().items())
    before = {part: tensors(model, part) for part in ("clip", "prior", "decoder")}
    fit(third, intervals=quick, quiet=True)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k.split(".")[0]][k])}
    assert changed == before["decoder"].keys()
    assert next(stages, None) is None
    used = third.state["ema"].module
    assert all(torch.equal(v, used.clip.state_dict()[k]) for k, v in model.clip.state_dict().items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "dalle2_prior"}, "a prior alone"),
        ({"clip_recipe": "openmojo"}, "clip has no recipe 'openmojo'"),
        ({"prior_sampling_steps": 1}, "2 sampling steps or more"),
        ({"clip": "nowhere"}, "nowhere"),
    ],
)
def test_recipes_that_cannot_be_are_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        next(dalle2.build(replace_fields(dalle2.RECIPES["smoke"], {"device": "cpu", **fields})))


# --------------------------------------------------------------------------------------------- use


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("pictures"), load_image_texts("shapes", size=32)
    files = []
    for row in (0, 7):
        files.append(folder / f"{row}.png")
        Image.fromarray(data.test.images[row].permute(1, 2, 0).numpy()).save(files[-1])
    return files


def stack(folder, **options):
    return torch.stack(ts.sample(folder, sampling_steps=4, **options))


def test_pictures_of_texts_and_of_pictures(run, pictures):
    red, blue = (stack(run, prompt=f"large {color} circle", num_samples=4) for color in ("red", "blue"))
    assert red.shape == (4, 3, 32, 32)
    assert not torch.equal(red, blue)
    assert torch.equal(red, stack(run, prompt="large red circle", num_samples=4))
    assert not torch.equal(red, stack(run, prompt="large red circle", num_samples=4, seed=1))
    assert not torch.equal(red, stack(run, prompt="large red circle", num_samples=4, guidance_scale=1))
    varied = stack(run, init_image=pictures[0], num_samples=3)
    assert not torch.equal(varied[0], varied[1])
    same = stack(run, init_image=pictures[0], num_samples=3, eta=0)
    assert torch.equal(same[0], same[1]), "without DDIM's noise there is one picture"
    path = stack(run, init_image=pictures[0], to_image=pictures[1], num_samples=3)
    back = stack(run, init_image=pictures[1], to_image=pictures[0], num_samples=3)
    assert (path.int() - back.flip(0).int()).abs().max() <= 2
    changed = stack(
        run, init_image=pictures[0], from_prompt="red circle", prompt="blue circle", num_samples=3
    )
    assert (changed[0].int() - path[0].int()).abs().max() <= 2, "θ = 0 is the picture itself"
    assert not torch.equal(changed[0], changed[2])


def test_commands(capsys, run, pictures, tmp_path):
    tested = json.loads((run / "result.json").read_text())["metrics"]
    metrics = json.loads(run_cli(capsys, "eval", run, "--json")[1])
    names = ("text_recall_at_10", "prior_recall_at_10", "prior_cosine", "clip_r_at_10", "match")
    for name in names:
        assert metrics[name] == pytest.approx(tested[f"test/{name}"], rel=1e-5), name
    words = ("sample", run, "--init-image", pictures[0], "-n", 3, "--sampling-steps", 3)
    code, out, _ = run_cli(capsys, *words, "--out", tmp_path / "varied.png")
    assert code == 0
    with Image.open(out.strip()) as image:
        assert image.size[0] == image.size[1], "the picture and three variations"
    code, out, _ = run_cli(capsys, *words, "--to-image", pictures[1], "--out", tmp_path / "path.png")
    with Image.open(out.strip()) as image:
        assert image.size[0] > 2.5 * image.size[1], "a path is a row"
    assert {file.name for file in (run / "pictures").iterdir()} >= {
        "captions.png",
        "variations.png",
        "paths.png",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", " "), "prompt is empty"),
        (("--to-image", "a.png"), "--init-image FILE"),
        (("--from-prompt", "a dog"), "--init-image FILE"),
        (("--init-image", "0.png", "--prompt", "a dog"), "--from-prompt and --prompt"),
        (("--init-image", "0.png", "--to-image", "1.png", "--prompt", "a", "--from-prompt", "b"), "not both"),
        (("--init-image", "none.png"), "none.png"),
        (("--sampling-steps", 2000), "1 to 1000 steps"),
        (("--eta", 2), "eta is between"),
        (("--label", "a"), "without 'label'"),
    ],
)
def test_options_that_do_not_fit_are_refused(capsys, run, tmp_path, words, message):
    assert message in assert_rejected(capsys, "sample", run, *words, "--out", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_run_before_its_decoder_has_nothing_to_sample():
    for metadata in ({"task": "image_text"}, {"stage": "prior"}):
        with pytest.raises(BadInput, match="nothing to sample yet"):
            dalle2.sample(None, metadata)
        with pytest.raises(BadInput, match="nothing to evaluate yet"):
            dalle2.evaluate(None, metadata, "shapes", held_out=True)


def test_a_decoder_of_texts_alone_never_sees_an_embedding(run):
    model = ts.load(run)
    metadata = json.loads(json.dumps(model.metadata))
    text, generator = unclip.read_texts(model, metadata, ["red circle"]), torch.Generator()
    x_T, config = torch.randn(1, 3, 32, 32), SamplingConfig(steps=3, sampler="ddim")
    embeddings = torch.randn(2, 1, 32)

    def painted(uses_embedding):
        metadata["sampling"]["uses_embedding"] = uses_embedding
        own = (dalle2.ALGORITHM, model, metadata)
        return [unclip.paint(*own, z, text, x_T, config, generator) for z in embeddings]

    a, b = painted(False)
    assert torch.equal(a, b)
    a, b = painted(True)
    assert not torch.equal(a, b)
    metadata["sampling"]["uses_embedding"] = False
    with pytest.raises(BadInput, match="is given no embeddings"):
        dalle2.sample(model, metadata, init_image="0.png")
