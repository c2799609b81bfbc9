"""Log-spectrograms of audio, computed in float64: in float32, rounding shows in the log of what is quiet.

Letters: L audio samples, F = n_fft / 2 + 1 frequencies, T = 1 + L // hop times.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dmr.data.prepare.files import Audio

FLOOR = 1e-7

Floats = npt.NDArray[np.float64]


def resampled(audio: Audio, rate: int) -> Floats:
    """(L,) at `rate` samples per second, by a polyphase filter."""
    if audio.rate == rate:
        return audio.samples
    from scipy.signal import resample_poly

    common = math.gcd(rate, audio.rate)
    return np.asarray(resample_poly(audio.samples, rate // common, audio.rate // common))


def repeated(samples: Floats, length: int) -> Floats:
    """(max(L, length),): what is shorter is repeated from its beginning."""
    return samples if len(samples) >= length else np.resize(samples, length)


def log_spectrogram(samples: Floats, n_fft: int, hop: int) -> Floats:
    """(F, T) log(|S| + 1e-7) of samples (L,) clipped to ±1.

    S is the short-time Fourier transform as librosa defined it up to 0.9: a periodic Hann window of `n_fft`, the frame
    t centred on sample t · hop, the signal reflected at its ends (from 0.10 on librosa pads with zeros unless told).
    L must be greater than n_fft / 2.
    """
    from scipy.signal import get_window

    window = get_window("hann", n_fft)
    padded = np.pad(np.clip(samples, -1.0, 1.0), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    spectrum = np.abs(np.fft.rfft(frames * window, axis=1)).T
    return np.asarray(np.log(spectrum + FLOOR))
