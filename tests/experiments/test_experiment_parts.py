"""What the claims about networks are made of: problems, arms and measures that no system has."""

from functools import partial

import pytest
import torch
from torch import nn

from torchstone.engine.update import OptimConfig
from torchstone.experiments import letters, sequences
from torchstone.experiments.claims import (
    attention_translates,
    channel_attention,
    dilation_field,
    distilled,
    exploding_clip,
    features_hierarchy,
    features_learned,
    few_shot,
    global_context,
    gru_comparable,
    parallel,
    positions_needed,
    residual_depth,
    sparse_linear,
)
from torchstone.parts.facts import count_parameters


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw_names(count, generator):
    """Tokens to be named, of which every second counts."""
    x = torch.randint(4, (count, 6), generator=generator)
    y = x.clone()
    y[:, 1::2] = sequences.IGNORED
    return x, y


def test_problems_are_fixed_by_seed_and_position():
    first = sequences.Problems(draw_names, 8, 0)
    batches = [next(first) for _ in range(3)]
    again = sequences.Problems(draw_names, 8, 0)
    again.load_state_dict({"position": 16})
    assert torch.equal(next(again)[0], batches[2][0])
    assert not torch.equal(next(sequences.Problems(draw_names, 8, 1))[0], batches[0][0])


def test_train_on_learns_what_counts_and_measures_it():
    optim = OptimConfig(lr=0.1)
    make = partial(nn.Embedding, 4, 4)
    outcome = sequences.train_on(make, draw_names, seed=0, steps=40, optim=optim)
    assert outcome.metrics["test/accuracy"] == 1
    assert outcome.losses[0] > 1 > outcome.losses[-1]
    x, y = draw_names(50, generator())
    y[:, 1::2] = 3 - x[:, 1::2]  # now what was ignored counts, and is wrong
    assert sequences.accuracy(outcome.model, x, y) == pytest.approx(0.5)


def test_letters_without_spaces_keep_where_words_end():
    each = letters.letters_of("To be,\n  or")
    assert each.tolist() == [20, 15, 0, 2, 5, 0, 15, 18]
    sequence = letters.without_spaces(each)
    assert sequence.inputs.tolist() == [20, 15, 2, 5, 15]
    assert sequence.targets.tolist() == [0, 1, 0, 1, 0]


def test_windows_are_of_the_sequence_and_may_count_the_last_only():
    line = letters.Sequence(torch.arange(200), torch.arange(200) + 1)
    x, y = letters.windows(5, generator(), line)
    assert torch.equal(x + 1, y)
    assert bool((x.diff(dim=1) == 1).all())
    _, last = letters.windows(5, generator(), line, only_last=True)
    assert torch.equal(last[:, -1], y[:, -1])
    assert bool((last[:, :-1] == sequences.IGNORED).all())


def test_plain_block_has_the_parameters_of_a_residual_one_and_no_shortcut():
    plain, residual = (make(4, 4, 1) for make in residual_depth.BLOCKS.values())
    residual, plain = plain, residual  # in the order of the names
    assert list(residual_depth.BLOCKS) == ["shortcuts", "plain"]
    assert count_parameters(plain) == count_parameters(residual)
    x = torch.rand(2, 4, 5, 5)
    for block, expected in ((plain, torch.zeros_like(x)), (residual, x)):
        nn.init.zeros_(block.conv2.weight)
        assert torch.equal(block.eval()(x.clone()), expected)


def test_blind_gate_has_one_factor_for_all_images():
    torch.manual_seed(0)
    blind, gate = (channel_attention.BLOCKS[name](4, 4, 1).se for name in ("blind gate", "gate"))
    assert count_parameters(blind) == count_parameters(gate)
    x = torch.rand(2, 4, 3, 3) + torch.arange(1.0, 3.0)[:, None, None, None]
    for each, is_equal in ((blind, True), (gate, False)):
        factors = (each(x) / x)[:, :, 0, 0]
        assert torch.allclose(factors[0], factors[1], rtol=1e-5) == is_equal


