package config

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile is the size of a file, in bytes, above which it is none of ours.
const maxFile = 1 << 20

// setting is one text that was given for a key.
type setting struct {
	key    Key
	prefix netip.Prefix // whose it is alone, or AllPrefixes
	text   string
	place  string
	file   bool // place is in a file
}

// readFile reads what a file asks for. Its errors are [ErrFile], and
// [ErrInvalid] where they are about its content.
func readFile(path string) ([]setting, error) {
	// A pipe must not hold us up, and could not be read again.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	defer func() { _ = file.Close() }() // nothing was written
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	return parseFile(path, content)
}

// parseFile reads the content of a file. Whether it is TOML at all, each key
// once, is what the decoder says; the parser then knows where each key and each
// value stands.
func parseFile(path string, content []byte) ([]setting, error) {
	var whole map[string]any
	if err := toml.Unmarshal(content, &whole); err != nil {
		d := document{path: path}
		var at *toml.DecodeError
		if !errors.As(err, &at) {
			return nil, placedError{path, invalid("%v", err), true}
		}
		line, column := at.Position()
		return nil, d.errorf(position{line, column}, "%s", strings.TrimPrefix(at.Error(), "toml: "))
	}
	d := document{path: path}
	d.parser.Reset(content)
	for d.parser.NextExpression() {
		if err := d.expression(d.parser.Expression()); err != nil {
			return nil, err
		}
	}
	if err := d.parser.Error(); err != nil { // the decoder would have said so
		return nil, placedError{path, invalid("%v", err), true}
	}
	if err := d.endPrefix(); err != nil {
		return nil, err
	}
	return d.settings, nil
}

// document is a file that is being read.
type document struct {
	path     string
	parser   unstable.Parser
	settings []setting
	table    []name // the header that counts
	prefix   *prefixTable
	seen     map[netip.Prefix]position
}

// name is a part of a key, and where it stands.
type name struct {
	text string
	at   position
}

type position struct{ line, column int }

// prefixTable is a [[prefix]].
type prefixTable struct {
	at       position
	prefixes []setting
	settings []setting // what counts for each of them
}

func (d *document) place(at position) string {
	return fmt.Sprintf("%s:%d:%d", d.path, at.line, at.column)
}

func (d *document) errorf(at position, format string, args ...any) error {
	return placedError{d.place(at), invalid(format, args...), true}
}

func (d *document) position(r unstable.Range) position {
	start := d.parser.Shape(r).Start
	return position{start.Line, start.Column}
}

func (d *document) names(key unstable.Iterator) (names []name) {
	for key.Next() {
		names = append(names, name{string(key.Node().Data), d.position(key.Node().Raw)})
	}
	return names
}

func (d *document) expression(e *unstable.Node) error {
	switch e.Kind {
	case unstable.Table, unstable.ArrayTable:
		if err := d.endPrefix(); err != nil {
			return err
		}
		d.table = d.names(e.Key())
		return d.header(e.Kind == unstable.ArrayTable)
	case unstable.KeyValue:
		return d.keyValue(slices.Concat(d.table, d.names(e.Key())), e.Value())
	}
	return nil
}

// header checks the header of a table.
func (d *document) header(array bool) error {
	first := d.table[0]
	k, known := keyNamed(first.text)
	switch {
	case !known:
		return d.errorf(first.at, "unknown table [%s]: there are [[prefix]] and [limits]", first.text)
	case len(d.table) > 1:
		return d.errorf(d.table[1].at, "there are no tables in %q", first.text)
	case k.Name == "prefix" && array:
		d.prefix = &prefixTable{at: first.at}
	case k.Name == "prefix":
		return d.errorf(first.at, "write [[prefix]], with two brackets: there may be several")
	case k.Value(new(Config)).kind() != table:
		return d.errorf(first.at, "%s is no table: write %s = ..., above all tables", k.Name, k.Name)
	case array:
		return d.errorf(first.at, "write [%s], with one bracket: there is only one", k.Name)
	}
	return nil
}

// keyValue reads one line, or an entry of a table that is written in one.
func (d *document) keyValue(names []name, value *unstable.Node) error {
	first := names[0]
	k, known := keyNamed(first.text)
	switch {
	case !known:
		return d.unknown(first, namesOf(func(Key) bool { return true }))
	case d.prefix != nil:
		return d.ofPrefix(names[1:], value)
	case k.Value(new(Config)).kind() == table:
		return d.inTable(k, names[1:], first.at, value)
	case len(names) > 1 && k.Name == "prefix":
		return d.errorf(first.at, "write [[prefix]], and %s under it", names[1].text)
	case len(names) > 1:
		return d.errorf(first.at, "%s is no table: write %s = ...", k.Name, k.Name)
	case k.Name == "prefix" && value.Kind == unstable.Array:
		return d.prefixes(k, first.at, value)
	}
	return d.values(k, AllPrefixes, first.at, value, d.add)
}

// prefixes reads the list of prefixes, of which each may be a table of its own
// between braces.
func (d *document) prefixes(k Key, at position, value *unstable.Node) error {
	for elements := value.Children(); elements.Next(); {
		e := elements.Node()
		if e.Kind != unstable.InlineTable {
			if err := d.values(k, AllPrefixes, d.positionOf(e, at), e, d.add); err != nil {
				return err
			}
			continue
		}
		d.prefix = &prefixTable{at: d.position(e.Raw)}
		for entries := e.Children(); entries.Next(); {
			if err := d.ofPrefix(d.names(entries.Node().Key()), entries.Node().Value()); err != nil {
				return err
			}
		}
		if err := d.endPrefix(); err != nil {
			return err
		}
	}
	return nil
}

