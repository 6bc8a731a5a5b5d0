"""VLM: parity that can fail, what is read and trained, answers with and without a cache, and its runs."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch
from PIL import Image

import torchstone as ts
from torchstone.data.vision import question_batches
from torchstone.data.vision.question_batches import PAD_ID, Conversations, QuestionBatch
from torchstone.data.vision.questions import Question, QuestionSplit, load_questions
from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.hub.vlm import from_config
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.references.vlm import OurAnswers, TheirAnswers, random_vlms
from torchstone.systems.transformer import vlm
from torchstone.systems.transformer.clip import CLIPVisionTower
from torchstone.systems.transformer.vlm import RECIPES, VLM, Projector, build, loss, make_vlm
from torchstone.tasks.vision import answer as task
from torchstone.verify import _parity

SMOKE = replace(RECIPES["smoke"], device="cpu")


def tiny(**fields) -> VLM:
    torch.manual_seed(0)
    return randomize_weights(vlm.VARIANTS["vlm_tiny"].make(**fields), 0.3).eval()


def tower_forward(change):
    """A tower that reads another layer."""

    def plant(patch):
        plain = CLIPVisionTower.forward
        patch.setattr(
            CLIPVisionTower, "forward", lambda self, images, layer=-1: plain(self, images, change(layer))
        )

    return plant


def encode_all(self, images):
    z = self.vision(images, self.layer)
    return self.projector(z[:, :-1] if not self.config.class_token else z)


def predict_questions_too(net, batch, plain=loss):
    """A loss over every token but padding."""
    targets = torch.nn.functional.pad(batch.tokens[:, 1:], (0, 1))
    return plain(net, batch._replace(targets=targets))


FAULTS = {
    "last hidden states": tower_forward(lambda layer: -1),
    "class token for the last patch": lambda patch: patch.setattr(VLM, "encode", encode_all),
    "loss on questions": lambda patch: patch.setattr(vlm, "loss", predict_questions_too),
    "projector of one layer": lambda patch: patch.setattr(
        Projector, "forward", lambda self, z: self.down(self.up(z))
    ),
}


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=pytest.mark.sweep if i > 1 else ()) for i, f in enumerate(FAULTS)]
)
def test_parity_detects_planted_faults(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    pairs = list(islice(vlm.reference(), 0, 3, 2))  # float64, with and without the class token
    checks = [check for n, pair in enumerate(pairs, 1) for check in _parity("vlm", n, pair)]
    failed = [check.name for check in checks if not check.passed]
    print(f"{fault}: {len(failed)} of {len(checks)} failed")
    assert failed


def test_reference_has_ten_cases_of_every_kind():
    labels = [case.label for case in vlm.reference()]
    assert len(labels) == 10
    for part in ("layer -2", "layer -1", "layer -3", "layer 1 of", "default", "full", "float64", "float32"):
        assert any(part in label for label in labels)


def test_transformers_own_loss_is_ours():
    _, config, theirs, (images, tokens, targets) = list(random_vlms(import_transformers(), 2))[1]
    labels = torch.nn.functional.pad(targets, (1, 0), value=0)[:, :-1]
    mask = tokens != PAD_ID
    own = theirs(
        input_ids=tokens,
        pixel_values=images,
        attention_mask=mask,
        labels=labels.masked_fill(labels == 0, -100),
    )
    assert float(own.loss) == pytest.approx(float(TheirAnswers(theirs)(images, tokens, targets)[1]), rel=1e-5)
    ours = make_vlm(**from_config(config)).train()
    ours.load_state_dict(vlm.published("", theirs.state_dict()))
    assert float(OurAnswers(ours, loss)(images, tokens, targets)[1]) == pytest.approx(
        float(own.loss), rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "clip"}, "model_type 'clip', not llava"),
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer = .*one layer"),
        ({"projector_hidden_act": "mish"}, "projector_hidden_act = 'mish'"),
        ({"vision_feature_select_strategy": "cls"}, "implemented are default and full"),
        ({"text_config": {"model_type": "llama"}}, "'llama'; implemented here is 'gpt2'"),
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "implemented here is 'clip_vision_model'"),
        ({"spatial_merge_size": 2}, "spatial_merge_size = 2"),
    ],
)
def test_configs_that_are_not_implemented_are_refused(change, message):
    config = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}
    config |= {
        "text_config": {
            "model_type": "gpt2",
            "n_embd": 8,
            "n_head": 2,
            "n_layer": 1,
            "n_positions": 9,
            "vocab_size": 9,
        }
    }
    with pytest.raises(BadInput, match=message):
        from_config(config | change)


# ---- the network


def test_image_tokens_that_are_not_as_many_as_patches_are_refused():
    model = tiny()
    images, image_id = torch.randn(2, 3, 8, 8), model.config.image_id
    tokens = torch.full((2, 6), 5)
    tokens[:, :4] = image_id
    assert model(images, tokens).shape == (2, 6, 40)
    tokens[1, 3] = 5
    with pytest.raises(
        BadInput, match=f"3 image tokens in a row, but an image has 4 vectors: repeat the token {image_id}"
    ):
        model(images, tokens)
    # as many in all, but not in each row: the others' images would be mixed up
    tokens[0, 4] = image_id
    with pytest.raises(BadInput, match="5 image tokens in a row"):
        model(images, tokens)


def test_layers_that_the_encoder_has_not_are_refused():
    with pytest.raises(BadInput, match="an encoder of 2 blocks has no hidden states -4"):
        vlm.VARIANTS["vlm_tiny"].make(vision_layer=-4)


@pytest.mark.parametrize(("layer", "unread"), [(-1, 0), (-2, 1), (-3, 2), (1, 1)])
def test_what_is_not_read_is_not_trained(layer, unread):
    model = tiny(vision_layer=layer).train()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    assert any(weight.requires_grad for weight in model.vision.parameters())
    frozen = [not block.norm1.weight.requires_grad for block in model.vision.layers]
    assert frozen == [False] * (2 - unread) + [True] * unread
    assert not model.vision.post_norm.weight.requires_grad


def test_an_image_changes_the_answer_and_its_neighbors_do_not():
    model = tiny()
    images, tokens = torch.randn(3, 3, 8, 8), torch.tensor([[2] * 4 + [3, 6, 7, 4]]).expand(3, -1)
    together = model(images, tokens)
    for row in range(3):
        alone = model(images[row : row + 1], tokens[:1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    assert (together[0] - together[1])[4:].abs().max() > 1e-3


def test_words_before_an_image_do_not_see_it():
    model = tiny()
    tokens = torch.tensor([[3, 6, *[2] * 4, 7]])
    a, b = (model(torch.randn(1, 3, 8, 8), tokens) for _ in range(2))
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.equal(a[:, 2:], b[:, 2:])


def test_the_loss_is_the_mean_over_tokens_of_answers():
    model = tiny()
    tokens = torch.tensor([[2, 2, 2, 2, 3, 6, 4, 7, 5], [2, 2, 2, 2, 3, 6, 4, 8, 9]])
    targets = torch.zeros_like(tokens)
    targets[0, 6:8] = torch.tensor([7, 5])
    targets[1, 6:9] = torch.tensor([8, 9, 5])
    images = torch.randn(2, 3, 8, 8)
    log_p = model(images, tokens).log_softmax(2)
    expected = -(log_p[0, 6, 7] + log_p[0, 7, 5] + log_p[1, 6, 8] + log_p[1, 7, 9] + log_p[1, 8, 5]) / 5
    metrics = loss(model, QuestionBatch(images, tokens, targets))
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert int(metrics["weight"]) == 5


# ---- runs


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    ts.train("vlm/smoke", out=folder / "run", quiet=True, device="cpu", steps=60)
    return folder / "run"


def save_digit(file, row=0):
    pixels = load_questions("digits", size=8).test.pixels[row].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file)
    return file


def test_predict_answers_the_question_that_is_asked(smoke_run, tmp_path, capsys):
    from torchstone.cli.main import main

    file = save_digit(tmp_path / "digit.png")
    assert (
        main(["predict", str(smoke_run), str(file), "--prompt", "Is it even or odd?", "--device", "cpu"]) == 0
    )
    assert capsys.readouterr().out.strip() in ("even", "odd")
    (found,) = ts.predict(smoke_run, file, device="cpu")
    assert found["prompt"] == "which digit is it?"
    assert (smoke_run / "pictures" / "answers.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("what colour is it?", "no question had the word"),
        ("is it even or odd? " * 9, "a question has at most"),
        ("", "empty"),
    ],
)
def test_questions_that_it_cannot_read_are_refused(prompt, message, smoke_run, tmp_path):
    with pytest.raises(BadInput, match=message):
        ts.predict(smoke_run, save_digit(tmp_path / "digit.png"), prompt=prompt, device="cpu")


def test_eval_measures_the_blank_image_beside_it(smoke_run):
    found = ts.evaluate(smoke_run, device="cpu")
    results = json.loads((smoke_run / "result.json").read_text())["metrics"]
    for name in ("accuracy", "digit_accuracy", "parity_accuracy", "blank_accuracy", "blank_digit_accuracy"):
        assert found[name] == pytest.approx(results[f"test/{name}"])
    # a blank image has one answer for each kind of question
    test = load_questions("digits", size=8).test
    shares = [
        sum(q.answer == word for q in test.questions if q.kind == "parity") / len(test.pixels)
        for word in ("even", "odd")
    ]
    assert min(abs(found["blank_parity_accuracy"] - share) for share in shares) < 1e-9


@torch.no_grad()
def test_generated_answers_are_those_of_whole_passes(smoke_run):
    """With the cache, the image is read once."""
    model, question = ts.load(smoke_run), "is it even or odd?"
    conversations = Conversations(ts.load_tokenizer(smoke_run), model.image_tokens)
    images = task.normalize(load_questions("digits", size=8).test.pixels[:12], model.metadata["picture"])
    answers = task.answer(model, images, conversations, question, 4)
    prompt = [question_batches.IMAGE_ID] * model.image_tokens + conversations.prompt(question)
    for image, found in zip(images, answers, strict=True):
        tokens = torch.tensor([prompt])
        for _ in range(4):
            following = model(image[None], tokens)[:, -1].argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, following], 1)
        ids = tokens[0, len(prompt) :].tolist()
        assert found == conversations.tokenizer.decode(ids[: ids.index(question_batches.END_ID)])
    assert set(answers) == {"even", "odd"}


def test_an_answer_counts_as_right_where_the_generated_one_is(smoke_run):
    """What evaluation reads off one pass with the right answer in it."""
    model = ts.load(smoke_run)
    metadata = model.metadata["picture"]
    conversations = Conversations(ts.load_tokenizer(smoke_run), model.image_tokens)
    test = load_questions("digits", size=8).test
    few = QuestionSplit(test.pixels[:30], tuple(q for q in test.questions if q.image < 30))
    rights, _ = task.score(model, few, conversations, metadata)
    expected = []
    for each in few.questions:
        image = task.normalize(few.pixels[each.image, None], metadata)
        expected += [task.answer(model, image, conversations, each.question, 5) == [each.answer]]
    assert rights.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_own_questions_train_and_have_one_accuracy(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = []
    for i in range(20):
        Image.new("RGB", (8, 8), (255, 0, 0) if i % 2 else (0, 0, 255)).save(folder / f"{i}.png")
        lines.append(f"{i}.png\tWhat color is it?\t{('blue', 'red')[i % 2]}")
    (folder / "questions.tsv").write_text("\n".join(lines))
    run = next(build(replace(SMOKE, data=str(folder))))
    for _ in range(30):
        run.update(next(run.stream))
    metrics = run.test()
    assert metrics["accuracy"] == 1.0
    assert set(metrics) == {"loss", "accuracy", "blank_accuracy", "majority_accuracy"}


def test_the_majority_is_that_of_training():
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    train = QuestionSplit(
        pixels, tuple(Question(i, "q?", a, "k") for i, a in enumerate(("x", "y", "y", "z")))
    )
    test = QuestionSplit(pixels, tuple(Question(i, "q?", a, "k") for i, a in enumerate(("x", "x", "y", "x"))))
    assert task.majority_accuracy(train, test) == 0.25


# ---- a trained encoder


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
    """A run of `clip` that has not been trained for long, on a folder of its own."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "mine").mkdir()
    for i in range(20):
        Image.new("RGB", (32, 32), (12 * i, 0, 90)).save(folder / "mine" / f"{i}.png")
        (folder / "mine" / f"{i}.txt").write_text(f"number {i} of many")
    fields = {"data": str(folder / "mine"), "steps": 2, "batch_size": 8, "device": "cpu"}
    ts.train("clip/smoke", out=folder / "run", quiet=True, **fields)
    return folder / "run"


