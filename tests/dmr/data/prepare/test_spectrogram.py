from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import stft

from dmr.data.prepare.files import Audio
from dmr.data.prepare.spectrogram import log_spectrogram, repeated, resampled


@pytest.mark.parametrize(
    ("length", "n_fft", "hop", "shape"), [(66_150, 512, 353, (257, 188)), (80_000, 256, 128, (129, 626))]
)
def test_it_is_what_scipy_computes(length: int, n_fft: int, hop: int, shape: tuple[int, int]) -> None:
    samples = np.random.default_rng(0).normal(0.0, 0.4, length)
    samples[:1000] = 3.0  # is clipped
    clipped = np.clip(samples, -1, 1)
    window = np.hanning(n_fft + 1)[:-1]
    _, _, transform = stft(
        clipped, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary="even", padded=False, detrend=False
    )
    spectrogram = log_spectrogram(samples, n_fft, hop)
    assert spectrogram.shape == shape
    np.testing.assert_allclose(np.exp(spectrogram), np.abs(transform) * window.sum() + 1e-7, rtol=1e-9, atol=1e-12)


def test_silence_is_the_floor() -> None:
    np.testing.assert_allclose(log_spectrogram(np.zeros(400), 256, 128), np.log(1e-7), rtol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
def test_a_tone_keeps_its_pitch_and_loudness_at_another_rate(rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000.0 * np.arange(rate) / rate)
    samples = resampled(Audio(tone, rate), 16_000)
    assert len(samples) == 16_000
    wanted = 0.5 * np.sin(2 * np.pi * 1000.0 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(samples[500:-500], wanted[500:-500], atol=2e-3)


def test_what_is_short_is_repeated_from_its_beginning() -> None:
    short = np.array([1.0, 2.0, 3.0])
    assert repeated(short, 7).tolist() == [1, 2, 3, 1, 2, 3, 1]
    assert repeated(short, 2) is short
