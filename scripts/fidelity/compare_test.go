package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
)

// listing is docs/fidelity.md with one row.
func listing(row string) string {
	return "# Title\n\n## Known differences\n\n| situation | direct | through aarptun | why |\n|---|---|---|---|\n" + row + "\n"
}

func TestTheListOfKnownDifferencesIsRead(t *testing.T) {
	known, err := readKnown(listing("| `tcp6-urgent`, `tcp4-urgent` | in ... out | a; b | because |"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tcp6-urgent", "tcp4-urgent"} {
		if k := known[name]; k.direct != "in ... out" || k.through != "a; b" || k.reason != "because" {
			t.Errorf("%s is read as %+v", name, k)
		}
	}
	if len(known) != 2 {
		t.Errorf("%d rows, want 2", len(known))
	}
}

func TestAWrongListIsRefused(t *testing.T) {
	for what, text := range map[string]string{
		"no heading":       "| `tcp6-urgent` | a | b | c |\n",
		"no reason":        listing("| `tcp6-urgent` | a | b | |"),
		"a cell too few":   listing("| `tcp6-urgent` | a | b |"),
		"no such":          listing("| `tcp6-turgent` | a | b | c |"),
		"the same twice":   listing("| `tcp6-urgent`, `tcp6-urgent` | a | b | c |"),
		"twice, two rows":  listing("| `tcp6-urgent` | a | b | c |\n| `tcp6-urgent` | a | b | c |"),
		"another cell":     listing("| `tcp6-urgent` | a | b | c | d |"),
		"nothing between":  listing("| `` | a | b | c |"),
		"a comma too many": listing("| `tcp6-urgent`, | a | b | c |"),
	} {
		if known, err := readKnown(text); err == nil {
			t.Errorf("%s: read as %v", what, known)
		}
	}
}

func TestTheListInTheDocumentationIsRead(t *testing.T) {
	text, err := os.ReadFile("../../docs/fidelity.md")
	if err != nil {
		t.Fatal(err)
	}
	known, err := readKnown(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(known) == 0 {
		t.Error("it lists nothing")
	}
}

func TestVerdicts(t *testing.T) {
	list := map[string]known{"a": {"x ... z", "w", "why"}}
	for _, c := range []struct {
		name, direct, through string
		want                  verdict
	}{
		{"b", "x", "x", same},
		{"b", "x", "y", different},
		{"a", "x y z", "w", listed},
		{"a", "x y z", "v", different}, // it differs, and not as it is listed
		{"a", "y", "w", different},
		{"a", "w", "w", outdated},
	} {
		rows, err := judge([]seen{{Name: c.name, Saw: c.direct}}, []seen{{Name: c.name, Saw: c.through}}, list)
		if err != nil {
			t.Fatal(err)
		}
		if rows[0].Verdict != c.want {
			t.Errorf("%s: %q and %q: %s, want %s", c.name, c.direct, c.through, rows[0].Verdict, c.want)
		}
	}
}

func TestWhatWasNotSeenIsAnError(t *testing.T) {
	a, b, silent := seen{Name: "a", Saw: "x"}, seen{Name: "b", Saw: "x"}, seen{Name: "a"}
	for what, runs := range map[string][2][]seen{
		"one is missing":  {{a, b}, {a}},
		"another order":   {{a, b}, {b, a}},
		"nothing through": {{a}, {silent}},
		"nothing at all":  {{silent}, {silent}},
	} {
		if rows, err := judge(runs[0], runs[1], nil); err == nil {
			t.Errorf("%s: %v", what, rows)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, saw string
		want         bool
	}{
		{"abc", "abc", true}, {"abc", "abcd", false}, {"a...", "abcd", true}, {"...d", "abcd", true},
		{"a...d", "abcd", true}, {"a...d", "ad", true}, {"a...d", "abce", false}, {"a...b...c", "a b c", true},
		{"a...b...c", "a c b c", true}, {"a...b...c", "a c", false}, {"b...", "abc", false}, {"...", "", true},
		{"ab...bc", "abc", false},
	} {
		if got := matches(c.pattern, c.saw); got != c.want {
			t.Errorf("matches(%q, %q) = %t", c.pattern, c.saw, got)
		}
	}
}

func TestTheTableHasBothColumnsAndTheDifferencesInFull(t *testing.T) {
	long := strings.Repeat("long ", 30)
	var out bytes.Buffer
	printTable(&out, []row{{Name: "first", Direct: "one", Through: "one", Verdict: same}, {Name: "second", Direct: long, Through: "two", Verdict: different}})
	for _, want := range []string{"first ", "| one ", long, "DIFFERENT", "2 situations: 1 same, 0 listed, 1 DIFFERENT, 0 OUTDATED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// Each situation has an AA and, in each run, a UA that nobody else changes.
func TestSituationsDoNotDisturbEachOther(t *testing.T) {
	taken := map[string]string{}
	take := func(name, address string) {
		if other, used := taken[address]; used {
			t.Errorf("%s and %s both use %s", name, other, address)
		}
		taken[address] = name
	}
	untouched := []pathKind{probed, crafted} // these are shared, as nothing of them is changed
	for _, s := range situations() {
		if s.path.kind != probed {
			take(s.name, s.aa().String())
		}
		if !slices.Contains(untouched, s.path.kind) {
			take(s.name+" direct", s.ua(direct).String())
			take(s.name+" through", s.ua(through).String())
		}
		if s.v6 != s.aa().Is6() || s.v6 != s.ua(direct).Is6() || s.v6 != s.ua(through).Is6() {
			t.Errorf("%s: an address of the other family", s.name)
		}
	}
	if n := len(situations()); n < 60 {
		t.Errorf("%d situations", n)
	}
}

func TestAnswersOfTheRouter(t *testing.T) {
	six := make([]byte, 1400)
	six[0], six[6] = 0x60, 17
	copy(six[8:], must("2001:db8:1::2").AsSlice())
	copy(six[24:], must("2001:db8:ee::1:5").AsSlice())
	four := make([]byte, 1400)
	four[0], four[9] = 0x45, 6
	copy(four[12:], must("203.0.113.2").AsSlice())
	copy(four[16:], must("198.19.3.9").AsSlice())

	a := answerTo(six)
	if len(a) != 1280 || a[40] != 1 || a[41] != 5 || !bytes.Equal(a[24:40], six[8:24]) || !bytes.Equal(a[48:], six[:1280-48]) {
		t.Errorf("IPv6: %d bytes, type %d, code %d", len(a), a[40], a[41])
	}
	pseudo := append(bytes.Clone(a[8:40]), 0, 0, byte((len(a)-40)>>8), byte(len(a)-40), 0, 0, 0, 58)
	if onesComplement(append(pseudo, a[40:]...)) != 0 {
		t.Error("IPv6: the checksum is wrong")
	}
	a = answerTo(four)
	if len(a) != 576 || a[20] != 3 || a[21] != 9 || !bytes.Equal(a[16:20], four[12:16]) || !bytes.Equal(a[28:], four[:576-28]) {
		t.Errorf("IPv4: %d bytes, type %d, code %d", len(a), a[20], a[21])
	}
	if onesComplement(a[:20]) != 0 || onesComplement(a[20:]) != 0 {
		t.Error("IPv4: a checksum is wrong")
	}
	copy(four[16:], must("198.18.1.1").AsSlice())
	if a = answerTo(four); a[20] != 3 || a[21] != 13 {
		t.Errorf("IPv4, rerouted: type %d, code %d", a[20], a[21])
	}
	six[6], six[40] = 58, 1
	four[9], four[20] = 1, 3
	if answerTo(six) != nil || answerTo(four) != nil || answerTo(nil) != nil || answerTo([]byte{0x60}) != nil {
		t.Error("an error, or nothing, was answered")
	}
}
