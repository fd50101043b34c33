"""Fixtures that look like ordinary networks: convs, recurrence, embeddings, states, pipelines, images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Var, get_new_symbol, types
from coremltools.proto import Model_pb2
from fixture_writing import (
    FP16,
    Draw,
    Recipe,
    constant,
    convert,
    entry,
    finish,
    program,
    result,
    save,
    tensor,
)


def conv_net(target: ct.target, dtype: str) -> Recipe:
    """conv, batch_norm, pointwise conv, depthwise conv, conv_transpose, two linears."""

    def body(draw: Draw, image: Var) -> Var:
        x = entry(image, dtype)
        weight = constant(draw.normal(24, 16, 3, 3), "stem_weight")
        bias = constant(draw.normal(24), "stem_bias")
        x = mb.conv(x=x, weight=weight, bias=bias, pad_type="same", name="stem")
        x = mb.relu(x=x, name="stem_relu")
        x = mb.batch_norm(
            x=x,
            mean=constant(draw.normal(24), "norm_mean"),
            variance=constant(draw.near_one(24), "norm_variance"),
            gamma=constant(draw.near_one(24), "norm_gamma"),
            beta=constant(draw.normal(24), "norm_beta"),
            epsilon=draw.dtype(1e-3),
            name="norm",
        )
        x = mb.conv(x=x, weight=constant(draw.normal(48, 24, 1, 1), "pointwise_weight"), name="pointwise")
        weight = constant(draw.normal(48, 1, 7, 7), "depthwise_weight")
        x = mb.conv(x=x, weight=weight, groups=48, pad_type="same", name="depthwise")
        weight = constant(draw.normal(48, 8, 4, 4), "up_weight")
        x = mb.conv_transpose(x=x, weight=weight, strides=[2, 2], pad_type="same", name="up")
        x = mb.reduce_mean(x=x, axes=[2, 3], name="pool")
        weight, bias = (
            constant(draw.normal(320, 8), "hidden_weight"),
            constant(draw.normal(320), "hidden_bias"),
        )
        x = mb.gelu(x=mb.linear(x=x, weight=weight, bias=bias, name="hidden"), mode="EXACT", name="hidden_gelu")
        weight, bias = constant(draw.normal(10, 320), "head_weight"), constant(draw.normal(10), "head_bias")
        return result(mb.linear(x=x, weight=weight, bias=bias, name="head"), "scores")

    def make(package: Path) -> None:
        draw = Draw("conv_net", dtype)
        mil = program(target, lambda image: body(draw, image), tensor(1, 16, 12, 12))
        save(convert(mil, target), package)

    return make


def recurrent(target: ct.target, dtype: str) -> Recipe:
    """An lstm followed by a gru."""

    def body(draw: Draw, sequence: Var) -> Var:
        x = entry(sequence, dtype)
        zeros = np.zeros((1, 32), draw.dtype)
        x, _, _ = mb.lstm(
            x=x,
            initial_h=constant(zeros, "lstm_h0"),
            initial_c=constant(zeros, "lstm_c0"),
            weight_ih=constant(draw.normal(128, 24), "lstm_weight_ih"),
            weight_hh=constant(draw.normal(128, 32), "lstm_weight_hh"),
            bias=constant(draw.normal(128), "lstm_bias"),
            output_sequence=True,
            name="lstm",
        )
        x, _ = mb.gru(
            x=x,
            initial_h=constant(zeros, "gru_h0"),
            weight_ih=constant(draw.normal(96, 32), "gru_weight_ih"),
            weight_hh=constant(draw.normal(96, 32), "gru_weight_hh"),
            bias=constant(draw.normal(96), "gru_bias"),
            name="gru",
        )
        return result(x, "features")

    def make(package: Path) -> None:
        draw = Draw("recurrent", dtype)
        mil = program(target, lambda sequence: body(draw, sequence), tensor(6, 1, 24))
        save(convert(mil, target), package)

    return make


def embedding(target: ct.target, reader: str) -> Recipe:
    """One table read by a ``gather`` with run-time ids and by ``reader`` (``matmul`` or ``linear``)."""

    def body(ids: Var) -> Var:
        draw = Draw("embedding")
        table = constant(draw.normal(128, 32), "table")
        x = mb.gather(x=table, indices=ids, axis=0, name="embedded")
        weight = constant(draw.normal(32, 32), "mixer_weight")
        x = mb.relu(x=mb.linear(x=x, weight=weight, name="mixer"), name="mixed")
        if reader == "matmul":
            x = mb.matmul(x=x, y=table, transpose_y=True, name="tied")
        else:
            x = mb.linear(x=x, weight=table, name="tied")
        return result(x, "logits")

    def make(package: Path) -> None:
        mil = program(target, body, tensor(1, 8, dtype=types.int32))
        save(convert(mil, target), package)

    return make


def stateful(package: Path) -> None:
    """A state read, updated through a linear, and read back."""
    target = ct.target.iOS18

    def body(x: Var, memory: Var) -> Var:
        draw = Draw("stateful")
        weight = constant(draw.normal(64, 64), "update_weight")
        update = mb.linear(x=entry(x, FP16), weight=weight, name="update")
        value = mb.add(x=mb.read_state(input=memory, name="recalled"), y=update, name="value")
        stored = mb.coreml_update_state(state=memory, value=value, name="stored")
        weight = constant(draw.normal(48, 64), "read_weight")
        return result(mb.linear(x=stored, weight=weight, name="read"), "y")

    specs = tensor(1, 64), mb.StateTensorSpec((1, 64), dtype=types.fp16)
    save(convert(program(target, body, *specs), target), package)


def multifunction(package: Path) -> None:
    """Functions ``prefill`` and ``decode`` share ``base_weight`` (one blob record); an adapter each."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in (("prefill", 8), ("decode", 1)):
            source = str(Path(folder) / f"{name}.mlpackage")
            _adapted(name, rows).save(source)
            descriptor.add_function(source, "main", name)
        descriptor.default_function_name = "prefill"
        ct.utils.save_multifunction(descriptor, str(package))
    finish(package)


