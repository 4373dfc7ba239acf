"""Models over many devices.  KERAS_BACKEND=jax pytest tests/test_distribution.py

The devices are virtual ones of the CPU, in processes of their own: this one has but one.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from guides import blocks
from tiny import assert_close

from bert4keras3.distribution import data_parallel, layout_map, model_parallel
from bert4keras3.weights import open_source

SCRIPT = Path(__file__).with_name("distributed.py")
CHECKS = ("families", "shards", "generation", "layouts", "guide")


def start(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def result(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """What one process with 8 devices found, and its folder."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("distributed") / "Llama"
    return result(start(folder)), folder


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_eight_devices(one_process, name):
    assert one_process[0]["checks"][name] is None, one_process[0]["checks"][name]["failed"]


@pytest.mark.once
@pytest.mark.slow
def test_bad_meshes(one_process):
    said = one_process[0]["checks"]["refusals"]
    assert "data=2 × model=8 asks for 16 devices, there are 8" in said["devices"]
    assert "data=9 asks for 9 devices" in said["data"]
    assert "model: expected a number of devices, 1 or more, got 0" in said["number"]
    assert "expected an axis 'model'" in said["mesh"]
    for name, layer in (("heads", "MultiHeadSelfAttention"), ("recurrent", "TimeMix")):
        assert layer in said[name] and "2 heads" in said[name]
        assert "8 devices of the mesh axis 'model'" in said[name]
    assert "['early'] were built before" in said["late"]
    assert "on one device: the model was built before" in said["generate"]


@pytest.mark.once
@pytest.mark.slow
def test_two_processes(one_process):
    """A process that feeds half of the batch trains and generates as one that feeds it all."""
    found, folder = one_process
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(folder, port, number) for number in range(2)]
    try:
        results = [result(process)["job"] for process in processes]
    finally:
        for process in processes:
            process.kill()
    two, expected = results[0], found["job"]
    assert results[1] == two
    assert_close(two["losses"], expected["losses"])
    assert two["losses"][1] < two["losses"][0]
    assert two["tokens"] == expected["tokens"]
    assert two["streamed"] == two["tokens"][0]
    assert two["memory"] == expected["memory"] / 2
    with open_source(f"{folder}-1-0") as one, open_source(f"{folder}-2-0") as other:
        assert list(one) == list(other)
        for tensor in one:
            assert_close(other[tensor], one[tensor])


def test_other_backends_are_refused():
    if keras.backend.backend() == "jax":
        pytest.skip("it distributes")
    for set_up in (data_parallel, model_parallel, lambda: layout_map("bert", None)):
        with pytest.raises(ValueError, match="JAX only"):
            set_up()


@pytest.mark.once
def test_both_languages_have_the_same_examples():
    assert blocks("docs/scaling.md") == blocks("docs/scaling.zh.md")
    assert blocks("docs/scaling.md", "") == blocks("docs/scaling.zh.md", "")
