package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"aarptun/internal/admin"
)

// topModel is the screen of top, as bubbletea has it: Update takes what happens,
// View draws. Only one look is under way at a time.
type topModel struct {
	ctx     context.Context
	sampler *sampler
	colour  bool

	width, height int
	seen          sample
	looked        bool // seen is what was seen
	view          view
	sort          int // of flows
	reverse       bool
	filter        string
	typing        bool // the filter is being typed
	held          bool
	top           int // the first row that is shown
	looking       bool
	again         bool // what is wanted has changed meanwhile
	tick          int  // which one counts
}

func newTopModel(ctx context.Context, s *sampler, colour bool) *topModel {
	return &topModel{ctx: ctx, sampler: s, colour: colour, width: 80, height: 24}
}

type (
	// sampled is that a look has ended.
	sampled sample
	// due is that it is time for another one; a number that is not the last
	// belongs to a tick that another look has come before.
	due int
)

// Init implements [tea.Model].
func (m *topModel) Init() tea.Cmd { return m.look() }

// look begins a look, unless one is under way.
func (m *topModel) look() tea.Cmd {
	if m.looking {
		m.again = true
		return nil
	}
	m.looking, m.again = true, false
	w := want{view: m.view, flows: flowSorts[m.sort].query}
	w.flows.Match, w.flows.Reverse = m.filter, m.reverse && flowSorts[m.sort].rates == nil
	return func() tea.Msg { return sampled(m.sampler.look(m.ctx, w)) }
}

// Update implements [tea.Model].
func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 20), max(msg.Height, 6)
	case sampled:
		m.looking = false
		if !m.held || !m.looked {
			m.seen, m.looked = sample(msg), true
			flowSorts[m.sort].order(m.seen.flows, m.reverse)
		}
		if m.again {
			return m, m.look()
		}
		m.tick++
		tick := due(m.tick)
		return m, tea.Tick(m.sampler.every, func(time.Time) tea.Msg { return tick })
	case due:
		if int(msg) == m.tick {
			return m, m.look()
		}
	case tea.KeyMsg:
		return m, m.all(msg)
	}
	return m, nil
}

// all does what several keys say that were typed so fast that they came as one.
func (m *topModel) all(msg tea.KeyMsg) tea.Cmd {
	if msg.Type != tea.KeyRunes || len(msg.Runes) < 2 {
		return m.key(msg)
	}
	var cmds []tea.Cmd
	for _, r := range msg.Runes {
		cmds = append(cmds, m.key(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune{r}}))
	}
	return tea.Batch(cmds...)
}

// key does what a key says.
func (m *topModel) key(msg tea.KeyMsg) tea.Cmd {
	if msg.Type == tea.KeyCtrlC {
		return tea.Quit
	}
	if m.typing {
		return m.typed(msg)
	}
	switch key := msg.String(); key {
	case "q":
		return tea.Quit
	case "1", "2", "3":
		return m.show(view(key[0] - '1'))
	case "tab":
		return m.show((m.view + 1) % views)
	case "s":
		m.sort = (m.sort + 1) % len(flowSorts)
		return m.anew()
	case "r":
		m.reverse = !m.reverse
		return m.anew()
	case "/":
		m.typing = true
	case "esc":
		m.filter = ""
		return m.anew()
	case " ":
		m.held = !m.held
	case "up", "k":
		m.top--
	case "down", "j":
		m.top++
	case "pgup":
		m.top -= m.room()
	case "pgdown":
		m.top += m.room()
	case "home", "g":
		m.top = 0
	}
	return nil
}

// typed takes a key of the filter.
func (m *topModel) typed(msg tea.KeyMsg) tea.Cmd {
	switch msg.Type {
	case tea.KeyEnter:
		m.typing = false
		return m.anew()
	case tea.KeyEsc:
		m.typing, m.filter = false, ""
		return m.anew()
	case tea.KeyBackspace:
		if m.filter != "" {
			m.filter = m.filter[:len(m.filter)-1]
		}
	case tea.KeyRunes:
		for _, r := range msg.Runes {
			if r > ' ' && r < 0x7f && len(m.filter) < 40 { // what addresses and words are made of
				m.filter += string(r)
			}
		}
	}
	return nil
}

