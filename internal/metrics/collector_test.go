package metrics

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"aarptun/nat"
	"aarptun/resolver"
	"aarptun/resolver/member"
)

// fixed is a source that always says the same.
type fixed Figures

func (f fixed) Figures() Figures { return Figures(f) }

// counting gives every number in the rooms' Stats a value of its own, and returns
// where each of them is.
func counting() (f Figures, at map[float64]string) {
	at = map[float64]string{}
	next := 1000
	value := func(path string) int {
		next++
		at[float64(next)] = path
		return next
	}
	var fill func(path string, v reflect.Value)
	fill = func(path string, v reflect.Value) {
		switch v.Interface().(type) {
		case nat.Histogram, map[string]resolver.Histogram:
			return
		case time.Time:
			v.Set(reflect.ValueOf(time.Unix(int64(value(path)), 0)))
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
		case reflect.Uint64:
			v.SetUint(uint64(value(path)))
		case reflect.Int:
			v.SetInt(int64(value(path)))
		case reflect.Bool:
			if path != ".Config.ReloadFailed" { // false is shown as 1, and would be taken for another
				at[1] = path
			}
			v.SetBool(true)
		}
	}
	fill("", reflect.ValueOf(&f).Elem())
	f.NAT.Limited, f.NAT.Told = map[string]uint64{}, map[string]uint64{}
	for _, limit := range nat.Limited() {
		f.NAT.Limited[limit] = uint64(value(".NAT.Limited." + limit))
	}
	for _, reason := range []nat.Reason{nat.Refused, nat.NetUnreachable, nat.Unreachable, nat.Prohibited, nat.Timeout, nat.Busy, nat.Relayed} {
		f.NAT.Told[reason.String()] = uint64(value(".NAT.Told." + reason.String()))
	}
	f.Resolver.Refused, f.STUN.Refused = map[resolver.Refusal]uint64{}, map[member.Refusal]uint64{}
	for reason := range resolverReasons {
		f.Resolver.Refused[reason] = uint64(value(".Resolver.Refused." + string(reason)))
	}
	for reason := range stunReasons {
		f.STUN.Refused[reason] = uint64(value(".STUN.Refused." + string(reason)))
	}
	bounds := []time.Duration{time.Millisecond, time.Second}
	f.NAT.Dials = nat.Histogram{Bounds: bounds, Counts: []uint64{1, 2, 4}, Sum: 9 * time.Second}
	f.Resolver.RTT = map[string]resolver.Histogram{"icmp": {Bounds: bounds, Counts: []uint64{1, 0, 0}, Sum: time.Millisecond}}
	return f, at
}

