#!/usr/bin/env bash
# librosa's functions take batches of waveforms, (batch, samples), and most treat the rows alike and apart.
# Not those that pass through decibels: `power_to_db` raises everything to 80 dB below the loudest value of
# the whole array. The MFCCs of a quiet recording therefore depend on which others are in its batch: beside
# a loud one, its silence and its faint bands rise to one constant.
#
# It matters for feature extraction of speech and sound corpora with uneven levels: features computed in
# batches are not those computed file by file at prediction, and change with the order of the files.
# `top_db=None`, or a call per recording, is free of it.
#
# The product's log-mel energies and MFCCs have a constant floor: tests/parts/audio/test_spectrogram.py,
# test_audio_features_ignore_padding, takes a batch of uneven levels.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet librosa==0.11.0 numpy==2.4.6
NUMBA_CACHE_DIR="$work" OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys

import librosa
import numpy as np

print(f"librosa {librosa.__version__}, numpy {np.__version__}")

random = np.random.default_rng(0)
time = np.arange(8000) / 16000
quiet = 0.01 * np.sin(2 * np.pi * 440 * time * (1 + time))  # a clean tone, 30 dB below the noise
loud = 0.3 * random.standard_normal(8000)


def energies(waveforms):
    return librosa.feature.melspectrogram(y=waveforms, sr=16000)


def coefficients(waveforms):
    return librosa.feature.mfcc(y=waveforms, sr=16000)


def open_decibels(waveforms):
    return librosa.power_to_db(energies(waveforms), top_db=None)


print("expected: row 0 of a batch is what the recording gives alone, in every feature")
change = {}
for function in (energies, open_decibels, coefficients):
    alone, together = function(quiet), function(np.stack([quiet, loud]))[0]
    change[function] = np.abs(alone - together).max() / np.abs(alone).max()
    print(f"{function.__name__}: the quiet recording changes by {change[function]:.2g} of its largest value")
if change[energies] > 1e-6 or change[open_decibels] > 1e-6:
    sys.exit("CHANGED: mel energies or decibels without a limit depend on the batch as well")
if change[coefficients] < 0.1:
    sys.exit("CHANGED: the MFCCs of a recording do not depend on the others of its batch")
print("confirmed: a loud recording changes the MFCCs of the others of its batch")
PY
