"""CLIP: where a text ends, what padding may change, the temperature, processes that share a batch, planted
faults, and its use."""

import json
import math
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone.data.vision.dataset import ImageSplit
from torchstone.data.vision.image_text_batches import ImageTextBatch, positive_pairs
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.engine import parallel
from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput
from torchstone.hub.clip import from_config, published
from torchstone.parts.contrastive_loss import symmetric_contrastive_loss
from torchstone.references import randomize_weights
from torchstone.references.clip import PairsWithLoss, TransformersPairs, random_clips
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.clip import (
    MAX_LOGIT_SCALE,
    RECIPES,
    CLIPVisionConfig,
    CLIPVisionTower,
    PairEmbeddings,
    build,
    make_clip,
    pair_loss,
)
from torchstone.tasks.vision.image_text import ADVICE, evaluate, nearest_word_similarity, predict
from torchstone.verify import relative_error

VISION = {"width": 12, "layers": 2, "heads": 2, "d_ff": 20, "image_size": 12, "patch_size": 4}
TEXT = {"width": 8, "layers": 2, "heads": 2, "d_ff": 20, "vocab_size": 30, "max_length": 9, "eos_id": 7}


def small(vision=None, text=None, **fields):
    torch.manual_seed(0)
    model = make_clip(VISION | (vision or {}), TEXT | (text or {}), embed_dim=6, **fields).double()
    return randomize_weights(model, 0.3)


def pairs(count=6):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 12, 12, generator=generator, dtype=torch.float64)
    tokens = torch.randint(8, 30, (count, 9), generator=generator)
    tokens[:, 5:] = 7
    return images, tokens


# ------------------------------------------------------------------------------------------ network


@pytest.mark.sweep
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_clip_is_transformers_in_both_modes(mode):
    for label, config, theirs, inputs in random_clips(import_transformers(), count=2, seed=3):
        ours = make_clip(**from_config(config)[1]).to(theirs.dtype)
        ours.load_state_dict(published("", theirs.state_dict()))
        sides = [getattr(side, mode)() for side in (PairsWithLoss(ours), TransformersPairs(theirs))]
        error = relative_error(*(side(*inputs) for side in sides))
        print(f"{label}, {mode}: {error:.1e} apart")
        assert error < (1e-10 if theirs.dtype == torch.float64 else 1e-5)


def test_clip_reads_a_text_at_its_first_end():
    model = small()
    tokens = torch.tensor([[9, 10, 7, 29, 7, 7], [9, 10, 11, 12, 29, 7]])
    hidden = model.text(tokens)
    assert torch.equal(model.text.pool(hidden, tokens), torch.stack([hidden[0, 2], hidden[1, 5]]))
    old = small(text={"eos_id": 2})
    assert torch.equal(old.text.pool(hidden, tokens), torch.stack([hidden[0, 3], hidden[1, 4]]))


@pytest.mark.parametrize("pooling", ["end", "mean"])
def test_clip_is_not_changed_by_what_follows_the_end(pooling):
    model = small(text={"pooling": pooling})
    _, tokens = pairs()
    other = tokens.clone()
    other[:, 6:] = 20
    assert torch.allclose(model.encode_texts(tokens), model.encode_texts(other), rtol=0, atol=1e-14)
    assert torch.allclose(model.encode_texts(tokens), model.encode_texts(tokens[:, :6]), rtol=0, atol=1e-14)
    changed = tokens.clone()
    changed[:, 2] = 8
    assert (model.encode_texts(tokens) - model.encode_texts(changed)).abs().max() > 1e-3


def test_clip_does_not_see_padding_in_front():
    model = small()
    _, tokens = pairs()
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[:, :2] = False
    other = tokens.clone()
    other[:, :2] = 11
    assert torch.allclose(model.encode_texts(tokens, mask), model.encode_texts(other, mask), atol=1e-14)
    assert (model.encode_texts(tokens) - model.encode_texts(other)).abs().max() > 1e-3


