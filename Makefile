# Everything runs in .venv; `make study` and `make test` need only Python 3.11+ and make.
PYTHON ?= python3
# Where torch comes from: empty is pip's default; for another build name its index, for example
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130   (or .../whl/cpu)
TORCH_INDEX ?=
PIP := .venv/bin/pip --disable-pip-version-check install --quiet
READY := .venv/ready
PYTEST := OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup study test check lint slow long clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable ".[test]"
	touch $(READY)

study: $(READY)
	.venv/bin/dmr run studies/digits.yaml

test: $(READY)
	$(PYTEST) -m "not slow and not cluster and not gpu"

lint: $(READY)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

slow: $(READY)
	$(PYTEST) -m "(slow or cluster) and not long"

# What the 20 minutes of `make check` have no room for.
long: $(READY)
	$(PYTEST) -m long

check: lint test slow

clean:
	rm -rf .venv
