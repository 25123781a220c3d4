package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// outputs are where results go, beside standard output.
type outputs struct {
	json, md, svg string
}

func outputFlags(flags *flag.FlagSet) *outputs {
	var o outputs
	flags.StringVar(&o.json, "json", "", "FILE for all samples")
	flags.StringVar(&o.md, "md", "", "FILE for the page")
	flags.StringVar(&o.svg, "svg", "", "DIR for the charts")
	return &o
}

func reportCommand(args []string) (int, error) {
	flags := flag.NewFlagSet("report", flag.ExitOnError)
	from := flags.String("from", "", "FILE of a run's samples")
	out := outputFlags(flags)
	_ = flags.Parse(args) // it exits
	r, err := readResults(*from)
	if err != nil {
		return 1, err
	}
	return 0, out.write(r)
}

// write prints the tables and makes the files that are asked for.
func (o *outputs) write(r *results) error {
	writeTables(os.Stdout, r)
	if o.json != "" {
		if err := r.write(o.json); err != nil {
			return err
		}
	}
	if o.svg != "" {
		if err := writeCharts(o.svg, r); err != nil {
			return err
		}
	}
	if o.md == "" {
		return nil
	}
	charts := ""
	if o.svg != "" {
		var err error
		if charts, err = filepath.Rel(filepath.Dir(o.md), o.svg); err != nil {
			return err
		}
	}
	var page strings.Builder
	writePage(&page, r, filepath.ToSlash(charts))
	return os.WriteFile(o.md, []byte(page.String()), 0o644)
}

// writeTables is the page without what surrounds it, for a terminal.
func writeTables(w io.Writer, r *results) {
	for _, g := range groups {
		if table := r.table(g); table != nil {
			_, _ = fmt.Fprintf(w, "\n%s\n", strings.Join(table, "\n"))
		}
	}
}

func writeCharts(dir string, r *results) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	for _, c := range charts {
		if svg := c.draw(r); svg != "" {
			errs = append(errs, os.WriteFile(filepath.Join(dir, c.name+".svg"), []byte(svg), 0o644))
		}
	}
	return errors.Join(errs...)
}

// writePage writes docs/performance.md; charts is where they are from there, or
// nothing.
func writePage(w io.Writer, r *results, charts string) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("<!-- Made by scripts/bench.sh. Do not edit: run it again. -->")
	p("# Performance\n")
	p("What aarptun costs, beside the kernel alone and beside other translators in user")
	p("space. Client, translator, router and member are in network namespaces of one")
	p("machine and share its cores.\n")
	p("Made by `scripts/bench.sh` on %s from commit %s:", r.Date, r.Commit)
	p("%d %s of %g s a sample, in which the variants take turns row by row.\n", r.Reps, plural(r.Reps, "repetition", "repetitions"), r.Scale.Seconds)
	p("| | |\n|-|-|")
	p("| machine | %d cores, %s, %s, %.0f GiB |", r.Machine.Cores, r.Machine.CPU, r.Machine.Arch, r.Machine.Memory)
	p("| kernel | Linux %s |", r.Machine.Kernel)
	p("| Go | %s |", r.Machine.Go)
	p("| kept busy by others just before | %.2f cores |", r.Machine.Others)
	p("| to repeat it | `%s` |\n", r.Command)
	p("A figure is the median over the repetitions; in brackets is its ratio to direct,")
	p("the median of the ratios within each repetition. Ratios within one run mean")
	p("something, figures of different machines do not. Goals are for the variant")
	p("aarptun, unless the column names another; the best peer is the best of")
	p("%s. A sample that failed is left", peersOf(r))
	p("out, and that is said; if its translator used no CPU, it cannot have carried the")
	p("traffic, and there is no figure at all. What stands in the way of a goal that is")
	p("missed is in [performance-limits.md](performance-limits.md).\n")
	p("| variant | what it is |\n|-|-|")
	for _, v := range r.Variants {
		p("| %s | %s |", v.Name, v.What)
	}
	for _, out := range r.LeftOut {
		p("| %s | left out: %s |", out.Name, out.Why)
	}
	for _, g := range groups {
		writeGroup(p, r, g, charts)
	}
	if len(r.Settings) > 0 {
		p("\n## Settings\n\nOf the kernel and the limits, as they were:\n")
		for _, s := range r.Settings {
			p("    %s", s)
		}
	}
}

func writeGroup(p func(string, ...any), r *results, g group, charts string) {
	table := r.table(g)
	if table == nil {
		return
	}
	p("\n## %s\n", g.title)
	if g.note != "" {
		p("%s\n", g.note)
	}
	if charts != "" {
		for _, c := range chartsOf(g) {
			if c.draw(r) != "" {
				p("![%s](%s/%s.svg)\n", c.title, charts, c.name)
			}
		}
	}
	p("%s", strings.Join(table, "\n"))
	for i, line := range r.footnotes(g) {
		if i == 0 {
			p("")
		}
		p("- %s", line)
	}
}

// footnotes are the errors and remarks of a group.
func (r *results) footnotes(g group) (lines []string) {
	for _, row := range g.rows {
		for _, v := range r.Variants {
			where := v.Name + ", " + cmp.Or(row.title, strings.ToLower(g.title)) + ": "
			if e := r.errorOf(v.Name, row.name); e != "" {
				lines = append(lines, fmt.Sprintf("%sfailed %d of %d times: %s", where, r.errors(v.Name, row.name), r.Reps, e))
			}
			if s := r.remarkOf(v.Name, row.name); s != "" {
				lines = append(lines, where+s)
			}
		}
	}
	return lines
}

func peersOf(r *results) string {
	var names []string
	for _, v := range r.Variants {
		if v.Peer {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return "none, for there was none"
	}
	return strings.Join(names, ", ")
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}
