package tun

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestParseRecordRefuses(t *testing.T) {
	good := recordText(t, testRecord)
	if _, err := parseRecord([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":0`}, {`"version":1`, `"version":2`}, {`"version":1`, `"version":"1"`},
		{`"device":"aarptun0"`, `"device":""`}, {`"device":"aarptun0"`, `"device":"../etc"`}, {`"device":"aarptun0"`, `"device":"a\u001b[2J"`},
		{`"family":10`, `"family":0`}, {`"family":10`, `"family":7`}, {`"family":10`, `"family":266`},
		{`"table":170`, `"table":0`}, {`"table":170`, `"table":-1`}, {`"table":170`, `"table":4294967466`},
		{`"priority":17000`, `"priority":0`}, {`"priority":17000`, `"priority":-1`}, {`"priority":17000`, `"priority":4294984296`},
		{`"mark":170`, `"mark":0`}, {`"mark":170`, `"mark":4294967296`}, {`"mark":170`, `"mark":-1`},
		{`"rules":[`, `"rules":[{"family":10,"table":1,"priority":1,"mark":1},`},
		{`}`, ``}, {good, ``}, {good, good + good}, {good, "null"}, {good, "[]"},
	} {
		if text := strings.Replace(good, change[0], change[1], 1); text == good {
			t.Errorf("%q is not in the record", change[0])
		} else if r, err := parseRecord([]byte(text)); err == nil {
			t.Errorf("%q for %q gives %+v", change[1], change[0], r)
		}
	}
}

// FuzzRecord holds what undo relies on: whatever a file says, only rules come of
// it that are ours.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRecord(text)
		if err != nil {
			if !reflect.DeepEqual(r, record{}) && r.validate() == nil {
				t.Fatalf("%v, and yet %+v", err, r)
			}
			return
		}
		if r.Version != 1 || checkName(r.Device) != nil || len(r.Rules) > 2 {
			t.Fatalf("%+v", r)
		}
		for _, s := range r.Rules {
			rule := *s.rule()
			if !ours(rule) || !s.matches(rule) || rule.Family != netlink.FAMILY_V4 && rule.Family != netlink.FAMILY_V6 {
				t.Fatalf("%+v makes %+v", s, rule)
			}
			if rule.Table > math.MaxUint32 || rule.Priority < 1 || rule.Priority > math.MaxUint32 {
				t.Fatalf("the kernel would cut %+v", rule)
			}
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := parseRecord(again); err != nil || !reflect.DeepEqual(second, r) {
			t.Fatalf("%+v becomes %+v (%v)", r, second, err)
		}
	})
}
