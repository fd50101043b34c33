"""Networks by the names that the command takes."""

from __future__ import annotations

from functools import partial

from tools.accuracy import packages
from tools.accuracy.efficientnet import EfficientNetLite0
from tools.accuracy.minilm import MiniLM
from tools.accuracy.network import Opened
from tools.accuracy.packages import PackageNetwork
from tools.accuracy.resnets import CifarNetwork
from tools.accuracy.saturated import SaturatedNetwork

NETWORKS: dict[str, Opened] = {
    "resnet20": partial(CifarNetwork, "resnet20"),
    "resnet56": partial(CifarNetwork, "resnet56"),
    "efficientnet-lite0": EfficientNetLite0,
    "efficientnet-lite0-half": partial(EfficientNetLite0, apart=250),
    "minilm": MiniLM,
    "silero": partial(PackageNetwork, "silero_vad_unified", packages.voices),
    "dtln": partial(PackageNetwork, "dtln_aec_128_part1_fp32", packages.echoes),
    "basic_pitch": partial(PackageNetwork, "basic_pitch_nmp", packages.pieces),
    "adain": partial(PackageNetwork, "adain_mobilenet_mondrian", packages.pictures),
    "saturated": SaturatedNetwork,
}
