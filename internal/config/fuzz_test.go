package config

import (
	"errors"
	"fmt"
	"testing"
)

// The fuzz targets hold that what is accepted is read again as the same from
// its own text, and that what is refused is an ErrInvalid with something to
// say.

func FuzzParsePrefix(f *testing.F) {
	for _, seed := range []string{
		"2001:db8::/32", "2001:db8::1/64", "192.0.2.1", "192.0.2.0/24", "::/0", "::ffff:1.2.3.4/96", "::ffff:1.2.3.4",
		"fe80::1%eth0", "fe80::%eth0/64", "10.0.0.0/08", "10.0.0.0/-1", "/64", "", "1.2.3/24", "2001:db8::/129",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if refused(t, s, err) {
			return
		}
		if p != p.Masked() || p.Addr().Zone() != "" {
			t.Errorf("%q was read as %v", s, p)
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Errorf("%q was read as %v, and that as %v, %v", s, p, again, err)
		}
	})
}

func FuzzParseStatic(f *testing.F) {
	for _, seed := range []string{
		"192.0.2.1=198.51.100.7", " 2001:db8:aa::1 = 2001:db8::1 ", "=", "a=b", "::1=::2=::3", "fe80::1%a=::1", "1.2.3.4",
		"::ffff:1.2.3.4=::ffff:1.2.3.5",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		aa, ua, err := ParseStatic(s)
		if refused(t, s, err) {
			return
		}
		if !aa.IsValid() || !ua.IsValid() || aa.Zone() != "" || ua.Zone() != "" {
			t.Errorf("%q was read as %v and %v", s, aa, ua)
		}
		if aa2, ua2, err := ParseStatic(fmt.Sprintf("%v=%v", aa, ua)); err != nil || aa2 != aa || ua2 != ua {
			t.Errorf("%q was read as %v and %v, and those as %v and %v, %v", s, aa, ua, aa2, ua2, err)
		}
	})
}

func FuzzParseMark(f *testing.F) {
	for _, seed := range []string{"1", "0xaa", "0XFF", "0", "-1", "010", "0b1", "1_000", "4294967295", "4294967296", "0x", " 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		mark, err := ParseMark(s)
		if refused(t, s, err) {
			return
		}
		if mark == 0 {
			t.Errorf("%q was read as 0, which is no mark", s)
		}
		for _, text := range []string{fmt.Sprint(mark), fmt.Sprintf("%#x", mark)} {
			if again, err := ParseMark(text); err != nil || again != mark {
				t.Errorf("%q was read as %d, and %q as %d, %v", s, mark, text, again, err)
			}
		}
	})
}

func refused(t *testing.T, s string, err error) bool {
	t.Helper()
	if err != nil && (!errors.Is(err, ErrInvalid) || err.Error() == "") {
		t.Errorf("%q: %v is no ErrInvalid", s, err)
	}
	return err != nil
}