def test_clip_vision_tower_gives_the_states_of_a_layer():
    tower: CLIPVisionTower = small().vision
    images, _ = pairs()
    assert tower(images).shape == (6, 10, 12)
    assert torch.equal(tower.layers[1](tower(images, layer=-2)), tower(images))
    assert torch.equal(tower.pool(tower(images)), tower.post_norm(tower(images)[:, 0]))
    assert tower(torch.zeros(1, 3, 16, 8, dtype=torch.float64)).shape == (1, 9, 12)  # positions between


def test_clip_says_which_sizes_do_not_fit():
    with pytest.raises(BadInput, match="10×12 pixels cannot be cut into patches of 4×4"):
        small().vision(torch.zeros(1, 3, 10, 12, dtype=torch.float64))
    with pytest.raises(BadInput, match="12 tokens are more than the maximum length 9"):
        small().encode_texts(torch.zeros(1, 12, dtype=torch.int64))
    with pytest.raises(BadInput, match="stem of 3 stages needs patches of a multiple of 8"):
        CLIPVisionTower(CLIPVisionConfig(**VISION, stem=(4, 4, 4)))


def test_clip_begins_at_the_papers_temperature():
    model = make_clip(VISION, TEXT, embed_dim=6)
    assert abs(model.logit_scale.exp().item() - 1 / 0.07) < 1e-4
    images, tokens = pairs()
    logits = model(images.float(), tokens)
    cosine = F.cosine_similarity(
        model.encode_images(images.float())[:, None], model.encode_texts(tokens)[None], dim=2
    )
    assert torch.allclose(logits, cosine / 0.07, atol=1e-4)


# -------------------------------------------------------------------------------------------- loss


def batch_of(rows=slice(None), count=6):
    images, tokens = pairs(count)
    tokens[3] = tokens[0]  # a caption that is there twice
    pictures = torch.arange(count)
    pictures[4] = 1  # and a picture
    texts = torch.unique(tokens, dim=0, return_inverse=True)[1]
    return ImageTextBatch(*(each[rows] for each in (images, tokens, pictures, texts)))


def test_pair_loss_is_the_mean_over_all_right_answers():
    model, batch = small(), batch_of()
    logits = model(batch.images, batch.tokens).detach()
    expected = 0.0
    for table in (logits, logits.T):
        for i, row in enumerate(table.log_softmax(1)):
            same = [
                j
                for j in range(6)
                if batch.texts[i] == batch.texts[j] or batch.pictures[i] == batch.pictures[j]
            ]
            expected -= float(sum(row[j] for j in same)) / len(same) / 12
    loss = pair_loss(PairEmbeddings(model), batch)["loss"].item()
    print(f"{loss:.12f}, in loops {expected:.12f}")
    assert abs(loss - expected) < 1e-12


def test_pair_loss_compares_cosines_in_full_precision():
    """In mixed precision the embeddings are bfloat16; their products, of which the loss is, are not."""
    model, batch = small().float(), batch_of()
    batch = batch._replace(images=batch.images.float())
    model.logit_scale.data.fill_(math.log(50))
    with torch.autocast("cpu", torch.bfloat16):
        images, texts, _ = PairEmbeddings(model)(batch.images, batch.tokens)
        loss = pair_loss(PairEmbeddings(model), batch)["loss"]
    assert loss.dtype == torch.float32
    positive = positive_pairs((batch.pictures, batch.pictures), (batch.texts, batch.texts))
    logits = 50 * images.float() @ texts.float().T
    expected = symmetric_contrastive_loss(logits, positive)
    print(f"{loss.item():.7f}, of the same embeddings {expected.item():.7f}")
    assert abs(loss - expected) < 1e-5 * expected


def test_nearest_word_similarity_compares_the_first_picture_of_each_thing():
    """More pictures of what is trained on, in other colors, leave the baseline as it is."""
    data = load_image_texts("shapes", size=16)
    train = data.train
    twice = ImageSplit(torch.cat([train.labels] * 2), torch.cat([train.images, 255 - train.images]))
    expected = nearest_word_similarity(data, data.test)
    assert torch.equal(nearest_word_similarity(replace(data, train=twice), data.test), expected)
    assert not torch.equal(nearest_word_similarity(replace(data, train=data.val), data.test), expected)


