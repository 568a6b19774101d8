# Installation included: make demo, make test, and make deploy, which make undeploy stops.

PYTHON ?= python3.11
PORT ?= 4200
BIN := .venv/bin
INSTALLED := .venv/installed
# folders of packages that no command imports: half of all code, which is compiled when it is first used
RARE := tests|mgmt/resource|plotly|databricks|matplotlib|mypy|debugpy|fontTools|onnxruntime|setuptools|sphinx|docutils|jedi|pip

.PHONY: install demo deploy undeploy test pytest quick check docs lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Almanac needs Python 3.11: make PYTHON=/path/to/python3.11")'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -W ignore -m compileall -q -j 0 -x '/($(RARE))/' \
	  flows tasks models deployments benchmarks .venv/lib/python3.11/site-packages
	$(BIN)/python -m flows --help >/dev/null
	touch $@

demo: install
	$(BIN)/python -m flows demo

deploy: install
	$(BIN)/python -m deployments up --port $(PORT)

undeploy:
	$(BIN)/python -m deployments down

# Types and examples are checked while the tests wait: at the lowest priority, they hardly delay them.
test: install
	$(MAKE) --jobs=2 check pytest

# In four processes, of which some wait, each with servers of its own; the tests of one file stay together.
pytest: install
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=25

# Tests that need neither a server nor processes of their own, and the examples in docstrings.
quick: install
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow and not served" --doctest-modules \
		tests flows tasks models

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	nice -n 19 $(BIN)/mypy
	nice -n 19 $(BIN)/python -m pytest --doctest-modules flows tasks models
	$(BIN)/lint-imports
	$(BIN)/codespell

lock:
	$(BIN)/uv pip compile pyproject.toml --group dev --python-version 3.11 --upgrade --quiet \
		--generate-hashes --no-emit-index-url --no-emit-find-links --output-file requirements.lock

# The documentation as a site, in site/.
docs: install
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs site

clean:
	rm -rf .venv .deploy store node_modules site
