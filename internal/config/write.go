package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Effective is the value of a key that counts, and where it is from.
type Effective struct {
	Key   string `json:"key"`
	Value any    `json:"value"` // a text, a number, or a list or an object of them
	From  string `json:"from"`  // as [Loaded.From]
}

// Effective returns the values of all keys.
func (l *Loaded) Effective() []Effective {
	var all []Effective
	for _, k := range keys {
		all = append(all, Effective{k.Name, written(k.Value(&l.Config)), l.From(k)})
	}
	return all
}

// written is a value as TOML and JSON have it.
func written(v Value) any {
	texts := v.texts()
	switch v.kind() {
	case list:
		return append([]string{}, texts...)
	case table:
		numbers := map[string]int{}
		for _, t := range texts {
			name, value, _ := strings.Cut(t, "=")
			numbers[name], _ = strconv.Atoi(value) // it was one
		}
		return numbers
	case whole:
		n, _ := strconv.Atoi(texts[0]) // it was one
		return n
	case truth:
		return texts[0] == "true"
	}
	return texts[0]
}

// WriteTOML writes the values of all keys as a file has them, each with a
// comment on where it is from. What it writes can be read as a file again.
func (l *Loaded) WriteTOML(w io.Writer) error {
	var text strings.Builder
	for _, k := range keys {
		v := k.Value(&l.Config)
		if v.kind() == table {
			continue // they come last, or all below would be theirs
		}
		line, err := toml.Marshal(map[string]any{k.Name: written(v)})
		if err != nil {
			return fmt.Errorf("config: %s: %w", k.Name, err)
		}
		fmt.Fprintf(&text, "%s  # %s\n", strings.TrimSuffix(string(line), "\n"), l.From(k))
	}
	for _, k := range keys {
		v := k.Value(&l.Config)
		if v.kind() != table {
			continue
		}
		fmt.Fprintf(&text, "\n[%s]\n", k.Name)
		for _, t := range v.texts() {
			name, value, _ := strings.Cut(t, "=")
			fmt.Fprintf(&text, "%s = %s  # %s\n", name, value, l.fromPart(k, name+"="))
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// fromPart is From for the settings that begin so.
func (l *Loaded) fromPart(k Key, begin string) string {
	for _, s := range l.settings[k.Name] {
		if strings.HasPrefix(s.text, begin) {
			return s.place
		}
	}
	return "default"
}
