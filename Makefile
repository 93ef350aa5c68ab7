# Everything a developer or a CI machine runs. `make` alone prints this list.

VERSION ?= $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null || echo dev)

# -buildvcs is off because the version is given: the same sources make the same
# bytes, in a checkout, in a tarball and in a sandbox.
# HTTP/2 is left out: the agent speaks to one server, over one connection, and half a
# megabyte of protocol is nothing that a root process should carry for it.
# In the agent nothing is inlined but in the runtime, locks and cryptography: the agent waits for disks and
# programs, and half a megabyte less is there on every host. `make bench` holds both figures.
SMALL       := -gcflags=all=-l -gcflags=runtime/...= -gcflags=internal/runtime/...= -gcflags=sync/...= -gcflags=crypto/...=
BUILD_FLAGS := -trimpath -buildvcs=false -tags nethttpomithttp2 -ldflags "-s -w -X main.version=$(VERSION)"

# The linters are pinned in modules of their own. golangci-lint has a third one,
# because it asks for a go-check-sumtype that wants a newer Go than this module.
STATICCHECK := go tool -modfile=tools/go.mod staticcheck
SUMTYPE     := go tool -modfile=tools/go.mod go-check-sumtype
GOLANGCI    := go tool -modfile=tools/golangci-lint/go.mod golangci-lint

E2E_TIMEOUT := 25m

.DEFAULT_GOAL := help
.PHONY: help build man demo test check e2e bench bench-fleet generate nix \
	check-format check-vet check-staticcheck check-lint check-sumtype \
	check-imports check-modules check-scripts

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

build: ## Build the stripped, reproducible binaries of agent and control plane into bin/
	CGO_ENABLED=0 go build $(BUILD_FLAGS) $(SMALL) -o bin/ ./cmd/nixfleet-agent
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o bin/ ./cmd/nixfleet-control-plane

man: ## Write the man pages into bin/man8/
	go run -tags man ./cmd/nixfleet-agent man bin/man8

demo: ## Take a host-shaped directory through a live update, a deferral and a reboot; needs no root
	go run ./demo

test: ## Run the tests, with the race detector where there is a C compiler
	@if tools/can-race; then \
		echo "go test -race ./..."; exec go test -race ./...; \
	else \
		echo "no working C compiler: the race detector is left out"; \
		echo "go test ./..."; exec go test ./...; \
	fi

check: check-format check-vet check-staticcheck check-lint check-sumtype check-imports check-modules check-scripts ## Run every static check
	@echo "all checks passed"

check-format:
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' | tools/existing)) || exit 1; \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi

check-vet:
	go vet ./...
	go vet -tags e2e ./...

check-staticcheck:
	$(STATICCHECK) -tags e2e ./...

check-lint:
	$(GOLANGCI) run ./...

# A default case counts: the rules refuse by default, and the matrix of every kind in every
# state shows which.
check-sumtype:
	$(SUMTYPE) ./...

check-imports:
	go test -count=1 ./internal/importlaw

check-modules:
	go mod tidy -diff
	go -C tools mod tidy -diff
	go mod verify

check-scripts:
	tools/check-scripts

e2e: ## Boot test hosts with systemd and a Nix store and run the service on them; needs root on Debian
	go test -tags e2e -count=1 -timeout $(E2E_TIMEOUT) ./e2e/...

bench: ## Print the figures that we promise, as ratios and sizes
	go run ./bench

bench-fleet: ## Print what 10,000 simulated hosts cost a control plane on this machine, in some three minutes
	go run ./bench/fleet

nix: ## Evaluate the flake, the package and the module and hold them against their golden files; needs Nix
	nix/tests/run

generate: ## Rewrite everything that is generated: pages of docs/, the vendor hash of the Nix package
	go test ./internal/fsm -run TestStatesPage -update
	go test ./internal/config -run TestPage -update
	tools/vendor-hash --write
