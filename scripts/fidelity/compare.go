package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// row is one situation with both columns.
type row struct {
	Name    string  `json:"name"`
	Direct  string  `json:"direct"`
	Through string  `json:"through"`
	Verdict verdict `json:"verdict"`
	Reason  string  `json:"reason,omitempty"`
	Seconds float64 `json:"seconds"` // of the slower run
}

type verdict string

const (
	same      verdict = "same"
	listed    verdict = "listed"
	different verdict = "DIFFERENT" // and not listed, or not as listed
	outdated  verdict = "OUTDATED"  // listed, but there is no difference any more
)

// known is a row of docs/fidelity.md.
type known struct{ direct, through, reason string }

// compare prints what two runs saw side by side. Its exit code is 1 if there is
// a difference that is not listed, or a listed one that is not there.
func compare(args []string) (int, error) {
	f := flag.NewFlagSet("compare", flag.ExitOnError)
	list := f.String("known", "docs/fidelity.md", "the list of known differences; empty: none")
	asJSON := f.Bool("json", false, "print a line of JSON for each situation")
	_ = f.Parse(args) // exits on error
	if f.NArg() != 2 {
		return 64, errors.New("usage: fidelity compare [--known FILE] [--json] DIRECT THROUGH")
	}
	directly, err := readSeen(f.Arg(0))
	if err != nil {
		return 1, err
	}
	throughUs, err := readSeen(f.Arg(1))
	if err != nil {
		return 1, err
	}
	differences := map[string]known{}
	if *list != "" {
		text, err := os.ReadFile(*list)
		if err != nil {
			return 1, err
		}
		if differences, err = readKnown(string(text)); err != nil {
			return 1, fmt.Errorf("%s: %w", *list, err)
		}
	}
	rows, err := judge(directly, throughUs, differences)
	if err != nil {
		return 1, err
	}
	if *asJSON {
		err = printJSON(os.Stdout, rows)
	} else {
		printTable(os.Stdout, rows)
	}
	if count(rows, different)+count(rows, outdated) > 0 {
		return 1, err
	}
	return 0, err
}

func readSeen(path string) ([]seen, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	var all []seen
	for in := json.NewDecoder(file); ; {
		var s seen
		if err := in.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, s)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no situation was seen", path)
	}
	return all, nil
}

// readKnown reads the rows of the table behind the heading "Known differences":
// | `situation`, `situation` | direct | through aarptun | why |.
func readKnown(text string) (map[string]known, error) {
	_, table, ok := strings.Cut(text, "\n## Known differences\n")
	if !ok {
		return nil, errors.New(`there is no heading "## Known differences"`)
	}
	table, _, _ = strings.Cut(table, "\n## ")
	all, names := map[string]known{}, map[string]bool{}
	for _, s := range situations() {
		names[s.name] = true
	}
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 4 {
			return nil, fmt.Errorf("a row has four cells, not %d: %s", len(cells), line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if cells[3] == "" {
			return nil, fmt.Errorf("a difference without a reason: %s", cells[0])
		}
		for name := range strings.SplitSeq(cells[0], ",") {
			name = strings.Trim(strings.TrimSpace(name), "`")
			if !names[name] {
				return nil, fmt.Errorf("there is no situation %q", name)
			}
			if _, twice := all[name]; twice {
				return nil, fmt.Errorf("%q stands there twice", name)
			}
			all[name] = known{cells[1], cells[2], cells[3]}
		}
	}
	return all, nil
}

// judge puts the two runs side by side. A situation that one of them has not
// seen is an error: what was not seen cannot be vouched for.
func judge(directly, throughUs []seen, differences map[string]known) ([]row, error) {
	if len(directly) != len(throughUs) {
		return nil, fmt.Errorf("%d situations seen direct, %d through aarptun", len(directly), len(throughUs))
	}
	var rows []row
	for i, d := range directly {
		t := throughUs[i]
		if d.Name != t.Name {
			return nil, fmt.Errorf("%s was seen direct, %s through aarptun", d.Name, t.Name)
		}
		if d.Saw == "" || t.Saw == "" {
			return nil, fmt.Errorf("%s: nothing was seen", d.Name)
		}
		r := row{Name: d.Name, Direct: d.Saw, Through: t.Saw, Seconds: max(d.Seconds, t.Seconds)}
		k, isKnown := differences[d.Name]
		switch {
		case d.Saw == t.Saw && !isKnown:
			r.Verdict = same
		case d.Saw == t.Saw:
			r.Verdict, r.Reason = outdated, "docs/fidelity.md lists a difference that is not there"
		case !isKnown:
			r.Verdict = different
		case matches(k.direct, d.Saw) && matches(k.through, t.Saw):
			r.Verdict, r.Reason = listed, k.reason
		default:
			r.Verdict, r.Reason = different, "docs/fidelity.md lists another: "+k.direct+" | "+k.through
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// matches compares what was seen with what is listed: "..." in the list stands
// for anything.
func matches(pattern, saw string) bool {
	parts := strings.Split(pattern, "...")
	if len(parts) == 1 {
		return pattern == saw
	}
	rest, ok := strings.CutPrefix(saw, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		if _, rest, ok = strings.Cut(rest, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

func count(rows []row, v verdict) (n int) {
	for _, r := range rows {
		if r.Verdict == v {
			n++
		}
	}
	return n
}

func printJSON(w io.Writer, rows []row) error {
	out := json.NewEncoder(w)
	for _, r := range rows {
		if err := out.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// width is that of each of the two columns; what differs is printed in full
// below the table.
const width = 44

func printTable(w io.Writer, rows []row) {
	longest := 0
	for _, r := range rows {
		longest = max(longest, len(r.Name))
	}
	line := func(name, direct, through, verdict string) {
		_, _ = fmt.Fprintf(w, "%-*s | %-*s | %-*s | %s\n", longest, name, width, short(direct), width, short(through), verdict) // as fmt.Print
	}
	line("situation", "direct", "through aarptun", "")
	for _, r := range rows {
		line(r.Name, r.Direct, r.Through, string(r.Verdict))
	}
	for _, v := range []verdict{listed, outdated, different} {
		for _, r := range rows {
			if r.Verdict == v {
				_, _ = fmt.Fprintf(w, "\n%s: %s\n  direct:  %s\n  through: %s\n", v, r.Name, r.Direct, r.Through) // as fmt.Print
				if r.Reason != "" {
					_, _ = fmt.Fprintf(w, "  %s\n", r.Reason) // as fmt.Print
				}
			}
		}
	}
	_, _ = fmt.Fprintf(w, "\n%d situations: %d same, %d listed, %d DIFFERENT, %d OUTDATED\n",
		len(rows), count(rows, same), count(rows, listed), count(rows, different), count(rows, outdated)) // as fmt.Print
}

// short cuts a text to the width of its column, in the middle.
func short(text string) string {
	if len(text) <= width {
		return text
	}
	const gap = " .. "
	half := (width - len(gap)) / 2
	return text[:half] + gap + text[len(text)-(width-len(gap)-half):]
}