def test_an_encoder_of_a_clip_run_is_read_and_stays(clip_run):
    recipe = replace_fields(SMOKE, {"vision": str(clip_run), "freeze": "vision"})
    run = next(build(recipe))
    model, trained = run.state["model"], ts.load(clip_run)
    before = {name: weight.clone() for name, weight in model.vision.state_dict().items()}
    assert all(torch.equal(weight, trained.vision.state_dict()[name]) for name, weight in before.items())
    run.update(next(run.stream))
    assert all(torch.equal(weight, before[name]) for name, weight in model.vision.state_dict().items())
    assert run.metadata["model_config"]["vision"]["image_size"] == 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision": "nowhere"}, "there is no vision encoder in nowhere: give a run of clip"),
        ({"freeze": "vision"}, "freeze vision needs a trained encoder"),
        ({"augment": "mixup"}, "mixes labels"),
    ],
)
def test_recipes_that_cannot_be_built_are_refused(fields, message):
    with pytest.raises(BadInput, match=message):
        next(build(replace_fields(SMOKE, fields)))


def test_another_systems_run_is_no_encoder(trained_run):
    with pytest.raises(
        BadInput, match="holds a gpt_char_cpu, which has no vision encoder: give a run of clip"
    ):
        next(build(replace_fields(SMOKE, {"vision": str(trained_run("gpt"))})))