SHARES = {"even": 3, "uneven": 4}


def outcome(rows) -> list[torch.Tensor]:
    """Gradients of one update, of this process's rows, and the weights after three."""
    model = small()
    net = parallel.replicate(PairEmbeddings(model))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    update = GradientUpdate(lambda batch: pair_loss(net, batch), optimizer, replica=net)
    update(batch_of(rows))
    gradients = [p.grad.clone() for p in model.parameters()]
    for _ in range(2):
        update(batch_of(rows))
    return gradients + [p.detach().clone() for p in model.parameters()]


def two_processes(out: Path) -> None:
    """What runs under torchrun."""
    rank = parallel.rank()
    for name, first in SHARES.items():
        rows = (slice(first), slice(first, None))[rank]
        torch.save(outcome(rows), out / f"{name}-{rank}.pt")


@pytest.mark.sweep  # two processes that import torch
def test_pair_loss_of_two_processes_is_that_of_the_whole_batch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.append({str(Path(__file__).parent)!r})
from torchstone.engine import parallel
import test_clip
with parallel.process_group(torch.device("cpu")):
    test_clip.two_processes(Path({str(tmp_path)!r}))
    parallel.barrier()
"""
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port), str(script)]
    child = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr[-3000:]
    one = outcome(slice(None))
    for name in SHARES:
        for rank in (0, 1):
            two = torch.load(tmp_path / f"{name}-{rank}.pt")
            half = len(one) // 2
            gradients, weights = (
                max(float((a - b).abs().max()) for a, b in zip(one[part], two[part], strict=True))
                for part in (slice(half), slice(half, None))
            )
            print(f"{name} shares, process {rank}: {gradients:.1e} and {weights:.1e} from one process")
            assert gradients < 1e-14
            assert weights < 1e-10


def test_pair_loss_without_the_others_gradients_would_be_wrong():
    """Each process's loss with the other's embeddings as constants, as without a gradient through the exchange."""
    model = small()
    whole = batch_of()
    right = torch.autograd.grad(pair_loss(PairEmbeddings(model), whole)["loss"], list(model.parameters()))
    images, texts = model.encode_images(whole.images), model.encode_texts(whole.tokens)
    same = (whole.pictures[:, None] == whole.pictures) | (whole.texts[:, None] == whole.texts)
    total = torch.zeros(())
    for rows in (slice(3), slice(3, None)):
        own = torch.zeros(6, 1, dtype=torch.bool)
        own[rows] = True
        there = [torch.where(own, each, each.detach()) for each in (images, texts)]
        logits = model.logit_scale.exp() * there[0] @ there[1].T
        for table, positive in ((logits, same), (logits.T, same.T)):
            share = positive.double() / positive.sum(1, keepdim=True)
            total = total - (table.log_softmax(1) * share)[rows].sum() / 12
    wrong = torch.autograd.grad(total, list(model.parameters()))
    apart = max(float((a - b).abs().max()) for a, b in zip(wrong, right, strict=True))
    print(f"{apart:.1e} from the gradient of the whole batch")
    assert apart > 1e-3


# ---------------------------------------------------------------------------------------- training


def run_of(**fields):
    (run,) = build(replace(RECIPES["smoke"], device="cpu", **fields))
    return run


def test_clip_holds_its_temperature_and_does_not_decay_it():
    run = run_of(optim=replace(RECIPES["smoke"].optim, weight_decay=0.5))
    model = run.state["model"]
    decayed = {id(p) for g in run.state["optimizer"].param_groups if g["weight_decay"] for p in g["params"]}
    assert id(model.logit_scale) not in decayed
    assert id(model.text_projection.weight) in decayed
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    run.update(next(run.stream))
    assert model.logit_scale.item() == pytest.approx(MAX_LOGIT_SCALE) == pytest.approx(math.log(100))


def test_clip_refuses_micro_batches():
    with pytest.raises(BadInput, match=r"all pairs of a batch.*--grad-accum-steps 1"):
        run_of(optim=replace(RECIPES["smoke"].optim, grad_accum_steps=2))


def test_clip_learns_of_a_folder_with_captions(tmp_path):
    """Colors of a folder of one's own, to the end of a training, and what it says of its use."""
    colors = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230), "gray": (120, 120, 120)}
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for number in range(40):
        name, value = list(colors.items())[number % 4]
        shade = tuple(min(255, each + number) for each in value)
        Image.new("RGB", (10, 14), shade).save(folder / f"{number}.png")
        lines.append(f"{number}.png\t{name} paper")
    (folder / "captions.tsv").write_text("\n".join(lines))
    run = ts.train("clip/smoke", data=folder, out=tmp_path / "run", steps=40, device="cpu", quiet=True)
    print(run.results)
    assert run.results["test/recall_at_1"] >= 0.75
    shown = [folder / "0.png", folder / "2.png"]
    answers = ts.predict(tmp_path / "run", shown, labels="red paper, blue paper")
    print(answers)
    assert [answer["label"] for answer in answers] == ["red paper", "blue paper"]
    out = tmp_path / "found.png"
    found = ts.predict(tmp_path / "run", [folder], search="green paper", out=out)
    assert len(found) == 40
    assert found[0]["file"] == str(out)
    assert out.stat().st_size > 5_000
    numbers = [int(Path(each["input"]).stem) % 4 for each in found[:8]]
    assert numbers.count(1) >= 6, numbers
    values = [each["similarity"] for each in found]
    assert values == sorted(values, reverse=True)
    metrics = ts.evaluate(tmp_path / "run")
    assert metrics["recall_at_1"] == pytest.approx(run.results["test/recall_at_1"])
    assert (tmp_path / "run" / "pictures" / "retrieved.png").exists()