func gather(t *testing.T, r prometheus.Gatherer) []*dto.MetricFamily {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// What a room counts is shown, once: a new counter that is left out fails here.
func TestEveryFigureIsShown(t *testing.T) {
	figures, at := counting()
	shown := map[float64][]string{}
	for _, family := range gather(t, newRegistry(fixed(figures), "1.2.3")) {
		for _, m := range family.Metric {
			if strings.HasPrefix(family.GetName(), namespace) {
				if family.GetName() == namespace+"build_info" {
					continue
				}
				value := m.GetCounter().GetValue() + m.GetGauge().GetValue()
				shown[value] = append(shown[value], family.GetName())
			}
		}
	}
	sums := []string{".NAT.Flows", ".NAT.Rejected"} // of what is shown one by one
	for _, value := range slices.Sorted(maps.Keys(at)) {
		want := 1
		if slices.Contains(sums, at[value]) {
			want = 0
		}
		if got := shown[value]; len(got) != want {
			t.Errorf("%s is shown by %v", at[value], got)
		}
	}
	if len(at) < 80 {
		t.Errorf("only %d figures were found", len(at))
	}
}

func TestEverySeriesIsThereFromTheStart(t *testing.T) {
	series := func(f Figures) int {
		n := 0
		for _, family := range gather(t, newRegistry(fixed(f), "")) {
			if strings.HasPrefix(family.GetName(), namespace) {
				n += len(family.Metric)
			}
		}
		return n
	}
	full, _ := counting()
	empty := Figures{Resolver: resolver.Stats{RTT: map[string]resolver.Histogram{"icmp": {}}}}
	if a, b := series(empty), series(full); a != b || a < 80 {
		t.Errorf("%d series at the start and %d later", a, b)
	}
}

func TestNamesFollowTheRules(t *testing.T) {
	figures, _ := counting()
	problems, err := testutil.GatherAndLint(newRegistry(fixed(figures), "1.2.3"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestHistograms(t *testing.T) {
	figures, _ := counting()
	for _, family := range gather(t, newRegistry(fixed(figures), "")) {
		if family.GetName() != "aarptun_dial_duration_seconds" {
			continue
		}
		h := family.Metric[0].GetHistogram()
		if h.GetSampleCount() != 7 || h.GetSampleSum() != 9 || len(h.Bucket) != 2 || h.Bucket[0].GetUpperBound() != 0.001 || h.Bucket[1].GetCumulativeCount() != 3 {
			t.Errorf("%v", h)
		}
		return
	}
	t.Error("there is none")
}

// Every reason in the rooms has its word.
func TestReasonsAreKnown(t *testing.T) {
	for path, known := range map[string]int{"../../resolver/policy.go": len(resolverReasons), "../../resolver/member/verify.go": len(stunReasons)} {
		if n := refusalsIn(t, path); n != known || n == 0 {
			t.Errorf("%s has %d reasons, and %d have a word", path, n, known)
		}
	}
	for _, s := range refusals(resolverReasons, map[resolver.Refusal]uint64{"one that is new": 3}) {
		if want := map[bool]float64{true: 3}[s.label == otherReason]; s.value != want {
			t.Errorf("%+v", s)
		}
	}
}

// refusalsIn counts the constants of type Refusal.
func refusalsIn(t *testing.T, path string) (n int) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(path), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok {
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Refusal" {
				n++
			}
		}
		return true
	})
	return n
}

// docs/metrics.md has a line for each metric, in the order of families.
func TestTheReferenceIsComplete(t *testing.T) {
	const begin, end = "| metric | type | labels | what it is |\n|---|---|---|---|\n", "\n\n"
	figures, _ := counting()
	types, labels := map[string]string{}, map[string][]string{}
	for _, family := range gather(t, newRegistry(fixed(figures), "")) {
		types[family.GetName()] = strings.ToLower(family.GetType().String())
		for _, m := range family.Metric {
			for _, l := range m.Label {
				if word := "`" + l.GetName() + "=" + l.GetValue() + "`"; !slices.Contains(labels[family.GetName()], word) {
					labels[family.GetName()] = append(labels[family.GetName()], word)
				}
			}
		}
	}
	var want strings.Builder
	want.WriteString(begin)
	for _, f := range families() {
		name := namespace + f.name
		words := strings.Join(labels[name], " ")
		if f.name == "resolver_rtt_seconds" {
			words = "`method=icmp` `method=stun`"
		}
		want.WriteString("| `" + name + "` | " + types[name] + " | " + words + " | " + f.help + " |\n")
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Index(string(page), begin)
	if from < 0 {
		t.Fatal("docs/metrics.md has no table")
	}
	rest := string(page)[from:]
	got, after, _ := strings.Cut(rest, end)
	if got+"\n" == want.String() {
		return
	}
	if update, _ := strconv.ParseBool(os.Getenv("UPDATE")); !update {
		t.Fatalf("docs/metrics.md is not what is shown: UPDATE=1 go test ./internal/metrics writes it\n%s", want.String())
	}
	if err := os.WriteFile("../../docs/metrics.md", []byte(string(page)[:from]+want.String()+"\n"+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