func (m *topModel) show(v view) tea.Cmd {
	m.view = v
	return m.anew()
}

// anew has another look at once, since something else is wanted.
func (m *topModel) anew() tea.Cmd {
	m.top, m.held = 0, false
	return m.look()
}

// room is how many rows there is room for: above them are the head, the tabs and
// the titles of the columns, below them the keys.
func (m *topModel) room() int { return max(m.height-5, 1) }

// View implements [tea.Model].
func (m *topModel) View() string {
	if !m.looked {
		return "asking the daemon ..."
	}
	var lines []string
	var extra []string
	if m.held {
		extra = []string{"HELD"}
	}
	if m.seen.err != nil {
		lines = m.goneLines()
	} else {
		for _, line := range headLines(m.seen, extra) {
			lines = append(lines, cut(line, m.width))
		}
		lines = append(lines, m.tabs())
		lines = append(lines, m.rows()...)
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	return strings.Join(append(lines[:m.height-1], m.keys()), "\n")
}

// goneLines say why there is nothing to see.
func (m *topModel) goneLines() []string {
	var lines []string
	for _, line := range wrap(strings.TrimPrefix(m.seen.err.Error(), "admin: "), m.width) {
		lines = append(lines, m.paint(line, "31"))
	}
	if errors.Is(m.seen.err, admin.ErrNotRunning) {
		lines = append(lines, "", fmt.Sprintf("It is asked again every %v.", m.sampler.every))
	}
	return lines
}

// tabs are the names of the lists, and how the one that is shown is made.
func (m *topModel) tabs() string {
	var parts []string
	for v := range views {
		name := fmt.Sprintf("%d %s", v+1, viewNames[v])
		if v == m.view {
			name = "[" + name + "]"
		}
		parts = append(parts, name)
	}
	if m.view == viewFlows {
		order := "by " + flowSorts[m.sort].name
		if m.reverse {
			order += " reversed"
		}
		parts = append(parts, order)
	}
	switch {
	case m.typing:
		parts = append(parts, "filter: "+m.filter+"_")
	case m.filter != "":
		parts = append(parts, "filter: "+m.filter)
	}
	if shown := len(m.seen.flows); m.view == viewFlows && (m.filter != "" || shown < m.seen.matched) {
		parts = append(parts, fmt.Sprintf("%d of %d", shown, m.seen.total))
	}
	return cut(strings.Join(parts, "  "), m.width)
}

// rows are the titles of the columns, and those rows there is room for.
func (m *topModel) rows() []string {
	head, rows := tableOf(m.view, m.seen, m.filter)
	if m.view != viewFlows && m.reverse {
		slices.Reverse(rows)
	}
	m.top = max(0, min(m.top, len(rows)-m.room()))
	rows = rows[m.top:min(len(rows), m.top+m.room())]
	if isNarrow(m.width) {
		for _, row := range rows {
			if m.view == viewFlows {
				row[4] = shortStates[row[4]]
			}
		}
	}
	wide := columns(head, rows, m.width)
	gap := gapFor(m.width)
	title := cut(lineOf(head, wide, gap), m.width)
	lines := []string{m.paint(title+strings.Repeat(" ", max(0, m.width-len([]rune(title)))), "7")}
	for _, row := range rows {
		lines = append(lines, cut(lineOf(row, wide, gap), m.width))
	}
	return lines
}

// shortStates are the states of a flow where there is little room.
var shortStates = map[string]string{
	"resolving": "reslv", "dialling": "dial", "accepting": "accpt", "established": "estab", "client-closed": "c-fin", "member-closed": "m-fin",
}

// keys is the last line.
func (m *topModel) keys() string {
	if m.typing {
		return cut("type a text that a line must have; Enter keeps it, Esc lets in all", m.width)
	}
	return cut("q quit  1-3 tab list  s sort  r reverse  / filter  space hold  arrows move", m.width)
}

// paint gives a text an attribute (ECMA-48, SGR), if there may be any.
func (m *topModel) paint(text, attribute string) string {
	if !m.colour {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}
