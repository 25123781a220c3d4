# One line a target; `make demo` and `make test` do their own set-up.
.PHONY: all build demo test fidelity members gateway offload faults watch attack soak flood bench profile lint fuzz reference clean
.PHONY: share dist install uninstall

all: build share

build: ; CGO_ENABLED=0 go build -trimpath -o bin/aarptun ./cmd/aarptun

share: build ; AARPTUN=$(CURDIR)/bin/aarptun scripts/share.sh bin/share

dist: ; scripts/dist.sh

install uninstall: export PREFIX := $(PREFIX)
install uninstall: export SYSCONFDIR := $(SYSCONFDIR)
install uninstall: export DESTDIR := $(DESTDIR)

install: ; scripts/install.sh

uninstall: ; scripts/install.sh --uninstall

demo: ; scripts/netns-test.sh --demo

members: ; scripts/members-test.sh
gateway: ; scripts/gateway-test.sh

offload: ; scripts/offload-test.sh

faults: ; scripts/fault-test.sh

watch: ; scripts/watch-test.sh

attack: ; scripts/attack.sh

soak: ; scripts/soak.sh

flood: ; scripts/flood.sh

bench: ; scripts/bench.sh --json docs/performance/samples.json --svg docs/performance --md docs/performance.md

profile: ; scripts/profile.sh

test: ; scripts/test.sh

lint: ; scripts/test.sh --lint

fuzz: ; scripts/test.sh --fuzz 10s

fidelity: ; scripts/fidelity.sh

reference: ; go run ./cmd/aarptun help --json | go run ./scripts/pages markdown >docs/reference/cli.md

clean: ; rm -rf bin dist
