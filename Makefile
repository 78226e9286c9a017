# What one types here. `make` alone says what there is.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:

export CARGO_TERM_PROGRESS_WHEN ?= never

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo '  Debian 12, root, a Rust toolchain; what else is missing is installed first.'
	@echo '  Where the kernel has no ESP, the lab runs in a small virtual machine by itself.'

.PHONY: tools
tools: ## Install what the other targets need
	@tests/tools

.PHONY: build
build: tools ## The three programs, optimised, in target/release
	cargo build --release --bins

.PHONY: check
check: tools ## Formatting, lints, licences and sources of dependencies
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny check bans licenses sources

.PHONY: advisories
advisories: tools ## Known defects of dependencies (needs github.com, so not a part of test)
	cargo deny check advisories

.PHONY: unit
unit: build ## All tests that need no ESP
	cargo nextest run --workspace

.PHONY: packages
packages: build ## The Debian packages, in target/debian
	packaging/debian/build

# Fetching takes as long as checking or building: they go together. `packages-test` waits for it.
.PHONY: packages-root
packages-root: tools
	@mkdir -p target/packages
	@tests/packages/root </dev/null >target/packages/root.log 2>&1 &

.PHONY: packages-test
packages-test: build ## The packages installed, run, upgraded and removed, and beside others, on a clean Debian under systemd
	tests/packages/root
	packaging/debian/build 1.0 target/packages/1.0
	packaging/debian/build 1.1 target/packages/1.1
	cargo nextest run --workspace --profile packages

.PHONY: lab-test
lab-test: tools ## All tests that need ESP: the mesh in the lab, and others
	tests/vm/suite

.PHONY: figures
figures: ## The packets that the last lab-test lost, into docs/failover.md
	tests/figures

.PHONY: test
test: tools packages-root check build unit packages-test lab-test ## Everything, as the CI does it

.PHONY: bench
bench: tools ## Speed and memory beside BIRD and FRR, an hour (ARGS='--n 1000 --rounds 1' for a taste)
	cargo build --release -p routemesh-agent -p routemesh-bench --bins
	cargo build --release -p routemesh-bgp --example simulate
	"$${CARGO_TARGET_DIR:-target}/release/bench" --docs docs $(ARGS)

.PHONY: bench-control
bench-control: ## The controller with up to 2,000 gateways, ten minutes (ARGS='--gateways 250' for a taste)
	cargo build --release -p routemesh-controller --bin mesh-controller --example render
	cargo build --release -p routemesh-bench --bin bench-control
	"$${CARGO_TARGET_DIR:-target}/release/bench-control" --docs docs $(ARGS)

.PHONY: demo
demo: tools build ## The mesh from nothing, healed before your eyes (KEEP=1: leaves you in it)
	@tests/lab demo

.PHONY: lab
lab: tools build ## The mesh, up, and a shell to look around with
	@tests/lab shell