// positionOf is where an element of a list stands, or the list where that is not
// known.
func (d *document) positionOf(e *unstable.Node, list position) position {
	if e.Kind == unstable.String {
		return d.position(e.Raw)
	}
	return list
}

func (d *document) unknown(n name, names []string) error {
	return d.errorf(n.at, "unknown key %q: %s", n.text, meant(n.text, names))
}

func (d *document) add(s setting) { d.settings = append(d.settings, s) }

// inTable reads NAME = NUMBER of a table, or a whole one in braces.
func (d *document) inTable(k Key, names []name, at position, value *unstable.Node) error {
	switch {
	case len(names) == 0 && value.Kind == unstable.InlineTable:
		for entries := value.Children(); entries.Next(); {
			entry := entries.Node()
			if err := d.inTable(k, d.names(entry.Key()), at, entry.Value()); err != nil {
				return err
			}
		}
		return nil
	case len(names) == 0:
		return d.errorf(at, "%s is a table: write [%s], and a line for each name", k.Name, k.Name)
	case len(names) > 1:
		return d.errorf(names[1].at, "there are no tables in %q", k.Name)
	case value.Kind != unstable.Integer:
		return d.errorf(names[0].at, "%s: it must be a whole number, without quotes", names[0].text)
	}
	text, err := integerText(value)
	if err != nil {
		return d.errorf(names[0].at, "%s: %v", names[0].text, err)
	}
	d.add(setting{key: k, text: names[0].text + "=" + text, place: d.place(names[0].at), file: true})
	return nil
}

// ofPrefix reads a line of a [[prefix]].
func (d *document) ofPrefix(names []name, value *unstable.Node) error {
	first := names[0]
	k, known := keyNamed(first.text)
	switch {
	case len(names) > 1:
		return d.errorf(names[1].at, "there are no tables in [[prefix]]")
	case first.text == "anycast":
		k, _ = keyNamed("prefix")
		return d.values(k, AllPrefixes, first.at, value, func(s setting) { d.prefix.prefixes = append(d.prefix.prefixes, s) })
	case known && !isOfPrefix(k):
		return d.errorf(first.at, "%s counts for all prefixes: write it above the first [[prefix]]", k.Name)
	case !known:
		return d.unknown(first, append([]string{"anycast"}, namesOf(isOfPrefix)...))
	}
	return d.values(k, AllPrefixes, first.at, value, func(s setting) { d.prefix.settings = append(d.prefix.settings, s) })
}

// endPrefix is the end of a [[prefix]], if there is one.
func (d *document) endPrefix() error {
	t := d.prefix
	if t == nil {
		return nil
	}
	d.prefix = nil
	if len(t.prefixes) == 0 {
		return d.errorf(t.at, `this [[prefix]] names none: write anycast = ["2001:db8:aa::/64"] under it, or several with the same trust`)
	}
	for _, p := range t.prefixes {
		prefix, err := ParsePrefix(p.text)
		if err != nil {
			return placedError{p.place, err, true}
		}
		if before, twice := d.seen[prefix]; twice {
			return placedError{p.place, invalid("prefix %v is in the [[prefix]] of line %d already", prefix, before.line), true}
		}
		if d.seen == nil {
			d.seen = map[netip.Prefix]position{}
		}
		d.seen[prefix] = t.at
		d.add(p)
		for _, s := range t.settings {
			s.prefix = prefix
			d.add(s)
		}
	}
	return nil
}

// values calls add with each text of a value, if it is of the kind that the key
// has.
func (d *document) values(k Key, prefix netip.Prefix, at position, value *unstable.Node, add func(setting)) error {
	want := k.Value(new(Config)).kind()
	if value.Kind == unstable.Array && want == list {
		for elements := value.Children(); elements.Next(); {
			e := elements.Node()
			if err := d.values(k, prefix, d.positionOf(e, at), e, add); err != nil {
				return err
			}
		}
		return nil
	}
	s := setting{key: k, prefix: prefix, place: d.place(at), file: true}
	switch {
	case value.Kind == unstable.String && want != whole && want != truth:
		s.text = string(value.Data)
	case value.Kind == unstable.Bool && want == truth:
		s.text = string(value.Data)
	case value.Kind == unstable.Integer && (want == whole || want == number):
		var err error
		if s.text, err = integerText(value); err != nil {
			return d.errorf(at, "%s: %v", k.Name, err)
		}
	default:
		return d.errorf(at, "%s: it must be %s", k.Name, kindNames[want])
	}
	add(s)
	return nil
}

var kindNames = map[kind]string{
	text: `a text between quotes, such as "30s"`, whole: "a whole number, without quotes",
	number: "a whole number", truth: "true or false, without quotes", list: `a list of texts, such as ["2001:db8:aa::/64"]`,
}

// integerText is an integer of TOML, which may be hexadecimal or have _ in it,
// as everybody reads it.
func integerText(value *unstable.Node) (string, error) {
	n, err := strconv.ParseInt(strings.TrimPrefix(string(value.Data), "+"), 0, 64)
	if err != nil {
		return "", errors.New("it is out of range")
	}
	return strconv.FormatInt(n, 10), nil
}
