# What a person runs is what CI runs. `make` alone says what there is.

CARGO ?= cargo
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITS := $(PREFIX)/lib/systemd/system
BASH := $(PREFIX)/share/bash-completion/completions
ZSH := $(PREFIX)/share/zsh/site-functions
FISH := $(PREFIX)/share/fish/vendor_completions.d
# Everything that checks and tests is built with one profile, so that nothing is compiled twice.
PROFILE := fast
TARGET = $(or $(CARGO_TARGET_DIR),target)
RELEASE = $(TARGET)/release
# How long tests took that wait for each other: dataplane/testing/src/turn.rs.
TIMES = $(TARGET)/test-times
PROGRAMS := drayd dray dray-perf

.PHONY: help
help: ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: ## Three hosts, an overlay, traffic: a minute on this machine (needs root)
	@test "$$(id -u)" = 0 || { echo "make demo makes network namespaces: run it as root" >&2; exit 1; }
	@.ci/deps build run
	$(CARGO) build --release --locked
	$(RELEASE)/dray-demo

.PHONY: test
test: ## Check and test everything (needs root; SKIP_ROOT=1 leaves out what does)
	@test "$$(id -u)" = 0 -o -n "$(SKIP_ROOT)" || { echo "make test needs root, for namespaces, packet sockets and peers; SKIP_ROOT=1 leaves them out" >&2; exit 1; }
	@$(MAKE) --no-print-directory deps test-deps check
	@: >$(TIMES)
	@# Three at a time, as one of them often waits for a guest.
	@status=0; TEST_TIMES=$(abspath $(TIMES)) $(CARGO) test --workspace --locked --profile $(PROFILE) -- --test-threads=3 || status=$$?; \
	    echo "The slowest tests of those that take turns, in seconds:"; sort -rn $(TIMES) | head -n 10; exit $$status
	@$(MAKE) --no-print-directory models

.PHONY: models
models: ## Look at what threads share in every order that the memory model allows (loom; seconds once built)
	$(CARGO) test --quiet --locked --profile $(PROFILE) -p dray-switch --features loom --lib fdb::models
	$(CARGO) test --quiet --locked --profile $(PROFILE) -p dray-vhost --features loom --lib models
	$(CARGO) test --quiet --locked --profile $(PROFILE) -p dray-dataplane --features loom --lib models

.PHONY: test-quick
test-quick: ## Test what is pure: no root, no peers, under a minute once built
	SKIP_ROOT=1 $(CARGO) test --quiet --workspace --locked --profile $(PROFILE) --lib --bins
	$(CARGO) test --quiet --locked --profile $(PROFILE) -p dray-config --tests

.PHONY: bench
bench: ## Compare with testpmd, side by side (ten minutes)
	@.ci/deps build peers
	$(CARGO) build --release --locked
	$(RELEASE)/dray-perf bench

.PHONY: bench-peers
bench-peers: ## Compare with testpmd, OVS-DPDK and VPP, and write a page about it (half an hour)
	@.ci/deps build peers
	$(CARGO) build --release --locked
	$(RELEASE)/dray-perf bench --peers --report $(TARGET)/bench-peers.html --save $(TARGET)/bench-peers.json
	$(RELEASE)/dray-perf sockets --peers

.PHONY: bench-sockets
bench-sockets: ## Compare what containers' sockets get with the kernel's bridge and with OVS-DPDK (ten minutes)
	@.ci/deps build run peers
	$(CARGO) build --release --locked
	$(RELEASE)/dray-perf sockets --peers

.PHONY: hostile
hostile: ## Attack the switch as hostile peers do, and measure what that does to others (five minutes)
	@.ci/deps build
	$(CARGO) build --release --locked
	$(RELEASE)/dray-perf hostile

.PHONY: check
check: ## Format, lints, licences, generated documents, instructions a frame
	$(CARGO) fmt --all --check
	.ci/licences
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	    $(CARGO) deny --offline check licenses bans sources && \
	    if ls -d "$${CARGO_HOME:-$$HOME/.cargo}"/advisory-dbs/*/ >/dev/null 2>&1; then \
	        $(CARGO) deny --offline check --disable-fetch advisories; \
	    else \
	        echo "SKIPPED: advisories, no copy of the RustSec database here (cargo deny fetch gets one)"; \
	    fi; \
	else \
	    echo "SKIPPED: advisories, cargo-deny is not installed"; \
	fi
	$(CARGO) clippy --workspace --all-targets --locked --profile $(PROFILE) -- -D warnings
	$(CARGO) run --quiet --locked --profile $(PROFILE) -p dray-config --example reference | diff docs/configuration.md -
	$(CARGO) run --quiet --locked --profile $(PROFILE) -p dray-control --example commands | diff docs/commands.md -
	$(CARGO) run --quiet --locked --profile $(PROFILE) -p dray-switch --example troubleshooting | diff docs/troubleshooting.md -
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --profile $(PROFILE) --quiet
	$(CARGO) bench --quiet --locked -p dray-dataplane --bench instructions

.PHONY: bless
bless: ## Count the instructions that each stage takes for a frame, and make them what `make check` holds the code to
	$(CARGO) bench --quiet --locked -p dray-dataplane --bench instructions -- --bless

.PHONY: deps
deps: ## Install the Debian packages that the build needs
	@.ci/deps build

.PHONY: test-deps
test-deps: ## Install the peers that the tests need
	@.ci/deps test
	@.ci/guest

.PHONY: install
install: ## Build and install below PREFIX (/usr/local), with a systemd unit, an example configuration and completions
	@.ci/deps build
	$(CARGO) build --release --locked
	@$(MAKE) --no-print-directory install-files

.PHONY: install-files
install-files: ## Install what is built in RELEASE (for packages: DESTDIR=DIR PREFIX=/usr SYSCONFDIR=/etc)
	install -D -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(RELEASE)/,$(PROGRAMS))
	install -d $(addprefix $(DESTDIR),$(UNITS) $(BASH) $(ZSH) $(FISH))
	sed 's|@PREFIX@|$(PREFIX)|g; s|@SYSCONFDIR@|$(SYSCONFDIR)|g' control/dray.service > $(DESTDIR)$(UNITS)/dray.service
	install -D -m 644 config/example.toml $(DESTDIR)$(SYSCONFDIR)/dray/dray.toml.example
	$(RELEASE)/dray completions bash > $(DESTDIR)$(BASH)/dray
	$(RELEASE)/dray completions zsh > $(DESTDIR)$(ZSH)/_dray
	$(RELEASE)/dray completions fish > $(DESTDIR)$(FISH)/dray.fish
	@echo "installed; what to do next is in docs/deploy.md"

.PHONY: uninstall
uninstall: ## Remove what install made, and no file of yours (with the same PREFIX, SYSCONFDIR and DESTDIR)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS)) $(DESTDIR)$(UNITS)/dray.service
	rm -f $(DESTDIR)$(SYSCONFDIR)/dray/dray.toml.example
	rm -f $(DESTDIR)$(BASH)/dray $(DESTDIR)$(ZSH)/_dray $(DESTDIR)$(FISH)/dray.fish
	@rmdir $(DESTDIR)$(SYSCONFDIR)/dray 2>/dev/null || true
