# Thin: each target is a script below scripts/ or bench/. `make help` lists them.
.PHONY: help setup demo test check bench install package regress-accept

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building and testing need (Debian packages, cargo-pgrx, private copies of PostgreSQL)
	@scripts/setup

demo: ## start a private server that watches this machine and a small shop (DEMO_SECONDS=180 stops by itself)
	@scripts/demo

test: ## everything that proves the project, on PostgreSQL 15, 16 and 18 (PG="15" SUITES="regress tap" for less)
	@scripts/test $(SUITES)

check: ## format, lints, core tests, names, links: no server
	@scripts/check

bench: ## speed beside the server's own functions, as ratios
	@bench/run

install: ## release build into the server that PG_CONFIG names
	@scripts/install

package: ## release build as a tar.gz for the server that PG_CONFIG names
	@scripts/install --package

regress-accept: ## take PostgreSQL 15's regression results as the expected ones; look at the diff before committing
	@ACCEPT=1 PG=15 scripts/test regress isolation