def _adapted(name: str, rows: int) -> ct.models.MLModel:
    target = ct.target.iOS18

    def body(x: Var) -> Var:
        weight = constant(Draw("multifunction").normal(64, 48), "base_weight")
        x = mb.linear(x=entry(x, FP16), weight=weight, name="base")
        weight = constant(Draw(f"multifunction {name}").normal(48, 64), "adapter_weight")
        return result(mb.linear(x=x, weight=weight, name="adapter"), "y")

    return convert(program(target, body, tensor(1, rows, 48)), target)


def _stage(name: str, source: str, output: str, target: ct.target) -> ct.models.MLModel:
    """A linear from ``source`` to ``output``; its weight is called ``weight`` in every stage."""

    def body(x: Var) -> Var:
        weight = constant(Draw(name).normal(48, 48), "weight")
        return result(mb.linear(x=entry(x, FP16), weight=weight, name="linear"), output)

    bodies = {"x": body, "hidden": lambda hidden: body(hidden)}
    return convert(program(target, bodies[source], tensor(1, 48)), target)


def pipeline(package: Path) -> None:
    """Two ML Programs, stored in ``0-weight.bin`` and ``1-weight.bin``, with equal names inside."""
    stages = [
        _stage("first stage", "x", "hidden", ct.target.iOS16),
        _stage("second stage", "hidden", "y", ct.target.iOS17),
    ]
    save(ct.utils.make_pipeline(*stages), package)


