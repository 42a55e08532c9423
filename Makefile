# Castd: `make run` starts one member and `make cluster` three, `make test` is everything CI checks, `make bench` compares
# with etcd, `make sim FOR=8h` runs simulated clusters under one seed after the other, and then 20,000 images of disks.

CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/castd-target
export CARGO_TARGET_DIR

.PHONY: run cluster test bench sim

run:
	@.ci/packages build
	cargo run --release --bin castd -- --name default $(ARGS)

# Ports and the rest by variables: see config/local-cluster.sh.
cluster:
	@.ci/packages build
	cargo build --release --bin castd
	@config/local-cluster.sh "$(CARGO_TARGET_DIR)/release/castd"

test:
	@.ci/packages build test bench
	@.ci/test

bench:
	@.ci/packages build test bench
	cargo build --release --bin castd
	cargo run --release -p castd-bench -- $(ARGS)

# Not one command: the simulator is built without what a server has.
sim:
	@.ci/packages build test
	cargo run --release -p castd-sim -- --for $(or $(FOR),10m) $(ARGS)
	CASTD_IMAGES=$(or $(IMAGES),20000) cargo test --release -p castd --test images -- --nocapture
