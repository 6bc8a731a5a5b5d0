"""The laws, over the whole catalogue. That each can fail is shown in `test_planted_faults.py`.

What is marked `sweep` is left to `make test-all`: more of what `make test` has checked on the smallest
networks that are made of the same blocks.
"""

from pathlib import Path

import budget
import catalogue
import draws
import durations_law
import import_rules
import laws
import legends
import modes
import module_tests
import names
import parity
import pytest
import recipes_at_hand
import seeds
import smoke_runs
import sources

import torchstone
from torchstone.systems import CATALOGUE

SOURCE, TESTS = Path(torchstone.__file__).parent, Path(__file__).parents[1]

every = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)

# even their smallest network trains for most of a minute here: pytest -m slow
LARGE = ("alexnet", "vgg", "googlenet")

# trained by the code that trains BERT, ResNet or GAN, and slower: the laws that train leave them to the sweep
TRAINED_ALIKE = ("albert", "longformer", "bigbird", "linformer", "senet", "cbam", "cgan", "dcgan", "biggan")


def effort(entry):
    return {**dict.fromkeys(LARGE, pytest.mark.slow), **dict.fromkeys(TRAINED_ALIKE, pytest.mark.sweep)}.get(
        entry.name, ()
    )


trained = pytest.mark.parametrize(
    "entry", [pytest.param(entry, marks=effort(entry)) for entry in CATALOGUE], ids=lambda entry: entry.name
)

# killed in earnest: batches of images, of text, and a replay buffer beside the checkpoints
KILLED = ("lenet5", "gpt", "dqn")

# traced in make test: images, steps of a recurrent network, attention; generating code takes most of a minute each,
# so that is done for two, in the sweep
COMPILED = {"aot_eager": ("lenet5", "gru", "vit")}
GENERATED = {"inductor": ("mlp", "lenet5")}

# texts and sounds of several lengths are packed for torch's recurrent kernels, which its compiler does not trace:
# compiling breaks the graph there
PACKED = {"ctc", "seq2seq"}

COMPILED_IN_SWEEP = {
    *(
        "vae",
        "dcgan",
        "mobilenet",
        "efficientnet",
        "deeplab",
        "resnet",
        "realnvp",
        "glow",
        "flowpp",
        "t5",
        "ddpm",
        "performer",
    ),
    *("mlp", "bigbird", "linformer", "vlm", "biggan"),
}


@trained
def test_1_same_seed_same_losses(entry, session_folder):
    laws.same_seed_same_losses(entry, smoke_runs.read_record(smoke_runs.cached(entry, session_folder)))


@pytest.mark.sweep
@trained
def test_1_same_seed_same_losses_of_all_stages(entry):
    laws.same_seed_same_losses(entry)


@trained
def test_2_cut_off_and_resumed_in_a_fresh_process(entry, session_folder, tmp_path):
    laws.cut_and_resumed(entry, smoke_runs.cached(entry, session_folder), tmp_path)


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if e.name in KILLED], ids=lambda e: e.name)
def test_2_killed_and_resumed_in_a_fresh_process(entry, session_folder, tmp_path):
    laws.killed_and_resumed(entry, smoke_runs.cached(entry, session_folder), tmp_path)


@trained
def test_3_it_learns(entry, session_folder):
    laws.learns(entry, smoke_runs.read_record(smoke_runs.cached(entry, session_folder)))


@every
def test_4_published_facts(entry):
    laws.verified(entry, only="facts")


@every
def test_4_reference(entry):
    laws.verified(entry, only="reference")


@pytest.mark.sweep
@every
def test_4_all_facts_and_the_whole_reference(entry):
    laws.verified(entry, sweep=True)


@pytest.mark.sweep
def test_4_what_is_left_to_the_sweep_shares_its_blocks_with_smaller_cases():
    """`swept_cases.json` is what `python tests/laws/parity.py` writes."""
    measured = parity.measured()
    print(measured)
    assert measured == parity.table()


