"""Folders in Hugging Face layout: written by transformers, complete and broken; and exported by us."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import torchstone as ts
from torchstone.api import export_hf, load_tokenizer
from torchstone.errors import BadInput, NotSaved
from torchstone.hub import bert, hf_export, hf_folder
from torchstone.references import randomize_weights
from torchstone.references.transformers import import_transformers
from torchstone.verify import relative_error

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "vocab_size": 50,
    "max_position_embeddings": 20,
}
KINDS = tuple(bert.HEADS)


def save_bert(folder, kind="BertModel", *, shard="5GB", **settings):
    """One of transformers' networks with random weights, in evaluation mode, saved to `folder`."""
    torch.manual_seed(1)
    library = import_transformers()
    model = getattr(library, kind)(library.BertConfig(**{**SMALL, **settings})).eval()
    randomize_weights(model, 0.3)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def inputs(vocab_size=50):
    tokens = torch.randint(1, vocab_size, (3, 11))
    mask = torch.arange(11) < torch.tensor([[11], [4], [9]])
    return tokens * mask, mask, torch.randint(2, (3, 11))


@torch.no_grad()
def error(ours, theirs) -> float:
    """Relative error of our outputs on padded rows."""
    tokens, mask, segments = inputs(theirs.config.vocab_size)
    theirs = theirs(tokens, attention_mask=mask.long(), token_type_ids=segments).to_tuple()
    own = ours.logits(tokens, mask, segments)
    own = own if isinstance(own, tuple) else (own,)
    return relative_error(own, theirs)


@pytest.mark.parametrize("shard", ["5GB", "6KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_load_equals_transformers_for_every_class(kind, shard, tmp_path):
    theirs = save_bert(tmp_path, kind, shard=shard)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    assert (len(files) > 2) == (shard == "6KB")
    ours = ts.load(tmp_path)
    difference = error(ours, theirs)
    print(f"{kind} in {len(files)} files: {difference:.1e} apart")
    assert not ours.training
    assert difference < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 20, "num_attention_heads": 1},
        {"hidden_size": 20, "num_attention_heads": 5},
        {"num_hidden_layers": 4, "intermediate_size": 7},
        {"vocab_size": 77, "type_vocab_size": 3},
        {"hidden_act": "relu"},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "silu"},
        {"layer_norm_eps": 0.1},
        {"tie_word_embeddings": False},
        {"max_position_embeddings": 11},
        {"pad_token_id": 3},
    ],
    ids=lambda settings: ", ".join(f"{k} {v}" for k, v in settings.items()),
)
def test_load_honors_every_setting_of_the_config(settings, tmp_path):
    theirs = save_bert(tmp_path, "BertForPreTraining", **settings)
    ours = ts.load(tmp_path)
    difference = error(ours, theirs)
    print(f"{settings}: {difference:.1e} apart")
    assert difference < 1e-5
    tied = theirs.config.tie_word_embeddings
    assert (ours.decoder.weight is ours.token_embedding.weight) == tied


def test_load_depends_on_each_setting_of_the_config(tmp_path):
    """Otherwise the test above could not fail: changing a setting in the file changes the output."""
    theirs = save_bert(tmp_path, "BertForPreTraining")
    text = (tmp_path / "config.json").read_text()
    for name, value in {"hidden_act": "relu", "layer_norm_eps": 0.1, "num_attention_heads": 1}.items():
        (tmp_path / "config.json").write_text(json.dumps({**json.loads(text), name: value}))
        difference = error(ts.load(tmp_path), theirs)
        print(f"{name} = {value}: {difference:.1e} apart")
        assert difference > 1e-3


