# Everything a person or CI runs. `make image` and `make test` are the README's two commands; both
# install what they need (host tools through apt, Python packages into $(VENV)).

VENV ?= .venv
PYTHON ?= python3
PYTEST_ARGS ?=
# How long the soak of a farm lasts.
SOAK_MINUTES ?= 30
bin := $(VENV)/bin

# As many processes as cores; one that has no more tests takes some from another.
parallel := -n auto --dist worksteal

# Without its bytecode every worker, planner and daemon that a test starts compiles all of dcd again.
unexport PYTHONDONTWRITEBYTECODE

# What the tests use beside the tools of images: fault injection, other file systems, iSCSI, network
# name spaces, dcd's own Debian package. With CI set, a test that misses one of them fails.
test_packages := acl attr bmap-tools btrfs-progs chromium cryptsetup-bin curl debhelper dnsmasq-base docker-registry dosfstools dpkg-dev erofs-utils faketime fish fuse3 gcc genisoimage gnupg groff-base iproute2 \
	libarchive-tools libc6-dev libseccomp2 libvhdi-utils libxml2-dev libxslt1-dev lintian lvm2 lxc openssh-server postgresql procps python3-dev python3-venv qemu-block-extra qemu-efi-aarch64 qemu-system-arm \
	qemu-system-common sbsigntool rsync skopeo strace systemd tgt tzdata umoci xfsprogs zfs-fuse zsh

.PHONY: image test check bench soak deb p5m clean tools

image: tools
	$(bin)/dcctl build examples/debian-live.xml -o image --state-dir image

test: $(VENV)/.dev
	tools/install-host-tools.sh $(bin)/dcd $(test_packages)
	$(bin)/pytest $(parallel) $(PYTEST_ARGS)

# Linters and types are tests too: tests/test_project.py.
check: $(VENV)/.dev
	$(bin)/pytest -q $(parallel) -m "not system and not faults and not slow and not daemon"

bench: tools $(VENV)/.dev
	$(bin)/python -m benchmarks $(BENCH_ARGS)

soak: $(VENV)/.dev
	tools/install-host-tools.sh $(bin)/dcd $(test_packages)
	DCD_SOAK=1 $(bin)/pytest -m faults --timeout 7200 $(PYTEST_ARGS)
	$(bin)/python -m tests.faults.farm_soak --minutes $(SOAK_MINUTES)

deb: $(VENV)/.dev
	packaging/build-deb.sh $(bin) build/deb

# On an illumos host with pkg(7).
p5m: $(VENV)/.dev
	packaging/build-p5m.sh $(bin) build/p5m

tools: $(VENV)/.installed
	tools/install-host-tools.sh $(bin)/dcd

$(VENV)/.installed: pyproject.toml
	tools/make-venv.sh $(PYTHON) $(VENV)
	$(bin)/pip install --quiet --editable '.[sbom,sign,web]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(bin)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf build dist image .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
