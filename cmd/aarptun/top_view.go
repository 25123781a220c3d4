package main

import (
	"fmt"
	"strings"
	"time"

	"aarptun/internal/admin"
)

// view is one of the lists.
type view int

const (
	viewFlows view = iota
	viewPins
	viewMembers
	views
)

var viewNames = [views]string{"flows", "pins", "members"}

// headLines are what stands above the list whichever it is: how the daemon is, and
// what is not carried. extra is added to the first.
func headLines(s sample, extra []string) []string {
	n := s.status.NAT
	first := append([]string{
		"aarptun " + s.status.Version, "up " + shortTime(s.at.Sub(s.status.Started)), s.status.Device,
		fmt.Sprintf("%d flows, %d opening", n.Flows, n.Opening) + inKernel(s.status), fmt.Sprintf("%d pins", s.status.Resolver.Pins),
	}, extra...)
	limited := uint64(0)
	for _, count := range n.Limited {
		limited += count
	}
	second := []string{
		fmt.Sprintf("out %v/s", s.out), fmt.Sprintf("in %v/s", s.in),
		fmt.Sprintf("refused %d", n.Rejected), fmt.Sprintf("limited %d", limited), fmt.Sprintf("reset %d", n.Reset),
	}
	return []string{strings.Join(first, "   "), strings.Join(second, "   ")}
}

// inKernel says how many flows the kernel carries, if it may (run --offload).
func inKernel(s admin.Status) string {
	room, _ := s.Rooms["nft"].(map[string]any)
	if flows, ok := room["flows"].(float64); ok { // as JSON has them
		return fmt.Sprintf(", %.0f in the kernel", flows)
	}
	return ""
}

// tableOf returns the cells of a list: its head, and a row for each line that has
// the text. Flows were picked by the daemon.
func tableOf(v view, s sample, text string) (head []string, rows [][]string) {
	add := func(cells ...string) {
		if text == "" || strings.Contains(strings.Join(cells, " "), text) {
			rows = append(rows, cells)
		}
	}
	switch v {
	case viewFlows:
		head = []string{"PROTO", "CLIENT", "ANYCAST", "MEMBER", "STATE", "AGE", "OUT/S", "IN/S"}
		text = ""
		for _, f := range s.flows {
			age := shortTime(s.at.Sub(f.Started))
			if f.Started.IsZero() {
				age = "-" // the kernel carries it, and does not note it
			}
			add(f.Proto.String(), f.Client.String(), f.Anycast.String(), addrOrDash(f.Member), f.State.String(),
				age, f.out.String(), f.in.String())
		}
	case viewPins:
		head = []string{"ANYCAST", "MEMBER", "CLIENT", "METHOD", "TRUST", "RTT", "TTL"}
		for _, p := range s.pins {
			add(p.Anycast.String(), itself(p.Member.String(), p.SelfAnswer), addrOrDash(p.Client), p.Method, p.Trust, rttText(p.RTT), ttlText(p))
		}
	case viewMembers:
		head = []string{"MEMBER", "FLOWS", "PINS", "METHOD", "RTT", "OUT", "IN"}
		for _, m := range s.members {
			method := m.Method
			if method == "" {
				method = "-"
			}
			add(itself(m.Member.String(), m.SelfAnswer), fmt.Sprint(m.Flows), fmt.Sprint(m.Pins), method, rttText(m.RTT), bytesText(m.Sent), bytesText(m.Got))
		}
	}
	return head, rows
}

func itself(member string, self bool) string {
	if self {
		return member + " (itself)"
	}
	return member
}

func rttText(microseconds int64) string {
	if microseconds <= 0 {
		return "-"
	}
	return (time.Duration(microseconds) * time.Microsecond).String()
}

func ttlText(p admin.Pin) string {
	if p.Stale {
		return "stale"
	}
	return shortTime(time.Duration(p.TTL) * time.Millisecond)
}

// shortTime prints a time in at most four columns, for as long as there are years.
func shortTime(d time.Duration) string {
	switch d = max(d, 0).Round(time.Second); {
	case d < 100*time.Second:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 100*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 100*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// leastWide is how many columns no cell is cut below.
const leastWide = 8

// isNarrow says whether there is little room in so many columns.
func isNarrow(width int) bool { return width < 100 }

// gapFor is how many columns lie between two cells.
func gapFor(width int) int {
	if isNarrow(width) {
		return 1
	}
	return 2
}

// columns returns how wide each column is so that a row fits: those that are
// widest give way.
func columns(head []string, rows [][]string, width int) []int {
	wide := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			wide[i] = max(wide[i], len([]rune(cell)))
		}
	}
	for {
		sum, widest := gapFor(width)*(len(wide)-1), 0
		for i, n := range wide {
			sum += n
			if n > wide[widest] {
				widest = i
			}
		}
		if sum <= width || wide[widest] <= leastWide {
			return wide
		}
		wide[widest]--
	}
}

// lineOf puts cells into columns of those widths.
func lineOf(cells []string, wide []int, gap int) string {
	var b strings.Builder
	for i, cell := range cells {
		cell = cut(cell, wide[i])
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", wide[i]-len([]rune(cell))+gap))
		}
	}
	return b.String()
}

// cut takes out of the middle of a text what there is no room for: addresses
// differ at their ends.
func cut(s string, width int) string {
	runes := []rune(s)
	if len(runes) <= width {
		return s
	}
	if width < 3 {
		return string(runes[:max(width, 0)])
	}
	tail := (width - 1) * 2 / 3
	return string(runes[:width-1-tail]) + "…" + string(runes[len(runes)-tail:])
}

// wrap cuts a text into lines at its spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
