"""Data of text-to-text networks: the toy grammar, and settings that a run is saved with."""

from torchstone.tasks.text.text_to_text_data import TextSettings, grammar_sentences


def test_grammar_sentences_hold_out_validation_and_test():
    parts, _ = grammar_sentences(40)
    print([len(part) for part in parts])
    assert not set(parts[0]) & (set(parts[1]) | set(parts[2]))
    assert all(len(line) == 40 for part in parts for line in part)


def test_text_settings_read_runs_of_earlier_versions():
    saved = {"task": "denoise", "length": 40, "density": 0.15, "span": 3.0}
    assert TextSettings.from_metadata(saved) == TextSettings("denoise", 40, 0.15, 3.0)
