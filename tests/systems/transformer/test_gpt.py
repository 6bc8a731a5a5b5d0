"""GPT: order of the layers, what is tied, initialisation, configs, names, training and its use."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

import torchstone as ts
from torchstone.data.text import tokenizers
from torchstone.data.text.corpus import Text
from torchstone.errors import BadInput
from torchstone.parts.facts import parameters
from torchstone.references import gpts, transformers
from torchstone.systems.transformer import gpt
from torchstone.systems.transformer.gpt import GPT, from_config, published, to_config, unpublished
from torchstone.tasks.text import language_model
from torchstone.verify import relative_error

SMALL = {"vocabulary": 19, "context": 12}


def small(**arguments) -> GPT:
    torch.manual_seed(0)
    return GPT(12, 2, 3, **SMALL, **arguments).double().eval()


def written_out(model: GPT, ids: torch.Tensor, *, post_norm: bool) -> torch.Tensor:
    """The equations of the file's head, a head of attention at a time."""
    h = torch.stack([model.tokens.weight[i] + model.places.weight[t] for t, i in enumerate(ids)])

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + layer.eps).sqrt() * layer.weight + layer.bias

    def attention(x, part):
        q, k, v = (x @ part.qkv.weight.T + part.qkv.bias).chunk(3, -1)
        heads = []
        for own in zip(*(z.chunk(part.heads, -1) for z in (q, k, v)), strict=True):
            scores = own[0] @ own[1].T / math.sqrt(own[0].shape[-1])
            rows = [row[: t + 1].softmax(-1) @ own[2][: t + 1] for t, row in enumerate(scores)]
            heads.append(torch.stack(rows))
        return torch.cat(heads, -1) @ part.out.weight.T + part.out.bias

    def feed(x, part):
        y = x @ part.up.weight.T + part.up.bias
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        return y @ part.down.weight.T + part.down.bias

    for layer in model.layers:
        if post_norm:
            a = norm(h + attention(h, layer.attention), layer.norm1)
            h = norm(a + feed(a, layer.feed), layer.norm2)
        else:
            a = h + attention(norm(h, layer.norm1), layer.attention)
            h = a + feed(norm(a, layer.norm2), layer.feed)
    return (h if post_norm else norm(h, model.norm)) @ model.tokens.weight.T


@pytest.mark.parametrize("post_norm", [False, True])
def test_it_is_its_equations(post_norm):
    model = small(post_norm=post_norm)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
        ids = torch.randint(19, (11,))
        difference = relative_error(model(ids[None])[0], written_out(model, ids, post_norm=post_norm))
        print(difference)
        assert difference < 1e-12
        # seen to fail: with the norms on the other side
        model.layers[0].post_norm = not post_norm
        assert relative_error(model(ids[None])[0], written_out(model, ids, post_norm=post_norm)) > 1e-3


def test_no_place_sees_those_after_it():
    model = small()
    ids = torch.randint(19, (2, 12))
    other = ids.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 19
    a, b = model(ids), model(other)
    assert torch.equal(a[:, :7], b[:, :7])
    assert not torch.equal(a[:, 7:], b[:, 7:])
    assert (
        torch.equal(model(ids, last=True), a[:, -1:])
        or relative_error(model(ids, last=True), a[:, -1:]) < 1e-14
    )


def test_padding_at_the_end_changes_nothing_before_it():
    (theirs,) = gpts(1, seed=3)
    theirs = theirs.double().eval()
    arguments = from_config(theirs.config.to_dict())[1]
    ours = GPT(**arguments).double().eval()
    ours.load_state_dict(published("", theirs.state_dict()))
    ids = torch.randint(arguments["vocabulary"], (3, 8))
    mask = torch.arange(8) < torch.tensor([[8], [5], [2]])
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=mask.long()).logits[mask]
        assert relative_error(ours(ids)[mask], wanted) < 1e-12


def test_the_embedding_is_the_last_layer_unless_it_is_not():
    tied, apart_ = small(), small(tied=False)
    assert tied.head.weight is tied.tokens.weight
    assert parameters(apart_) - parameters(tied) == 19 * 12
    assert apart_.head.weight is not apart_.tokens.weight


def test_weights_start_as_gpt2s():
    torch.manual_seed(0)
    model = GPT(64, 8, 4, vocabulary=500, context=100)
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float("bias" not in name))), name
        elif name.endswith("bias"):
            assert not weight.any(), name
        else:
            adds = "attention.out" in name or "feed.down" in name
            wanted = 0.02 / math.sqrt(16) if adds else 0.02
            assert abs(float(weight.std().detach()) / wanted - 1) < 0.05, name


def test_attention_is_scaled_as_the_config_says():
    wide = [layer.attention.scale for layer in small().layers]
    assert wide == [0.5, 0.5]
    assert [x.attention.scale for x in small(scaled=False).layers] == [1.0, 1.0]
    assert [x.attention.scale for x in small(scaled_by_layer=True).layers] == [0.5, 0.25]