def test_clip_prediction_says_what_it_wants(tmp_path):
    run = run_of()
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    model, files = run.state["model"], [tmp_path / "a.png"]
    for options, message in [
        ({}, ADVICE),
        ({"labels": "a,b", "search": "a"}, "not both"),
        ({"labels": "cat"}, "at least two different texts"),
        ({"labels": "cat,cat"}, "at least two different texts"),
        ({"labels": "cat,,dog"}, "at least two different texts"),
        ({"labels": "a,b", "out": "x.png"}, "--out is for --search"),
        ({"search": " "}, "the search is empty"),
    ]:
        with pytest.raises(BadInput) as raised:
            predict(model, run.metadata, files, **options)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    with pytest.raises(BadInput, match=r"nothing\.png"):
        predict(model, run.metadata, [tmp_path / "nothing.png"], search="cat", out=str(tmp_path / "s.png"))
    assert not (tmp_path / "s.png").exists()


def test_clip_evaluates_the_test_split_of_its_data():
    run = run_of()
    metrics = evaluate(run.state["model"], run.metadata, "shapes", held_out=True)
    whole = evaluate(run.state["model"], run.metadata, "shapes", held_out=False)
    assert metrics["images"] == len(load_image_texts("shapes", size=32).test) == 24
    assert whole["images"] == 240
    tested = run.test()
    assert {name: tested[name] for name in metrics if name != "images"} == {
        name: value for name, value in metrics.items() if name != "images"
    }


@pytest.mark.sweep
def test_clip_without_a_stem_is_written_for_transformers(tmp_path):
    """Trained, exported, and read by transformers: network, tokenizer and image processor."""
    ts.train("clip/smoke", variant="clip_emoji_vit", steps=2, out=tmp_path / "run", device="cpu", quiet=True)
    ts.export(tmp_path / "run", out=tmp_path / "hf", format="hf")
    library = import_transformers()
    theirs = library.CLIPModel.from_pretrained(tmp_path / "hf").eval()
    tokenizer = library.AutoTokenizer.from_pretrained(tmp_path / "hf")
    texts = ["small red circle on the left", "blue ring"]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    image = Image.fromarray(load_image_texts("shapes", size=32).test.images[0].permute(1, 2, 0).numpy())
    image.save(tmp_path / "a.png")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pixels = CLIPImageProcessorPil.from_pretrained(tmp_path / "hf")(image, return_tensors="pt")
    with torch.no_grad():
        own = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        expected = theirs(**pixels, **own).logits_per_image.softmax(1)[0]
    (answer,) = ts.predict(tmp_path / "hf", [tmp_path / "a.png"], labels=texts)
    (before,) = ts.predict(tmp_path / "run", [tmp_path / "a.png"], labels=texts)
    for each in (answer, before):
        found = torch.tensor(list(each["probabilities"].values()))
        print(found.tolist(), expected.tolist())
        assert (found - expected).abs().max() < 1e-5
    settings = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == "<|startoftext|>"
    assert settings["pad_token"] == "<|endoftext|>"


