package admin

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"aarptun/nat"
	"aarptun/resolver"
)

// TestReferenceNamesEveryField holds docs/reference/admin.md to the answers: each
// table has the names of its part, no more and no less, in their order.
func TestReferenceNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/admin.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]any{
		"GET /v1/status": Status{}, "config": ConfigStatus{}, "nat": nat.Stats{}, "resolver": resolver.Stats{},
		"GET /v1/flows": nat.FlowInfo{}, "GET /v1/pins": Pin{}, "GET /v1/members": Member{}, "POST /v1/flush": Flushed{},
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(string(text), -1)[1:] {
		title, body, _ := strings.Cut(section, "\n")
		part, known := parts[title]
		if !known {
			t.Errorf("section %q is about nothing", title)
			continue
		}
		delete(parts, title)
		var told []string
		for _, match := range row.FindAllStringSubmatch(body, -1) {
			told = append(told, match[1])
		}
		if want := jsonNames(reflect.TypeOf(part)); !slices.Equal(told, want) {
			t.Errorf("section %q\nnames %v\nwant  %v", title, told, want)
		}
	}
	for title := range parts {
		t.Errorf("no section %q", title)
	}
}

// jsonNames are the names of a struct's fields in JSON.
func jsonNames(of reflect.Type) []string {
	var names []string
	for i := range of.NumField() {
		if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}
