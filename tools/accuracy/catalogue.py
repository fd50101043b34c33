"""Networks by the names that the command takes."""

from __future__ import annotations

from functools import partial

from tools.accuracy.network import Opened
from tools.accuracy.resnets import CifarNetwork

NETWORKS: dict[str, Opened] = {
    "resnet20": partial(CifarNetwork, "resnet20"),
    "resnet56": partial(CifarNetwork, "resnet56"),
}