@pytest.mark.sweep
def test_clip_starts_from_weights(tmp_path):
    """Of a run and of a folder of transformers: the same network, tokenizer and normalization."""
    ts.train("clip/smoke", variant="clip_emoji_vit", steps=1, out=tmp_path / "run", device="cpu", quiet=True)
    ts.export(tmp_path / "run", out=tmp_path / "hf", format="hf")
    settings = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.25, 0.5, 0.75]
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(settings))
    trained = ts.load(tmp_path / "run").state_dict()
    for source, mean in (("run", [0.5] * 3), ("hf", [0.25, 0.5, 0.75])):
        (run,) = build(replace(RECIPES["smoke"], weights=str(tmp_path / source), device="cpu"))
        own = run.state["model"].state_dict()
        assert own.keys() == trained.keys()
        assert all(torch.equal(tensor, trained[name]) for name, tensor in own.items())
        assert run.metadata["picture"]["mean"] == mean
        loss = run.update(next(run.stream))["loss"]
        print(f"{source}: loss {float(loss):.3f} in the first step")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(BadInput, match="is of vit, not of clip"):
        next(iter(build(replace(RECIPES["smoke"], weights=str(tmp_path / "hf")))))


@pytest.mark.sweep
def test_clip_with_a_stem_has_no_form_in_transformers(tmp_path):
    ts.train("clip/smoke", steps=1, out=tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(BadInput, match="no convolutional stem"):
        ts.export(tmp_path / "run", out=tmp_path / "hf", format="hf")
    with pytest.raises(BadInput, match="takes images and texts"):
        ts.export(tmp_path / "run", out=tmp_path / "model.onnx")
    assert not (tmp_path / "hf").exists()
    assert not (tmp_path / "model.onnx").exists()


# ------------------------------------------------------------------------------------ planted faults


FAULTS = {
    "gelu in place of quick gelu": lambda model: [
        setattr(m, "activation", F.gelu) for m in model.modules() if hasattr(m, "activation")
    ],
    "the largest id in place of the end": lambda model: setattr(
        model.text, "config", replace(model.text.config, eos_id=2)
    ),
    "texts see what follows": lambda model: setattr(
        model.text, "config", SimpleNamespace(**vars(model.text.config) | {"pooling": "both"})
    ),
    "no norm before the first block": lambda model: setattr(model.vision, "pre_norm", nn.Identity()),
    "no norm of the class token": lambda model: setattr(model.vision, "post_norm", nn.Identity()),
    "a temperature that is no logarithm": lambda model: model.logit_scale.data.exp_(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_clip_parity_sees_planted_faults(fault):
    cases = random_clips(import_transformers(), count=1)
    for _, config, theirs, inputs in cases:
        config["vision_config"]["hidden_act"] = config["text_config"]["hidden_act"]
        ours = make_clip(**from_config(config)[1]).to(theirs.dtype)
        ours.load_state_dict(published("", theirs.state_dict()))
        theirs_out = TransformersPairs(theirs)(*inputs)
        assert relative_error(PairsWithLoss(ours)(*inputs), theirs_out) < 1e-10
        FAULTS[fault](ours)
        error = relative_error(PairsWithLoss(ours)(*inputs), theirs_out)
        print(f"{fault}: {error:.1e} apart")
        assert error > 1e-4
