# Everything runs in one virtual environment, made from PYTHON. Stamps in it keep anything from being done twice; `make
# clean` starts over, for instance with another PYTHON.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The heavy targets have a short form, which CI runs, and a full one: make test-kills FULL=1
FULL ?= 0
export HOLDFAST_FULL := $(FULL)

# How long to soak.
SECONDS ?= 3600

# What the compiled module is made from: the package is installed again when any of it changes.
CORE := pyproject.toml setup.py csrc/cffi_build.py $(shell find csrc -path csrc/tests -prune -o -name '*.[ch]' -print)
PACKAGE := $(CORE) MANIFEST.in README.md LICENSE $(shell find src -name '*.py' -o -name '*.pyi' -o -name py.typed)
C_FILES := $(shell find csrc tests -name '*.[ch]')

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
HASH := \#
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.* $(HASH)$(HASH) .*/\1/p' Makefile)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-17s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed $(VENV)/.group-filelock ## run the demonstration
	$(BIN)/python examples/demo.py

test: test-c test-py ## pass the tests of the C core and of the package

test-c: ## the tests of the C core
	PYTHON=$(BIN)/python bash csrc/tests/run.sh native

test-py: $(VENV)/.installed $(VENV)/.group-test ## the tests of the package
	$(BIN)/python -m pytest

test-c-sanitize: $(VENV)/.created ## the C tests under AddressSanitizer, UBSan and ThreadSanitizer
	bash tools/test_c.sh $(BIN) test-c-sanitize sanitize

test-c-valgrind: $(VENV)/.created ## the C tests under valgrind
	bash tools/need.sh valgrind=valgrind,libc6-dbg
	bash tools/test_c.sh $(BIN) test-c-valgrind valgrind

test-kills: $(VENV)/.installed ## kill -9 for writers, readers, holders, editors, stores: a thousand, or FULL=1 ten thousand
	PYTHONPATH=tools $(BIN)/python tests/stress/kill.py

# JOBS names some: "nfs4 cifs ext4".
test-machine: $(VENV)/.wheel ## NFS, SMB, vfat, and power cuts on real disks, in an emulated machine
	bash tools/need.sh qemu-system-x86_64=qemu-system-x86 debootstrap=debootstrap mkfs.ext4=e2fsprogs
	PYTHONPATH=tools $(BIN)/python tests/machine/run.py $(JOBS)

test-chaos: $(VENV)/.installed $(VENV)/.group-test ## stopped holders, jumping clocks, forks, full disks, crowds, storms
	bash tests/chaos/run.sh $(BIN)/python tests/chaos/chaos.py

soak: $(VENV)/.installed ## a mix of everything for SECONDS=3600: does anything grow?
	PYTHONPATH=tools:tests:tests/stress $(BIN)/python tests/chaos/soak.py $(SECONDS)

# SANITIZERS names some: "address thread valgrind".
test-py-sanitize: $(VENV)/.installed $(VENV)/.group-test ## the tests of the package on a core under gcc's sanitizers
	bash tools/need.sh gcc=gcc nm=binutils setarch=util-linux
	bash tools/test_py_sanitize.sh $(BIN) $(SANITIZERS)

test-hostile: $(VENV)/.installed $(VENV)/.group-test ## what others plant beside our files and write into them
	PYTHONPATH=tools bash tools/test_hostile.sh $(BIN)

test-faults: $(VENV)/.installed $(VENV)/.group-test ## let every system call of every operation fail, in every plausible way
	bash tools/need.sh strace=strace
	bash tests/faults/run.sh $(BIN)/python tests/faults/inject.py

# PYTHONS names some: "3.11 3.14t".
test-windows: $(VENV)/.created $(VENV)/.group-cross ## C tests and package on Windows' own CPython, under Wine
	bash tools/need.sh x86_64-w64-mingw32-gcc=gcc-mingw-w64-x86-64 wine=wine,wine64
	bash tools/test_windows.sh $(PYTHONS)

test-filesystems: $(VENV)/.installed $(VENV)/.group-test ## check what holds on ext4, xfs, btrfs, tmpfs, overlayfs, FUSE
	bash tools/need.sh cc=build-essential mkfs.ext4=e2fsprogs mkfs.xfs=xfsprogs mkfs.btrfs=btrfs-progs bindfs=bindfs \
		sshfs=sshfs ssh=openssh-client sshd=openssh-server fusermount3=fuse3 pkg-config=pkg-config \
		/usr/include/fuse3/fuse.h=libfuse3-dev unshare=util-linux
	unshare --mount $(BIN)/python tests/filesystems/run.py

