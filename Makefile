# make demo       sets up, trains Mask R-CNN + XCiT on the embedded data set, evaluates it, draws what it found
# make demo-seg   the same for segmentation: Semantic FPN + XCiT, or with HEAD=upernet UperNet + XCiT
# make benchmark  measures the figures of docs/performance.md, in work_dirs/benchmark; takes about two hours
# make test       sets up if needed, runs every test and every example of the docstrings
# make test-fast  leaves out the tests that are marked slow
# make test-integrations  installs PEFT, ONNX Runtime and other libraries too, and runs the tests with them
# make docs       builds the documentation's site in site/
#
# PYTHON=python3.12  interpreter to set up with (3.10 to 3.13)
# TESTS=tests/mm     only these tests
# MARKS='not slow'   only the tests with these marks; pyproject.toml explains the marks
# STACK=openmmlab    the original MM libraries instead of the maintained forks
# JOBS=1             tests one after another, to follow one in a debugger

PYTHON ?= python3
STACK ?= mm
VENV ?= .venv-$(STACK)
HEAD ?= sem_fpn
JOBS ?= 2

# The images of demos and tests are small: a second thread gains little, and costs a lot where cores are shared.
export OMP_NUM_THREADS ?= 1
# pip does not look for a newer pip.
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

python := $(VENV)/bin/python
pip := $(python) -m pip install --quiet
# The tests of a file share trained models and data sets, so one process runs them all. tests/conftest.py puts the long
# files first. pytest-xdist would put the files with many tests first.
pytest := $(python) -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder
doctest := $(pytest) --doctest-modules -p tests.helpers.doctests xcit_dense

.PHONY: setup test test-fast test-integrations lint docs shapes demo demo-seg benchmark lock clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements/$(STACK).lock setup.py startup/xcit_dense.pth startup/_xcit_dense_startup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	    { echo "error: $(PYTHON) is not Python 3.10 to 3.13; write make PYTHON=python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(pip) --upgrade pip
	$(pip) --no-deps --requirement requirements/$(STACK).lock
	$(pip) --no-deps --editable .
	# MMEngine imports yapf. yapf writes a cache at its first import, and two test processes must not do so at once.
	$(python) -c 'import yapf'
	touch $@

# Without TESTS, also the examples of the docstrings.
test: setup
	$(pytest) $(if $(MARKS),-m '$(MARKS)') $(TESTS)
	$(if $(TESTS),,$(doctest))

test-fast: MARKS := not slow
test-fast: test

test-integrations: setup
	$(pip) --no-deps --requirement requirements/integrations.lock
	$(pytest) $(if $(MARKS),-m '$(MARKS)') tests/integrations tests/export

lint: setup
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(VENV)/bin/lint-imports --no-cache

docs: setup
	$(pip) --no-deps --requirement requirements/docs.lock
	$(python) -m mkdocs build --strict

demo: config := configs/detection/mask_rcnn_xcit_n12_p8_shapes.py
demo: OUT ?= work_dirs/demo
demo-seg: config := configs/segmentation/$(HEAD)_xcit_n12_p8_shapes.py
demo-seg: OUT ?= work_dirs/demo-seg
shapes: setup
	$(python) tools/make_shapes.py data/shapes

demo demo-seg: shapes
	$(python) tools/train.py $(config) --work-dir $(OUT) $(DEMO_OPTIONS)
	$(python) tools/test.py $(config) $(OUT) --work-dir $(OUT)/test --out $(OUT)/metrics.json --show-dir $(OUT)/pictures

benchmark: OUT ?= work_dirs/benchmark
benchmark: measure := $(python) tools/benchmark.py --threads 2 --rounds 5
benchmark: several := --variant nano_12_p16 --sizes 512x512,1024x1024,2048x2048,4096x4096
benchmark: peers := ours,library-heads,timm
benchmark: setup
	for v in small_12_p16 small_12_p8; do \
	    $(measure) --variant $$v --out $(OUT)/$$v --contenders ours,deployed,literal,timm,timm-compiled && \
	    $(measure) --variant $$v --out $(OUT)/$$v-bf16 --dtype bf16 --contenders ours,deployed,timm && \
	    $(measure) --variant $$v --out $(OUT)/$$v-train --train --contenders ours,checkpointed,timm || exit 1; \
	done
	for m in mask_rcnn_xcit_s12 sem_fpn_xcit_s12 upernet_xcit_s12; do \
	    $(measure) --model $$m --out $(OUT)/$$m --contenders $(peers),deployed || exit 1; \
	done
	$(measure) --model mask_rcnn_xcit_s12 --instances 100 --out $(OUT)/mask_rcnn_xcit_s12-100 --contenders $(peers),deployed
	$(measure) --model mask_rcnn_xcit_s12 --train --sizes 800x1120 --out $(OUT)/mask_rcnn_xcit_s12-train --contenders $(peers)
	$(measure) --model upernet_xcit_s12 --train --sizes 512x512 --batch 2 --out $(OUT)/upernet_xcit_s12-train --contenders $(peers)
	$(measure) $(several) --out $(OUT)/growth --contenders ours,deployed,timm
	$(measure) $(several) --out $(OUT)/growth-train --train --contenders ours,checkpointed

# Needs uv.
lock:
	for stack in mm openmmlab; do \
	    large=$$(test $$stack = openmmlab || echo --extra large --extra slides); \
	    uv pip compile --quiet --universal --python-version 3.10 --extra $$stack --extra dev $$large --no-emit-index-url \
	        --no-header --no-annotate -c requirements/constraints.txt --override requirements/overrides.txt setup.py requirements/headless.in \
	        -o requirements/$$stack.lock || exit 1; \
	done
	for group in docs integrations; do \
	    uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-header --no-annotate \
	        -c requirements/mm.lock requirements/$$group.in -o requirements/$$group.lock || exit 1; \
	done

clean:
	rm -rf $(VENV) work_dirs data/shapes
