# `make` lists what there is. Each target is a script in tools/ or tests/ that can be called by hand as well.
.DEFAULT_GOAL := help
.PHONY: help up down site site-down test bench chaos chaos-site chaos-simulated conformance guest-client guest-image clients
SUITES ?= --smoke
HOSTS ?= 3
SECONDS ?= 60

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

up: ## start an all-in-one cloud here (state in .sturnus) with a first image, flavors and networks. STORE=postgresql
	@STORE="$(STORE)" tools/up

down: ## stop it; guests run on. GUESTS=stop stops them too
	@GUESTS="$(GUESTS)" tools/down

site: ## a site of HOSTS=3 machines on this one, each a network namespace with real guests (state in .sturnus/site)
	@tools/site up $(HOSTS)

site-down: ## end it, guests too
	@tools/site down

test: ## everything that must pass: format, lints, unit and API tests, the README's tour, a site, the stock clients, chaos
	@tools/test

bench: ## measure what the design promises, in a sandbox: a table, and JSON in target/bench
	@cargo build --release --quiet --locked --package sturnus --package bench && tools/guest-image/build --once target/guest-image
	@tests/sandbox target/release/bench

chaos: ## random calls while the cloud and its guests are killed, then a full check, in a sandbox. SEED=N replays; SECONDS=60
	@cargo build --release --quiet --locked --package sturnus && tools/guest-image/build --once target/guest-image && tools/venv
	@tests/sandbox tests/chaos/run $(if $(SEED),--seed $(SEED)) --seconds $(SECONDS)

chaos-site: ## the same on a site of three hosts, whose agents die, whose links are cut and whose power fails besides. SEED=N replays; SECONDS=60
	@cargo build --release --quiet --locked --package sturnus && tools/guest-image/build --once target/guest-image && tools/venv
	@BUILT=1 tests/sandbox tests/chaos/run --site $(if $(SEED),--seed $(SEED)) --seconds $(SECONDS)

chaos-simulated: ## the same on simulated hosts, which vanish and lose power besides; needs no rights. SEED=N replays; SECONDS=60
	@cargo build --release --quiet --locked --package sturnus && tools/venv
	@tests/chaos/run --simulated --clients 5 $(if $(SEED),--seed $(SEED)) --seconds $(SECONDS)

conformance: ## run the public test suites against the cloud: SUITES="identity image compute network", default smoke
	@tools/conformance $(SUITES)

guest-client: ## build the program for guests, linked statically, in target/guest-client
	@RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --quiet --locked --package sturnus-guest --target x86_64-unknown-linux-gnu --target-dir target/guest-client/build
	@cp target/guest-client/build/x86_64-unknown-linux-gnu/release/sturnus-guest target/guest-client/

guest-image: ## build the small guest image in target/guest-image (once)
	@tools/guest-image/build --once target/guest-image

clients: ## install the stock OpenStack clients in .venv (once)
	@tools/venv
