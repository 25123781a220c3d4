package nft

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// passed reports whether the chains of a family are shown what a bridge of this
// host only passes on, as if this host were to forward it. It may not know:
// where there is no such setting, they are not.
func (f family) passed() (bool, error) {
	name := "/proc/sys/net/bridge/bridge-nf-call-ip6tables"
	if f.v4 {
		name = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	}
	value, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("nft: look whether bridges show what they pass on: %w", err)
	}
	return strings.TrimSpace(string(value)) == "1", nil
}

// LeavesBridges reports whether what comes over a bridge goes through the TUN, for
// one family at least: what is to be forwarded cannot be told there from what the
// bridge passes on, which is nothing of ours.
func (t *Table) LeavesBridges() bool { return t.half[0].bridges || t.half[1].bridges }

// metaIIFKIND is NFT_META_IIFKIND, which the libraries do not name.
const metaIIFKIND expr.MetaKey = 26

// addLeaveBridges adds that what comes over a bridge is no flow of the kernel's.
func (t *Table) addLeaveBridges(h *half, chain *nftables.Chain) {
	kind := make([]byte, unix.IFNAMSIZ)
	copy(kind, "bridge")
	t.rule(chain, h.version(), part{&expr.Meta{Key: metaIIFKIND, Register: scratch}, equals(kind)}, verdict(expr.VerdictReturn, ""))
}
