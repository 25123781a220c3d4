package main

import (
	"fmt"
	"regexp"
	"strings"
)

// manual makes pages in the language of man(7), which man-db, groff and mandoc
// all read.
type manual struct {
	date, version string
	root          command
	hasConfig     bool // there is a page of the configuration file
}

// pageName is the name of a command's page: aarptun-keygen-psk.
func pageName(c command) string { return strings.ReplaceAll(c.Name, " ", "-") }

func (m manual) page(c command) string {
	var b strings.Builder
	m.head(&b, pageName(c), 8, c.Short)
	b.WriteString(".SH SYNOPSIS\n.nf\n")
	b.WriteString(synopsis(c) + "\n.fi\n.SH DESCRIPTION\n")
	b.WriteString(prose(c.Long))
	if len(c.Commands) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands {
			fmt.Fprintf(&b, ".TP\n.BR %s (8)\n%s\n", escape(pageName(sub)), line(sub.Short+"."))
		}
	}
	if len(c.Flags) > 0 {
		b.WriteString(".SH OPTIONS\n")
		for _, o := range c.Flags {
			b.WriteString(o.roff())
		}
	}
	if c.Example != "" {
		b.WriteString(".SH EXAMPLES\n" + literal(outdent(c.Example)))
	}
	m.exitStatus(&b, c)
	m.files(&b, c)
	m.seeAlso(&b, c)
	return b.String()
}

func (m manual) head(b *strings.Builder, name string, section int, short string) {
	fmt.Fprintf(b, ".TH %s %d %s %s %s\n", escape(strings.ToUpper(name)), section, `"`+m.date+`"`, quote(strings.TrimSpace("aarptun "+m.version)), quote("aarptun manual"))
	// No hyphenation and no filled right edge: the text is full of names.
	fmt.Fprintf(b, ".nh\n.ad l\n.SH NAME\n%s \\- %s\n", escape(name), line(lowerFirst(short)))
}

func (m manual) exitStatus(b *strings.Builder, c command) {
	b.WriteString(".SH EXIT STATUS\n")
	if len(c.ExitCodes) == 0 {
		fmt.Fprintf(b, "As told in\n.BR %s (8).\n", escape(pageName(m.root)))
		return
	}
	for _, e := range c.ExitCodes {
		fmt.Fprintf(b, ".TP\n.B %d\n%s\n", e.Code, line(upperFirst(e.Short)+": "+e.Meaning+"."))
	}
}

// files is of the program's own page.
func (m manual) files(b *strings.Builder, c command) {
	if len(c.ExitCodes) == 0 {
		return
	}
	b.WriteString(".SH FILES\n")
	for _, f := range [][2]string{
		{"/etc/aarptun/aarptun.toml", "The configuration of the service."},
		{"/run/aarptun", "The journal of what a run has changed on the host, and the admin socket."},
	} {
		if f[0] != "/etc/aarptun/aarptun.toml" || m.hasConfig {
			fmt.Fprintf(b, ".TP\n.I %s\n%s\n", escape(f[0]), line(f[1]))
		}
	}
}

func (m manual) seeAlso(b *strings.Builder, c command) {
	var names []string
	add := func(name string, section int) {
		if name != pageName(c) {
			names = append(names, fmt.Sprintf(".BR %s (%d)", escape(name), section))
		}
	}
	add(pageName(m.root), 8)
	if m.hasConfig {
		add("aarptun.toml", 5)
	}
	for _, other := range m.root.Commands {
		if len(c.ExitCodes) == 0 { // the program's page has them above
			add(pageName(other), 8)
		}
	}
	add("ip-rule", 8)
	fmt.Fprintf(b, ".SH SEE ALSO\n%s\n", strings.Join(names, " ,\n"))
}

// configPage is the page of the configuration file: its comments are the text,
// and the file is shown as it is.
func (m manual) configPage(reference string) string {
	var b strings.Builder
	m.head(&b, "aarptun.toml", 5, "Configuration of aarptun")
	b.WriteString(".SH SYNOPSIS\n.I /etc/aarptun/aarptun.toml\n.SH DESCRIPTION\n")
	b.WriteString(prose(`The file is read by 'aarptun run -c FILE', and so by the service, when it starts
and when it is reloaded. 'aarptun check-config' says whether it is right,
and else in which line it is not. It is in TOML (https://toml.io).

Below is every key, with its meaning and its default. A key that is not given
has that default.`))
	b.WriteString(".SH KEYS\n" + literal(reference) + ".SH SEE ALSO\n")
	fmt.Fprintf(&b, ".BR %s (8) ,\n.BR %s (8)\n", escape(pageName(m.root)), escape(pageName(m.root)+"-run"))
	return b.String()
}

func (o option) roff() string {
	names := `\fB` + escape("--"+o.Name) + `\fR`
	if o.Shorthand != "" {
		names = `\fB` + escape("-"+o.Shorthand) + `\fR, ` + names
	}
	if o.Value != "" {
		names += ` \fI` + escape(o.Value) + `\fR`
	}
	text := upperFirst(o.Usage)
	if o.Default != "" {
		text += " (default " + o.Default + ")"
	}
	return fmt.Sprintf(".TP\n%s\n%s\n", names, line(text+"."))
}

// synopsis shows the words of the command in bold; flags keep theirs.
func synopsis(c command) string {
	rest := strings.TrimPrefix(c.Use, c.Name)
	return `\fB` + escape(c.Name) + `\fR` + bold(rest)
}

// prose sets text whose paragraphs are divided by empty lines. Lines that begin
// with two spaces are shown as they are.
func prose(text string) string {
	var b strings.Builder
	for i, paragraph := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if strings.HasPrefix(paragraph, "  ") {
			b.WriteString(literal(outdent(paragraph)))
			continue
		}
		for l := range strings.Lines(paragraph) {
			b.WriteString(line(strings.TrimSpace(l)) + "\n")
		}
	}
	return b.String()
}

// literal shows text as it is written.
func literal(text string) string {
	var b strings.Builder
	b.WriteString(".nf\n")
	for l := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		l = strings.TrimRight(l, "\n")
		if l == "" {
			b.WriteString(".sp\n")
			continue
		}
		b.WriteString(guard(escape(l)) + "\n")
	}
	b.WriteString(".fi\n")
	return b.String()
}

func outdent(text string) string {
	return strings.TrimPrefix(strings.ReplaceAll(text, "\n  ", "\n"), "  ")
}

// line is one line of running text, with its flags in bold.
func line(text string) string { return guard(bold(text)) }

var flagInText = regexp.MustCompile(`(^|[ (\['])(--?[a-zA-Z][a-z0-9-]*)`)

func bold(text string) string {
	var b strings.Builder
	at := 0
	for _, m := range flagInText.FindAllStringSubmatchIndex(text, -1) {
		b.WriteString(escape(text[at:m[4]]) + `\fB` + escape(text[m[4]:m[5]]) + `\fR`)
		at = m[5]
	}
	return b.String() + escape(text[at:])
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)

func escape(text string) string { return roffEscapes.Replace(text) }

// guard keeps a line from being read as a request.
func guard(text string) string {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		return `\&` + text
	}
	return text
}

// quote makes one argument of a request.
func quote(text string) string { return `"` + escape(text) + `"` }

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
