package daemon

import (
	"context"
	"net/netip"

	"aarptun/internal/config"
	"aarptun/tun"
	"aarptun/tun/netns"
)

// open makes the device where the configuration wants it. The context that it
// returns is ctx, or ends with the other namespace too; leave gives that up.
func open(ctx context.Context, cfg config.Config) (host *tun.Host, followed context.Context, leave func() error, err error) {
	if cfg.Netns == "" {
		host, err = tun.Open(tunConfig(cfg))
		return host, ctx, func() error { return nil }, err
	}
	ns, err := netns.Open(cfg.Netns)
	if err != nil {
		return nil, nil, nil, err
	}
	err = ns.Do(func() (err error) {
		host, err = tun.Open(tunConfig(cfg))
		return err
	})
	if err != nil {
		_ = ns.Close() // only the first error tells anything
		return nil, nil, nil, err
	}
	followed, stop := ns.Follow(ctx)
	return host, followed, func() error {
		stop()
		return ns.Close()
	}, nil
}

// isLocal returns what knows the addresses that no member can have: those of the
// namespace of the clients, and, where that is another, those of our own.
func isLocal(cfg config.Config, host *tun.Host) func(netip.Addr) bool {
	theirs := host.Locals()
	if cfg.Netns == "" {
		return theirs.Contains
	}
	ours := tun.LocalsHere()
	return func(a netip.Addr) bool { return theirs.Contains(a) || ours.Contains(a) }
}
