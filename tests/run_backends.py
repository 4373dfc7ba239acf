"""Runs the suite on one backend after another and adds up the results.

    python tests/run_backends.py                      # all backends
    python tests/run_backends.py --quick --backends jax
    python tests/run_backends.py --whole              # an hour and a half on two cores
    python tests/run_backends.py --backends torch -- tests/test_bert.py -x

Tests marked `once` do not depend on the backend and run on one only: PyTorch, which compiles
nothing, or else the first. JAX and TensorFlow compile each family's programs anew: unless it is
the only backend, or with --whole, their tests of invariants keep to a few families (mark
`further`), and PyTorch takes all. Golden data and parity are tested for all families everywhere.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("jax", "tensorflow", "torch")
COMPILING = ("jax", "tensorflow")
# A process keeps all that XLA compiled until it ends, and TensorFlow dies of too much of it.
PROCESSES = {"jax": 2, "tensorflow": 4}


def run(backend, marks, arguments):
    """Run the suite on one backend; its counts, and whether it ended well."""
    groups = [arguments]
    if not arguments:
        files, parts = sorted(ROOT.glob("tests/test_*.py")), PROCESSES.get(backend, 1)
        groups = [[str(file) for file in files[i::parts]] for i in range(parts)]
    counts, well = Counter(), True
    for group in groups:
        found, ended_well = run_once(backend, marks, group)
        counts, well = counts + found, well and ended_well
    return counts, well


def run_once(backend, marks, arguments):
    """Run pytest; the counts of its tests, and whether it ended well."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        # Most of the time goes into compiling small programs, one core each.
        # TensorFlow's workers share what compiles most, the others start on a half each.
        order = "load" if backend == "tensorflow" else "worksteal"
        command += ["-n", "auto", "--dist", order, *arguments]
        if marks:
            command += ["-m", " and ".join(marks)]
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TOKENIZERS_PARALLELISM": "false",
            # Each worker has a core; more threads would wait for each other.
            "OMP_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
            # Programs run for milliseconds and compile for seconds.
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
        }
        ended = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        counts = read_counts(report) if report.exists() else Counter()
    # pytest says 5 where a selection has no test at all.
    return counts, ended in (0, 5)


def read_counts(report):
    suite = ElementTree.parse(report).getroot().find("testsuite")
    number = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    passed = number["tests"] - failed - number["skipped"]
    return Counter(passed=passed, failed=failed, skipped=number["skipped"])


def describe(counts):
    return ", ".join(f"{counts[key]} {key}" for key in ("passed", "failed", "skipped"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backends",
        default=",".join(BACKENDS),
        help=f"comma-separated, of {', '.join(BACKENDS)} (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="leave out tests marked slow")
    parser.add_argument("--whole", action="store_true", help="leave nothing out on any backend")
    parser.add_argument("arguments", nargs="*", help="further arguments of pytest, after --")
    options = parser.parse_args()
    backends = options.backends.split(",")
    unknown = sorted(set(backends) - set(BACKENDS))
    if unknown:
        parser.error(f"unknown backend {unknown[0]!r}: choose from {', '.join(BACKENDS)}")

    total, summaries, well = Counter(), [], True
    takes_once = "torch" if "torch" in backends else backends[0]
    for backend in backends:
        marks = ["not slow"] * options.quick + ["not once"] * (backend != takes_once)
        if backend in COMPILING and len(backends) > 1 and not options.whole:
            marks.append("not further")
        print(f"=== {backend} ===", flush=True)
        start = time.monotonic()
        counts, ended_well = run(backend, marks, options.arguments)
        minutes = (time.monotonic() - start) / 60
        summaries.append(f"{backend:12} {describe(counts)} in {minutes:.1f} min")
        total += counts
        well = well and ended_well and not counts["failed"]
    print("\n=== all backends ===", *summaries, describe(total), sep="\n")
    sys.exit(0 if well and total["passed"] else 1)


if __name__ == "__main__":
    main()
