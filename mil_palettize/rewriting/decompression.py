"""A package with every compressed weight made dense again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mil_palettize.encoding.workers import Workers
from mil_palettize.program.chains import Chain, find_chains
from mil_palettize.program.form_names import describe_form
from mil_palettize.program.model import Model
from mil_palettize.reports.progress import Progress
from mil_palettize.reports.report import COUNT_UNKNOWN, Report
from mil_palettize.reports.weight_report import DECOMPRESSED, WeightReport
from mil_palettize.rewriting.dense_writer import DenseWriter, dense_nbytes
from mil_palettize.rewriting.other_files import folder_nbytes


def decompressed_nbytes(model: Model) -> int:
    """Bytes of the values of all that :func:`decompress_model` makes dense."""
    return sum(dense_nbytes(chain.site) for chain in find_chains(model.survey().sites) if not chain.obstacle)


def decompress_model(
    model: Model,
    folder: Path,
    report: Report,
    *,
    pool: Workers,
    progress: Progress,
) -> None:
    """Write ``model`` into the empty ``folder`` with its compressed weights dense, and complete ``report``.

    ``model`` is changed. Raises BlobError for a damaged weight.
    """
    chains = find_chains(model.survey().sites)
    opened = [chain for chain in chains if not chain.obstacle]
    report.weights = [_weight(chain) for chain in chains]  # before their ops are replaced
    progress.start(len(opened), sum(dense_nbytes(chain.site) for chain in opened))
    done = DenseWriter(model, opened, progress=progress).write(folder, pool)
    report.weights = [
        weight
        if chain.obstacle
        else replace(weight, bytes_before=done.figures[chain.site].nbytes, seconds=done.figures[chain.site].seconds)
        for weight, chain in zip(report.weights, chains, strict=True)
    ]
    report.dropped_records = done.dropped_records
    if done.dropped_records is None:
        report.notes.append(COUNT_UNKNOWN)
    report.bytes_after = folder_nbytes(folder)


def _weight(chain: Chain) -> WeightReport:
    weight = chain.site.weight
    return WeightReport(
        name=weight.name,
        function=weight.function,
        shape=weight.shape,
        dtype=weight.dtype,
        consumers=[(c.op_type, c.input_name) for c in weight.consumers],
        status="skipped" if chain.obstacle else DECOMPRESSED,
        reason=chain.obstacle,
        mode=describe_form(chain.site),
        nbits=None,
        granularity=None,
        group_size=None,
        channel_axis=None,
        bytes_before=weight.nbytes,
        bytes_after=weight.nbytes if chain.obstacle else dense_nbytes(chain.site),
        snr_db=None,
        squared_error=None,
        seconds=0.0,
        block=weight.block,
    )
