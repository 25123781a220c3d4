package config

import (
	"errors"
	"testing"
	"time"
)

// What a value prints is read as the same, and what it refuses leaves it as it
// was, with something to say.
func TestValues(t *testing.T) {
	var c Config
	var truth bool
	var port uint16
	var span time.Duration
	for _, test := range []struct {
		value       Value
		good, print string
		bad         string
	}{
		{boolean{&truth}, "1", "true", "yes"},
		{integer[uint16]{&port}, "65535", "65535", "65536"},
		{integer[uint16]{&port}, "+7", "7", "-1"},
		{duration{to: &span}, "90s", "1m30s", "90"},
		{Mark(&c.Mark), "170", "0xaa", "0"},
		{LogLevel(&c.LogLevel), "WARN", "warn", ""},
		{Word(&c.Select, SelectRTT, SelectFirst), "rtt", "rtt", "spread"},
		{Prefixes(&c.Prefixes), "192.0.2.1, ::/1,192.0.2.1", "192.0.2.1/32,::/1", "192.0.2.1,,"},
		{Static(&c.Static), "192.0.2.1=192.0.2.2", "192.0.2.1=192.0.2.2", "192.0.2.1"},
		{PSKFiles(&c.PSKFiles), "192.0.2.1=/a=b,c", "192.0.2.1/32=/a=b,c", "192.0.2.x=/b"},
		{unresolvedFor(&c.Unresolved), "reject", "reject", "::1=drop"},
		{limitsValue{&c.Limits}, "flows=7,opening=3", "", "flows=x"},
	} {
		if err := test.value.Set(test.good); err != nil {
			t.Errorf("%T %q: %v", test.value, test.good, err)
		}
		printed := test.value.String()
		if test.print != "" && printed != test.print {
			t.Errorf("%T %q is printed as %q", test.value, test.good, printed)
		}
		if err := test.value.Set(test.bad); err == nil || err.Error() == "" {
			t.Errorf("%T takes %q", test.value, test.bad)
		}
		if again := test.value.String(); again != printed {
			t.Errorf("%T was %q, and is %q after %q was refused", test.value, printed, again, test.bad)
		}
	}
	if err := (limitsValue{&c.Limits}).Set("flow=1"); !errors.Is(err, ErrInvalid) {
		t.Errorf("an unknown limit: %v", err)
	}
}
