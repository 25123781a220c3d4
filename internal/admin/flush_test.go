package admin

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFlush(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	source := newFixed()
	stop := serve(t, path, source)
	c := NewClient(path)
	aa := netip.MustParseAddr("2001:db8:aa::1")
	for _, cut := range []bool{false, true} {
		for _, of := range []netip.Addr{aa, {}} {
			if got, err := c.Flush(t.Context(), of, cut); err != nil || got != (Flushed{Pins: 1, Cut: 2}) {
				t.Errorf("Flush(%v, %v): %+v, %v", of, cut, got, err)
			}
		}
	}
	for _, query := range []string{"?anycast=nonsense", "?cut=perhaps"} {
		if _, err := exchange[Flushed](t.Context(), c, "POST", "/v1/flush"+query); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%s: %v", query, err)
		}
	}
	if _, err := exchange[Flushed](t.Context(), c, "GET", "/v1/flush"); err == nil || !strings.Contains(err.Error(), "405") {
		t.Errorf("GET: %v", err)
	}
	source.err = errors.New("the kernel says no")
	if _, err := c.Flush(t.Context(), aa, true); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("a flush that fails: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	want := []string{aa.String() + " false", "invalid IP false", aa.String() + " true", "invalid IP true", aa.String() + " true"}
	if !slices.Equal(source.flushed, want) {
		t.Errorf("asked for %q, want %q", source.flushed, want)
	}
}