def test_more_than_the_context_is_refused():
    model = small()
    assert model(torch.zeros(1, 12, dtype=torch.int64)).shape == (1, 12, 19)
    with pytest.raises(BadInput, match="13 tokens, but the context holds 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))
    past = model.past()
    model(torch.zeros(1, 12, dtype=torch.int64), past)
    with pytest.raises(BadInput, match="13 tokens"):
        model(torch.zeros(1, 1, dtype=torch.int64), past)


def test_configs_go_there_and_back():
    for theirs in gpts(6, seed=9):
        config = theirs.config.to_dict()
        _, arguments = from_config(config)
        again = to_config(arguments)
        _, same = from_config(again)
        assert same == arguments
        for name, value in again.items():
            if name not in ("architectures", "dtype"):
                assert config[name] == value, name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"reorder_and_upcast_attn": True},
            "reorder_and_upcast_attn = True; implemented here is False",
        ),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"activation_function": "mish"}, "activation_function = 'mish'; implemented are"),
        ({"rotary_dim": 4}, "rotary_dim = 4, which is not implemented"),
        ({"n_head": 5}, "n_head = 5, which does not divide"),
        ({"n_ctx": 7}, "n_ctx = 7"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequenceClassification"),
        ({"model_type": "gptj"}, "gptj"),
        ({"n_layer": "two"}, "n_layer = 'two'"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(change, said):
    config = transformers().GPT2Config(n_embd=12, n_head=3).to_dict()
    from_config(config)
    with pytest.raises(BadInput, match=said):
        from_config(config | change)


def test_gpt1s_gelu_is_the_approximation():
    assert from_config(transformers().OpenAIGPTConfig().to_dict())[1]["activation"] == "gelu_new"


def test_published_weights_of_any_age_and_nanogpts():
    (theirs,) = gpts(1, seed=1)
    wanted = published("gpt2", theirs.state_dict())
    # the first release: no prefix, and the causal mask saved as well
    old = {k.removeprefix("transformer."): v for k, v in theirs.state_dict().items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    again = published("gpt2", old)
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[k], wanted[k]) for k in wanted)
    # nanoGPT's products are the other way round
    nano = {
        f"_orig_mod.{k}": v.T if any(p in k for p in ("c_attn.w", "c_proj.w", "c_fc.w")) else v
        for k, v in theirs.state_dict().items()
    }
    again = published("gpt2", nano)
    assert all(torch.equal(again[k], wanted[k]) for k in wanted)


def test_what_has_no_biases_is_the_same_network_in_transformers():
    model = small(bias=False, activation="gelu")
    config = to_config({"width": 12, "depth": 2, "heads": 3, "bias": False, "activation": "gelu", **SMALL})
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    settings = {k: v for k, v in config.items() if k not in ("model_type", "architectures", "dtype")}
    theirs = transformers().GPT2LMHeadModel(transformers().GPT2Config(**settings)).double().eval()
    theirs.load_state_dict(unpublished("gpt_char", model.state_dict()))
    ids = torch.randint(19, (2, 12))
    with torch.no_grad():
        assert relative_error(model(ids), theirs(ids).logits) < 1e-12


def test_a_split_is_measured_whole_and_always_alike():
    model = small().float()
    ids = torch.randint(19, (101,))
    said = language_model.measure(model, ids, 202)
    with torch.no_grad():
        parts = [
            F.cross_entropy(model(ids[None, i : min(i + 12, 100)])[0], ids[i + 1 : i + 13], reduction="sum")
            for i in range(0, 100, 12)
        ]
    wanted = float(sum(parts)) / 100
    print(said, wanted)
    assert abs(said["loss"] - wanted) < 1e-5
    assert abs(said["bits_per_character"] - wanted / math.log(2) * 101 / 202) < 1e-5
    assert language_model.measure(model, ids, 202) == said
    glance = language_model.measure(model, ids, 202, max_tokens=36)
    rows = torch.tensor([0, 4, 7])
    x = ids[:96].view(8, 12)[rows]
    y = ids[1:97].view(8, 12)[rows]
    with torch.no_grad():
        assert abs(glance["loss"] - float(F.cross_entropy(model(x).flatten(0, 1), y.flatten()))) < 1e-5
    with pytest.raises(BadInput, match="cannot be measured"):
        language_model.measure(model, ids[:1], 1)


def test_only_matrices_decay():
    recipe = gpt.RECIPES["smoke"]
    (run,) = gpt.build(recipe)
    groups = run.state["optimiser"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(p.dim() == 2 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])
    assert groups[0]["betas"] == (0.9, 0.99)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "gpt"
    run = ts.train("gpt/smoke", out=folder, quiet=True, device="cpu")
    return folder, run


def test_it_beats_telling_tokens_by_their_frequency(trained):
    folder, run = trained
    (built,) = gpt.build(gpt.RECIPES["smoke"])
    tokenizer = ts.api.load_tokenizer(folder)
    counts = torch.bincount(built.stream.rows[:, 0], minlength=tokenizer.get_vocab_size()) + 1.0
    text = language_model.read_text("python/json").test
    ids = tokenizers.encode(tokenizer, text)
    unigram = float(-(counts / counts.sum()).log()[ids].mean())
    print(f"unigram {unigram:.3f}, gpt/smoke {run.results['test/loss']:.3f}")
    assert run.results["test/unigram"] == pytest.approx(unigram, abs=0.02)
    assert run.results["test/loss"] < unigram - 0.3
    assert (folder / "tokenizer.json").exists()
    assert tokenizers.load(folder / "tokenizer.json").get_vocab() == tokenizer.get_vocab()


def test_it_can_be_used_from_the_command_line(trained, tmp_path, capsys):
    from torchstone.cli.main import main

    folder = str(trained[0])
    assert main(["sample", folder, "--prompt", "def ", "-n", "2", "--length", "20", "--seed", "3"]) == 0
    first = capsys.readouterr().out
    assert first.count("def ") >= 2
    main(["sample", folder, "--prompt", "def ", "-n", "2", "--length", "20", "--seed", "3"])
    assert capsys.readouterr().out == first
    out = tmp_path / "text.txt"
    assert main(["sample", folder, "--length", "30", "--out", str(out)]) == 0
    assert len(out.read_text()) == 32  # a new line, 30 characters, the end of the file
    capsys.readouterr()
    assert main(["sample", folder, "--prompt", "é"]) == 2
    assert "the character 'é'" in capsys.readouterr().err
    assert main(["sample", folder, "--prompt", "a" * 33]) == 2
    assert "the prompt has 33 tokens, the model's context 32" in capsys.readouterr().err
    file = tmp_path / "own.txt"
    file.write_text("import json\n" * 20)
    assert main(["eval", folder, "--data", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"] == said["characters"] == 240
    assert abs(said["perplexity"] - math.exp(said["loss"])) < 1e-6
    assert abs(said["perplexity"] - said["perplexity_per_character"]) < 1e-6
    assert main(["predict", folder, "import "]) == 0
    assert capsys.readouterr().out.startswith("import ")


def test_worked_examples_stand_before_the_question(tmp_path, monkeypatch):
    """A tokenizer and a model that says what it was given: the whole prompt is seen."""
    model = GPT(12, 1, 2, vocabulary=40, context=64).eval()
    text = Text("t", "one two six red blue\tabc\n" * 5, "", "", "")
    tokenizer = tokenizers.train("characters", [text.train], vocab_size=40)
    metadata = {"tokenizer": tokenizers.to_metadata(tokenizer)}
    seen = []

    def write(model, prompt, new, **how):
        seen.append((tokenizer.decode(prompt[0].tolist()), how["greedy"]))
        answer = tokenizers.encode(tokenizer, "six\n\ntwo")
        return torch.cat([prompt, answer[None]], 1)

    monkeypatch.setattr(language_model, "generate", write)
    file = tmp_path / "examples.tsv"
    file.write_text("one\ttwo\nred\tblue\n")
    (answer,) = language_model.predict(model, metadata, ["two"], examples=file)
    assert seen == [("one\ntwo\n\nred\nblue\n\ntwo\n", True)]
    assert answer == {"input": "two", "text": "six"}
    (answer,) = language_model.predict(model, metadata, ["two"])
    assert seen[1] == ("two", True)
    assert answer["text"] == "twosix\n\ntwo"


def test_a_published_tokenizer_is_used_as_it_is(tmp_path):
    text = "to be or not to be\n" * 100
    learnt = tokenizers.train("bpe", [text], vocab_size=270)
    learnt.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(text)
    fields = {"data": str(tmp_path / "text.txt"), "device": "cpu"}
    _, _, recipe = ts.api.recipe_of("gpt/smoke", {**fields, "tokenizer": str(tmp_path / "tokenizer.json")})
    (run,) = gpt.build(recipe)
    assert run.metadata["model_config"]["vocabulary"] == learnt.get_vocab_size()
    _, _, recipe = ts.api.recipe_of("gpt/smoke", {**fields, "tokenizer": "letters"})
    with pytest.raises(BadInput, match="no tokenizer 'letters': characters, bpe"):
        next(gpt.build(recipe))
    _, _, recipe = ts.api.recipe_of("gpt2/smoke", {**fields, "width": None, "depth": 1, "heads": None})
    (run,) = gpt.build(recipe)
    assert run.metadata["model_config"]["width"] == 768


def test_the_table_counts_what_is_tied_once():
    from torchstone.cli.show import layers

    make, shape = gpt.VARIANTS["gpt_char_cpu"]
    rows = {row.name: row for row in layers(make(), shape)}
    assert rows["tokens"].parameters == 65 * 128
    assert rows["head"].parameters == 0
    assert rows["head"].macs == 64 * 65 * 128
    # places are read, not called: no row of theirs
    assert sum(row.parameters for row in rows.values()) == 804_096 - 64 * 128
