"""Biases with other values: which of a model's can be changed, and these put into a package that is complete but for
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mil_palettize.errors import PackageError
from mil_palettize.program.fingerprints import record_digest
from mil_palettize.program.model import Model
from mil_palettize.program.site_values import dense
from mil_palettize.program.weight import WeightId
from mil_palettize.reports.weight_report import BiasReport


def changeable(model: Model) -> frozenset[WeightId]:
    """Constants that are dense, in a weight file, and the only ones that read their record."""
    uses = Counter((use.file_name, use.offset) for use in model.blob_uses())
    found = set()
    for site in model.survey().sites:
        blob = site.value.blobFileValue
        if site.weight.form == "const" and uses[blob.fileName, blob.offset] == 1:
            found.add(site.weight.id)
    return frozenset(found)


def put_biases(folder: Path, biases: Mapping[WeightId, np.ndarray]) -> list[BiasReport]:
    """Write ``biases``, of the shapes and dtypes that they have, over those of the package at ``folder``. Raises
    PackageError."""
    if not biases:
        return []
    done = []
    with Model.open(folder) as model:
        for site in model.survey().sites:
            if site.weight.id not in biases:
                continue
            array, old = biases[site.weight.id], dense(site, model.store)
            assert old is not None
            assert (old.shape, old.dtype) == (array.shape, array.dtype)
            reader, record = model.store.locate(site.value, used_by=site.weight.key)
            data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
            try:
                with reader.path.open("r+b") as file:
                    file.seek(record.offset)
                    file.write(data.tobytes())
            except OSError as error:
                raise PackageError(f"cannot write biases into {folder}: {error.strerror or error}") from error
            largest = float(np.abs(array.astype(np.float64) - old.astype(np.float64)).max())
            digest = record_digest(record.data_type, 0, [data])
            done.append(BiasReport(site.weight.name, site.weight.function, site.weight.id.block, largest, digest))
    return done
