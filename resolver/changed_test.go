package resolver

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// told reports whether a change was told of since it was last asked.
func told(r *Resolver) bool {
	synctest.Wait()
	select {
	case <-r.Changed():
		return true
	default:
		return false
	}
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &script{name: "icmp", answer: after(time.Millisecond, ua1)}
		r := newTest(t, Config{Probers: []Prober{p}, Policies: []Policy{{Prefix: prefix}}, Sticky: Source})
		if told(r) {
			t.Error("nothing has happened yet")
		}
		look := func(client netip.Addr) {
			t.Helper()
			if _, err := r.Resolve(t.Context(), client, aa); err != nil {
				t.Fatal(err)
			}
		}
		client := netip.MustParseAddr("2001:db8:1::2")
		look(client)
		if !told(r) {
			t.Error("a member was found")
		}
		look(client)
		if told(r) {
			t.Error("what was known was looked up, which changes nothing")
		}
		look(client.Next())
		if !told(r) {
			t.Error("another client has a pin now")
		}
		steps := []struct {
			what string
			do   func()
		}{
			{"a member is suspected", func() { r.Suspect(aa, ua1) }},
			{"an address is forgotten", func() { r.Flush(aa) }},
			{"all are forgotten", func() { r.Flush(netip.Addr{}) }},
			{"the rules are others", func() {
				if err := r.SetRules(Rules{Policies: []Policy{{Prefix: prefix}}, TTL: time.Second}); err != nil {
					t.Error(err)
				}
			}},
		}
		for _, step := range steps {
			look(client)
			told(r)
			step.do()
			if !told(r) {
				t.Errorf("%s, and nobody is told", step.what)
			}
		}
	})
}

func TestFlushForgetsClients(t *testing.T) {
	for _, of := range []netip.Addr{aa, {}} {
		synctest.Test(t, func(t *testing.T) {
			p := &script{name: "icmp", answer: after(time.Millisecond, ua1)}
			r := newTest(t, Config{Probers: []Prober{p}, Policies: []Policy{{Prefix: prefix}}, Sticky: Source})
			if _, err := r.Resolve(t.Context(), netip.MustParseAddr("2001:db8:1::2"), aa); err != nil {
				t.Fatal(err)
			}
			if pins := r.Pins(); len(pins) != 1 {
				t.Fatalf("pins: %v", pins)
			}
			r.Flush(of)
			if pins := r.Pins(); len(pins) != 0 || len(r.cache.pins) != 0 {
				t.Errorf("left are %v, and %d of clients", pins, len(r.cache.pins))
			}
		})
	}
}
