# The newcomer's commands. `make` alone lists them.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X imagebind-llm/internal/version.Version=$(VERSION)
export IMAGEBIND_NEED ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ort build ## export the demo model, start retriever and runner, ask (DEMO_ONCE=1: then stop)
	scripts/demo.sh

.PHONY: test
test: ort ## gofmt, vet, all tests
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) test ./...

.PHONY: build
build: ## the three programs, in bin/
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/ ./exporter ./runner ./retriever

.PHONY: arm64
arm64: ## the three programs for arm64, in bin/arm64; the retriever's kernels tested under qemu-user
	@GO="$(GO)" LDFLAGS="$(LDFLAGS)" scripts/arm64.sh

.PHONY: ort
ort: ## the onnxruntime library, in .cache/ort (ORT_FLAVOUR=cuda: for CUDA)
	@scripts/ort.sh

.PHONY: milvus
milvus: ## a Milvus server for tests, without Docker
	@scripts/milvus.sh install

.PHONY: race
race: ort ## the tests under the race detector
	$(GO) test -race -short ./...

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZTIME each (default 30s)
	@scripts/fuzz.sh $(or $(FUZZTIME),30s)

.PHONY: bench
bench: ort ## this project beside llama.cpp and PyTorch, a table (ROWS="decode serve": only these)
	@scripts/bench.sh $(ROWS)

.PHONY: microbench
microbench: ort ## the benchmarks beside the code
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: soak
soak: ort build ## keep a runner busy for SOAK (default 30m): joins, leaves, nonsense; every answer checked
	$(GO) run ./internal/bench soak -bin bin -for $(or $(SOAK),30m) $(SOAK_FLAGS)

.PHONY: peers
peers: ## what make bench compares with, in .cache/peers
	@scripts/peers.sh

.PHONY: lint
lint: ## golangci-lint, with .golangci.yml
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.5.0 run ./...

.PHONY: up down
up: ## docker compose: Milvus, retriever, runner
	docker compose up --build --detach --wait
down: ## stop them; the data stays
	docker compose down

.PHONY: manifests
manifests: ## are the compose files and the Helm chart valid? (wants docker compose)
	docker compose config --quiet
	docker compose -f docker-compose.yml -f deploy/milvus/docker-compose.cluster.yml config --quiet
	$(GO) run helm.sh/helm/v3/cmd/helm@v3.18.4 lint --strict deploy/helm/imagebind-llm

.PHONY: hooks
hooks: ## gofmt, vet and the short tests before each commit
	git config core.hooksPath .githooks

.PHONY: clean
clean: ## remove what was built and cached
	rm -rf bin .cache
