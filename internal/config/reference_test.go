package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// uncommented is the reference with all its keys in force.
func uncommented(t *testing.T) []setting {
	t.Helper()
	text := regexp.MustCompile(`(?m)^#([a-z\[])`).ReplaceAllString(Reference, "$1")
	if strings.Count(text, "\n") != strings.Count(Reference, "\n") || text == Reference {
		t.Fatal("the reference has no keys that are commented out")
	}
	settings, err := parseFile("reference.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func TestReferenceAsksForNothing(t *testing.T) {
	if settings, err := parseFile("reference.toml", []byte(Reference)); err != nil || len(settings) > 0 {
		t.Errorf("as it is: %v, %v", settings, err)
	}
	for line := range strings.Lines(Reference) {
		if len(line) > 82 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
}

// Every key is in the reference, and where it has a default, that is what stands
// there.
func TestReferenceHasEveryKeyAndItsDefault(t *testing.T) {
	defaults := Default()
	given := map[string][]string{}
	for _, s := range uncommented(t) {
		given[s.key.Name] = append(given[s.key.Name], s.text)
	}
	for _, k := range keys {
		texts, ok := given[k.Name]
		if !ok {
			t.Errorf("%s is not in the reference", k.Name)
		}
		want := k.Value(&defaults).texts()
		if len(want) == 0 {
			continue // there is an example
		}
		c := Default()
		c.Unresolved, c.Limits = nil, Limits{}
		for _, text := range texts {
			if err := k.Value(&c).Set(text); err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		}
		if got := k.Value(&c).texts(); !slices.Equal(got, want) {
			t.Errorf("%s: the reference has %q, and the default is %q", k.Name, got, want)
		}
	}
}

// Each field of Config can be set by a key.
func TestEveryFieldHasAKey(t *testing.T) {
	examples := map[string]string{
		"prefix": "192.0.2.0/24", "member-prefix": "198.51.100.0/24", "static": "192.0.2.1=198.51.100.1", "psk-file": "/psk",
		"pubkey": "Vrw9aQVKsBnENm0l2HVHi8YmBAcpjI6GUTVXEh6k7zA=", "stun-port": "1", "mtu": "1400", "table": "5", "fwmark": "5",
		"cache-ttl": "1s", "stale": "1s", "drain-timeout": "1s", "limits": "flows=5", "log-level": "warn", "unresolved": "reject",
		"sticky": "flow", "select": "rtt", "offload": "nft", "keep-flows": "true", "offload-gso": "off", "log-format": "json", "pcap-size": "1G", "preserve-source": "true", "sandbox": "off",
	}
	changed := map[string]string{}
	for _, k := range keys {
		c, text := Default(), examples[k.Name]
		if text == "" {
			text = "/x"
		}
		if err := k.Value(&c).Set(text); err != nil {
			t.Errorf("%s %q: %v", k.Name, text, err)
		}
		before, after := reflect.ValueOf(Default()), reflect.ValueOf(c)
		fields := 0
		for i := range before.NumField() {
			if !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
				changed[before.Type().Field(i).Name] = k.Name
				fields++
			}
		}
		if fields != 1 {
			t.Errorf("%s %q changes %d fields", k.Name, text, fields)
		}
		if got := Changed(Default(), c); len(got) != 1 || got[0].Name != k.Name {
			t.Errorf("%s %q: changed are %v", k.Name, text, got)
		}
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if changed[field.Name] == "" {
			t.Errorf("no key sets %s", field.Name)
		}
	}
	limits := Default().Limits
	if named, fields := len(limits.named()), reflect.TypeFor[Limits]().NumField(); named != fields {
		t.Errorf("%d of %d limits have a name", named, fields)
	}
}

// The reference says of each key whether a reload changes it.
func TestReferenceSaysWhatAReloadChanges(t *testing.T) {
	for _, k := range keys {
		at := regexp.MustCompile(`(?m)^#(` + k.Name + ` = .*|\[` + k.Name + `\])$`).FindStringIndex(Reference)
		if at == nil {
			t.Errorf("%s is not in the reference", k.Name)
			continue
		}
		before := Reference[:at[0]]
		paragraph := before[strings.LastIndex(before, "\n\n")+1:]
		if says := strings.Contains(paragraph, "Reload"); says == k.Fixed {
			t.Errorf("%s: fixed %v, and the reference says that a reload changes it %v:%s", k.Name, k.Fixed, says, paragraph)
		}
	}
}