def change_config(folder, **settings) -> None:
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({k: v for k, v in config.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish'"),
        ({"moe_experts": 4}, "moe_experts = 4"),
        ({"problem_type": "regression"}, "problem_type = 'regression'"),
        ({"architectures": ["BertForQuestionAnswering"]}, "BertForQuestionAnswering"),
        ({"num_attention_heads": 5}, "num_attention_heads = 5"),
        ({"num_hidden_layers": "gone"}, "num_hidden_layers"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide'"),
        ({"model_type": "llama"}, "model_type 'llama'.*bert, gpt2"),
        ({"model_type": "gone"}, "no model_type"),
        ({"model_type": "gone", "architecture": "resnet18"}, "timm's folder of 'resnet18'"),
        ({"num_hidden_layers": 3}, "missing: layers.2"),
        ({"num_hidden_layers": 1}, "unknown: layers.1"),
        ({"num_hidden_layers": 10**9}, "describes 1000000000 layers, but its weights are 39 tensors"),
        ({"vocab_size": 10**12}, r"describes 24,0\d\d,\d*,\d*,\d* parameters"),
        ({"vocab_size": 51}, "of another shape: token_embedding.weight"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_load_rejects_unsupported_setting_by_name(settings, message, tmp_path):
    save_bert(tmp_path)
    change_config(tmp_path, **settings)
    with pytest.raises(BadInput, match=message) as caught:
        ts.load(tmp_path)
    print(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_accepts_settings_without_effect(tmp_path):
    theirs = save_bert(tmp_path)
    change_config(
        tmp_path,
        position_embedding_type="absolute",
        gradient_checkpointing=True,
        directionality="bidi",
        pooler_type="first_token_transform",
        pooler_fc_size=768,
        layer_norm_eps="gone",
        _num_labels=7,
        **{"max_length": 20, "num_beams": 1, "do_sample": False, "top_k": 50, "temperature": 1.0},
        **{"output_attentions": True, "output_hidden_states": True, "torchscript": True},
        **{"_commit_hash": "1", "_attn_implementation_internal": "sdpa", "loss_type": "ForMaskedLM"},
        **{"transformers.js_config": {"dtype": "q8"}, "compression_config": None},
    )
    assert error(ts.load(tmp_path), theirs) < 1e-5


def break_folder(folder, fault: str) -> str:
    """Break a folder with shards; returns the expected error message."""
    shards = sorted(folder.glob("model-*.safetensors"))
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    if fault == "a shard is missing":
        shards[1].unlink()
        return f"lacks the shard {shards[1].name}"
    if fault == "a shard is cut off":
        shards[1].write_bytes(shards[1].read_bytes()[:100])
        return f"{shards[1].name} is not a whole safetensors file"
    if fault == "a tensor is missing":
        file = folder / content["weight_map"][first]
        tensors = load_file(file)
        save_file({k: v for k, v in tensors.items() if k != first}, file)
        return f"should hold {first}"
    if fault == "a shard lies elsewhere":
        content["weight_map"][first] = "../" + shards[0].name
        index.write_text(json.dumps(content))
        return "outside its folder"
    if fault == "the index is no index":
        index.write_text("{}")
        return "no weight_map"
    if fault == "the config is cut off":
        (folder / "config.json").write_text('{"model_type": "be')
        return "config.json cannot be read"
    if fault == "the config is a list":
        (folder / "config.json").write_text("[]")
        return "holds a list"
    for file in [*shards, index]:
        file.unlink()
    return "holds no weights"


@pytest.mark.parametrize(
    "fault",
    [
        "a shard is missing",
        "a shard is cut off",
        "a tensor is missing",
        "a shard lies elsewhere",
        "the index is no index",
        "the config is cut off",
        "the config is a list",
        "no weights at all",
    ],
)
def test_load_reports_broken_folder_in_one_line(fault, tmp_path):
    save_bert(tmp_path, shard="6KB")
    message = break_folder(tmp_path, fault)
    with pytest.raises(BadInput, match=message) as caught:
        ts.load(tmp_path)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_load_rejects_empty_folder(tmp_path):
    with pytest.raises(BadInput, match="is not a run folder"):
        ts.load(tmp_path)
    with pytest.raises(BadInput, match=r"holds no config\.json"):
        hf_folder.read(tmp_path)


def test_load_reads_pickles_and_names_of_the_first_release(tmp_path):
    """Pickled weights, in one file and in shards, with the first release's names of a norm's weights;
    and a file that would run code."""
    theirs = save_bert(tmp_path, "BertForMaskedLM")
    (tmp_path / "model.safetensors").unlink()
    state = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in theirs.state_dict().items()
    }
    state["bert.embeddings.position_ids"] = torch.arange(20)[None]
    state["bert.embeddings.token_type_ids"] = torch.zeros(1, 20, dtype=torch.long)
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert error(ts.load(tmp_path), theirs) < 1e-5
    names, half = list(state), len(state) // 2
    weight_map = {n: f"pytorch_model-{1 + (i >= half)}.bin" for i, n in enumerate(names)}
    for file in set(weight_map.values()):
        torch.save({n: state[n] for n in names if weight_map[n] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin").unlink()
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert error(ts.load(tmp_path), theirs) < 1e-5
    index.unlink()
    torch.save({"weight": torch.ones(1), "code": shutil.rmtree}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="holds code and was refused unread"):
        ts.load(tmp_path)


def test_match_weights_follows_the_file_not_the_class(tmp_path):
    """The first published files have the pre-training heads, their config names the masked-LM class."""
    theirs = save_bert(tmp_path, "BertForPreTraining")
    change_config(tmp_path, architectures=["BertForMaskedLM"])
    ours = ts.load(tmp_path)
    assert ours.head == "pretraining"
    assert error(ours, theirs) < 1e-5
    bare = save_bert(tmp_path / "bare")
    tensors = load_file(tmp_path / "bare" / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if "pooler" not in k}, tmp_path / "bare" / "model.safetensors"
    )
    ours = ts.load(tmp_path / "bare")
    assert ours.pooler is None
    tokens, mask, segments = inputs()
    with torch.no_grad():
        hidden = bare(tokens, attention_mask=mask.long(), token_type_ids=segments)[0]
        assert relative_error(ours(tokens, mask, segments), hidden) < 1e-5


def test_load_rejects_tied_weights_that_differ(tmp_path):
    """A config that ties two tensors which differ in the file would silently drop one of them."""
    theirs = save_bert(tmp_path, "BertForMaskedLM", tie_word_embeddings=False)
    assert error(ts.load(tmp_path), theirs) < 1e-5
    change_config(tmp_path, tie_word_embeddings=True)
    with pytest.raises(BadInput, match=r"not the same though tied: (token_embedding|decoder)"):
        ts.load(tmp_path)


def test_load_converts_half_precision(tmp_path):
    theirs = save_bert(tmp_path).bfloat16()
    theirs.save_pretrained(tmp_path)
    ours = ts.load(tmp_path)
    assert ours.token_embedding.weight.dtype == torch.float32
    assert torch.equal(ours.token_embedding.weight, theirs.embeddings.word_embeddings.weight.float())


def test_fetch_prefers_safetensors_and_reports_failure_in_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    theirs = save_bert(tmp_path)
    downloads = []

    def snapshot(name, allow_patterns):
        downloads.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert error(ts.load("hf:someone/small"), theirs) < 1e-5
    assert [name for name, _ in downloads] == ["someone/small"]
    assert not any(".bin" in pattern for pattern in downloads[0][1])
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert error(ts.load("hf:someone/small"), theirs) < 1e-5
    assert any(".bin" in pattern for pattern in downloads[-1][1])
    monkeypatch.undo()
    with pytest.raises(BadInput, match="cannot fetch hf:someone/absent") as caught:
        ts.load("hf:someone/absent")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_hf_export_is_loaded_by_transformers(kind, tmp_path):
    theirs = save_bert(tmp_path / "theirs", kind, num_labels=4, hidden_act="gelu_new")
    config, _ = hf_folder.read(tmp_path / "theirs")
    _, model_config = bert.from_config(config)
    ours = ts.load(tmp_path / "theirs")
    hf_export.write(tmp_path / "out", bert.to_config(model_config), bert.unpublished("", ours.state_dict()))
    again, info = getattr(import_transformers(), kind).from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    differences = error(ours, again.eval()), error(ours, theirs)
    print(f"{kind}: {differences} apart")
    assert max(differences) < 1e-5


def test_hf_export_writes_all_or_nothing(tmp_path, monkeypatch):
    tensors = {"a.weight": torch.ones(2)}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty"):
        hf_export.write(tmp_path / "full", {}, tensors)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_export, "save_file", full)
    with pytest.raises(NotSaved, match="No space left"):
        hf_export.write(tmp_path / "out", {}, tensors)
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


def test_export_hf_keeps_labels_and_tokenizer(tmp_path):
    """`export --format hf`: transformers reads the class names, the tokenizer and the weights."""
    run = tmp_path / "run"
    fields = {"max_examples": 300, "pretrain_steps": 2, "steps": 3, "vocab_size": 300, "batch_size": 8}
    ts.train("bert/smoke", out=run, quiet=True, **fields)
    folder = export_hf(run, tmp_path / "out")
    library = import_transformers()
    theirs = library.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    text = "what a good day"
    (answer,) = ts.predict(run, [text])
    with torch.no_grad():
        logits = theirs(**tokenizer(text, return_tensors="pt")).logits
    probabilities = dict(zip(theirs.config.id2label.values(), logits.softmax(1)[0].tolist(), strict=True))
    print(answer["probabilities"], probabilities)
    assert answer["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    assert tokenizer.mask_token == "[MASK]"
    assert load_tokenizer(folder).to_str() == load_tokenizer(run).to_str()
    with pytest.raises(BadInput, match="not empty"):
        export_hf(run, folder)


def small_t5(folder, tied=True):
    import transformers

    torch.manual_seed(0)
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 3, "vocab_size": 40}
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).eval()
    theirs.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    if not tied:
        state["lm_head.weight"] = torch.randn(40, 12)
        change_config(folder, tie_word_embeddings=False)
    return state


NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kept", [NAMES, NAMES[:1], NAMES[1:2], NAMES[2:], NAMES[1:], ()])
def test_t5_embedding_under_any_of_its_names(kept, tied, tmp_path):
    """Savers keep one name of a tensor that has several, and not the same one."""
    state = small_t5(tmp_path, tied)
    own = {name: tensor for name, tensor in state.items() if name not in NAMES or name in kept}
    if kept and tied:
        del own["lm_head.weight"]
    save_file(own, tmp_path / "model.safetensors")
    if not kept and not tied:
        with pytest.raises(BadInput, match=r"the weights lack shared\.weight"):
            ts.load(tmp_path)
        return
    model = ts.load(tmp_path)
    print(kept, tied, sorted(model.state_dict())[-3:])
    assert torch.equal(model.state_dict()["token_embedding.weight"], state["shared.weight"])
    assert (model.head is None) == tied
    if not tied:
        assert torch.equal(model.head.weight, state["lm_head.weight"])


def test_t5_with_two_embeddings_is_refused(tmp_path):
    state = small_t5(tmp_path)
    state["decoder.embed_tokens.weight"] = state["shared.weight"] + 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match=r"a decoder\.embed_tokens\.weight other than shared\.weight"):
        ts.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architectures", [["BertModel"]]),
        ("architectures", 3),
        ("model_type", ["bert"]),
        ("hidden_size", 10**30),
    ],
)
def test_load_refuses_settings_of_another_type(name, value, tmp_path):
    save_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(BadInput) as caught:
        ts.load(tmp_path)
    print(caught.value)
    assert str(tmp_path) in str(caught.value)
