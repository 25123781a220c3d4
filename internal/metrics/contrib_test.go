package metrics

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
)

// series is what a scrape has: each name with its labels and their words.
type series map[string]map[string][]string

// shownNow is what a daemon shows. A histogram has three names.
func shownNow(t *testing.T) series {
	t.Helper()
	figures, _ := counting()
	all := series{"up": {"job": nil, "instance": nil}}
	for _, family := range gather(t, newRegistry(fixed(figures), "1.2.3")) {
		names := []string{family.GetName()}
		if family.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{family.GetName() + "_bucket", family.GetName() + "_sum", family.GetName() + "_count"}
		}
		for _, name := range names {
			all[name] = map[string][]string{"job": nil, "instance": nil, "le": nil}
			for _, m := range family.Metric {
				for _, l := range m.Label {
					all[name][l.GetName()] = append(all[name][l.GetName()], l.GetValue())
				}
			}
		}
	}
	return all
}

var (
	names   = regexp.MustCompile(`\b(?:aarptun|process|go|up)(?:_[a-z_]+)?\b(?:\{([^}]*)\})?`)
	matcher = regexp.MustCompile(`([a-z_]+)(=~|=|!=)"([^"]*)"`)
)

// uses checks that each metric in an expression is one, with labels that it has and
// words that they take.
func (s series) uses(t *testing.T, where, expression string) (found int) {
	t.Helper()
	for _, use := range names.FindAllStringSubmatch(expression, -1) {
		name, _, _ := strings.Cut(use[0], "{")
		labels, known := s[name]
		if !known {
			t.Errorf("%s: there is no %s", where, name)
			continue
		}
		found++
		for _, m := range matcher.FindAllStringSubmatch(use[1], -1) {
			words, has := labels[m[1]]
			fits := m[2] == "=~" || words == nil
			for _, word := range words {
				fits = fits || word == m[3]
			}
			if !has || !fits {
				t.Errorf("%s: %s has no %s", where, name, m[0])
			}
		}
	}
	return found
}

func TestTheDashboardIsOfWhatIsShown(t *testing.T) {
	text, err := os.ReadFile(filepath.FromSlash("../../contrib/grafana/aarptun.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all, found := shownNow(t), 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			n := all.uses(t, panel.Title, target.Expr)
			if n == 0 {
				t.Errorf("%s: %s has no metric", panel.Title, target.Expr)
			}
			found += n
		}
	}
	if found < 30 {
		t.Errorf("only %d uses of metrics were found", found)
	}
}

func TestTheAlertsAreOfWhatIsShown(t *testing.T) {
	text, err := os.ReadFile(filepath.FromSlash("../../contrib/prometheus/aarptun.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	all, found := shownNow(t), 0
	expressions := regexp.MustCompile(`(?m)^        expr: (\|\n(?:          .*\n)+|.*\n)`).FindAllStringSubmatch(string(text), -1)
	alerts := strings.Count(string(text), "- alert: ")
	if len(expressions) != alerts || alerts == 0 {
		t.Fatalf("%d alerts have %d expressions", alerts, len(expressions))
	}
	for _, e := range expressions {
		n := all.uses(t, "an alert", e[1])
		if n == 0 {
			t.Errorf("%s has no metric", e[1])
		}
		found += n
	}
	if found < alerts {
		t.Errorf("only %d uses of metrics were found", found)
	}
	tests, err := os.ReadFile(filepath.FromSlash("../../contrib/prometheus/aarptun.rules.test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, alert := range regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(string(tests), "  - name: "+alert[1]+"\n") {
			t.Errorf("%s has no test", alert[1])
		}
	}
}
