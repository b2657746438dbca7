# make demo   boots a node below a scratch root against a pretend Azure, and lets you watch it being repaired
# make test   everything, the VM tests included
# make check  the inner loop: format, lints, unit and golden tests
# make release  packages for amd64 and arm64, checksums, SBOM and notes in target/release-VERSION
# make arm64  the arm64 program and its unit tests, emulated
# make fuzz   random inputs for one target: make fuzz TARGET=carrier SECONDS=3600

CARGO ?= cargo
DENY_VERSION := 0.20.2
FUZZ_VERSION := 0.13.2
TARGET ?= carrier
SECONDS ?= 60
PROGRAMS := --workspace --bins

.PHONY: demo test check setup setup-vm setup-containerd setup-packages build fmt clippy deny direction docs unit e2e e2e-faults e2e-repairs e2e-others packages vm vm-long resets chaos soak arm64 fuzz guards bench bench-disks bench-watch bless release clean

demo: setup
	$(CARGO) build --quiet $(PROGRAMS)
	$(CARGO) run --quiet --package nap-e2e --bin nap-demo

check: setup fmt clippy direction docs
	$(CARGO) test --quiet --package nap-model --package nap-host --package nap-agent --package nap-image-builder

test: setup setup-vm setup-containerd setup-packages fmt clippy direction deny docs build unit e2e packages vm

setup:
	@tests/setup.sh

setup-vm:
	@tests/vm/setup.sh

setup-containerd:
	@tests/containerd/fetch.sh

setup-packages:
	@tests/packages/setup.sh

build:
	$(CARGO) build $(PROGRAMS)

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings

direction:
	@tests/direction.sh

deny:
	@command -v cargo-deny >/dev/null || $(CARGO) install --quiet --locked --debug cargo-deny --version $(DENY_VERSION)
	$(CARGO) deny --log-level error check bans licenses sources

docs:
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --quiet --workspace --no-deps

unit: build
	$(CARGO) test --workspace --exclude nap-vm --exclude nap-e2e --exclude nap-packages --exclude pretend-streaming

# Faults and repairs wait for minutes and need little of the machine meanwhile: beside the others. The fleet needs all of it, and goes first, while
# a full disk is waited for: what is measured of repairs comes later.
e2e: build
	$(CARGO) test --package nap-e2e --package pretend-streaming --no-run
	$(MAKE) --no-print-directory --jobs=3 --output-sync e2e-faults e2e-repairs e2e-others

e2e-faults:
	$(CARGO) test --package nap-e2e --test fleet
	$(CARGO) test --package nap-e2e --test faults
	$(CARGO) test --package nap-e2e --test repairs certificate_expired

e2e-repairs:
	$(CARGO) test --package pretend-streaming --test full_disk
	$(CARGO) test --package nap-e2e --test repairs -- --skip certificate_expired

e2e-others:
	$(CARGO) test --package pretend-streaming --lib --bins --test cases
	$(CARGO) test --package nap-e2e --lib --bins $(addprefix --test ,$(filter-out faults fleet repairs,$(basename $(notdir $(wildcard tests/e2e/tests/*.rs)))))

# The packages in roots of Debian 12 and 13, with the program that the other tests have. NAP_BLESS=1 make packages rewrites what they change there.
packages: setup setup-packages
	packaging/build.sh amd64 dev
	$(CARGO) test --package nap-packages

vm: build
	$(CARGO) test --package nap-vm

# With the tests of VMs that would take `make test` beyond its time.
vm-long: setup setup-vm setup-packages build
	packaging/build.sh amd64 dev
	NAP_VM_LONG=1 $(CARGO) test --package nap-vm

# Two hundred resets at random moments of a first boot: hours. Goes on where it was stopped.
resets: setup setup-vm build
	NAP_VM_RESETS=200 $(CARGO) test --package nap-vm resets -- --nocapture

# An hour of faults at random in a VM; NAP_VM_CHAOS=10 make chaos for ten minutes.
chaos: setup setup-vm build
	NAP_VM_CHAOS=$${NAP_VM_CHAOS:-60} $(CARGO) test --package nap-vm chaos -- --nocapture

# Two hours of load without a fault in a VM; NAP_VM_SOAK=10 make soak for ten minutes.
soak: setup setup-vm build
	NAP_VM_SOAK=$${NAP_VM_SOAK:-120} $(CARGO) test --package nap-vm no_load -- --nocapture

# The program for arm64 starts and plans, and the unit tests run, all emulated: half an hour, most of it the compiler.
arm64: setup
	packaging/build.sh arm64
	tests/arm64.sh "$${CARGO_TARGET_DIR:-target}/dist/arm64/nap-agent"

# Ends at the first input that breaks a promise, or when the time is over: tests/fuzz/README.md.
fuzz: setup
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz --version $(FUZZ_VERSION)
	tests/fuzz/run.sh $(TARGET) $(SECONDS)

# Takes each guard of local disks away in turn, and looks whether a test misses it: minutes.
guards: setup
	tests/guards.sh

# Figures of the README: needs nothing but this machine.
bench: setup
	$(CARGO) build --release --package nap-agent
	$(CARGO) build --quiet $(PROGRAMS)
	$(CARGO) run --quiet --package nap-e2e --bin nap-bench

# Local disks beside nodeadm's script, in one VM: minutes.
bench-disks: setup setup-vm build
	$(CARGO) build --release --package nap-agent --package nap-e2e --bins
	NAP_VM_BENCH=1 $(CARGO) test --package nap-vm what_local_disks_cost -- --nocapture

# The guard beside node-problem-detector, which $NAP_NPD holds (default /opt/nap-npd), in one VM: a quarter of an hour.
bench-watch: setup setup-vm build
	$(CARGO) build --release --package nap-agent
	NAP_VM_BENCH=1 $(CARGO) test --package nap-vm what_watching_costs -- --nocapture

# Rewrites the golden plans and the page of fields; read the difference before committing it.
bless:
	NAP_BLESS=1 $(CARGO) test --quiet --package nap-model --lib -- plans_are_as_reviewed every_field_counts
	git diff --stat tests/golden docs

# Packages for amd64 and arm64, checksums, SBOM and notes: make release ARCHITECTURES=amd64 for one of them.
ARCHITECTURES ?= amd64 arm64
release: setup
	packaging/release.sh $(ARCHITECTURES)

clean:
	$(CARGO) clean
