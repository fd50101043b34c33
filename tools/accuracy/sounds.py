"""Speech and music made by rules: what voices and instruments have in common, from nothing but a seed.

Speech: pulses of a glottis (or noise) through four resonances that move from vowel to vowel, in syllables with pauses.
Music: notes of several instruments, each a sum of decaying harmonics, in chords and melodies over a beat.
"""

from __future__ import annotations

import numpy as np

_VOWELS = np.array([
    (730, 1090, 2440, 3400), (270, 2290, 3010, 3700), (300, 870, 2240, 3300), (530, 1840, 2480, 3500),
    (570, 840, 2410, 3300), (440, 1020, 2240, 3300), (490, 1350, 1690, 3300), (660, 1720, 2410, 3500),
])  # fmt: skip
_WIDTHS = np.array((80.0, 100.0, 140.0, 200.0))
_MINOR, _MAJOR = (0, 3, 7, 12), (0, 4, 7, 12)


def speech(seconds: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """float32, of amplitude 0.5 at most."""
    count = int(seconds * rate)
    found = np.zeros(count)
    base, size = random.uniform(90.0, 230.0), random.uniform(0.9, 1.2)
    start = int(rate * random.uniform(0.0, 0.3))
    while start < count:
        length = int(rate * random.uniform(0.08, 0.3))
        if random.uniform() < 0.2:
            start += int(rate * random.uniform(0.1, 0.5))  # between phrases
            continue
        part = _syllable(length, rate, base * random.uniform(0.8, 1.3), size, random)[: count - start]
        found[start : start + len(part)] += part * random.uniform(0.3, 1.0)
        start += int(length * random.uniform(0.9, 1.1)) + int(rate * random.uniform(0.0, 0.04))
    found += _hiss(count, random) * 10.0 ** random.uniform(-4.0, -2.0)
    return (0.5 * random.uniform(0.2, 1.0) * found / max(1e-9, np.abs(found).max())).astype(np.float32)


def _syllable(length: int, rate: int, pitch: float, size: float, random: np.random.Generator) -> np.ndarray:
    time = np.linspace(0.0, 1.0, length)
    phase = np.cumsum(pitch * (1.0 + random.uniform(-0.15, 0.15) * time)) / rate
    source = np.diff(np.floor(phase), prepend=0.0) - np.mean(np.diff(np.floor(phase), prepend=0.0))
    source = source + 0.02 * random.standard_normal(length)
    if random.uniform() < 0.35:  # it begins with a consonant of noise
        noise = np.diff(random.standard_normal(length), prepend=0.0)
        source = source * (time > 0.3) + 0.15 * noise * (time <= 0.3)
    first, last = _VOWELS[random.integers(len(_VOWELS), size=2)] * size
    frames, hop = [], 160
    for at in range(0, length, hop):
        mix = at / length
        frames.append(_resonance(first * (1 - mix) + last * mix, 2 * hop, rate))
    window = np.hanning(2 * hop + 1)[:-1]
    padded, found = np.pad(source, (hop, 4 * hop)), np.zeros(length + 8 * hop)
    for number, response in enumerate(frames):
        part = np.convolve(padded[number * hop : number * hop + 2 * hop] * window, response)
        found[number * hop : number * hop + len(part)] += part[: len(found) - number * hop]
    return found[hop : hop + length] * np.sin(np.pi * time) ** 0.5


def _resonance(frequencies: np.ndarray, length: int, rate: int) -> np.ndarray:
    """The answer to a pulse."""
    time = np.arange(length) / rate
    waves = np.exp(-np.pi * _WIDTHS[:, None] * time) * np.sin(2 * np.pi * frequencies[:, None] * time)
    return np.asarray((waves * np.array((1.0, 0.6, 0.3, 0.15))[:, None]).sum(0))


def _hiss(count: int, random: np.random.Generator) -> np.ndarray:
    """Noise whose power falls with frequency."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(1.0, np.arange(len(spectrum)))), count)
    return np.asarray(noise / max(1e-12, noise.std()))


def music(seconds: float, rate: int, random: np.random.Generator) -> np.ndarray:
    """float32, of amplitude 0.7 at most."""
    count = int(seconds * rate)
    found = np.zeros(count)
    beat, tonic = int(rate * random.uniform(0.25, 0.6)), random.uniform(110.0, 260.0)
    fall, rest = random.uniform(1.0, 6.0), random.uniform(0.05, 0.4)  # of the instrument
    for start in range(int(rate * random.uniform(0.0, 0.2)), count, beat):
        chord = np.array(_MINOR if random.uniform() < 0.5 else _MAJOR) + random.integers(-5, 8)
        picked = chord if random.uniform() < 0.3 else [random.choice(chord) + 12 * random.integers(0, 3)]
        for tone in picked if random.uniform() > rest else ():
            note = _note(tonic * 2.0 ** (tone / 12), random.uniform(0.2, 1.2), fall, rate, random)[: count - start]
            found[start : start + len(note)] += note * random.uniform(0.3, 1.0)
    found += _hiss(count, random) * 10.0 ** random.uniform(-4.5, -2.5)
    return (0.7 * random.uniform(0.2, 1.0) * found / max(1e-9, np.abs(found).max())).astype(np.float32)


def _note(frequency: float, seconds: float, fall: float, rate: int, random: np.random.Generator) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    harmonics = np.arange(1, max(2, min(20, int(rate / 2.2 / frequency))))
    strength = harmonics ** -random.uniform(0.8, 2.0) * random.uniform(0.3, 1.0, len(harmonics))
    waves = np.sin(2 * np.pi * frequency * harmonics[:, None] * time + random.uniform(0, 6.28, (len(harmonics), 1)))
    decayed = waves * np.exp(-fall * time * np.sqrt(harmonics)[:, None])
    attack = np.minimum(1.0, time / 0.01) * np.minimum(1.0, (seconds - time) / 0.03)
    return np.asarray((decayed * strength[:, None]).sum(0) * attack)