test-exclusion: $(VENV)/.installed $(VENV)/.group-test ## check histories of every lock for two that were inside together
	bash tools/need.sh cc=build-essential
	PYTHONPATH=tools $(BIN)/python tests/histories/run.py

test-power-cuts: $(VENV)/.installed ## check what disks may hold after power cuts
	bash tools/need.sh cc=build-essential
	PYTHONPATH=tools $(BIN)/python tests/power_cuts/run.py

# PLATFORMS names some: "s390x pypy 3.14t".
test-platforms: $(VENV)/.group-cross $(VENV)/.wheel ## the suite on other processors, C libraries and interpreters
	bash tools/need.sh mmdebstrap=mmdebstrap qemu-s390x-static=qemu-user-static musl-gcc=musl-tools curl=curl
	unshare --mount $(BIN)/python tools/platforms.py $(PLATFORMS)

fuzz: $(VENV)/.installed $(VENV)/.group-test $(VENV)/.group-fuzz ## fuzz whatever reads files (FUZZ_SECONDS each)
	bash tools/need.sh clang=clang,libclang-rt-dev
	PYTHONPATH=$(CURDIR)/tools bash tools/fuzz.sh $(BIN)

lint: $(VENV)/.installed $(VENV)/.group-lint ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

docs: $(VENV)/.group-docs ## build the documentation site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.installed $(VENV)/.group-bench ## compare with other packages: locks, logs, states, documents, asyncio
	$(BIN)/python benchmarks/locks.py
	$(BIN)/python benchmarks/appends.py
	$(BIN)/python benchmarks/states.py
	$(BIN)/python benchmarks/asynchronous.py
	$(BIN)/python -m pytest --override-ini=timeout=0 benchmarks/test_operations.py

results: $(VENV)/.installed ## make docs/results.md from benchmarks/results.json
	$(BIN)/python benchmarks/results.py

instructions: $(VENV)/.installed ## count the instructions of the hot paths, and compare with the baseline
	bash tools/need.sh valgrind=valgrind,libc6-dbg
	$(BIN)/python tools/instructions.py

wheel: $(VENV)/.wheel ## build the sdist, and the wheel from it, into dist

# WHEELS names some: "win_amd64 manylinux_aarch64"; a wrong name prints all, and cp314t-NAME is the free-threaded one.
wheels: $(VENV)/.group-cross ## build and audit a wheel for every platform, into build/wheels
	$(BIN)/python tools/wheels.py $(WHEELS)

check-wheel: $(VENV)/.wheel $(VENV)/.group-wheel ## audit the sdist and the wheel, install and try them
	bash tools/check_wheel.sh $(BIN)

check-workflows: $(VENV)/.group-workflows ## validate the workflows and what they read
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/cibuildwheel --platform linux --archs x86_64,i686,aarch64,s390x,ppc64le --print-build-identifiers
	$(BIN)/cibuildwheel --platform macos --archs x86_64,arm64 --print-build-identifiers
	$(BIN)/cibuildwheel --platform windows --archs AMD64,x86,ARM64 --print-build-identifiers
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --no-progress .github

evidence: $(VENV)/.created ## put the tables of the latest runs into docs/evidence.md
	$(BIN)/python tools/evidence.py keep

# For targets that run at once: no two may install into it.
GROUPS := test lint docs bench readers wheel workflows cross fuzz filelock
environment: $(VENV)/.installed $(VENV)/.wheel $(GROUPS:%=$(VENV)/.group-%) ## install what all other targets need

clean: ## remove everything that was made
	rm -rf $(VENV) .cache build dist src/holdfast.egg-info src/holdfast/_native.*so src/holdfast/_native.*pyd
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache

# Debian splits off what `venv` needs to install pip; where it is missing, the pip outside installs the one inside.
$(VENV)/.created:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.group-%: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

$(VENV)/.installed: $(CORE) $(VENV)/.created
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.wheel: $(PACKAGE) $(VENV)/.group-wheel
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	touch $@
