"""Logits, probabilities and labels: agreement, divergence, accuracy, and gates on them, against plain computations."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from evaluator import mb, program_of, saved  # noqa: E402
from scipy.special import rel_entr, softmax  # noqa: E402
from sklearn.metrics import accuracy_score, jaccard_score, log_loss  # noqa: E402

from mil_palettize import EvaluationError, PackageError, compare  # noqa: E402
from mil_palettize.cli.main import main  # noqa: E402
from mil_palettize.reports.class_figures import TargetFigures  # noqa: E402
from mil_palettize.reports.page.document import page  # noqa: E402
from mil_palettize.torch import open_model  # noqa: E402
from mil_palettize.torch.class_sums import IGNORED, ClassSums  # noqa: E402
from mil_palettize.torch.made_up_inputs import plausible_inputs  # noqa: E402
from mil_palettize.torch.mask_sums import MaskSums  # noqa: E402
from mil_palettize.torch.samples import read_samples  # noqa: E402

RNG = np.random.default_rng(5)
ROWS, CLASSES = 40, 11
LOGITS = RNG.standard_normal((4, ROWS // 4, CLASSES)) * 2
OTHERS = LOGITS + RNG.standard_normal(LOGITS.shape) * 0.7
TARGETS = RNG.integers(0, CLASSES, (4, ROWS // 4))


def sums_of(one: np.ndarray, two: np.ndarray, targets: np.ndarray | None = None, *, logits: bool = True) -> Any:
    sums = ClassSums()
    for i in range(len(one)):
        sums.add(one[i], two[i], None if targets is None else targets[i], logits=logits)
    found = sums.figures()
    assert found is not None
    return found


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def test_figures_of_logits_are_those_of_scipy_and_scikit_learn() -> None:
    found = sums_of(LOGITS, OTHERS, TARGETS)
    x, y, right = flat(LOGITS), flat(OTHERS), TARGETS.reshape(-1)
    p, q = softmax(x, axis=1), softmax(y, axis=1)
    kl = rel_entr(p, q).sum(axis=1)
    assert found.rows == ROWS
    assert found.same == accuracy_score(x.argmax(1), y.argmax(1)) < 1
    assert found.kl_mean == pytest.approx(kl.mean())
    assert found.kl_worst == pytest.approx(kl.max())
    best = [set(row[:5]) for row in np.argsort(-x, axis=1)]
    others = [set(row[:5]) for row in np.argsort(-y, axis=1)]
    assert found.top_5 == pytest.approx(np.mean([len(a & b) / 5 for a, b in zip(best, others, strict=True)]))
    assert found.targets.accuracy_before == accuracy_score(right, x.argmax(1))
    assert found.targets.accuracy_after == accuracy_score(right, y.argmax(1))
    assert found.targets.lost == sum((x.argmax(1) == right) & (y.argmax(1) != right))
    assert found.targets.won == sum((x.argmax(1) != right) & (y.argmax(1) == right))
    labels = list(range(CLASSES))
    assert found.targets.perplexity_before == pytest.approx(math.exp(log_loss(right, p, labels=labels)))
    assert found.targets.perplexity_after == pytest.approx(math.exp(log_loss(right, q, labels=labels)))


def test_figures_of_probabilities() -> None:
    p, q = softmax(LOGITS, axis=-1), softmax(OTHERS, axis=-1)
    of_logits, found = sums_of(LOGITS, OTHERS, TARGETS), sums_of(p, q, TARGETS, logits=False)
    assert found.kl_mean == pytest.approx(of_logits.kl_mean, rel=1e-4)
    assert (found.same, found.top_5, found.targets.lost) == (of_logits.same, of_logits.top_5, of_logits.targets.lost)
    one, two = np.array([[[1.0, 6e-8, 0.0]]]), np.array([[[1.0, 0.0, 0.0]]])
    assert sums_of(one, two, logits=False).kl_mean < 1e-6  # what fp16 cannot hold is not infinitely wrong
    assert sums_of(one, two, logits=False).top_5 is None


def test_many_classes_are_added_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sums_of(LOGITS, OTHERS, TARGETS)
    monkeypatch.setattr("mil_palettize.torch.class_sums._AT_ONCE", 3 * CLASSES)
    parts = sums_of(LOGITS, OTHERS, TARGETS)
    assert parts.same == whole.same
    assert parts.targets.lost == whole.targets.lost
    assert parts.kl_mean == pytest.approx(whole.kl_mean)


def test_rows_that_are_not_numbers() -> None:
    one, two = LOGITS[:1].copy(), LOGITS[:1].copy()
    one[0, 0, 3] = math.nan  # of the original: nobody's fault
    two[0, 1, 2] = math.nan  # lost since
    one[0, 2, 1:] = two[0, 2, 1:] = -math.inf  # classes that cannot be
    two[0, 3, 0] = -math.inf  # that could be
    found = sums_of(one, two, TARGETS[:1])
    count = one.shape[1]
    assert (found.rows, found.left_out) == (count - 1, 1)
    moved = one[0, 3].argmax() == 0
    assert found.same == pytest.approx((count - 2 - moved) / (count - 1))
    assert found.kl_mean == found.kl_worst == math.inf
    assert found.to_dict()["kl_mean"] is None
    assert math.isfinite(sums_of(one[:, 2:3], two[:, 2:3]).kl_mean)


def test_targets_of_no_class_are_left_out() -> None:
    targets = TARGETS.copy()
    targets[:, ::2] = IGNORED
    found = sums_of(LOGITS, OTHERS, targets)
    known = targets.reshape(-1) != IGNORED
    assert found.targets.rows == known.sum()
    right = (flat(LOGITS).argmax(1) == targets.reshape(-1))[known]
    assert found.targets.accuracy_before == right.mean()


def test_the_interval_holds_what_it_says() -> None:
    """All outcomes of 25 rows, with their probabilities: the true difference lies within as often as it should."""
    rows = 25
    for lost, won in ((0.1, 0.05), (0.02, 0.02), (0.2, 0.1), (0.05, 0.0)):
        covered = total = 0.0
        for a, b in itertools.product(range(rows + 1), repeat=2):
            if a + b > rows:
                continue
            ways = math.comb(rows, a) * math.comb(rows - a, b)
            chance = ways * lost**a * won**b * (1 - lost - won) ** (rows - a - b)
            low, high = TargetFigures(rows, rows - b, a, b, 1.0, 1.0).difference
            covered += chance * (low <= won - lost <= high)
            total += chance
        assert total == pytest.approx(1)
        assert covered > 0.93
    assert TargetFigures(100, 90, 3, 2, 1.0, 1.0).within_noise
    assert not TargetFigures(1000, 900, 60, 10, 1.0, 1.0).within_noise


# Models


def linear(folder: Path, name: str, noise: float, output: str = "logits") -> Path:
    """Rows of 6 numbers to logits of 11 classes; ``noise`` on its weight."""
    random = np.random.default_rng(1)
    weight, moved = random.standard_normal((6, CLASSES)), random.standard_normal((6, CLASSES))
    (folder / name).mkdir()
    build = lambda x: mb.matmul(x=x, y=(weight + noise * moved).astype(np.float32), name=output)  # noqa: E731
    return saved(program_of(build, [((8, 6), np.float32)]), folder / name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("linear")
    return linear(folder, "one", 0.0), linear(folder, "two", 0.3)


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(2)
    return [{"x0": random.standard_normal((8, 6)).astype(np.float32)} for _ in range(5)]


def predicted(path: Path, samples: list[dict[str, np.ndarray]]) -> np.ndarray:
    module = open_model(path)
    return np.stack([module.predict(sample)["logits"] for sample in samples])


def test_an_output_called_logits(pair: tuple[Path, Path], samples: list[dict[str, np.ndarray]]) -> None:
    one, two = (predicted(path, samples) for path in pair)
    targets = one.argmax(-1)
    targets[:, 3] = 0
    (output,) = compare(*pair, samples, labels=targets).outputs
    assert output.agreement == np.mean(one.argmax(-1) == two.argmax(-1)) < 1
    assert output.classes is not None
    assert output.classes.targets is not None
    assert output.classes.targets.accuracy_before == np.mean(one.argmax(-1) == targets)
    assert output.classes.targets.accuracy_after == np.mean(two.argmax(-1) == targets)


def test_an_output_named_for_it(tmp_path: Path) -> None:
    one, two = linear(tmp_path, "one", 0.0, "scores"), linear(tmp_path, "two", 0.3, "scores")
    assert compare(one, two, random=1).outputs[0].classes is None
    assert compare(one, two, random=1, logits=["scores"]).outputs[0].classes is not None
    with pytest.raises(EvaluationError, match=r"no output 'other' for logits; the model gives 'scores'"):
        compare(one, two, random=1, logits=["other"])
    with pytest.raises(EvaluationError, match=r"labels need an output of classes; name that of logits \(--logits NAME"):
        compare(one, two, random=1, labels=[np.zeros(8, int)])


def test_text_page_and_json_show_them(pair: tuple[Path, Path], samples: list[dict[str, np.ndarray]]) -> None:
    found = compare(*pair, samples, labels=np.zeros((5, 8), int))
    text, shown, plain = found.to_text(), page(found), json.loads(found.to_json())["outputs"][0]["classes"]
    for what in ("same first class", "same of the first 5", "KL mean", "KL worst", "accuracy", "perplexity"):
        assert what in text
        assert what in shown
    assert "Accuracy of 'logits' changes by" in text
    assert "changes by" in shown
    assert set(plain) == {"rows", "same", "top_5", "kl_mean", "kl_worst", "left_out", "targets"}
    assert plain["targets"]["rows"] == 40


def test_gates(pair: tuple[Path, Path], samples: list[dict[str, np.ndarray]]) -> None:
    found = compare(*pair, samples, labels=predicted(pair[0], samples).argmax(-1))
    (output,) = found.outputs
    assert output.agreement is not None
    assert output.classes is not None
    apart = 1 - output.agreement
    assert found.failures(max_disagreement=apart + 0.01) == []
    assert found.failures(max_disagreement=apart - 0.01) == [
        f"output 'logits': {apart:.2%} disagree, more than {100 * (apart - 0.01):.4g}%"
    ]
    assert found.failures(max_kl=output.classes.kl_mean * 1.01) == []
    assert len(found.failures(max_kl=output.classes.kl_mean * 0.99)) == 1
    assert found.failures(max_accuracy_loss=apart + 0.01) == []
    assert len(found.failures(max_accuracy_loss=apart - 0.01, fail_below=99)) == 2
    right, top_5 = output.classes.targets, output.classes.top_5
    assert right is not None
    assert top_5 is not None
    rise = right.perplexity_after / right.perplexity_before - 1
    assert found.failures(max_perplexity_rise=rise + 0.01, min_top_5=top_5 - 0.01) == []
    assert found.failures(max_perplexity_rise=rise - 0.01, min_top_5=top_5 + 0.01) == [
        f"output 'logits': perplexity rises by {rise:.2%}, more than {100 * (rise - 0.01):.4g}%",
        f"output 'logits': same of the first 5 {top_5:.2%}, less than {100 * (top_5 + 0.01):.4g}%",
    ]


def test_a_gate_without_anything_to_judge(tmp_path: Path) -> None:
    one = linear(tmp_path, "one", 0.0, "scores")
    found = compare(one, one, random=1)
    assert found.failures(min_top_5=0.5) == [
        "no output has more than five classes; --logits names one whose last axis is of classes"
    ]
    for limit in ("max_disagreement", "max_kl", "max_accuracy_loss", "max_perplexity_rise"):
        (line,) = found.failures(**{limit: 0.5})
        assert "to judge by; --logits names one" in line


def test_the_command(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", *map(str, pair), "--random", "3"]
    assert main([*arguments, "--max-disagreement", "99%"]) == 0
    assert "same first class" in capsys.readouterr().out
    assert main([*arguments, "--max-disagreement", "0.1%", "--max-kl", "0.000001"]) == 1
    error = capsys.readouterr().err
    assert "disagree, more than 0.1%" in error
    assert "KL divergence" in error
    np.save(tmp_path / "y.npy", np.zeros((3, 8), int))
    assert main([*arguments, "--labels", str(tmp_path / "y.npy"), "--max-accuracy-loss", "100%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["classes"]["targets"]["rows"] == 24
    assert main([*arguments, "--labels", str(tmp_path / "y.npy"), "--max-perplexity-rise", "0%"]) == 1
    assert main([*arguments, "--min-top-5", "100%"]) == 1
    assert "same of the first 5" in capsys.readouterr().err
    assert main([*arguments, "--labels", str(tmp_path / "none.csv")]) == 3
    for option, value in (("--max-disagreement", "101%"), ("--max-disagreement", "much"), ("--max-kl", "-1")):
        with pytest.raises(SystemExit):
            main([*arguments, f"{option}={value}"])


# Classifiers, and labels of pictures


@pytest.fixture(scope="module")
def classifier(fixtures: Path) -> Path:
    return fixtures / "image_classifier_ios15.mlpackage"


def folder_of(classifier: Path, folder: Path, names: list[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for name, sample in zip(names, plausible_inputs(open_model(classifier), len(names)), strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(next(iter(sample.values()))).save(folder / name)


@pytest.mark.parametrize("heading", ["", "file,label\n"])
def test_labels_of_pictures(heading: str, classifier: Path, tmp_path: Path) -> None:
    names = ["a.png", "sub/b.png", "c.png"]
    folder_of(classifier, tmp_path / "images", names)
    module = open_model(classifier)
    read = read_samples(tmp_path / "images", module)
    assert list(read.names) == ["a.png", "c.png", "sub/b.png"]
    said = {
        name: str(module.predict(sample)[module.features.label]) for name, sample in zip(read.names, read, strict=True)
    }
    classes = list(map(str, next(v for v in module.predict(read[0]).values() if isinstance(v, dict))))
    said["a.png"] = next(name for name in classes if name != said["a.png"])
    rows = [f"{Path(name).name},{label}" for name, label in said.items()]
    (tmp_path / "y.csv").write_text(heading + "\n".join([*rows, "gone.png,x"]) + "\n")
    found = compare(classifier, classifier, tmp_path / "images", labels=tmp_path / "y.csv")
    (right,) = [o.classes.targets for o in found.outputs if o.classes is not None]
    assert right is not None
    assert (right.rows, right.right_before, right.lost, right.won) == (3, 2, 0, 0)
    assert any("1 label of " in note and "left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        ("a\n", EvaluationError, "has 1 label for 2 samples; give one for each"),
        ("no such class\n0\n", EvaluationError, "the label 'no such class' is no class of output '.*'; there are "),
        ("a.png,x,y\n", PackageError, "it has the row 'a.png,x,y'; each row must be a label, or a picture and"),
        ("\n", PackageError, "it is empty; each row must be"),
        ("a.png,0\nb.png,0\n", EvaluationError, "names pictures, and the samples are none"),
    ],
)
def test_labels_that_do_not_fit(
    content: str, kind: type[Exception], told: str, classifier: Path, tmp_path: Path
) -> None:
    (tmp_path / "y.csv").write_text(content)
    with pytest.raises(kind, match=told):
        compare(classifier, classifier, random=2, labels=tmp_path / "y.csv")


def test_labels_of_other_pictures(classifier: Path, tmp_path: Path) -> None:
    folder_of(classifier, tmp_path / "images", ["a.png", "b.png"])
    (tmp_path / "y.csv").write_text("b.png,0\nc.png,0\n")
    with pytest.raises(EvaluationError, match=r"has no label for a\.png; each picture needs one"):
        compare(classifier, classifier, tmp_path / "images", labels=tmp_path / "y.csv")


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (np.zeros((2, 7), int), r"the labels of a sample are \[7\], and its rows of classes \[8\]"),
        (np.full((2, 8), CLASSES), "the label 11 is no class; there are 11, from 0 on"),
    ],
)
def test_targets_that_do_not_fit(targets: np.ndarray, told: str, pair: tuple[Path, Path]) -> None:
    with pytest.raises(EvaluationError, match=told):
        compare(*pair, random=2, labels=targets)


# Masks


def test_mean_iou_is_that_of_scikit_learn() -> None:
    sums = MaskSums()
    pairs = [(RNG.integers(0, 5, (6, 7)), RNG.integers(0, 6, (6, 7))) for _ in range(4)]
    for one, two in pairs:
        sums.add(one, np.where(RNG.uniform(size=one.shape) < 0.7, one, two))
    assert MaskSums().mean_iou() is None
    again, (one, two) = MaskSums(), (np.stack([pair[i] for pair in pairs]) for i in range(2))
    again.add(one, two)
    wanted = jaccard_score(one.reshape(-1), two.reshape(-1), average=None, labels=range(6))
    assert again.mean_iou() == pytest.approx(wanted.mean())
    parts = MaskSums()
    for pair in pairs:
        parts.add(*pair)
    assert parts.mean_iou() == pytest.approx(wanted.mean())
    many = MaskSums()
    many.add(np.arange(300).reshape(2, 150), np.arange(300).reshape(2, 150))
    assert many.mean_iou() is None


def test_masks_of_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def model(name: str, shift: float) -> Path:
        (tmp_path / name).mkdir()
        build = lambda x: mb.cast(x=mb.round(x=mb.add(x=x, y=np.float32(shift))), dtype="int32", name="mask")  # noqa: E731
        return saved(program_of(build, [((8, 9), np.float32)]), tmp_path / name)

    pair = model("one", 0.0), model("two", 0.2)
    samples = plausible_inputs(open_model(pair[0]), 3)
    found = compare(*pair, samples)
    one, two = (np.stack([open_model(path).predict(s)["mask"] for s in samples]).reshape(-1) for path in pair)
    labels = sorted({*one.tolist(), *two.tolist()})
    wanted = jaccard_score(one, two, average=None, labels=labels).mean()
    assert found.outputs[0].mean_iou == pytest.approx(wanted)
    assert f"mean IoU of its classes {wanted:.2%}" in found.to_text()
    assert "mean IoU" in page(found)
    assert found.failures(min_iou=wanted - 0.01) == []
    assert found.failures(min_iou=wanted + 0.01) == [
        f"output 'mask': mean IoU {wanted:.2%}, less than {100 * (wanted + 0.01):.4g}%"
    ]
    assert main(["compare", *map(str, pair), "--random", "2", "--min-iou", "100%"]) == 1
    assert "mean IoU" in capsys.readouterr().err
    other = linear(tmp_path, "logits", 0.0)
    assert compare(other, other, random=1).failures(min_iou=0.5) == [
        "no output is a mask of classes (int32 of two axes or more)"
    ]