def compile_in_child(backend, names):
    """In a process of its own: torch.compile cannot see through a run-time check of shapes."""
    done = laws.run_child("compiled", "-", backend, *names, forked=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(f"{name}, {backend}:" in done.stdout for name in names)


@pytest.mark.parametrize("backend", COMPILED)
def test_5_eager_is_compiled(backend):
    compile_in_child(backend, COMPILED[backend])


@pytest.mark.sweep
@pytest.mark.parametrize("backend", GENERATED)
def test_5_eager_is_compiled_to_code(backend):
    compile_in_child(backend, GENERATED[backend])


@pytest.mark.sweep
def test_5_eager_is_compiled_for_all_others():
    """With the backend that traces, without graph breaks."""
    compiled = [entry for entry in CATALOGUE if laws.compiles(entry) and entry.name not in PACKED]
    done = {name for names in COMPILED.values() for name in names}
    assert done <= {entry.name for entry in compiled}
    # what has layers that none in COMPILED has: known here, and compiled with all others
    missing = {e.name for e in laws.compiled_representatives(compiled, done)}
    assert missing <= COMPILED_IN_SWEEP, f"add to COMPILED or to COMPILED_IN_SWEEP: {missing}"
    compile_in_child("aot_eager", [entry.name for entry in compiled if entry.name not in done])


@trained
def test_6_every_parameter_learns(entry, session_folder):
    laws.every_parameter_learns(entry, smoke_runs.read_record(smoke_runs.cached(entry, session_folder)))


@every
def test_6_every_variant_learns(entry):
    laws.every_variant_learns(entry)


@pytest.mark.sweep
@every
def test_6_all_variants_learn(entry):
    laws.every_variant_learns(entry, sweep=True)


def test_7_imports_point_one_way_and_nothing_of_ours_is_subclassed():
    found = import_rules.wrongs(SOURCE)
    print(f"{len(list(SOURCE.rglob('*.py')))} files read")
    assert not found, "\n".join(found)


@every
def test_8_the_entry_is_complete(entry, page_of):
    catalogue.complete(entry, page=page_of)


@recipes_at_hand.parametrized_by_path
def test_9_modes_are_put_back(at_hand, tmp_path):
    modes.put_back(*at_hand, tmp_path)


@recipes_at_hand.parametrized
def test_10_each_source_of_chance_obeys_the_seed(at_hand):
    seeds.obeyed(*at_hand)


def test_10_each_draw_names_its_generator():
    found = draws.wrongs(SOURCE)
    assert not found, "\n".join(found)


@trained
def test_10_evaluation_repeats(entry, session_folder):
    seeds.evaluation_repeats(entry, smoke_runs.read_record(smoke_runs.cached(entry, session_folder)))


@pytest.mark.sweep
@every
def test_9_modes_are_put_back_by_whole_uses(entry, tmp_path):
    modes.put_back(entry, smoke_runs.smoke(entry), tmp_path, whole=True)


@every
def test_11_the_story_is_in_the_systems_file(entry):
    sources.tells_its_story(entry)


def test_11_lines_and_constructors_are_readable():
    found = sources.wrongs(SOURCE)
    assert not found, "\n".join(found)


def test_12_names_are_the_fields_terms():
    found = names.wrongs(SOURCE)
    assert not found, "\n".join(found)


def test_13_each_module_has_a_test_file():
    found = module_tests.wrongs(SOURCE, TESTS)
    assert not found, "\n".join(found)


def test_14_no_test_takes_long():
    found = durations_law.wrongs()
    assert not found, "\n".join(found)


@trained
def test_15_every_metric_has_a_legend(entry, session_folder):
    legends.complete(entry, smoke_runs.cached(entry, session_folder))


@pytest.mark.sweep
@pytest.mark.parametrize(
    "entry", [e for e in CATALOGUE if hasattr(e.module(), "evaluate")], ids=lambda e: e.name
)
def test_15_eval_gives_the_numbers_of_the_test(entry, session_folder):
    legends.same_numbers(entry, smoke_runs.cached(entry, session_folder))


@recipes_at_hand.parametrized
def test_16_evaluation_takes_about_a_tenth_of_the_work(at_hand):
    budget.kept(*at_hand)