def stripes(angle):
    """A wave along a direction, in degrees."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    radians = torch.tensor(angle * torch.pi / 180)
    return (0.6 * (x * radians.cos() + y * radians.sin())).sin()[None, None]


def test_oriented_gradients_find_the_direction_whatever_the_contrast():
    hog = features_learned.oriented_gradients
    for angle, bins in ((0, (0, 8)), (60, (2, 3)), (100, (4, 5))):
        features = hog(stripes(float(angle)))
        # (bins · cells of a block, positions)
        share = features.unflatten(1, (features_learned.BINS, -1)).sum(2)[0]
        assert int(share.argmax()) in bins
    assert torch.allclose(hog(3 * stripes(30.0) + 5), hog(stripes(30.0)), atol=1e-4)
    assert not torch.allclose(hog(stripes(30.0)), hog(stripes(75.0)), atol=0.1)


def test_edge_direction_is_that_of_the_gradient_in_the_middle():
    found = [int(features_hierarchy.edge_direction(stripes(angle))) for angle in (0.0, 45.0, 90.0, 135.0)]
    assert found == [0, 1, 2, 3]
    elsewhere = stripes(0.0)
    elsewhere[..., 8:24, 8:24] = stripes(90.0)[..., 8:24, 8:24]
    assert int(features_hierarchy.edge_direction(elsewhere)) == 2


def test_recall_texts_have_one_symbol_at_its_distance():
    tokens, symbols = global_context.draw_texts(200, generator(), distance=32)
    is_symbol = tokens < global_context.SYMBOLS
    assert bool((is_symbol.sum(1) == 1).all())
    assert torch.equal(tokens[:, global_context.LENGTH - 1 - 32], symbols)
    tokens, _ = global_context.draw_texts(2000, generator())
    distance = global_context.LENGTH - 1 - (tokens < global_context.SYMBOLS).long().argmax(1)
    assert int(distance.min()) == 1
    assert int(distance.max()) > 100
    assert 0.3 < float((distance < 8).double().mean()) < 0.55  # log-uniform: ln 8 / ln 128 = 0.43


def test_encoder_without_positions_reads_a_bag():
    torch.manual_seed(0)
    x, _ = positions_needed.draw_mirrored(4, generator())
    order = torch.randperm(positions_needed.LENGTH, generator=generator(1))
    for has, is_bag in ((False, True), (True, False)):
        model = positions_needed.Encoder(has).eval()
        assert torch.allclose(model(x[:, order]), model(x)[:, order], atol=1e-5) == is_bag


def test_frequent_and_causal_problems_ask_for_what_they_say():
    x, y = positions_needed.draw_frequent(100, generator())
    assert torch.equal(x.mode(1).values, y[:, 0])
    assert bool(((x == y).sum(1) == positions_needed.LENGTH // 2).all())
    tokens, targets = positions_needed.draw_causal(3, generator())
    half = positions_needed.LENGTH
    assert torch.equal(targets[:, half:], tokens[:, :half].flip(1))
    assert torch.equal(tokens[:, half + 1 :], targets[:, half:-1])  # each target is the next input


def test_texts_to_translate_have_one_letter_for_each():
    x, y = attention_translates.draw_texts(300, generator())
    half = attention_translates.LONGEST
    source, inputs = x[:, :half], x[:, half:]
    is_text = source != attention_translates.PAD
    assert torch.equal(is_text, y != sequences.IGNORED)
    pairs = set(zip(source[is_text].tolist(), y[is_text].tolist(), strict=True))
    assert len(pairs) == attention_translates.LETTERS  # a code
    assert len({b for _, b in pairs}) == attention_translates.LETTERS
    assert torch.equal(inputs[:, 1:][is_text[:, 1:]], y[:, :-1][is_text[:, 1:]])
    short, _ = attention_translates.draw_texts(5, generator(), length=3)
    assert bool(((short[:, :half] != attention_translates.PAD).sum(1) == 3).all())


def test_few_shot_texts_keep_each_symbols_label():
    tokens, targets = few_shot.draw_texts(50, generator())
    assert torch.equal(tokens[:, 1::2], targets[:, ::2])
    assert bool((targets[:, 1::2] == sequences.IGNORED).all())
    for row in tokens.tolist():
        label = dict(zip(row[::2], row[1::2], strict=True))
        assert [label[s] for s in row[::2]] == row[1::2]


def test_student_begins_with_the_teachers_first_and_last_layer():
    torch.manual_seed(0)
    teacher = distilled.bert(3)
    student = distilled.student_of(teacher)
    ours, theirs = student.net.state_dict(), teacher.net.state_dict()
    for number, of_teacher in ((0, 0), (1, 2)):
        for name in (n for n in ours if n.startswith(f"layers.{number}.")):
            assert torch.equal(ours[name], theirs[name.replace(f"layers.{number}", f"layers.{of_teacher}")])
    assert torch.equal(ours["classifier.weight"], theirs["classifier.weight"])


def test_gru_of_as_many_parameters_has_within_three_percent():
    for inputs in (2, 8, 10, 24):
        lstm, gru = (
            count_parameters(
                gru_comparable.letter_model(cell, gru_comparable.units(arm, inputs), 2).recurrent
            )
            for cell, arm in (("lstm", "LSTM"), ("gru", "GRU, as many parameters"))
        )
        if inputs == 24:  # the embedding of `letter_model`
            assert abs(gru / lstm - 1) < 0.03
    assert gru_comparable.units("GRU", 24) == gru_comparable.UNITS


def test_seen_pixels_are_those_of_the_formula():
    # 3×3 at full resolution, two more, one of stride 2 and one at half; then four at the rates
    def side(first, second):
        return 1 + 2 * 3 + 2 + 2 * 2 * (1 + 2 * first + 2 * second)

    assert dilation_field.seen_pixels((1, 1), side=41)[1] == side(1, 1) ** 2
    seen, square = dilation_field.seen_pixels((8, 8))
    assert square == side(8, 8) ** 2
    assert seen < square
    parameters = {count_parameters(dilation_field.network(r, 5)) for r in dilation_field.RATES.values()}
    assert len(parameters) == 1


def test_kept_megabytes_count_each_storage_once():
    a, b = (torch.ones(2**18, requires_grad=True) for _ in range(2))  # a megabyte each
    assert sparse_linear.kept_megabytes(lambda: a * b) == pytest.approx(2)
    assert sparse_linear.kept_megabytes(lambda: a * a) == pytest.approx(1)
    assert sparse_linear.kept_megabytes(lambda: a + b) == 0


def test_looking_queries_find_near_keys_in_a_window_and_far_ones_not():
    ways = sparse_linear.methods(256, generator())
    errors = {}
    for near in (True, False):
        q, k, v = sparse_linear.looking(256, near, generator())
        exact = ways["dense"](q, k, v)
        errors[near] = float(((ways["window"](q, k, v) - exact) ** 2).mean() / exact.var())
    print(errors)
    assert errors[True] < 0.5 < errors[False]


def test_networks_that_are_timed_are_of_equal_size():
    sizes = [parallel.parameters(name) for name in parallel.NETWORKS]
    assert max(sizes) / min(sizes) < 1.04


def test_gradient_norm_is_that_of_all_parameters():
    class Product(nn.Linear):
        def forward(self, x):
            return super().forward(x[:, -1])

    torch.manual_seed(0)
    model, x, y = Product(2, 1), torch.rand(4, 3, 2), torch.rand(4, 1)
    norm = exploding_clip.gradient_norm(model, x, y)
    nn.functional.mse_loss(model(x), y).backward()
    assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
