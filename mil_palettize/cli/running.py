"""The commands that run models: ``run`` and ``compare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mil_palettize.cli import output
from mil_palettize.cli.loading import fail, load
from mil_palettize.errors import ConfigError
from mil_palettize.package.given_files import (
    check_labels_exist,
    check_reference_exists,
    check_samples_exist,
    is_reference,
)
from mil_palettize.package.mlpackage import Package
from mil_palettize.reports.counting import counting

EXIT_DIFFERENT = 1
_HISTOGRAMS = 8  # weights whose values a page shows
_FAILURES = 3  # outputs that a failed gate names
_LIMITS = (  # any makes a gate
    "fail_below", "max_disagreement", "max_accuracy_loss", "max_map_loss", "max_perplexity_rise", "max_kl", "min_top_5",
    "min_iou",
)  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Returns the exit code, as every command does."""
    if options.out is not None:
        output.check_report_path(options.out, [options.package], {"--inputs": options.inputs}, "--out")
    check_given([options.package], options.inputs)
    predictions = load("torch.predictions")
    with counting(output.count(options)) as count:
        outcome = predictions.run_package(
            options.package,
            options.inputs,
            random=options.random,
            seed=options.seed,
            function=options.function,
            precision=options.precision,
            pixels=load("torch.pixels").pixels_of(options.image_mean, options.image_scale),
            memory=options.memory,
            count=count,
        )
    if options.out is not None:
        output.write_report(options.out, predictions.packed_outputs(outcome.outputs))
    if options.json:
        output.show(predictions.outputs_json(outcome))
    else:
        output.show(predictions.outputs_text(outcome, options.inputs, options.seed, output.width()))
    return 0


def compare(options: argparse.Namespace) -> int:
    """1 where a limit does not hold."""
    limits = {name: limit for name in _LIMITS if (limit := getattr(options, name)) is not None}
    if options.allow_degenerate and not limits:
        raise ConfigError("--allow-degenerate goes with --fail-below, or another limit that says what is to pass")
    samples = options.inputs if options.sequence is None else options.sequence
    reference = is_reference(options.second)
    packages = [options.first] if reference else [options.first, options.second]
    if options.html is not None:
        read = {"--inputs": options.inputs, "--sequence": options.sequence, "--labels": options.labels}
        read |= {"the reference": options.second} if reference else {}
        output.check_report_path(options.html, packages, read, "--html")
    check_given(packages, samples)
    check_labels_exist(options.labels)
    if reference:
        check_reference_exists(options.second)
    door = load("torch.comparison")
    with counting(output.count(options)) as count:
        how = door.Options(
            random=options.random,
            seed=options.seed,
            # A gate that looked at one function only would let the others pass.
            function=options.function or ("all" if limits and not reference else None),
            attributed=options.per_op,
            # Where the results of ops are not to be seen, the page goes without them.
            per_op=options.per_op or _ops_on_page(options, reference),
            precision=options.precision,
            runtime=options.runtime,
            histograms=_HISTOGRAMS if options.html is not None else 0,
            logits=options.logits or (),
            labels=options.labels,
            sequence=options.sequence is not None,
            steps=options.steps,
            greedy=options.greedy,
            pixels=load("torch.pixels").pixels_of(options.image_mean, options.image_scale),
            memory=options.memory,
            count=count,
        )
        comparison = door.compare_models(options.first, options.second, samples, how)
    if options.html is not None:
        output.write_report(options.html, comparison.to_html(options.told))
    output.show(comparison.to_json() + "\n" if options.json else comparison.to_text(output.width()))
    if not limits:
        return 0
    failures = comparison.failures(**limits, allow_degenerate=options.allow_degenerate)
    return fail(_failures_text(failures), EXIT_DIFFERENT, as_json=options.log_json) if failures else 0


def _ops_on_page(options: argparse.Namespace, reference: bool) -> bool:
    """Where they are to be seen, and memory for the results of a whole network may be taken."""
    return options.html is not None and options.runtime == "torch" and not reference and options.memory is None


def check_given(packages: Sequence[str], samples: object) -> None:
    """Raise PackageError for what is not there, before torch is imported, which takes seconds. ``samples``: what is no
    path (a number, None) is of no file."""
    for package in packages:
        Package.open(package)
    if isinstance(samples, str):
        check_samples_exist(samples)


def _failures_text(failures: Sequence[str]) -> str:
    more = f"; and {len(failures) - _FAILURES} more" if len(failures) > _FAILURES else ""
    hint = (
        " (--allow-degenerate lets that pass)" if any("nothing to compare" in failure for failure in failures) else ""
    )
    return "; ".join(failures[:_FAILURES]) + more + hint
