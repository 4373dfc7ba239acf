"""Shards of a large file as tasks of ray, on one machine or on many.

A task is a run over a shard, with an output and a journal of its own beside that of the whole:
ray starts a task again whose process has died, and that one goes on where the other was.
"""

import argparse
import os
from pathlib import Path

from bert4keras3.cli.batches import run_shard
from bert4keras3.cli.common import open_output

NO_RAY = "--ray needs ray: pip install 'bert4keras3[ray]'"
# What the processes of tasks must have as this one has it.
ENVIRONMENT = (
    "KERAS_BACKEND",
    "KERAS_HOME",
    "TF_CPP_MIN_LOG_LEVEL",
    "BERT4KERAS3_COMPILATION_CACHE",
)


def run_on_ray(args, job):
    """Compute `args.ray` shards and join their outputs.

    All machines of a cluster must see model, input and output under the same paths.

    Raises:
        ImportError: ray is not installed.
        Exception: what a shard has raised.
    """
    try:
        import ray
    except ImportError:
        raise ImportError(NO_RAY) from None
    shards = _shards(args)
    if args.restart:
        for shard in shards:
            _remove(shard.output)
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    started = not ray.is_initialized()
    if started:
        ray.init(
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
        )
    try:
        _compute(ray, shards, job)
    finally:
        if started:
            ray.shutdown()
    with open_output(args.output) as file:
        job.join([shard.output for shard in shards], file)
    for shard in shards:
        _remove(shard.output)


def _shards(args):
    """The arguments of each shard's run."""
    output, among = os.path.abspath(args.output), args.ray
    model = None if args.model is None else os.path.abspath(args.model)
    shared = {**vars(args), "input": os.path.abspath(args.input), "model": model, "restart": False}
    return [
        argparse.Namespace(
            **{**shared, "shard": (i, among), "output": f"{output}.shard-{i}-of-{among}"}
        )
        for i in range(1, among + 1)
    ]


def _compute(ray, shards, job):
    """Wait for the tasks of all shards, as they finish."""
    from tqdm import tqdm

    gpus = min(1, ray.cluster_resources().get("GPU", 0) / len(shards))
    task = ray.remote(num_gpus=gpus)(_run)
    waiting = [task.remote(shard, job) for shard in shards]
    with tqdm(total=len(shards), unit="shard", disable=None, leave=False) as bar:
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            bar.update(len(done))


def _run(shard, job):
    run_shard(shard, job, shard.shard)


def _remove(output):
    """Remove the output of a shard, and its journal."""
    for ending in ("", ".part", ".part.json"):
        Path(f"{output}{ending}").unlink(missing_ok=True)
