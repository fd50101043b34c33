"""One measurement in a process of its own: ``python -m tools.benchmark.measurement '{"what": …}'`` prints JSON.

What is heavy is imported where it is needed: imports are part of what is measured, or left out of it.
"""

from __future__ import annotations

import gc
import json
import logging
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Job = Mapping[str, Any]
Result = dict[str, Any]


def peak_megabytes() -> float:
    """Peak resident memory of this process. On Linux ru_maxrss would count the parent's, which it was forked from."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(float(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def palettize(source: str, destination: Path, options: Mapping[str, Any], workers: int | None) -> Any:
    from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package

    config = OptimizationConfig(global_config=OpPalettizerConfig(**options))
    return palettize_package(source, destination, config, workers=workers)


def run_ours(job: Job, destination: Path) -> Result:
    """Job: source, options, workers, warm_up (a package, or None). Seconds of the call; those of the imports and of
    the warm-up beside it. ``idle_mb``: peak memory of the imports."""
    start = time.perf_counter()
    import_ours()
    imported = time.perf_counter()
    idle = peak_megabytes()
    if job["warm_up"] is not None:
        palettize(job["warm_up"], destination.with_name("warm.mlpackage"), job["options"], job["workers"])
    gc.collect()  # the first full collection after imports goes through all that they made: it is theirs
    warm = time.perf_counter()
    report = palettize(job["source"], destination, job["options"], job["workers"])
    return {
        "seconds": time.perf_counter() - warm,
        "import_seconds": imported - start,
        "warm_up_seconds": warm - imported,
        "idle_mb": idle,
        "peak_mb": peak_megabytes(),
        "error": sum(weight.squared_error for weight in report.palettized),
        "palettized": len(report.palettized),
        "written_bytes": sum(file.stat().st_size for file in destination.rglob("weight.bin")),
    }


def import_ours() -> None:
    """Everything a palettization uses: nothing is left to be imported by the first call."""
    from mil_palettize import OpPalettizerConfig, OptimizationConfig, palettize_package

    del OpPalettizerConfig, OptimizationConfig, palettize_package  # names are looked up, and so loaded, when imported


def run_coremltools(job: Job, destination: Path) -> Result:
    """As :func:`run_ours`: load, palettize_weights, save."""
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    idle = peak_megabytes()
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(**job["options"]))

    def run(source: str, destination: Path) -> float:
        gc.collect()
        start = time.perf_counter()
        model = ct.models.MLModel(source, skip_model_load=True)
        cto.palettize_weights(model, config).save(str(destination))
        return time.perf_counter() - start

    run(job["warm_up"], destination.with_name("warm.mlpackage"))
    result: Result = {"seconds": run(job["source"], destination), "idle_mb": idle, "peak_mb": peak_megabytes()}
    return result | {"error": total_error(job["source"], destination)}


def total_error(source: str, written: Path) -> float:
    """Squared error of coremltools' palettes, which it names ``<weight>_palettized``."""
    import numpy as np

    from mil_palettize.program.model import Model
    from mil_palettize.program.site_values import dense

    total = 0.0
    with Model.open(source) as before, Model.open(written) as after:
        weights = {s.weight.name: s for s in before.survey().sites}
        for site in after.survey().sites:
            if site.weight.form == "constexpr_lut_to_dense":
                original = dense(weights[site.weight.name.removesuffix("_palettized")], before.store)
                decoded = dense(site, after.store)
                assert original is not None
                assert decoded is not None
                difference = original.astype(np.float64) - decoded
                total += float(np.vdot(difference, difference))
    return total


def run_resave(job: Job, destination: Path) -> Result:
    """coremltools loads and saves, and does nothing else. Job: source."""
    import coremltools as ct

    idle = peak_megabytes()
    start = time.perf_counter()
    ct.models.MLModel(job["source"], skip_model_load=True).save(str(destination))
    return {"seconds": time.perf_counter() - start, "idle_mb": idle, "peak_mb": peak_megabytes()}


def run_start(job: Job, destination: Path) -> Result:
    """Seconds from the start of the process (``began``, of the same clock) to the end of a little palette."""
    import_ours()
    imported = time.time()
    palettize(job["source"], destination, job["options"], None)
    return {"imported": imported - job["began"], "finished": time.time() - job["began"]}


def run_profile(job: Job, destination: Path) -> Result:
    """Job: runs, each of a source and options. Seconds of each part, of a run on one thread after one that compiles;
    ``untimed_seconds``: of that run without timers."""
    from tools.benchmark.profile import Profile

    def run(case: Job) -> float:
        start = time.perf_counter()
        palettize(case["source"], destination, case["options"], 1)
        seconds = time.perf_counter() - start
        shutil.rmtree(destination)
        return seconds

    profiles = []
    for case in job["runs"]:
        run(case)
        untimed, profile = run(case), Profile()
        with profile.running():
            palettize(case["source"], destination, case["options"], 1)
        shutil.rmtree(destination)
        profiles.append({"untimed_seconds": untimed, "seconds": profile.seconds})
    return {"profiles": profiles}


def run_optimum(job: Job, destination: Path) -> Result:
    """The least squared error that all weights of ``source`` together can have with ``nbits`` in one table each."""
    from mil_palettize.program.model import Model
    from mil_palettize.program.site_values import dense
    from tools.benchmark.optimum import least_error

    with Model.open(job["source"]) as model:
        arrays = [dense(site, model.store) for site in model.survey().sites]
    return {"error": sum(least_error(a.reshape(-1), 1 << job["nbits"]) for a in arrays if a is not None)}


VERBS: dict[str, Callable[[Job, Path], Result]] = {
    "ours": run_ours,
    "coremltools": run_coremltools,
    "resave": run_resave,
    "start": run_start,
    "profile": run_profile,
    "optimum": run_optimum,
}


def measure(what: str, *, environment: Mapping[str, str] | None = None, **job: Any) -> Result:
    """Carry out a job in a new process; paths are given as strings, and whole. Exits with its errors if it fails."""
    command = [sys.executable, "-m", __name__, json.dumps({"what": what, "began": time.time(), **job})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"the measurement {what!r} of {job} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    job = json.loads(sys.argv[1])
    beside = Path(job["source"] if "source" in job else job["runs"][0]["source"]).parent
    with TemporaryDirectory(dir=beside) as folder:
        print(json.dumps(VERBS[job["what"]](job, Path(folder, "out.mlpackage"))))


if __name__ == "__main__":
    main()
