package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// cell is a figure of a variant, over all repetitions.
type cell struct {
	value  float64 // the median; NaN if there is none
	ratio  float64 // to direct: the median of the ratios; NaN if there is none
	beyond float64 // direct's: the median of the differences; NaN if there is none
	error  string
}

// cell returns what there is. A repetition that failed is left out, and a
// footnote; a translator that was bypassed in one has no figure at all.
func (r *results) cell(variant string, row row, m metric) cell {
	mine, direct := r.byRep(variant, row.name, m.key), r.byRep("direct", row.name, m.key)
	c := cell{ratio: medianRatio(mine, direct)}
	if e := r.errorOf(variant, row.name); len(mine) == 0 || e == errCarriedNothing.Error() {
		c.error = e
	}
	var all, more []float64
	for rep, v := range mine {
		all = append(all, v)
		if base, ok := direct[rep]; ok {
			more = append(more, v-base)
		}
	}
	c.value, c.beyond = median(all), median(more)
	return c
}

// text is the cell as the table shows it.
func (c cell) text(variant string, m metric) string {
	switch {
	case c.error != "":
		return "error"
	case math.IsNaN(c.value):
		return "-"
	case m.bare || m.goal.kind == beyond || variant == "direct" || math.IsNaN(c.ratio):
		return number(c.value, m.digits)
	}
	return fmt.Sprintf("%s (%s)", number(c.value, m.digits), ratioText(c.ratio))
}

// number formats a figure, with thin groups of thousands.
func number(v float64, digits int) string {
	if math.IsNaN(v) {
		return "-"
	}
	s := fmt.Sprintf("%.*f", digits, math.Abs(v))
	whole, part, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if digits > 0 {
		whole += "." + part
	}
	if v < 0 && strings.Trim(s, "0.") != "" {
		whole = "-" + whole
	}
	return whole
}

func ratioText(r float64) string {
	if r >= 10 {
		return fmt.Sprintf("%.0f", r)
	}
	return fmt.Sprintf("%.2f", r)
}

// text says the goal in words.
func (g goal) text(m metric) string {
	most := "at least"
	if m.less {
		most = "at most"
	}
	switch g.kind {
	case ofDirect:
		return fmt.Sprintf("%s %g of direct", most, g.limit)
	case absolute:
		return fmt.Sprintf("%s %s %s", most, number(g.limit, digitsOf(g.limit)), m.unit)
	case beyond:
		return fmt.Sprintf("direct + %g %s", g.limit, m.unit)
	}
	return ""
}

func digitsOf(v float64) int {
	if v == math.Trunc(v) {
		return 0
	}
	return 1
}

// reached says whether, and by what.
func (g goal) reached(c cell, m metric) string {
	var got float64
	var said string
	switch g.kind {
	case noGoal:
		return ""
	case ofDirect:
		got, said = c.ratio, ratioText(c.ratio)
	case absolute: // as it is shown
		digits := max(m.digits, digitsOf(g.limit))
		shift := math.Pow10(digits)
		got, said = math.Round(c.value*shift)/shift, number(c.value, digits)
	case beyond:
		got, said = c.beyond, "+"+number(c.beyond, m.digits)
	}
	if c.error != "" || math.IsNaN(got) {
		return "not measured"
	}
	if m.less && got <= g.limit || !m.less && got >= g.limit {
		return "yes: " + strings.Replace(said, "+-", "-", 1)
	}
	return "no: " + said
}

// best returns the best of the peers in a row, and "" if none has a figure.
func (r *results) best(row row, m metric) (name string, value float64) {
	for _, v := range r.Variants {
		c := r.cell(v.Name, row, m)
		if !v.Peer || c.error != "" || math.IsNaN(c.value) {
			continue
		}
		if name == "" || m.less && c.value < value || !m.less && c.value > value {
			name, value = v.Name, c.value
		}
	}
	return name, value
}

// peersText says who is the best of the peers and whether ours is at least that.
func (r *results) peersText(row row, m metric, ours cell) string {
	name, value := r.best(row, m)
	if m.bare || name == "" {
		return ""
	}
	verdict := ""
	if ours.error == "" && !math.IsNaN(ours.value) {
		verdict = ", not reached"
		if m.less && ours.value <= value || !m.less && ours.value >= value {
			verdict = ", reached"
		}
	}
	return fmt.Sprintf("%s %s%s", name, number(value, m.digits), verdict)
}

// table returns the table of a group, or nothing if there is not a sample of it:
// the figures of a kind, such as all that is CPU, stand below each other.
func (r *results) table(g group) []string {
	withKernel := slices.ContainsFunc(r.Variants, func(v shown) bool { return v.Name == aarptunKernel })
	head := []string{g.title}
	for _, v := range r.Variants {
		head = append(head, v.Name)
	}
	lines := [][]string{append(head, "goal", "reached", "best peer", "goal of "+aarptunKernel, "reached")}
	for i := range g.rows[0].metrics {
		for _, row := range g.rows {
			if !slices.ContainsFunc(r.Samples, func(s sample) bool { return s.Row == row.name }) {
				continue
			}
			m := row.metrics[i]
			line := []string{strings.Join(strings.Fields(row.title+" "+m.title), " ") + ", " + m.unit}
			for _, v := range r.Variants {
				line = append(line, r.cell(v.Name, row, m).text(v.Name, m))
			}
			ours := r.cell(aarptunOn, row, m)
			line = append(line, m.goal.text(m), m.goal.reached(ours, m), r.peersText(row, m, ours))
			if withKernel {
				line = append(line, m.kernel.text(m), m.kernel.reached(r.cell(aarptunKernel, row, m), m))
			} else {
				line = append(line, "", "")
			}
			lines = append(lines, line)
		}
	}
	if len(lines) == 1 {
		return nil
	}
	return aligned(withoutEmpty(lines))
}

// withoutEmpty drops the columns that say nothing in any line.
func withoutEmpty(lines [][]string) [][]string {
	var kept [][]string
	for col := range lines[0] {
		if !slices.ContainsFunc(lines[1:], func(l []string) bool { return l[col] != "" && l[col] != "-" }) {
			continue
		}
		if kept == nil {
			kept = make([][]string, len(lines))
		}
		for i, l := range lines {
			kept[i] = append(kept[i], l[col])
		}
	}
	return kept
}

// aligned makes Markdown that can be read as it is.
func aligned(lines [][]string) (text []string) {
	widths := make([]int, len(lines[0]))
	for _, l := range lines {
		for col, s := range l {
			widths[col] = max(widths[col], utf8.RuneCountInString(s))
		}
	}
	for i, l := range lines {
		var b, rule strings.Builder
		for col, s := range l {
			b.WriteString("| " + s + strings.Repeat(" ", widths[col]-utf8.RuneCountInString(s)) + " ")
			rule.WriteString("|" + strings.Repeat("-", widths[col]+2))
		}
		text = append(text, b.String()+"|")
		if i == 0 {
			text = append(text, rule.String()+"|")
		}
	}
	return text
}
