# Castd: `make run` starts one member, `make test` is everything CI checks, `make bench` compares with etcd.

CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/castd-target
export CARGO_TARGET_DIR

.PHONY: run test bench

run:
	@.ci/packages build
	cargo run --release --bin castd -- --name default $(ARGS)

test:
	@.ci/packages build test bench
	@.ci/test

bench:
	@.ci/packages build test bench
	cargo build --release --bin castd
	cargo run --release -p castd-bench -- $(ARGS)
