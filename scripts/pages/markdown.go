package main

import (
	"fmt"
	"strings"
)

// markdown is docs/reference/cli.md.
func markdown(root command) string {
	var b strings.Builder
	b.WriteString("# The command line\n\n")
	b.WriteString("<!-- Made from the commands by `make reference`. Change their help texts, not this file. -->\n\n")
	fmt.Fprintf(&b, "%s\n\n", fenced(root.Use))
	b.WriteString(paragraphs(root.Long))
	b.WriteString("\n| command | |\n|---|---|\n")
	for _, c := range root.Commands {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", c.Name, strings.ReplaceAll(c.Name, " ", "-"), cell(c.Short))
	}
	b.WriteString("\n## Exit codes\n\n| code | | |\n|---|---|---|\n")
	for _, e := range root.ExitCodes {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Code, cell(e.Short), cell(e.Meaning))
	}
	for _, c := range root.all() {
		b.WriteString("\n")
		b.WriteString(section(c))
	}
	return b.String()
}

func section(c command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\n%s.\n\n%s\n\n", strings.Repeat("#", 1+strings.Count(c.Name, " ")), c.Name, c.Short, fenced(c.Use))
	b.WriteString(paragraphs(c.Long))
	if len(c.Flags) > 0 {
		b.WriteString("\n| flag | default | |\n|---|---|---|\n")
		for _, o := range c.Flags {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(o.names()), cell(code(o.Default)), cell(o.Usage))
		}
	}
	fmt.Fprintf(&b, "\n%s\n", fenced(outdent(c.Example)))
	return b.String()
}

// names is how a flag is written, with what is to be given to it.
func (o option) names() string {
	name := "--" + o.Name
	if o.Value != "" {
		name += " " + o.Value
	}
	if o.Shorthand != "" {
		return code("-"+o.Shorthand) + ", " + code(name)
	}
	return code(name)
}

// paragraphs is a help text as it is: only lines that begin with two spaces
// need a fence, and signs that Markdown would take for its own are escaped.
func paragraphs(text string) string {
	var b strings.Builder
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		if strings.HasPrefix(p, "  ") {
			b.WriteString(fenced(outdent(p)) + "\n")
			continue
		}
		b.WriteString(strings.NewReplacer("<", "&lt;", "*", `\*`, "_", `\_`, "#", `\#`).Replace(p) + "\n")
	}
	return b.String()
}

func fenced(text string) string { return "```\n" + text + "\n```" }

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// cell keeps a text within its cell of a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
