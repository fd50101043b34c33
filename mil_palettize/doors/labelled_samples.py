"""Samples that a calibration holds out, with their right classes: what accuracy is measured on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mil_palettize.calibration.request import Calibration
from mil_palettize.doors.calibration_samples import calls_of
from mil_palettize.errors import ConfigError, EvaluationError
from mil_palettize.package.given_files import check_labels_exist, check_samples_exist
from mil_palettize.reports.counting import Count, untold
from mil_palettize.text import format_count

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Labelled:
    """``samples``: inputs by name of each; ``labels``: their right classes; ``logits``: outputs whose last axis is of
    classes."""

    samples: Sequence[Mapping[str, Any]]
    labels: Sequence[Any]
    logits: Sequence[str] = ()

    @property
    def note(self) -> str:
        """On how fine accuracy is told."""
        count = len(self.samples)
        return f"accuracy is that of {format_count(count, 'held out sample')}, of which one is {100 / count:.2g} points"

    def measured(self, source: PathLike, palettized: PathLike, count: Count = untold) -> tuple[float, float]:
        """The signal to noise of the worst output, in decibels, and the share of samples that are right in ``source``
        less that in ``palettized``: of the output that loses most. ``count``: told of samples. Raises EvaluationError
        where no output is of classes."""
        from mil_palettize.torch.comparison import compare_models
        from mil_palettize.torch.comparison_options import Options

        options = Options(labels=self.labels, logits=self.logits, count=count)
        found = compare_models(source, palettized, self.samples, options)
        right = [o.classes.targets for o in found.outputs if o.classes is not None and o.classes.targets is not None]
        if not right:
            raise EvaluationError(
                f"no output of {os.fspath(source)} has classes that labels could be of; logits (--logits) names one "
                "whose last axis is of classes"
            )
        return found.snr_db, max(figures.accuracy_before - figures.accuracy_after for figures in right)


def labelled_samples(
    source: PathLike, calibration: Calibration | None, labels: Any, logits: Sequence[str] = ()
) -> Labelled:
    """Of the samples of ``calibration`` those that palettes are not made of: every fifth, all where it looks at none.
    ``labels``: of all samples, as ``mil_palettize.compare`` takes them.

    Raises ConfigError where there are no samples or no labels, EvaluationError for labels that are not those of the
    samples, sequences of calls, fewer than five samples, and a model without classes; PackageError.
    """
    if calibration is None or calibration.sample_data is None:
        raise ConfigError(
            "max_drop is of samples whose right classes are known; give them to calibrate on (--calibrate)"
        )
    if labels is None:
        raise ConfigError("max_drop goes with the right classes of the samples; give labels (--labels)")
    given = calibration.sample_data
    if isinstance(given, str | os.PathLike):
        check_samples_exist(given)
    check_labels_exist(labels)
    from mil_palettize.torch.evaluator.model_pipeline import open_model
    from mil_palettize.torch.function_inputs import inputs_of
    from mil_palettize.torch.labels import labels_for
    from mil_palettize.torch.pixels import check_pictures, pixels_of
    from mil_palettize.torch.samples import Samples, read_samples

    module = open_model(source)
    pixels = pixels_of(calibration.image_mean, calibration.image_scale)
    given = inputs_of(module.function_name, module.functions, given)
    if isinstance(given, str | os.PathLike):
        read = read_samples(given, module, sequences=True, pixels=pixels)
    else:
        check_pictures(pixels, given)
        read = Samples(list(given))
    right = labels_for(labels, read).of_samples
    calls = calls_of(calibration, module, [])
    if len(calls) != len(read) or not all(calls.begins):
        raise EvaluationError("accuracy is measured of samples that are one call each; these are sequences of calls")
    numbers = sorted(range(len(read)) if calibration.method == "weights" else calls.held)
    if not numbers:
        raise EvaluationError(f"none of {format_count(len(read), 'sample')} is held out to measure on; give 5 or more")
    found = Labelled([read[i] for i in numbers], [right[i] for i in numbers], tuple(logits))
    Labelled(found.samples[:1], found.labels[:1], found.logits).measured(source, source)  # before a plan takes minutes
    return found