def detector(package: Path) -> None:
    """An ML Program that finds boxes and a non-maximum suppression, as object detectors are shipped."""
    target = ct.target.iOS16

    def body(features: Var) -> tuple[Var, Var]:
        draw = Draw("detector")
        x = entry(features, FP16)
        confidence = mb.linear(x=x, weight=constant(draw.normal(80, 48), "confidence_weight"), name="classes")
        confidence = mb.sigmoid(x=confidence, name="probabilities")
        boxes = mb.linear(x=x, weight=constant(draw.normal(4, 48), "boxes_weight"), name="boxes")
        return result(confidence, "raw_confidence"), result(boxes, "raw_coordinates")

    program_stage = convert(program(target, body, tensor(20, 48)), target)
    spec = program_stage.get_spec()
    suppression = _suppression()
    whole = Model_pb2.Model(specificationVersion=spec.specificationVersion)
    whole.description.input.extend(spec.description.input)
    whole.description.output.extend(suppression.description.output)
    whole.pipeline.models.extend([spec, suppression])
    whole.pipeline.names.extend(["boxes", "suppression"])

    def edit(message: Model_pb2.Model) -> None:
        message.CopyFrom(whole)

    save(program_stage, package, edit)


def _suppression() -> Model_pb2.Model:
    model = Model_pb2.Model(specificationVersion=4)
    stage = model.nonMaximumSuppression
    stage.confidenceInputFeatureName = "raw_confidence"
    stage.coordinatesInputFeatureName = "raw_coordinates"
    stage.confidenceOutputFeatureName = "confidence"
    stage.coordinatesOutputFeatureName = "coordinates"
    stage.iouThreshold, stage.confidenceThreshold = 0.45, 0.25
    stage.stringClassLabels.vector.extend(f"class_{i}" for i in range(80))
    for features, prefix in ((model.description.input, "raw_"), (model.description.output, "")):
        for name, width in (("confidence", 80), ("coordinates", 4)):
            array = features.add(name=prefix + name).type.multiArrayType
            array.shape.extend([20, width])
            array.dataType = array.FLOAT32
    return model


def flexible(package: Path) -> None:
    """Two symbolic input sizes: one a range, one enumerated."""
    target = ct.target.iOS16

    def body(x: Var) -> Var:
        draw = Draw("flexible")
        weight = constant(draw.normal(48, 48), "in_weight")
        y = mb.relu(x=mb.linear(x=entry(x, FP16), weight=weight, name="in"), name="hidden")
        return result(mb.linear(x=y, weight=constant(draw.normal(64, 48), "out_weight"), name="out"), "y")

    spec = tensor(get_new_symbol(), 48)
    rows = ct.RangeDim(lower_bound=1, upper_bound=32, default=4)
    save(convert(program(target, body, spec), target, inputs=[ct.TensorType("x", shape=(rows, 48))]), package)


def image_classifier(package: Path) -> None:
    """An image of enumerated sizes, cut into patches by a conv of stride 4, and four labels."""
    target = ct.target.iOS15

    def body(image: Var) -> Var:
        draw = Draw("image_classifier")
        weight = constant(draw.normal(48, 3, 4, 4), "patch_weight")
        x = mb.conv(x=entry(image, FP16), weight=weight, strides=[4, 4], name="patch")
        x = mb.reduce_mean(x=x, axes=[2, 3], name="pool")
        weight = constant(draw.normal(4, 48), "label_weight")
        x = mb.softmax(x=mb.linear(x=x, weight=weight, name="labels"), axis=-1, name="softmax")
        return result(x, "probabilities")

    side = get_new_symbol()
    spec = tensor(1, 3, side, side)
    shapes = ct.EnumeratedShapes([(1, 3, 32, 32), (1, 3, 64, 64)], default=(1, 3, 32, 32))
    model = convert(
        program(target, body, spec),
        target,
        inputs=[ct.ImageType("image", shape=shapes, scale=1 / 255)],
        classifier_config=ct.ClassifierConfig(["cat", "dog", "fish", "none of these"]),
    )
    save(model, package)
