package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// chart is one SVG: a panel for each figure that names it, in each a bar for each
// variant.
type chart struct {
	name, title string
}

var charts = []chart{
	{"tcp", "TCP throughput, IPv6"},
	{"cpu", "CPU of the whole machine, TCP over IPv6"},
	{"tcp4", "TCP throughput, IPv4"},
	{"udp", "UDP"},
	{"latency", "Request and response, one byte"},
	{"connections", "Connections"},
	{"lan", "TCP throughput of a forwarded LAN client"},
	{"memory", "Memory of an idle TCP flow"},
}

// chartsOf returns the charts that show figures of a group.
func chartsOf(g group) (found []chart) {
	for _, c := range charts {
		if len(c.panels([]group{g})) > 0 {
			found = append(found, c)
		}
	}
	return found
}

type panel struct {
	row row
	m   metric
}

func (c chart) panels(of []group) (panels []panel) {
	for _, g := range of {
		for _, row := range g.rows {
			for _, m := range row.metrics {
				if m.chart == c.name {
					panels = append(panels, panel{row, m})
				}
			}
		}
	}
	return panels
}

// The layout, in pixels.
const (
	chartWidth = 760
	barLeft    = 150
	barMost    = 470 // leaves room for the figures
	barHeight  = 15
	barStep    = 20
	headHeight = 44
	panelHead  = 33
	panelGap   = 14
)

// colours by what a variant is.
const (
	colourKernel = "#8a94a3"
	colourPeer   = "#d9a441"
	colourOurs   = "#2f6fb7"
	colourOff    = "#86aedb"
	colourGoal   = "#b3382c"
)

// draw returns the chart, or nothing if there is not a figure for it.
func (c chart) draw(r *results) string {
	var b strings.Builder
	y := headHeight
	for _, p := range c.panels(groups) {
		y = p.draw(&b, r, y)
	}
	if b.Len() == 0 {
		return ""
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="system-ui, sans-serif" font-size="12" fill="#1f2733">
<title>%s</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="16" y="26" font-size="16" font-weight="600">%s</text>
`, chartWidth, y, chartWidth, y, html.EscapeString(c.title), html.EscapeString(c.title))
	return head + b.String() + "</svg>\n"
}

// draw adds the panel at y and returns where the next one begins. A panel without
// a figure is left out.
func (p panel) draw(b *strings.Builder, r *results, y int) int {
	largest, found := p.largest(r)
	if !found {
		return y
	}
	at, hasGoal := p.goalAt(r)
	if hasGoal {
		largest = max(largest, at)
	}
	less := "more is better"
	if p.m.less {
		less = "less is better"
	}
	title := strings.TrimSpace(p.row.title + " " + p.m.title)
	_, _ = fmt.Fprintf(b, `<text x="16" y="%d" font-weight="600">%s, %s</text>`+"\n", y+14, html.EscapeString(title), html.EscapeString(p.m.unit))
	_, _ = fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#5b6675">%s</text>`+"\n", chartWidth-16, y+14, less)
	top := y + panelHead
	y = top
	var texts strings.Builder // above bars and goal
	for _, v := range r.Variants {
		c := r.cell(v.Name, p.row, p.m)
		if c.error == "" && math.IsNaN(c.value) {
			continue
		}
		drawBar(b, &texts, v, p.m, c, largest, y)
		y += barStep
	}
	if hasGoal {
		x := barLeft + width(at, largest)
		_, _ = fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="1.5" stroke-dasharray="4 3"/>`+"\n", x, top-4, x, y, colourGoal)
		_, _ = fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle" font-size="10" fill="%s">goal</text>`+"\n", x, top-7, colourGoal)
	}
	b.WriteString(texts.String())
	return y + panelGap
}

// largest returns the largest figure, and whether there is anything to show.
func (p panel) largest(r *results) (largest float64, found bool) {
	for _, v := range r.Variants {
		c := r.cell(v.Name, p.row, p.m)
		if c.error == "" && !math.IsNaN(c.value) {
			largest = max(largest, c.value)
		}
		found = found || c.error != "" || !math.IsNaN(c.value)
	}
	return largest, found
}

// goalAt returns where the goal is on the axis of the figures.
func (p panel) goalAt(r *results) (float64, bool) {
	direct := r.cell("direct", p.row, p.m)
	at := math.NaN()
	switch p.m.goal.kind {
	case ofDirect:
		at = direct.value * p.m.goal.limit
	case absolute:
		at = p.m.goal.limit
	case beyond:
		at = direct.value + p.m.goal.limit
	}
	return at, !math.IsNaN(at)
}

func drawBar(b, texts *strings.Builder, v shown, m metric, c cell, largest float64, y int) {
	text := c.text(v.Name, m)
	w := 0.0
	if c.error == "" {
		w = width(c.value, largest)
	}
	colour := map[bool]string{true: colourPeer, false: colourKernel}[v.Peer]
	switch v.Name {
	case aarptunOn:
		colour = colourOurs
	case "aarptun-gso-off":
		colour = colourOff
	}
	_, _ = fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", barLeft-8, y+12, html.EscapeString(v.Name))
	_, _ = fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", barLeft, y, w, barHeight, colour)
	_, _ = fmt.Fprintf(texts, `<text x="%.1f" y="%d" stroke="#ffffff" stroke-width="3" paint-order="stroke">%s</text>`+"\n", barLeft+w+6, y+12, html.EscapeString(text))
}

// width is at least a hair: a bar that is there is seen.
func width(value, largest float64) float64 {
	if largest <= 0 {
		return 1
	}
	return max(1, barMost*value/largest)
}
